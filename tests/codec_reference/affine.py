"""raw, and the affine quantiser over tokens and over channels; how groups are cut and packed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_reference.numbers import Array, Doubles, Floats, fma, least, narrow, widen

NAN = 0x7FFF  # the scale of a group that escapes
GROUP = 64

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Groups:
    """Quantised groups, one a row; ``scale`` is NAN where one escapes."""

    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.uint16]
    minimum: npt.NDArray[np.uint16]

    @property
    def escape(self) -> Flags:
        flags: Flags = self.scale == NAN
        return flags


def meta_of(dtype: str) -> str:
    """The type of scale and minimum."""
    return "bfloat16" if dtype == "float32" else dtype


def affine(values: Doubles, bits: int, dtype: str, meta: str | None = None) -> Groups:
    """Quantise each row; ``dtype`` is what the values will be narrowed to."""
    meta = meta or meta_of(dtype)
    top = 2**bits - 1
    finite = np.all(np.isfinite(values), axis=1)
    real = np.where(finite[:, None], values, 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        minimum = narrow(least(real), meta, "down")
        m = widen(minimum, meta).astype(np.float32)
        spread = real.max(axis=1).astype(np.float32) - m
        step = spread * (np.float32(1) / np.float32(top))
        scale = narrow(np.where(np.isnan(step), np.inf, step), meta, "up")
        s = widen(scale, meta).astype(np.float32)
        inverse = np.where(s > 0, np.float32(1) / s, np.float32(0))
        end = widen(narrow(fma(top, s, m), dtype), dtype)
        good = finite & np.isfinite(m) & np.isfinite(s) & np.isfinite(inverse) & np.isfinite(end)
        inverse = np.where(good, inverse, np.float32(0))
        bias = np.where(good, -(m * inverse), np.float32(0))
        codes = np.rint(fma(real, inverse[:, None], bias[:, None]).astype(np.float64)).clip(0, top)
    return Groups(
        np.where(good[:, None], codes, 0).astype(np.uint8),
        np.where(good, scale, NAN).astype(np.uint16),
        np.where(good, minimum, 0).astype(np.uint16),
    )


def lines(groups: Groups, meta: str) -> Floats:
    """The values of codes, before they are narrowed; 0 where a group escapes."""
    scale = np.where(groups.escape, 0, groups.scale)
    s, m = widen(scale.astype(np.uint16), meta), widen(groups.minimum, meta)
    return fma(groups.codes.astype(np.float64), s[:, None], m[:, None])


def nibbles(codes: npt.NDArray[np.uint8]) -> bytes:
    """At most 64 codes of 4 bits: the first half low, the second half high."""
    half = (len(codes) + 1) // 2
    high = np.zeros(half, np.uint8)
    high[: len(codes) - half] = codes[half:]
    return (codes[:half] | high << 4).tobytes()


# ---- rows, groups and pages ---------------------------------------------------------------------


def rows_of(x: Array) -> Array:
    """Heads of tokens; whole tokens where a head has fewer than 64 values."""
    tokens, heads, dim = x.shape
    shape = (tokens * heads, dim) if dim >= GROUP else (tokens, heads * dim)
    return np.ascontiguousarray(x).reshape(shape)


def groups_of(rows: Array) -> Iterator[Array]:
    """Groups along the last dimension; the last one may be shorter."""
    for start in range(0, rows.shape[-1], GROUP):
        yield rows[..., start : start + GROUP]


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


def quantised_rows(
    rows: Array, bits: int, dtype: str, meta: str | None = None
) -> tuple[bytes, bytes, Doubles, Flags]:
    """Rows of values cut into groups: codes, metadata, the values again, which groups escape."""
    parts = [affine(part, bits, dtype, meta) for part in groups_of(rows)]
    pack = nibbles if bits == 4 else bytes
    codes = [b"".join(pack(group.codes[i]) for group in parts) for i in range(len(rows))]
    pairs = [np.stack([group.scale, group.minimum], axis=1) for group in parts]
    back = [lines(group, meta or meta_of(dtype)) for group in parts]
    return (
        b"".join(codes),
        np.stack(pairs, axis=1).tobytes(),
        np.concatenate(back, axis=1).astype(np.float64),
        np.stack([group.escape for group in parts], axis=1),
    )


def token(bits: int) -> Scheme:
    def scheme(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
        rows = rows_of(x)
        codes, meta, back, escape = quantised_rows(widen(rows, dtype), bits, dtype)
        decoded = narrow(back, dtype)
        escapes = []
        for number, (row, group) in enumerate(np.ndindex(*escape.shape)):
            if escape[row, group]:
                part = slice(group * GROUP, (group + 1) * GROUP)
                escapes.append((number, rows[row, part]))
                decoded[row, part] = rows[row, part]
        return pad16(codes) + meta + escapes_section(escapes), decoded.reshape(x.shape)

    return scheme


def channel(bits: int) -> Scheme:
    def scheme(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
        tokens, heads, dim = x.shape
        paged = tokens - tokens % GROUP
        codes, meta = b"", b""
        escapes: list[tuple[int, Array]] = []
        decoded = x.copy()
        for panel, (start, head) in enumerate(
            (start, head) for start in range(0, paged, GROUP) for head in range(heads)
        ):
            page = x[start : start + GROUP, head]
            groups = affine(widen(page, dtype).T, bits, dtype)
            table = groups.codes.T
            codes += (table if bits == 8 else table[:32] | table[32:] << 4).tobytes()
            meta += groups.scale.tobytes() + groups.minimum.tobytes()
            back = narrow(lines(groups, meta_of(dtype)), dtype).T
            decoded[start : start + GROUP, head] = np.where(groups.escape, page, back)
            escapes += [(panel * dim + c, page[:, c]) for c in np.flatnonzero(groups.escape)]
        tail = np.ascontiguousarray(x[paged:]).tobytes()
        return pad16(pad16(codes) + meta) + tail + escapes_section(escapes), decoded

    return scheme
