"""For tests of what lies on a device: blocks of a small model, an engine, and a tier to be above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import blatam_kv as kv
from blatam_kv import cuda
from blatam_kv.cuda.bus import Bus
from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.record import Kind, Record, filled
from blatam_kv.tiers.gpu import GpuTier

Array = npt.NDArray[Any]
LAYERS, TOKENS, HEADS, DIM = 3, 16, 2, 64
TAGS = bytes(range(32))
LOST = 1000 + 700
OUT_OF_MEMORY = 1000 + 2


class DictTier:
    """A dict that forgets nothing, and fails while ``failing``."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.failing = False
        self.closed = False

    def _check(self) -> None:
        if self.failing:
            raise TierUnavailable(Unavailable.IO_ERROR, "it fails, as it was told to")

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        self._check()
        return [self.records.get(key) for key in keys]

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        self._check()
        new = {record.key: record.owned() for record in records}
        self.records.update(new)
        return len(new)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        self._check()
        return sum(self.records.pop(key, None) is not None for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        self._check()
        return [key in self.records for key in keys]

    def close(self) -> None:
        self.closed = True


def open_tier(
    below: DictTier, capacity_bytes: int = 1 << 20, *, lazy: bool = False, policy: str = "lru"
) -> tuple[GpuTier, Bus]:
    """A tier on the host as a device, with pinned buffers that are smaller than its records."""
    bus = Bus(capacity_bytes, device=-1, buffers=2, buffer_bytes=4096, lazy=lazy)
    return GpuTier(below, capacity_bytes=capacity_bytes, bus=bus, policy=policy), bus


def some_slots(blocks: int, seed: int = 0) -> Array:
    """Places for some blocks in an engine of eight, in any order."""
    places = np.random.default_rng(seed).permutation(8 * TOKENS)
    return places[: blocks * TOKENS].reshape(-1, TOKENS)


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


@dataclass(frozen=True)
class Block:
    """Random keys and values [layers, tokens, heads, dim] in bfloat16, and their record."""

    keys: Array
    values: Array
    record: Record

    @classmethod
    def of(cls, number: int, codec: str, *, layers: int = LAYERS, tokens: int = TOKENS) -> Block:
        random = np.random.default_rng(number)
        floats = random.standard_normal((2, layers, tokens, HEADS, DIM)).astype(np.float32)
        keys, values = (floats.view(np.uint32) >> 16).astype(np.uint16)
        payload = b""
        for layer in range(layers):
            pair: tuple[tuple[Array, Any], ...] = ((keys[layer], "key"), (values[layer], "value"))
            for x, kind in pair:
                blob = kv.quantize(x, codec=codec, kind=kind, dtype="bfloat16").tobytes()
                payload += blob + bytes(filled(len(blob)) - len(blob))
        ids = np.arange(tokens, dtype="<u4").tobytes()
        return cls(keys, values, Record(key_of(number), Kind.BLOCK, payload, TAGS, codec, ids))

    def decoded(self) -> Array:
        """[2 × layers, tokens, heads, dim], keys and values of each layer in turn, by the CPU."""
        payload, at, found = memoryview(self.record.payload), 0, []
        while at < len(payload):
            size = 64 + int.from_bytes(payload[at + 40 : at + 48], "little")
            found.append(kv.dequantize(payload[at : at + size]))
            at += filled(size)
        return np.stack(found)


class Engine:
    """A paged cache of vLLM's layout in host memory, filled with what no block holds."""

    def __init__(self, blocks: int = 8, layers: int = LAYERS) -> None:
        shape = (2, blocks, TOKENS, HEADS, DIM)
        self.tensors = [np.full(shape, 0x7FC1, np.uint16) for _ in range(layers)]
        self.cache = cuda.PagedCache.of(self.tensors, "vllm_nhd", element="bfloat16")

    def tokens(self, slots: Array) -> Array:
        """[2 × layers, tokens, heads, dim] in some slots."""
        flat = [x.reshape(2, -1, HEADS, DIM)[:, slots] for x in self.tensors]
        return np.concatenate(flat)

    def layer(self, layer: int, slots: Array) -> Array:
        """The same of one layer."""
        return self.tensors[layer].reshape(2, -1, HEADS, DIM)[:, slots]
