"""The codecs of docs/CODECS.md, slow and obvious: what the kernels are compared with, bit for bit.

Nothing here shares a trick with the kernels. Rounding to a 16-bit type picks among neighbouring
values by their distance; extremes are found by comparing numbers, not bit patterns; a fused
multiply-add is computed in float64 and rounded once (numbers.py); groups are cut by slicing.
Values are float64 where they are exact, float32 where the format rounds to it.
"""

from __future__ import annotations

import struct

from blatam_kv import _core
from codec_reference.affine import Scheme, channel, raw, token
from codec_reference.exchange import fp8, head8, q8
from codec_reference.numbers import DTYPES, Array
from codec_reference.rotation import levels, rotated4

__all__ = ["CODECS", "DTYPES", "blob"]

TOKEN8, TOKEN4 = (64, token(8)), (64, token(4))
CHANNEL8, CHANNEL4 = (64, channel(8)), (64, channel(4))
LEVELS4, LEVELS3 = (64, levels(4)), (64, levels(3))

# Name: id, group and scheme for keys, then for values.
CODECS: dict[str, tuple[int, tuple[int, Scheme], tuple[int, Scheme]]] = {
    "raw": (1, (0, raw), (0, raw)),
    "int8": (4, TOKEN8, TOKEN8),
    "int8_kc": (5, CHANNEL8, TOKEN8),
    "k8v4": (6, TOKEN8, TOKEN4),
    "int4": (7, TOKEN4, TOKEN4),
    "int4_kc": (8, CHANNEL4, TOKEN4),
    "int4_rot": (9, (64, rotated4), (64, rotated4)),
    "tq4": (10, LEVELS4, LEVELS4),
    "tq3": (11, LEVELS3, LEVELS3),
    "k4v3": (12, CHANNEL4, LEVELS3),
    "fp8_e4m3": (32, (0, fp8), (0, fp8)),
    "int8_per_token_head": (33, (0, head8), (0, head8)),
    "q8_0": (34, (32, q8), (32, q8)),
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
