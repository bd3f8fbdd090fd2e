"""The codecs of docs/CODECS.md, slow and obvious: what the kernels are compared with, bit for bit.

Nothing here shares a trick with the kernels. Rounding to a 16-bit type picks among neighbouring
values by their distance; extremes are found by comparing numbers, not bit patterns; a fused
multiply-add is computed in float64 and rounded once; groups are cut by slicing. Values are float64
where they are exact, float32 where the format rounds to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv import _core

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

DTYPES = ("bfloat16", "float16", "float32")
NAN = 0x7FFF  # the scale of a group that escapes
GROUP = 64

# ---- numbers ------------------------------------------------------------------------------------


def _grid(dtype: str) -> Doubles:
    """All finite values of a 16-bit type that are not negative, ascending; index = bit pattern."""
    top = {"bfloat16": 0x7F80, "float16": 0x7C00}[dtype]
    return widen(np.arange(top, dtype=np.uint16), dtype)


def widen(bits: Array, dtype: str) -> Doubles:
    """The values of bit patterns (float32: of the values themselves), exactly."""
    if dtype == "bfloat16":
        bits = bits.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return bits.view(np.float16 if dtype == "float16" else np.float32).astype(np.float64)


_GRIDS = {dtype: _grid(dtype) for dtype in ("bfloat16", "float16")}


def narrow(values: Array, dtype: str, direction: str = "nearest") -> Array:
    """Bit patterns of numbers rounded to ``dtype``: nearest (ties to even), up or down."""
    values = np.asarray(values, np.float64)
    if dtype == "float32":
        assert direction == "nearest"
        return values.astype(np.float32).view(np.uint32)
    grid = _GRIDS[dtype]
    beyond = 2 * grid[-1] - grid[-2]  # where infinity stands, for rounding
    steps = np.append(grid, beyond)
    magnitude = np.minimum(np.abs(values), beyond)
    below = np.minimum(np.searchsorted(steps, magnitude, side="right") - 1, len(grid) - 1)
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
    total = product + c
    # What the sum lost (Knuth's two-sum). Where that is anything, an even last bit becomes odd
    # in its direction, so that the second rounding sees that something follows.
    part = total - product
    lost = (product - (total - part)) + (c - part)
    even = total.view(np.int64) % 2 == 0
    nudged = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, nudged, total).astype(np.float32)


def in_order(values: Doubles) -> tuple[float, float]:
    """Least and greatest, -0 being less than +0."""
    keys = [(float(value), 0 if np.signbit(value) else 1) for value in values]
    return _signed(min(keys)), _signed(max(keys))


def _signed(key: tuple[float, int]) -> float:
    value, positive = key
    return value if value != 0 else (0.0 if positive else -0.0)


# ---- the affine quantiser -----------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """One quantised group; ``scale`` is NAN where it escapes."""

    codes: npt.NDArray[np.uint8]
    scale: int
    minimum: int

    @property
    def escapes(self) -> bool:
        return self.scale == NAN


def meta_of(dtype: str) -> str:
    """The type of scale and minimum."""
    return "bfloat16" if dtype == "float32" else dtype


def affine(values: Doubles, bits: int, dtype: str, meta: str | None = None) -> Group:
    """Quantise float values; ``dtype`` is what they will be narrowed to."""
    meta = meta or meta_of(dtype)
    top = 2**bits - 1
    escape = Group(np.zeros(len(values), np.uint8), NAN, 0)
    if not np.isfinite(values).all():
        return escape
    low, high = in_order(values)
    minimum = int(narrow(np.array([low]), meta, "down")[0])
    m = np.float32(widen(np.array([minimum], np.uint16), meta)[0])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        step = (np.float32(high) - m) * (np.float32(1) / np.float32(top))
        if not np.isfinite(m) or not np.isfinite(step):
            return escape
        scale = int(narrow(np.array([step]), meta, "up")[0])
        s = np.float32(widen(np.array([scale], np.uint16), meta)[0])
        inverse = np.float32(1) / s if s > 0 else np.float32(0)
        end = narrow(fma(np.array([top]), s, m), dtype)
        if not np.isfinite([s, inverse, widen(end, dtype)[0]]).all():
            return escape
        bias = -(m * inverse)
    codes = np.rint(fma(values, inverse, bias).astype(np.float64)).clip(0, top)
    return Group(codes.astype(np.uint8), scale, minimum)


def line(codes: Array, scale: int, minimum: int, meta: str) -> Floats:
    """The values of codes, before they are narrowed."""
    s, m = widen(np.array([scale, minimum], np.uint16), meta)
    return fma(codes.astype(np.float64), s, m)


def nibbles(codes: npt.NDArray[np.uint8]) -> bytes:
    """At most 64 codes of 4 bits: the first half low, the second half high."""
    half = (len(codes) + 1) // 2
    high = np.zeros(half, np.uint8)
    high[: len(codes) - half] = codes[half:]
    return (codes[:half] | high << 4).tobytes()


# ---- rows, groups and pages ---------------------------------------------------------------------


def rows_of(x: Array) -> Iterator[Array]:
    """Heads of tokens; whole tokens where a head has fewer than 64 values."""
    tokens, heads, dim = x.shape
    width = dim if dim >= GROUP else heads * dim
    yield from np.ascontiguousarray(x).reshape(-1, width) if tokens else ()


def groups_of(row: Array) -> Iterator[Array]:
    for start in range(0, len(row), GROUP):
        yield row[start : start + GROUP]


def pad16(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def escapes_section(units: list[tuple[int, Array]]) -> bytes:
    """Unit numbers and their values as they are; nothing if there is none."""
    if not units:
        return b""
    numbers = struct.pack(f"<{len(units) + 1}Q", len(units), *(unit for unit, _ in units))
    return numbers + b"".join(np.ascontiguousarray(values).tobytes() for _, values in units)


# ---- one function per scheme: the payload, and the values it stands for -------------------------

# x: bit patterns (uint16, or uint32 for float32). Returns the payload and the decoded patterns.
Scheme = Callable[[Array, str, int, str], tuple[bytes, Array]]


def raw(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
    return np.ascontiguousarray(x).tobytes(), x.copy()


def token(bits: int) -> Scheme:
    def scheme(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
        codes, meta, decoded = [], [], []
        escapes: list[tuple[int, Array]] = []
        for row in rows_of(x):
            for values in groups_of(row):
                group = affine(widen(values, dtype), bits, dtype)
                codes.append(group.codes.tobytes() if bits == 8 else nibbles(group.codes))
                meta.append(struct.pack("<HH", group.scale, group.minimum))
                if group.escapes:
                    escapes.append((len(meta) - 1, values))
                    decoded.append(values)
                else:
                    back = line(group.codes, group.scale, group.minimum, meta_of(dtype))
                    decoded.append(narrow(back, dtype))
        payload = pad16(b"".join(codes)) + b"".join(meta) + escapes_section(escapes)
        return payload, np.concatenate([*decoded, x[:0].ravel()]).reshape(x.shape)

    return scheme


# ---- codecs and blobs ---------------------------------------------------------------------------

# Name: id, group and scheme for keys, then for values.
CODECS: dict[str, tuple[int, tuple[int, Scheme], tuple[int, Scheme]]] = {
    "raw": (1, (0, raw), (0, raw)),
    "int8": (4, (64, token(8)), (64, token(8))),
    "int4": (7, (64, token(4)), (64, token(4))),
}


def blob(
    x: Array, dtype: str, codec: str, kind: str, *, seed: int = 0, checksum: bool = True
) -> tuple[bytes, Array]:
    """The blob of bit patterns, and the bit patterns it decodes to."""
    number, key, value = CODECS[codec]
    group, scheme = key if kind == "key" else value
    payload, decoded = scheme(x, dtype, seed, kind)
    tokens, heads, dim = x.shape
    header = struct.pack(
        "<4sBBBBHHIQIIQQI8x",
        b"BKVQ",
        1,
        number,
        DTYPES.index(dtype),
        int(kind == "key"),
        int(checksum),
        group,
        dim,
        tokens,
        heads,
        0,
        seed,
        len(payload),
        _core.crc32c(payload) if checksum else 0,
    )
    return header + struct.pack("<I", _core.crc32c(header)) + payload, decoded
