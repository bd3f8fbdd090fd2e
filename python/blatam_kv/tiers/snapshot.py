"""A store as it is at one moment, while its writer goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.tiers.files import Files
from blatam_kv.tiers.index import Index
from blatam_kv.tiers.manifest import read_manifest
from blatam_kv.tiers.segment import (
    SEGMENT_HEADER_BYTES,
    Segment,
    read_segment,
    segment_name,
    segment_number,
    walk,
)


class Part(NamedTuple):
    """A segment, how many of its bytes count, and whether it is sealed: they never change then."""

    number: int
    size: int
    sealed: bool


class Snapshot(NamedTuple):
    """store: its id. tags: its words. parts: segments, oldest first. By the time they are read the
    first ones may have left; what then remains is a later state, and one that was."""

    store: bytes
    tags: Mapping[str, str]
    parts: tuple[Part, ...]


def snapshot(files: Files, folder: Path) -> Snapshot:
    """What a reader would find now. Raises TierUnavailable if that is no store, OSError."""
    manifest = read_manifest(files, folder)
    entries = folder / "entries"
    try:
        numbers = sorted(filter(None, map(segment_number, files.names(entries))))
    except (FileNotFoundError, NotADirectoryError):
        raise TierUnavailable(
            Unavailable.MISSING, f"{folder} is not a cache: it has no folder entries"
        ) from None
    segments = []
    for number in numbers:
        try:
            segments.append(read_segment(files, entries, number, None))
        except FileNotFoundError:
            segments.clear()  # dropped this moment, and all before it
    store = manifest.store if manifest is not None else _newest_store(segments)
    if store is None:
        raise TierUnavailable(Unavailable.MISSING, f"{folder} is not a cache: nothing was written")
    parts = []
    for segment, after in zip(segments, [*segments[1:], None], strict=True):
        if after is not None:
            size = segment.size
            if after.header is not None and after.header.previous == segment.number:
                size = min(size, after.header.previous_bytes)
            parts.append(Part(segment.number, size, sealed=True))
        elif segment.header is not None:
            parts.append(Part(segment.number, _written(files, entries, segment), sealed=False))
    return Snapshot(store, manifest.tags if manifest is not None else {}, tuple(parts))


def _newest_store(segments: list[Segment]) -> bytes | None:
    for segment in reversed(segments):
        if segment.header is not None:
            return segment.header.store
    return None


def _written(files: Files, entries: Path, head: Segment) -> int:
    """Where the head's last whole record ends."""
    fd = files.open(entries / segment_name(head.number), os.O_RDONLY)
    try:
        size = files.size(fd)

        def take(window: bytes, offset: int, end: int) -> int:
            return Index().take(window, head.number, offset, end)

        return walk(files, fd, SEGMENT_HEADER_BYTES, size, take, lambda found: None)
    finally:
        files.close(fd)
