"""What the blocks of a store look like."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from blatam_kv.errors import ConfigError
from blatam_kv.record import MAX_PAYLOAD_BYTES
from blatam_kv.tensors import STORAGE

BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """The shape of a model's keys and values, and how many tokens are kept together.

    layers, kv_heads, head_dim: of the model; keys and values of n tokens are two tensors
    ``[layers, n, kv_heads, head_dim]``. dtype: "bfloat16", "float16" or "float32".
    block_tokens: 16, 32, 64, 128 or 256. Smaller blocks waste less of a prompt's end, larger ones
    cost less bookkeeping.

    Raises TypeError or ConfigError for a field that does not fit.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    block_tokens: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "dtype" and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{field.name} must be an int, not {type(value).__name__}")
        for name in ("layers", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.dtype not in STORAGE:
            known = ", ".join(STORAGE)
            raise ConfigError(f"dtype must be one of {known}, not {self.dtype!r}")
        if self.block_tokens not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise ConfigError(f"block_tokens must be one of {sizes}, not {self.block_tokens}")
        if self.block_bytes > MAX_PAYLOAD_BYTES // 2:
            raise ConfigError(
                f"a block of this layout has {self.block_bytes} bytes and may have "
                f"{MAX_PAYLOAD_BYTES // 2}; use a smaller block_tokens"
            )

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values as the model has them."""
        values = math.prod((2, self.layers, self.kv_heads, self.head_dim))
        return values * np.dtype(STORAGE[self.dtype]).itemsize

    @property
    def block_bytes(self) -> int:
        """The same of a block."""
        return self.block_tokens * self.token_bytes

    def shape(self, tokens: int) -> tuple[int, int, int, int]:
        """The shape of the keys, and of the values, of so many tokens."""
        return self.layers, tokens, self.kv_heads, self.head_dim
