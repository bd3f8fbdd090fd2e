"""``index``: the index as it was at some moment, so that opening need not look at every record.

Specified in docs/FORMAT.md, section 4. It says nothing that the segments do not say; losing it
costs time, and one that is damaged or does not fit the segments is not used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from blatam_kv._core import crc32c
from blatam_kv.record import is_sealed, seal
from blatam_kv.tiers.files import Files, replace_file

NAME = "index"
MAGIC = b"\x89BKI"
VERSION = 1
HEADER_BYTES = 64
ENTRY_BYTES = 48

_FIELDS = struct.Struct("<4sH2x16sQQI16x")
_COVERED = struct.Struct("<QQ")


class Covered(NamedTuple):
    """A segment, and how many of its bytes the checkpoint knows."""

    number: int
    size: int


class Checkpoint(NamedTuple):
    """covered: segments, ascending. entries: as ``Index.save`` gave them."""

    covered: tuple[Covered, ...]
    entries: memoryview


def checkpoint_bytes(segments: int, entries_bytes: int) -> int:
    """Bytes of the file."""
    return HEADER_BYTES + segments * _COVERED.size + entries_bytes


def write_checkpoint(
    files: Files,
    folder: Path,
    store: bytes,
    covered: Sequence[Covered],
    entries: bytearray,
) -> None:
    """Put it in place of the old one. Raises OSError.

    Requires that what it covers is on disk. Is itself not synced: a torn one is seen to be torn.
    """
    segments = b"".join(_COVERED.pack(*each) for each in covered)
    checksum = crc32c(entries, crc32c(segments))
    count = len(entries) // ENTRY_BYTES
    header = seal(_FIELDS.pack(MAGIC, VERSION, store, len(covered), count, checksum))
    replace_file(files, folder / NAME, [header, segments, entries], durable=False)


def read_checkpoint(files: Files, folder: Path, store: bytes) -> Checkpoint | None:
    """The checkpoint of this store; None for anything else, an unreadable one included."""
    try:
        fd = files.open(folder / NAME, os.O_RDONLY)
        try:
            size = files.size(fd)
            data = memoryview(files.read(fd, size, 0))
        finally:
            files.close(fd)
    except OSError:
        return None
    return _decode(data, store)


def _decode(data: memoryview, store: bytes) -> Checkpoint | None:
    header, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if len(header) < HEADER_BYTES or not is_sealed(header):
        return None
    magic, version, owner, segments, count, checksum = _FIELDS.unpack(header[:-4])
    split = segments * _COVERED.size
    if (magic, version, owner) != (MAGIC, VERSION, store):
        return None
    if len(body) != split + count * ENTRY_BYTES or crc32c(body) != checksum:
        return None
    covered = tuple(Covered(*each) for each in _COVERED.iter_unpack(body[:split]))
    ascending = all(a.number < b.number for a, b in pairwise(covered))
    return Checkpoint(covered, body[split:]) if covered and ascending else None
