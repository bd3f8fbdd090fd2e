"""Models for the tests of ``mini``: weights files made of noise, and a store that is a dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from blatam_kv.truthgpt.protocol import FloatArray, Tokens
from blatam_kv.truthgpt.weights import FORMAT, Shape, seal

# 256 bytes and the five special tokens: a tokenizer without merges.
TINY = Shape(
    vocab=261, width=32, layers=2, heads=4, kv_heads=2, head_dim=16, hidden=48, context=512
)

Half = NDArray[np.float16]


def noise(shape: Shape, *, seed: int = 0, size: float = 0.1) -> dict[str, Half]:
    """Normally distributed tensors for every name a weights file must have."""
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(dims, np.float16)
        if len(dims) == 1
        else rng.normal(0.0, size, dims).astype(np.float16)
        for name, dims in shape.tensors().items()
    }


def write(path: Path, tensors: Mapping[str, Half], **metadata: str) -> Path:
    """A sealed weights file of the tiny shape; ``metadata`` replaces what it would say."""
    stated = {"format": FORMAT, "shape": json.dumps(asdict(TINY)), "merges": "[]", **metadata}
    stated["seal"] = seal(tensors, stated)
    save_file(dict(tensors), path, metadata=stated)
    return path


def write_tiny(path: Path, *, seed: int = 0) -> Path:
    """A model of noise that is quick to run and takes any bytes."""
    return write(path, noise(TINY, seed=seed, size=0.5))


class DictStore:
    """A PrefixStore of 64-token blocks, exact and unbounded. Watched: see the counters."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, ...], tuple[FloatArray, FloatArray]] = {}
        self.saves: list[int] = []
        self.loads: list[int] = []
        self.computed: list[int] = []
        self.lose_after_match = False
        self.tenants: dict[bytes, DictStore] = {}

    def tenant(self, salt: bytes) -> DictStore:
        return self.tenants.setdefault(salt, DictStore())

    def bind(self, model: str) -> bool:
        return True

    def observe(self, tokens: int, seconds: float) -> None:
        assert seconds > 0
        self.computed.append(tokens)

    def match_prefix(self, tokens: Tokens) -> int:
        found = 0
        while found + 64 <= len(tokens) and tuple(tokens[: found + 64].tolist()) in self.blocks:
            found += 64
        return found

    def load_prefix(self, tokens: Tokens, *, out: tuple[FloatArray, FloatArray]) -> int:
        found = min(self.match_prefix(tokens), int(out[0].shape[1]))
        if self.lose_after_match:
            found = max(0, found - 64)
        for begin in range(0, found, 64):
            keys, values = self.blocks[tuple(tokens[: begin + 64].tolist())]
            out[0][:, begin : begin + 64] = keys
            out[1][:, begin : begin + 64] = values
        self.loads.append(found)
        return found

    def save_prefix(self, tokens: Tokens, keys: FloatArray, values: FloatArray) -> int:
        assert keys.dtype == values.dtype == np.float32
        assert len(tokens) % 64 == 0
        assert keys.shape == values.shape
        assert keys.shape[1] == len(tokens)
        for begin in range(0, len(tokens), 64):
            block = slice(begin, begin + 64)
            self.blocks[tuple(tokens[: begin + 64].tolist())] = (
                keys[:, block].copy(),
                values[:, block].copy(),
            )
        self.saves.append(len(tokens))
        return len(tokens)
