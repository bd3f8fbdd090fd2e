"""The weights file of ``mini``: its shape, how it is read, and what is refused.

One safetensors file holds the tensors in fp16 under Llama's names and, in its metadata, the shape,
the tokenizer's merges, how the weights came to be (docs/MINI.md) and a seal over all of it, so that
a damaged file is refused, not run. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.protocol import FloatArray
from blatam_kv.truthgpt.tokenizer import Tokenizer

FORMAT = "blatam_kv.mini/1"
REMEDY = "install blatam-kv again, or make the file with training/train.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama-shaped decoder."""

    vocab: int = 2048
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    hidden: int = 640
    context: int = 4096
    rope_theta: float = 500_000.0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in the file."""
        queries, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        expected: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab, self.width),
            "model.norm.weight": (self.width,),
        }
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            expected |= {
                layer + "input_layernorm.weight": (self.width,),
                layer + "self_attn.q_proj.weight": (queries, self.width),
                layer + "self_attn.k_proj.weight": (shared, self.width),
                layer + "self_attn.v_proj.weight": (shared, self.width),
                layer + "self_attn.o_proj.weight": (self.width, queries),
                layer + "post_attention_layernorm.weight": (self.width,),
                layer + "mlp.gate_proj.weight": (self.hidden, self.width),
                layer + "mlp.up_proj.weight": (self.hidden, self.width),
                layer + "mlp.down_proj.weight": (self.width, self.hidden),
            }
        return expected


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's matrices, float32 ``[out, in]``; those that read the same input are stacked."""

    attention_norm: FloatArray
    query_key_value: FloatArray
    attention_out: FloatArray
    feed_norm: FloatArray
    gate_up: FloatArray
    feed_out: FloatArray


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model in memory, read-only. ``fingerprint`` is the file's seal."""

    shape: Shape
    tokenizer: Tokenizer
    fingerprint: str
    embedding: FloatArray
    norm: FloatArray
    layers: tuple[Layer, ...]
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers were learnt."""
        return sum(math.prod(size) for size in self.shape.tensors().values())


def load_weights(path: Path) -> Weights:
    """Read and check a weights file.

    Raises ModelError naming the file and what to do, if it is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the weights {path}: {error.strerror}; {REMEDY}") from error
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata: dict[str, str] = header.get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format is {metadata.get('format')!r}, not {FORMAT!r}")
        fingerprint = seal(tensors, metadata)
        if metadata.get("seal") != fingerprint:
            raise ValueError("its content is not what was written")
        shape = _shape(metadata)
        tokenizer = Tokenizer([(int(a), int(b)) for a, b in json.loads(metadata["merges"])])
        if tokenizer.vocab != shape.vocab:
            raise ValueError(f"{tokenizer.vocab} tokens for {shape.vocab} embeddings")
        wide = {name: _take(tensors, name, size) for name, size in shape.tensors().items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a usable weights file: {error}; {REMEDY}") from error
    return Weights(
        shape=shape,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        embedding=wide["model.embed_tokens.weight"],
        norm=wide["model.norm.weight"],
        layers=tuple(_layer(wide, f"model.layers.{i}.") for i in range(shape.layers)),
        metadata=metadata,
    )


def seal(tensors: Mapping[str, NDArray[np.float16]], metadata: Mapping[str, str]) -> str:
    """BLAKE2b-256 in hex over every tensor and all of the metadata but ``seal`` itself."""
    digest = hashlib.blake2b(digest_size=32)
    stated = {key: value for key, value in metadata.items() if key != "seal"}
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _shape(metadata: Mapping[str, str]) -> Shape:
    stated = json.loads(metadata["shape"])
    shape = Shape(**{field.name: stated[field.name] for field in fields(Shape)})
    sizes = [getattr(shape, field.name) for field in fields(Shape) if field.name != "rope_theta"]
    if not all(isinstance(size, int) and 0 < size <= 65_536 for size in sizes):
        raise ValueError(f"impossible sizes in {shape}")
    # Prompts are computed in whole chunks of 64, and rotary embedding turns pairs.
    if shape.context % 64 or shape.head_dim % 2 or shape.heads % shape.kv_heads:
        raise ValueError(f"sizes that do not fit together in {shape}")
    if not isinstance(shape.rope_theta, float) or not 1.0 < shape.rope_theta < 1e12:
        raise ValueError(f"rope_theta is {shape.rope_theta!r}")
    return shape


def _take(tensors: dict[str, NDArray[np.float16]], name: str, size: tuple[int, ...]) -> FloatArray:
    tensor = tensors[name]
    if tensor.shape != size:
        raise ValueError(f"{name} is {tensor.shape}, expected {size}")
    wide = tensor.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError(f"{name} holds values that are not finite")
    return wide


def _layer(wide: dict[str, FloatArray], at: str) -> Layer:
    attention, feed = at + "self_attn.", at + "mlp."
    return Layer(
        attention_norm=wide[at + "input_layernorm.weight"],
        query_key_value=np.concatenate(
            [wide[f"{attention}{part}_proj.weight"] for part in ("q", "k", "v")]
        ),
        attention_out=wide[attention + "o_proj.weight"],
        feed_norm=wide[at + "post_attention_layernorm.weight"],
        gate_up=np.concatenate([wide[f"{feed}{part}_proj.weight"] for part in ("gate", "up")]),
        feed_out=wide[feed + "down_proj.weight"],
    )
