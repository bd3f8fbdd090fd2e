"""First in, first out by segments, with a second chance for records that were read.

Dropping whole segments keeps the bound by construction and never rewrites in place. What it would
lose of a policy's sense, second chances bring back: of the oldest segment, the records that were
read since they were written are appended again, as far as they fill at most half a segment, so at
most half of what is written is written again.
"""

from __future__ import annotations

from collections.abc import Callable

from blatam_kv.tiers.bounds import Bounds
from blatam_kv.tiers.index import Index, Place
from blatam_kv.tiers.log import Log
from blatam_kv.tiers.segment import SEGMENT_HEADER_BYTES, Segment, scan

Count = Callable[..., object]


def evict(
    log: Log,
    index: Index,
    bounds: Bounds,
    *,
    second_chance: bool,
    count: Count,
    failed: Callable[[OSError], object],
    dropped: Callable[[int], object],
) -> None:
    """Drop oldest segments until sealed ones keep to their bound. Raises OSError.

    For the thread that may append. count(name, by) adds to ``evicted`` and ``kept``; failed hears
    of errors that cost second chances and nothing else; dropped of the segments that left.
    """
    while log.sealed_bytes > bounds.sealed_bytes:
        oldest, ticket = log.segments[0], log.ticket
        room = bounds.segment_bytes // 2 if second_chance else 0
        try:
            emptied = _empty(log, index, oldest, room, count)
        except OSError as error:
            failed(error)
            emptied = False
        if not emptied:
            count("evicted", index.forget_segments({oldest.number}))
        if log.ticket != ticket:
            log.sync()  # before the only durable copies go
        log.drop_oldest()
        dropped(oldest.number)


def _empty(log: Log, index: Index, oldest: Segment, room: int, count: Count) -> bool:
    """Append again what was read, while the head stays within ``room``; forget the others.

    Returns whether all of the segment could be looked at.
    """
    end = SEGMENT_HEADER_BYTES
    if oldest.header is None:
        return False
    fd = log.open_segment(oldest.number)
    try:
        for offset, header, _ in scan(log.files, fd, end, oldest.scanned):
            key, size = header.key, header.record_bytes
            end, place = offset + size, Place(oldest.number, offset, size)
            if index.get(key) != place:
                continue
            if log.head.scanned + size <= room and index.was_used(key):
                # As it lies there, checksums and all: damage stays recognisable.
                again = log.files.read(fd, size, offset)
                if len(again) == size:
                    new = log.append([again])
                    index.set(key, Place(log.head.number, new, size))
                    count("kept", 1)
                    continue
            count("evicted", int(index.forget(key, place)))
    finally:
        log.files.close(fd)
    return end == oldest.scanned
