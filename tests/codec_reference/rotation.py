"""The codecs that rotate heads: int4_rot and, with a codebook, tq4 and tq3."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from codec_reference.affine import (
    Scheme,
    escapes_section,
    groups_of,
    meta_of,
    nibbles,
    pad16,
    quantised_rows,
    rows_of,
)
from codec_reference.numbers import Array, Doubles, Floats, fma, narrow, narrow_finite, widen

# ---- rotation -----------------------------------------------------------------------------------


def signs(seed: int, dim: int) -> Doubles:
    """+1 or -1 for each channel: bits of splitmix64's outputs, the lowest first."""
    mask = 2**64 - 1
    found: list[float] = []
    state = seed
    while len(found) < dim:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        found += [-1.0 if z >> bit & 1 else 1.0 for bit in range(64)]
    return np.array(found[:dim])


def blocks_of(dim: int) -> Iterator[slice]:
    """Powers of two, the largest first: the binary digits of the head size."""
    begin = 0
    for power in reversed(range(dim.bit_length())):
        if dim >> power & 1:
            yield slice(begin, begin + 2**power)
            begin += 2**power


def hadamard(values: Floats) -> Floats:
    """All blocks of each head (the last dimension), in float32, stage by stage."""
    out = values.astype(np.float32)
    for block in blocks_of(values.shape[-1]):
        y = out[..., block]
        shape, half = y.shape, y.shape[-1] // 2
        while half:
            pairs = y.reshape(*shape[:-1], shape[-1] // (2 * half), 2, half)
            a, b = pairs[..., 0, :], pairs[..., 1, :]
            y = np.stack([a + b, a - b], axis=-2).reshape(shape)
            half //= 2
        out[..., block] = y * np.float32(1 / np.sqrt(shape[-1]))
    return out


def rotate(heads: Doubles, seed: int) -> Floats:
    return hadamard((heads * signs(seed, heads.shape[-1])).astype(np.float32))


def unrotate(heads: Floats, seed: int, dtype: str) -> Array:
    """Back to the type of the tensor; what has left its range becomes its end."""
    back = hadamard(heads).astype(np.float64) * signs(seed, heads.shape[-1])
    return narrow_finite(back, dtype)


def rotated4(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
    dim, meta = x.shape[2], meta_of(dtype)
    rows = rows_of(x)
    real = widen(rows, dtype).reshape(len(rows), rows.shape[1] // dim, dim)
    tame = np.all(np.abs(real) < 2.0**96, axis=(1, 2))  # and no NaN
    rotated = rotate(np.where(tame[:, None, None], real, 0.0), seed).reshape(rows.shape)
    _, _, _, escape = quantised_rows(rotated.astype(np.float64), 4, "float32", meta)
    lost = np.any(escape, axis=1) | ~tame
    # Once more, with nothing but infinities where a row escapes, so that all its groups do.
    shown = np.where(lost[:, None], np.inf, rotated.astype(np.float64))
    codes, pairs, back, _ = quantised_rows(shown, 4, "float32", meta)
    heads = back.astype(np.float32).reshape(real.shape)
    decoded = np.where(lost[:, None], rows, unrotate(heads, seed, dtype).reshape(rows.shape))
    escapes = [(int(row), rows[row]) for row in np.flatnonzero(lost)]
    return pad16(codes) + pairs + escapes_section(escapes), decoded.reshape(x.shape)


# ---- codebooks ----------------------------------------------------------------------------------

POSITIVE = {
    4: [0.128395, 0.388048, 0.656759, 0.94234, 1.256231, 1.618046, 2.069017, 2.73259],
    3: [0.245094, 0.756005, 1.343909, 2.151946],
}


def rms(values: Doubles) -> np.float32:
    """Root mean square in float32: 16 lanes, then halves."""
    padded = np.zeros(-(-len(values) // 16) * 16)
    padded[: len(values)] = values
    lanes = np.zeros(16, np.float32)
    with np.errstate(over="ignore"):
        for part in padded.reshape(-1, 16):
            lanes = fma(part, part, lanes)
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return np.float32(np.sqrt(lanes[0] / np.float32(len(values))))


def three_bits(codes: npt.NDArray[np.uint8]) -> bytes:
    """At most 64 codes: their low two bits in quarters, then their high bits in order."""
    quarter = -(-len(codes) // 4)
    low = np.zeros(quarter, np.uint8)
    for i, code in enumerate(codes):
        low[i % quarter] |= (code & 3) << (2 * (i // quarter))
    return low.tobytes() + np.packbits(codes >> 2, bitorder="little").tobytes()


def levels(bits: int) -> Scheme:
    upper = np.array(POSITIVE[bits], np.float32)
    book = np.concatenate([-upper[::-1], upper])
    thresholds = ((book[:-1].astype(np.float64) + book[1:]) / 2).astype(np.float32)
    pack = nibbles if bits == 4 else three_bits

    def scheme(x: Array, dtype: str, seed: int, kind: str) -> tuple[bytes, Array]:
        tokens, heads, dim = x.shape
        codes_plane, norms = [], []
        escapes: list[tuple[int, Array]] = []
        decoded = x.copy()
        for number in range(tokens * heads):
            row = x[number // heads, number % heads]
            real = widen(row, dtype)
            norm = 0x7FFF
            if (np.abs(real) < 2.0**96).all():
                norm = int(narrow(np.array([rms(real)]), "float16")[0])
                if not 0x400 <= norm < 0x7C00:
                    norm = 0 if not real.any() else 0x7FFF
            codes = np.zeros(dim, np.uint8)
            if norm == 0x7FFF:
                escapes.append((number, row))
            else:
                size = np.float32(np.array([norm], np.uint16).view(np.float16)[0])
                inverse = np.float32(1) / size if norm else np.float32(0)
                ratios = rotate(real, seed) * inverse
                codes = (ratios[:, None] > thresholds).sum(axis=1).astype(np.uint8)
                decoded[number // heads, number % heads] = unrotate(book[codes] * size, seed, dtype)
            codes_plane += [pack(part) for part in groups_of(codes)]
            norms.append(struct.pack("<H", norm))
        return pad16(b"".join(codes_plane)) + b"".join(norms) + escapes_section(escapes), decoded

    return scheme
