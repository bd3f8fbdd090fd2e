"""Small pictures made here, whole and damaged."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int = 40,
    height: int = 20,
    *,
    colour: tuple[int, int, int] = (200, 60, 40),
    claimed: tuple[int, int] | None = None,
    rows: bytes | None = None,
) -> bytes:
    """A picture of one colour. claimed: the size it says it has; rows: in place of its pixels."""
    said = claimed or (width, height)
    head = struct.pack(">IIBBBBB", *said, 8, 2, 0, 0, 0)
    pixels = rows if rows is not None else (b"\0" + bytes(colour) * width) * height
    return (
        SIGNATURE
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


# 8 by 8 pixels, grey; a baseline JPEG.
JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a18161618"
    "3123251d283a333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffc000"
    "0b080008000801011100ffc40014000100000000000000000000000000000000ffc4001410010000000000000000"
    "0000000000000000ffda0008010100003f003fffd9"
)
