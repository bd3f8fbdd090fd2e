"""Tensors in and out without copies: what callers may pass, and what they get.

A tensor is ``[tokens, kv_heads, head_dim]`` of bfloat16, float16 or float32; the outer dimensions
may have any strides, the inner one is contiguous. It may be a torch tensor on the CPU, a numpy
array, or anything with the buffer protocol or ``__dlpack__``. numpy has no bfloat16 of its own: an
array of ml_dtypes' type is taken as it is, and its bits as uint16 with ``dtype="bfloat16"``.

What this package returns of its own accord are numpy arrays, bfloat16 among them as uint16 bits:
``torch.from_numpy(bits).view(torch.bfloat16)`` or ``bits.view(ml_dtypes.bfloat16)`` costs nothing,
and neither library has to be there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv import _core

Array = npt.NDArray[Any]

# numpy's type for each dtype by name.
STORAGE: dict[str, npt.DTypeLike] = {
    "bfloat16": np.uint16,
    "float16": np.float16,
    "float32": np.float32,
}


def exported(x: Any, dtype: str | None) -> tuple[Any, str | None]:
    """``x`` and its declared dtype in a form that the native module reads.

    Only numpy arrays of bfloat16 need help: their buffer protocol refuses the type.
    """
    if isinstance(x, np.ndarray) and x.dtype.name == "bfloat16":
        return x.view(np.uint16), dtype or "bfloat16"
    return x, dtype


def empty(shape: tuple[int, ...], dtype: str) -> Array:
    """A new array for values of ``dtype``; bfloat16 as uint16 bits. Not initialised.

    It begins at a multiple of 64 bytes, so that kernels can write whole cache lines.
    """
    kind = np.dtype(STORAGE[dtype])
    array: Array = aligned_bytes(math.prod(shape) * kind.itemsize).view(kind).reshape(shape)
    return array


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes of new memory that begins at a multiple of 64. Not initialised."""
    memory = np.empty(size + 63, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size]


def widened(x: Array, dtype: str) -> npt.NDArray[np.float32]:
    """An array as ``empty`` makes them, as float32, exactly."""
    if dtype == "bfloat16":
        return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def narrowed(x: npt.NDArray[np.float32], dtype: str) -> Array:
    """Finite float32 values rounded to ``dtype``, to nearest even; bfloat16 as uint16 bits."""
    if dtype != "bfloat16":
        return x.astype(STORAGE[dtype])
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def numbers(x: Any, dtype: str | None) -> npt.NDArray[np.float64]:
    """Any tensor [tokens, heads, head_dim] that ``quantize`` takes, as float64."""
    x, declared = exported(x, dtype)
    found, shape = _core.describe_tensor(x, declared)
    held = empty(shape, found)
    _core.copy_tensor(x, declared, 0, held, found)
    return widened(held, found).astype(np.float64)
