"""Formats that other engines store: fp8_e4m3, int8_per_token_head, q8_0."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from codec_reference.affine import escapes_section, pad16
from codec_reference.numbers import Array, Doubles, narrow, narrow_finite, widen

FP8 = np.array(  # all values of e4m3 that are not negative, ascending
    [m / 512 for m in range(8)]
    + [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
)


def by_head(x: Array) -> Iterator[tuple[int, int, Array]]:
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            yield t, h, x[t, h]


def fp8(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
    codes_plane = []
    escapes: list[tuple[int, Array]] = []
    decoded = x.copy()
    for t, h, row in by_head(x):
        real = widen(row, dtype)
        codes = np.full(len(row), 0x7F, np.uint8)
        if np.isfinite(real).all():
            distance = np.abs(np.abs(real).clip(0, 448)[:, None] - FP8)
            best = distance.min(axis=1, keepdims=True)
            # Of two that are equally near, the even pattern.
            choice = np.where(distance == best, np.arange(len(FP8)) % 2, 2).argmin(axis=1)
            codes = (choice | np.where(np.signbit(real), 0x80, 0)).astype(np.uint8)
            decoded[t, h] = narrow_finite(np.copysign(FP8[choice], real), dtype)
        else:
            escapes.append((t * x.shape[1] + h, row))
        codes_plane.append(codes.tobytes())
    return b"".join(codes_plane) + escapes_section(escapes), decoded


def symmetric(real: Doubles) -> tuple[np.float32, npt.NDArray[np.int8]] | None:
    """The float32 scale of a row and its codes; None where the arithmetic does not reach."""
    if not np.isfinite(real).all():
        return None
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        scale = np.float32(np.abs(real).max()) / np.float32(127)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        if not np.isfinite(inverse):
            return None
        codes = np.rint(real.astype(np.float32) * inverse).clip(-127, 127)
    return scale, codes.astype(np.int8)


def scaled(codes: npt.NDArray[np.int8], scale: np.floating[Any], dtype: str) -> Array:
    with np.errstate(over="ignore"):
        return narrow_finite(codes.astype(np.float32) * np.float32(scale), dtype)


def head8(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
    codes_plane, scales = [], []
    escapes: list[tuple[int, Array]] = []
    decoded = x.copy()
    for t, h, row in by_head(x):
        found = symmetric(widen(row, dtype))
        if found is None:
            escapes.append((t * x.shape[1] + h, row))
            codes_plane.append(bytes(len(row)))
            scales.append(struct.pack("<I", 0x7FFFFFFF))
        else:
            scale, codes = found
            codes_plane.append(codes.tobytes())
            scales.append(scale.tobytes())
            decoded[t, h] = scaled(codes, scale, dtype)
    return pad16(b"".join(codes_plane)) + b"".join(scales) + escapes_section(escapes), decoded


def q8(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
    blocks: list[bytes] = []
    escapes: list[tuple[int, Array]] = []
    decoded = x.copy()
    for t, h, row in by_head(x):
        for start in range(0, len(row), 32):
            part = row[start : start + 32]
            found = symmetric(widen(part, dtype))
            stored = 0x7FFF
            if found is not None:
                stored = int(narrow(np.array([found[0]]), "float16")[0])
            if found is None or stored >= 0x7C00 or (stored == 0 and found[0] != 0):
                escapes.append((len(blocks), part))
                blocks.append(struct.pack("<H", 0x7FFF) + bytes(len(part)))
                continue
            blocks.append(struct.pack("<H", stored) + found[1].tobytes())
            half = np.array([stored], np.uint16).view(np.float16)[0]
            decoded[t, h, start : start + 32] = scaled(found[1], half, dtype)
    return b"".join(blocks) + escapes_section(escapes), decoded
