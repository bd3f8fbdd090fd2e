"""The weights file of ``mini``: its shape, how it is read, and what is refused.

One safetensors file holds the tensors in fp16 under Llama's names and, in its metadata, the shape,
the tokenizer's merges and how the weights came to be (docs/MINI.md).
"""

from __future__ import annotations

from dataclasses import dataclass


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
