"""Tensors to try codecs on: what models produce, what breaks formats, and every bit pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from codec_reference.numbers import narrow

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]

# The head sizes of models, and some that no rule was made for.
HEAD_DIMS = (64, 80, 96, 112, 120, 128, 192, 256, 512, 576)
ODD_HEAD_DIMS = (1, 7, 32, 40, 65, 100)

KINDS_OF_DATA = (
    "normal", "outliers", "bits", "finite", "ends", "subnormal", "tiny", "huge", "constant",
    "zeros", "steps", "wide",
)  # fmt: skip


def values(kind: str, shape: Shape, dtype: str, seed: int) -> Array:
    """Bit patterns: uint16, or uint32 for float32."""
    random = np.random.default_rng(seed)
    patterns = np.uint32 if dtype == "float32" else np.uint16
    width = 32 if dtype == "float32" else 16
    if kind == "bits":  # anything at all, NaN and infinity included
        return random.integers(0, 2**width, shape, patterns)
    if kind == "subnormal":
        mantissa = {"bfloat16": 7, "float16": 10, "float32": 23}[dtype]
        sign = random.integers(0, 2, shape, patterns) << patterns(width - 1)
        small: Array = random.integers(0, 2**mantissa, shape, patterns) | sign
        return small
    if kind == "finite":  # any number, so that most groups reach far in both directions
        top = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000}[dtype]
        sign = random.integers(0, 2, shape, patterns) << patterns(width - 1)
        far: Array = random.integers(0, top, shape, patterns) | sign
        return far
    x = random.standard_normal(shape)
    if kind == "ends":  # a few of the greatest numbers, some of them on both sides of a group
        greatest = {"bfloat16": 3.3895313892515355e38, "float16": 65504.0}
        end = greatest.get(dtype, 3.4028234663852886e38)
        x = np.where(random.random(shape) < 0.02, np.sign(x) * end, x)
    elif kind == "outliers":
        x += np.where(random.random(shape[2]) < 0.05, random.uniform(8, 16, shape[2]), 0)
    elif kind == "tiny":
        x *= 2.0**-130 if dtype != "float16" else 2.0**-20
    elif kind == "huge":
        x *= 2.0**126 if dtype != "float16" else 2.0**14
        x = np.clip(x, -65000, 65000) if dtype == "float16" else np.clip(x, -3.3e38, 3.3e38)
    elif kind == "constant":
        x = np.broadcast_to(random.standard_normal((shape[0], shape[1], 1)), shape)
    elif kind == "zeros":
        x = np.where(random.random(shape) < 0.5, 0.0, -0.0)
    elif kind == "steps":  # halves: many ties between codes
        x = random.integers(-8, 8, shape) / 2.0
    elif kind == "wide":  # a small spread far from zero
        x = 1000.0 + x / 1024
    patterned: Array = narrow(x, dtype)
    return patterned


def with_escapes(x: Array, dtype: str, count: int, seed: int) -> Array:
    """The same with some values replaced by NaN and infinities."""
    random = np.random.default_rng(seed)
    infinities = narrow(np.array([np.inf, -np.inf]), dtype)
    ones = {"bfloat16": 0x7FFF, "float16": 0x7FFF, "float32": 0x7FFFFFFF}[dtype]
    some = {"bfloat16": 0x7FC1, "float16": 0x7E01, "float32": 0x7FC00123}[dtype]
    nans = np.array([some, ones, 2 * ones + 1], infinities.dtype)
    choices = np.append(infinities, nans)
    x = x.copy()
    flat = x.reshape(-1)
    if flat.size:
        flat[random.integers(0, flat.size, count)] = random.choice(choices, count)
    return x
