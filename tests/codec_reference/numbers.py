"""Numbers as the codecs round them, found by looking for the nearest: no trick with bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

DTYPES = ("bfloat16", "float16", "float32")


def widen(bits: Array, dtype: str) -> Doubles:
    """The values of bit patterns (float32: of the values themselves), exactly."""
    if dtype == "bfloat16":
        bits = bits.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return bits.view(np.float16 if dtype == "float16" else np.float32).astype(np.float64)


def _steps(dtype: str) -> Doubles:
    """The finite values of a 16-bit type that are not negative, ascending, so that an index is a
    bit pattern; then where infinity stands, for rounding."""
    top = {"bfloat16": 0x7F80, "float16": 0x7C00}[dtype]
    grid = widen(np.arange(top, dtype=np.uint16), dtype)
    return np.append(grid, 2 * grid[-1] - grid[-2])


_STEPS = {dtype: _steps(dtype) for dtype in ("bfloat16", "float16")}


def narrow(values: Array, dtype: str, direction: str = "nearest") -> Array:
    """Bit patterns of numbers rounded to ``dtype``: nearest (ties to even), up or down."""
    values = np.asarray(values, np.float64)
    if dtype == "float32":
        assert direction == "nearest"
        return values.astype(np.float32).view(np.uint32)
    steps = _STEPS[dtype]
    magnitude = np.minimum(np.abs(values), steps[-1])
    below = np.minimum(np.searchsorted(steps, magnitude, side="right") - 1, len(steps) - 2)
    gap_below, gap_above = magnitude - steps[below], steps[below + 1] - magnitude
    negative = np.signbit(values)
    if direction == "nearest":
        up = (gap_above < gap_below) | ((gap_above == gap_below) & (below % 2 == 1))
    else:
        up = (gap_below > 0) & (negative == (direction == "down"))
    up |= np.isinf(values)
    patterns: Array = (below + up + np.where(negative, 0x8000, 0)).astype(np.uint16)
    return patterns


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """a * b + c of float32 numbers, rounded once."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # 48 bits: exact
    c = np.asarray(c, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity stays what it is
        total = product + c
        # What the sum lost (Knuth's two-sum). Where that is anything, an even last bit becomes odd
        # in its direction, so that the second rounding sees that something follows.
        part = total - product
        lost = (product - (total - part)) + (c - part)
        even = total.view(np.int64) % 2 == 0
        nudged = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
        once: Floats = np.where((lost != 0) & even, nudged, total).astype(np.float32)
    return once


def least(values: Doubles) -> Doubles:
    """The least of each row, -0 being less than +0."""
    low = values.min(axis=1, initial=np.inf)
    negative_zero = np.any((values == 0) & np.signbit(values), axis=1)
    return np.where(low == 0, np.where(negative_zero, -0.0, 0.0), low)


def narrow_finite(values: Array, dtype: str) -> Array:
    """The nearest bit pattern of a finite number."""
    end = np.finfo(np.float32).max if dtype == "float32" else _STEPS[dtype][-2]
    return narrow(np.clip(values, -end, end), dtype)
