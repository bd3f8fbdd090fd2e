"""A company's letterhead: its name, a few lines, a logo; and whether a logo is what it says.

A picture is looked at before it is believed: its kind by its first bytes, its size before anything
is unpacked, and every byte of a PNG's pixels counted against that size. What passes costs a renderer
at most ``MAX_PIXELS``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from blatam_kv.errors import InvalidRequest

MAX_LOGO_BYTES = 512 << 10
# As large as a logo is ever printed: 10 cm at 600 dots an inch. 4 MiB of pixels in memory.
MAX_PIXELS = 1 << 20
MAX_SIDE = 4096
MAX_LINES = 4
MAX_LINE_CHARS = 120

_PNG = b"\x89PNG\r\n\x1a\n"
# Samples of a pixel by the colour type of PNG.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Where Adam7 begins and how it steps, (x, y, dx, dy) for each pass.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


@dataclass(frozen=True, slots=True)
class Logo:
    """A picture that ``read_logo`` has looked at. format: ``png`` or ``jpg``; sides in pixels."""

    content: bytes = field(repr=False)
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Letterhead:
    """What stands at the head of every document of a company.

    lines: address, telephone and the like, at most four. Raises InvalidRequest for text that does
    not fit.
    """

    company: str
    lines: tuple[str, ...] = ()
    logo: Logo | None = None

    def __post_init__(self) -> None:
        if len(self.lines) > MAX_LINES:
            raise InvalidRequest(
                f"has {len(self.lines)} lines; a letterhead has at most {MAX_LINES}", field="lines"
            )
        for name, text in (("company", self.company), *(("lines", line) for line in self.lines)):
            if "\n" in text:
                raise InvalidRequest("must be one line", field=name)
            if len(text) > MAX_LINE_CHARS:
                raise InvalidRequest(
                    f"has {len(text)} characters; shorten it to {MAX_LINE_CHARS}", field=name
                )


def read_logo(content: bytes) -> Logo:
    """The logo in these bytes. Raises InvalidRequest, saying why, for what is none."""
    if len(content) > MAX_LOGO_BYTES:
        raise _refused(f"has {len(content):,} bytes; make it at most {MAX_LOGO_BYTES:,}")
    if content.startswith(_PNG):
        width, height = _read_png(content)
        return Logo(content, "png", width, height)
    if content.startswith(b"\xff\xd8\xff"):
        width, height = _read_jpeg(content)
        return Logo(content, "jpg", width, height)
    raise _refused("is neither a PNG nor a JPEG picture; send one of these")


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"the logo {why}", field="logo")


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise _refused("has no pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _refused(
            f"is {width:,} by {height:,} pixels; scale it to at most {MAX_PIXELS:,} in all and "
            f"{MAX_SIDE:,} a side"
        )


def _read_png(content: bytes) -> tuple[int, int]:
    """Width and height of a whole PNG: every chunk's checksum right, exactly the pixels promised."""
    at, header, packed, ended = len(_PNG), b"", bytearray(), False
    while at < len(content) and not ended:
        if at + 12 > len(content):
            raise _refused("ends in the middle")
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length
        if at > len(content):
            raise _refused("ends in the middle")
        if zlib.crc32(kind + body) != int.from_bytes(content[at - 4 : at]):
            raise _refused("is damaged: a checksum is wrong")
        if kind == b"IHDR" and not header:
            header = body
        elif kind == b"IDAT":
            packed += body
        ended = kind == b"IEND"
    if not ended or len(header) != 13:
        raise _refused("ends in the middle")
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", header)
    _check_size(width, height)
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlace > 1:
        raise _refused("is a PNG of a kind that does not exist")
    wanted = _png_bytes(width, height, depth * _SAMPLES[colour], interlaced=interlace == 1)
    try:
        # One byte more than promised is enough to know that there are too many.
        pixels = zlib.decompressobj().decompress(bytes(packed), wanted + 1)
    except zlib.error as error:
        raise _refused("is damaged: its pixels do not unpack") from error
    if len(pixels) != wanted:
        raise _refused("is damaged: it holds other pixels than it says")
    return width, height


def _png_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of the rows, unpacked, a filter byte before each."""
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    found = 0
    for x, y, dx, dy in _ADAM7:
        columns, rows = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        if columns > 0 and rows > 0:
            found += rows * (1 + (columns * bits + 7) // 8)
    return found


def _read_jpeg(content: bytes) -> tuple[int, int]:
    """Width and height of a JPEG whose segments follow each other and which has an end."""
    at, size = 2, None
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = int.from_bytes(content[at + 2 : at + 4])
        if marker in (0xC0, 0xC1, 0xC2) and length >= 11 and at + 9 <= len(content):
            height, width = struct.unpack_from(">HH", content, at + 5)
            _check_size(width, height)
            size = width, height
        if marker == 0xDA:
            if size is None or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
                break
            return size
        at += 2 + max(2, length)
    raise _refused("is a JPEG that is damaged or of a kind that is not read here")
