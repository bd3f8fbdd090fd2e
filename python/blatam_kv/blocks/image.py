"""What memory knows beside its blocks, kept among them, so that a restart is warm: what is pinned and
until when, how blocks were used, and what the policy learned. Specified in docs/FORMAT.md."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from blatam_kv._core import framed_digest
from blatam_kv.blocks.levels import Levels
from blatam_kv.record import DIGEST_BYTES, Kind, Record

_PERSON = b"blatamkv-blocks1"
_CODEC = "image"
_VERSION = 1
# Version, pins, bytes of what the index knows.
_HEADER = struct.Struct("<IIQ")
# Tags, microseconds since 1970 until which it holds (0: until it is let go), blocks; names follow.
_PIN = struct.Struct("<32sQI4x")
# Of no more blocks and pins than these the past is kept, 1 MiB and less.
_MOST_BLOCKS = 50_000
_MOST_PINS = 1000
_MOST_PIN_BYTES = 200 << 10
# Saves between two images; a crash loses what was learned since the last.
_SAVE_EVERY = 256


class Pin(NamedTuple):
    """A prefix that is pinned. names: of its blocks, the first first. ends: seconds since 1970."""

    tags: bytes
    names: tuple[bytes, ...]
    ends: float


class Image:
    """The image of one pool of memory in the folder below, if there is one. Safe from any thread.

    tags: those of the store, or of the tenant, whose memory it is. An image that is missing,
    damaged or another version's is none: memory then starts cold. now: seconds since 1970, for pins
    that end.
    """

    def __init__(self, levels: Levels, tags: Callable[[], bytes], now: Callable[[], float]) -> None:
        self._levels, self._tags, self._now = levels, tags, now
        self._saves = 0
        self._known = b""  # what was gathered last
        self._lock = threading.Lock()  # so that an older image does not replace a newer one

    def recall(self) -> bool:
        """Have the memory, in which nothing was yet, learn from its image, and pin what that has
        pinned; False if there is none."""
        if not self._levels.below.is_folder:
            return False
        (record,) = self._levels.below.fetch([_key(self._tags())])
        if record is None:
            return False
        pins, known = _unpacked(record)
        if known is None or self._levels.residents.restore(known) is not None:
            self._levels.count_foreign()
            return False
        self._known = known
        for pin in pins:
            ttl = pin.ends - self._now()
            if ttl > 0:
                blocks = self._levels.chain(pin.tags, pin.names)
                self._levels.residents.pin(blocks, None if math.isinf(ttl) else ttl)
        return True

    def save(self, *, pins_only: bool = False) -> None:
        """Write it down. pins_only: what else is known as it was written
        last, since gathering it looks at every block."""
        if not (self._levels.below.is_folder and self._levels.below.writable):
            return
        with self._lock:
            tags = self._tags()
            now = self._now()
            pins = [
                Pin(blocks[0].tags, tuple(block.name for block in blocks), now + left)
                for blocks, left in self._levels.residents.pins()
            ]
            if not (pins_only and self._known):
                self._known = self._levels.residents.save(_MOST_BLOCKS)
            payload = _packed(pins, self._known)
            record = Record(
                key=_key(tags),
                kind=Kind.RESPONSE,
                payload=payload,
                tags=tags,
                codec=_CODEC,
                created_us=int(now * 1e6),
            )
            self._levels.below.keep([record])

    def saved(self) -> None:
        """Blocks were saved; now and then that is a reason to write."""
        self._saves += 1
        if self._saves % _SAVE_EVERY == 0:
            self.save()


def _key(tags: bytes) -> bytes:
    return framed_digest([b"image", tags], person=_PERSON)


def _packed(pins: list[Pin], known: bytes) -> bytes:
    parts, size = [], 0
    for pin in pins[:_MOST_PINS]:
        ends = 0 if math.isinf(pin.ends) else int(pin.ends * 1e6)
        part = _PIN.pack(pin.tags, ends, len(pin.names)) + b"".join(pin.names)
        size += len(part)
        if size > _MOST_PIN_BYTES:
            break
        parts.append(part)
    return b"".join([_HEADER.pack(_VERSION, len(parts), len(known)), *parts, known])


def _unpacked(record: Record) -> tuple[list[Pin], bytes | None]:
    """Pins, and what the index knew; None where it is no image of this version."""
    payload = bytes(record.payload)
    if record.codec != _CODEC or record.kind is not Kind.RESPONSE:
        return [], None
    if len(payload) < _HEADER.size:
        return [], None
    version, count, size = _HEADER.unpack_from(payload)
    if version != _VERSION:
        return [], None
    try:
        pins = list(_pins(payload, count))
    except struct.error:
        return [], None
    at = _HEADER.size + sum(_PIN.size + DIGEST_BYTES * len(pin.names) for pin in pins)
    known = payload[at:]
    return (pins, known) if len(known) == size else ([], None)


def _pins(payload: bytes, count: int) -> Iterator[Pin]:
    """Raises struct.error where the payload is shorter."""
    at = _HEADER.size
    for _ in range(count):
        tags, ends, blocks = _PIN.unpack_from(payload, at)
        at += _PIN.size
        end = at + DIGEST_BYTES * blocks
        if not blocks or end > len(payload):
            raise struct.error("a pin is cut off")
        names = tuple(
            payload[first : first + DIGEST_BYTES] for first in range(at, end, DIGEST_BYTES)
        )
        at = end
        yield Pin(tags, names, ends / 1e6 if ends else math.inf)
