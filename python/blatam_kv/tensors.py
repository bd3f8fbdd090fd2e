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

from typing import Any

import numpy as np
import numpy.typing as npt

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
    """A new array for values of ``dtype``; bfloat16 as uint16 bits. Not initialised."""
    return np.empty(shape, STORAGE[dtype])


def floats(x: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Values as float32; uint16 are the bits of bfloat16 if ``dtype`` says so."""
    if dtype == "bfloat16":
        return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)
