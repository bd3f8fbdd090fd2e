"""Append-only files of records. Specified in docs/FORMAT.md, section 2."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blatam_kv.errors import CorruptRecord, Damage
from blatam_kv.record import HEADER_BYTES, Header, is_sealed, mend, seal, unpack_header
from blatam_kv.tiers.files import Files

MAGIC = b"\x89BKS"
VERSION = 1
SEGMENT_HEADER_BYTES = 64
MAX_SEGMENT_BYTES = 1 << 30
STORE_ID_BYTES = 16
# Large enough for a hundred small entries a call, small beside one block of keys and values.
SCAN_BYTES = 32 << 10
# What is read of a record that follows a large one.
_PEEK_BYTES = 4 << 10

_FIELDS = struct.Struct("<4sH2x16sQQQQ4x")


class SegmentHeader(NamedTuple):
    """The fields of a segment's header."""

    store: bytes
    number: int
    previous: int
    previous_bytes: int
    created_us: int


class Found(NamedTuple):
    """A record met by ``scan``: where it begins, its header, and whether that needed no mending."""

    offset: int
    header: Header
    intact: bool


@dataclass(slots=True)
class Segment:
    """What is known of one segment. header: None if it cannot be read or is another store's."""

    number: int
    size: int
    header: SegmentHeader | None
    scanned: int = SEGMENT_HEADER_BYTES  # all records before are indexed
    linked: bool = False  # its predecessor was looked at
    settled: bool = False  # sealed, and all of it that can be read is indexed


def segment_name(number: int) -> str:
    """The file's name."""
    return f"{number:010d}.seg"


def segment_number(name: str) -> int | None:
    """The number in a file's name, None for a file that is not a segment."""
    stem, dot, suffix = name.partition(".")
    if suffix != "seg" or not (stem.isascii() and stem.isdigit()) or not dot:
        return None
    number = int(stem)
    return number if number and name == segment_name(number) else None


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The 64 bytes a segment begins with."""
    return seal(_FIELDS.pack(MAGIC, VERSION, *header))


def unpack_segment_header(block: bytes) -> SegmentHeader | None:
    """The header, one flipped bit mended; None if it cannot be read."""
    if len(block) != SEGMENT_HEADER_BYTES:
        return None
    whole = block if is_sealed(memoryview(block)) else mend(block)
    if whole is None:
        return None
    magic, version, *fields = _FIELDS.unpack(whole[:-4])
    return SegmentHeader(*fields) if (magic, version) == (MAGIC, VERSION) else None


def read_segment(files: Files, folder: Path, number: int, store: bytes | None) -> Segment:
    """A segment as its file says; another store's header counts as unreadable. Raises OSError."""
    fd = files.open(folder / segment_name(number), os.O_RDONLY)
    try:
        size = files.size(fd)
        header = unpack_segment_header(files.read(fd, SEGMENT_HEADER_BYTES, 0))
    finally:
        files.close(fd)
    if header is not None and (header.number != number or store not in (None, header.store)):
        header = None
    return Segment(number, size, header)


def scan(files: Files, fd: int, start: int, end: int) -> Iterator[Found]:
    """The records from start on, by their headers, up to the first that cannot be read.

    The next one would begin at the last one's end; whether that is ``end`` tells whether all was
    read. Bodies are not verified.
    """
    window, base = memoryview(b""), start
    while start + HEADER_BYTES <= end:
        if start - base + HEADER_BYTES > len(window):
            window, base = memoryview(files.read(fd, min(SCAN_BYTES, end - start), start)), start
        header, intact = _header_at(window[start - base : start - base + HEADER_BYTES])
        if header is None or start + header.record_bytes > end:
            return
        yield Found(start, header, intact)
        start += header.record_bytes


def walk(
    files: Files,
    fd: int,
    start: int,
    end: int,
    take: Callable[[bytes, int, int], int],
    on_record: Callable[[Found], object],
) -> int:
    """As ``scan``, a hundred records at a time; returns where the last one ends.

    take(window, offset, end) deals with those whose headers are intact and returns where it stopped;
    on_record with the others.
    """
    size = SCAN_BYTES
    while start + HEADER_BYTES <= end:
        window = files.read(fd, min(size, end - start), start)
        reached = take(window, start, end)
        size = _PEEK_BYTES if reached - start > 2 * SCAN_BYTES else SCAN_BYTES
        if reached == start:
            header, intact = _header_at(memoryview(window)[:HEADER_BYTES])
            if header is None or start + header.record_bytes > end:
                break
            on_record(Found(start, header, intact))
            reached += header.record_bytes
        start = reached
    return start


def _header_at(block: memoryview) -> tuple[Header | None, bool]:
    try:
        return unpack_header(block), True
    except CorruptRecord as damage:
        if damage.reason not in (Damage.MAGIC, Damage.HEADER):
            return None, False
    mended = mend(block)
    try:
        return (None if mended is None else unpack_header(mended)), False
    except CorruptRecord:
        return None, False
