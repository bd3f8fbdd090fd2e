"""Writing behind: puts are in memory at once, and on their way to a slower tier."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from blatam_kv.errors import ConfigError, TierUnavailable, Unavailable
from blatam_kv.record import Kind, Record, check, packed_bytes
from blatam_kv.tiers.lock import abandoned_in_children
from blatam_kv.tiers.protocol import Tier, borrowed
from blatam_kv.tiers.took import Took, timed

log = logging.getLogger("blatam_kv.tiers")

# What is handed on at once: enough to share the cost of a call, little enough that who waits for
# one of its keys waits shortly.
_BATCH_RECORDS = 64
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class BehindStats:
    """Counters at one moment. queued and queued_bytes wait now; waits counts puts that found the
    queue full; replaced those that never had to be written because a newer value of their key
    came; dropped those that the tier refused, failing being the last refusal's reason, None after
    a success; lost are keys whose older record is still in the tier and must not be seen."""

    queued: int
    queued_bytes: int
    queue_bytes: int
    written: int
    replaced: int
    dropped: int
    waits: int
    lost: int
    failing: Unavailable | None


class WriteBehind:
    """A Tier whose puts return before they are written, by a thread of its own. Thread-safe.

    tier: where records go; closed with this one. queue_bytes: most bytes of records that wait; a
    put that finds no room waits for it. Answers always include what waits.

    A put is lost by kill -9 while it waits: a moment. ``put_many(..., durable=True)`` and
    ``delete_many`` return when the tier has done it, and raise what it raises. A put that the tier
    refuses later (a full disk, say) is dropped and counted, and its key is then a miss, whatever the
    tier holds; the next one is tried again. Payloads that the caller could change are copied; a
    read-only view is taken at its word.
    """

    def __init__(self, tier: Tier, *, queue_bytes: int = 64 << 20) -> None:
        if isinstance(queue_bytes, bool) or not isinstance(queue_bytes, int):
            raise TypeError(f"queue_bytes must be an int, not {type(queue_bytes).__name__}")
        if queue_bytes < 1:
            raise ConfigError(f"queue_bytes must be at least 1, not {queue_bytes}")
        self._tier = tier
        self.took = Took()  # by the tier, whatever waits here
        self._most = queue_bytes
        # Guards what follows; never held while the tier works.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # something waits, or closing
        self._moved = threading.Condition(self._lock)  # something was written or dropped
        self._waiting: dict[bytes, Record] = {}  # in the order of their last put
        self._writing: dict[bytes, Record] = {}  # what the thread is handing on
        self._direct: dict[bytes, Record] = {}  # what durable puts are handing on
        self._lost: set[bytes] = set()
        self._bytes = 0
        self._written = self._replaced = self._dropped = self._waits = 0
        self._failing: Unavailable | None = None
        self._idle = False
        self._closed = self._forked = False
        abandoned_in_children(self)
        self._thread = threading.Thread(target=self._hand_on, name="blatam-kv-behind", daemon=True)
        self._thread.start()

    # ---- the five calls of a Tier ---------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, verified, or None."""
        answers, below = self._answers(keys)
        if below:
            with timed(self.took.get):
                found = self._tier.get_many([keys[at] for at in below])
            for at, record in zip(below, found, strict=True):
                answers[at] = record
        return answers

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Take records in order; returns how many.

        durable: return when the tier has them durably; raises what it raises.
        """
        self._require_open()
        if durable:
            return self._put_through([_owned(record) for record in records])
        taken = 0
        for record in records:
            record = _owned(record)
            size = packed_bytes(record)
            with self._lock:
                if self._bytes + size > self._most and self._bytes:
                    self._waits += 1
                    while self._bytes + size > self._most and self._bytes and not self._closed:
                        self._moved.wait()
                self._queue(record, size)
            taken += 1
        return taken

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys, for ever; returns how many were known. The tier has done it then."""
        self._require_open()
        with self._lock:
            waiting = [self._unqueue(key) for key in keys]
            if any(waiting):  # there is room now, and perhaps nothing left that would be written
                self._moved.notify_all()
            self._await_writing(keys)
        try:
            below = self._tier.contains_many(keys)
            self._tier.delete_many(keys)
        except BaseException:
            # What waited is gone, and what is older than it must not be seen in its place.
            older = self._known_below(key for key, was in zip(keys, waiting, strict=True) if was)
            with self._lock:
                self._lost.update(older)
            raise
        with self._lock:
            lost = [key in self._lost for key in keys]
            self._lost.difference_update(keys)
        known = zip(waiting, below, lost, strict=True)
        return sum(queued or (there and not gone) for queued, there, gone in known)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known."""
        self._require_open()
        with self._lock:
            here = [self._here(key) is not None for key in keys]
            lost = [key in self._lost for key in keys]
        below = self._tier.contains_many(keys)
        return [a or (b and not gone) for a, b, gone in zip(here, below, lost, strict=True)]

    def close(self) -> None:
        """Write out what waits, end the thread and close the tier."""
        if self._forked:
            return
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._moved.notify_all()
        self._thread.join()
        if self._lost:
            self._bury(list(self._lost))
        self._tier.close()

    # ---- beyond a Tier --------------------------------------------------------------------------

    @contextmanager
    def borrow_many(self, keys: Sequence[bytes]) -> Iterator[list[Record | None]]:
        """As ``get_many``, for whoever is done with the answers at the end of the ``with`` block:
        what is below is borrowed from there, if the tier lends."""
        answers, below = self._answers(keys)
        with ExitStack() as stack:
            found: Sequence[Record | None] = ()
            if below:
                with timed(self.took.get):
                    found = stack.enter_context(borrowed(self._tier, [keys[at] for at in below]))
            for at, record in zip(below, found, strict=True):
                answers[at] = record
            yield answers

    def flush(self) -> None:
        """Return when all that was put before was handed on, or dropped."""
        self._require_open()
        with self._lock:
            while self._waiting or self._writing:
                self._moved.wait()

    def stats(self) -> BehindStats:
        """Exact counters."""
        with self._lock:
            return BehindStats(
                queued=len(self._waiting) + len(self._writing),
                queued_bytes=self._bytes,
                queue_bytes=self._most,
                written=self._written,
                replaced=self._replaced,
                dropped=self._dropped,
                waits=self._waits,
                lost=len(self._lost),
                failing=self._failing,
            )

    def abandon(self) -> None:
        """In a forked child: the thread stayed with the parent."""
        self._forked = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _answers(self, keys: Sequence[bytes]) -> tuple[list[Record | None], list[int]]:
        """What waits, by key, and which keys are to be asked of the tier."""
        self._require_open()
        with self._lock:
            answers = [self._here(key) for key in keys]
            lost = self._lost
            return answers, [
                at for at, key in enumerate(keys) if answers[at] is None and key not in lost
            ]

    # ---- with the lock held ---------------------------------------------------------------------

    def _here(self, key: bytes) -> Record | None:
        for place in (self._waiting, self._direct, self._writing):
            if (record := place.get(key)) is not None:
                return record
        return None

    def _queue(self, record: Record, size: int) -> None:
        key = record.key
        while key in self._direct:  # it must not be overtaken by an older value
            self._moved.wait()
        if self._closed:
            raise _closed()
        if self._unqueue(key):
            self._replaced += 1
        self._waiting[key] = record
        self._bytes += size
        if self._idle:
            self._idle = False
            self._work.notify()

    def _unqueue(self, key: bytes) -> bool:
        old = self._waiting.pop(key, None)
        if old is None:
            return False
        self._bytes -= packed_bytes(old)
        return True

    def _await_writing(self, keys: Iterable[bytes]) -> None:
        while not self._writing.keys().isdisjoint(keys) or not self._direct.keys().isdisjoint(keys):
            self._moved.wait()

    # ---- handing on -----------------------------------------------------------------------------

    def _put_through(self, records: Sequence[Record]) -> int:
        """In the caller's thread, after what waits under these keys was written or is void."""
        newest = {record.key: record for record in records}
        with self._lock:
            self._await_writing(newest)
            for key in newest:
                self._unqueue(key)
            self._direct.update(newest)
        stored = False
        try:
            with timed(self.took.put):
                count = self._tier.put_many(records, durable=True)
            stored = True
        finally:
            below = [] if stored else self._known_below(newest)
            with self._lock:
                for key in newest:
                    del self._direct[key]
                self._lost.difference_update(newest)
                self._lost.update(below)
                self._moved.notify_all()
        return count

    def _hand_on(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._idle = True
                    self._work.wait()
                self._idle = False
                if not self._waiting:
                    return
                batch = self._next_batch()
            dropped, reason = self._write(list(batch.values()))
            below = self._known_below(dropped)
            with self._lock:
                self._bytes -= sum(map(packed_bytes, batch.values()))
                self._writing = {}
                self._written += len(batch) - len(dropped)
                self._dropped += len(dropped)
                self._failing = reason
                self._lost.difference_update(batch)
                self._lost.update(below)
                lost = list(self._lost) if reason is None else []
                self._moved.notify_all()
            if lost:
                self._bury(lost)

    def _next_batch(self) -> dict[bytes, Record]:
        """Moves the oldest that wait to where they are written; with the lock held."""
        room = _BATCH_BYTES
        batch: dict[bytes, Record] = {}
        for key, record in self._waiting.items():
            room -= packed_bytes(record)
            if batch and (room < 0 or len(batch) == _BATCH_RECORDS):
                break
            batch[key] = record
        for key in batch:
            del self._waiting[key]
        self._writing = batch
        return batch

    def _write(self, records: Sequence[Record]) -> tuple[list[bytes], Unavailable | None]:
        """The keys that the tier would not take, and the reason of the last one."""
        dropped, reason = [], self._refusal(records)
        if reason is not None:  # an unknown part of them is there; afterwards it is known which
            for record in records:
                reason = self._refusal([record])
                if reason is not None:
                    dropped.append(record.key)
        return dropped, reason

    def _refusal(self, records: Sequence[Record]) -> Unavailable | None:
        try:
            with timed(self.took.put):
                self._tier.put_many(records)
        except TierUnavailable as error:
            return error.reason
        except Exception as error:  # the thread must outlive any tier
            if self._failing is None:
                log.warning("what waited could not be written: %r", error)
            return Unavailable.IO_ERROR
        return None

    def _known_below(self, keys: Iterable[bytes]) -> list[bytes]:
        names = list(keys)
        try:
            known = self._tier.contains_many(names) if names else []
        except Exception:  # whatever it is: who cannot tell has to be taken to have them
            return names
        return [key for key, there in zip(names, known, strict=True) if there]

    def _bury(self, keys: Sequence[bytes]) -> None:
        """Delete what must not be seen, now that the tier takes something again."""
        with self._lock:
            keys = [key for key in keys if key in self._lost and self._here(key) is None]
        try:
            self._tier.delete_many(keys)
        except Exception:  # they are still lost, and buried another time
            return
        with self._lock:
            self._lost.difference_update(keys)

    def _require_open(self) -> None:
        if self._forked:
            raise TierUnavailable(
                Unavailable.FORKED,
                "this tier was opened before this process was forked; open it in this process",
            )
        if self._closed:
            raise _closed()


def _owned(record: Record) -> Record:
    """The record, checked, with nothing in it that the caller can change."""
    if record.kind is Kind.TOMBSTONE:
        raise ConfigError("a tombstone cannot be put; use delete_many")
    check(record)
    for data in (record.payload, record.tokens):
        if type(data) is not bytes and not (type(data) is memoryview and data.readonly):
            return record.owned()
    return record


def _closed() -> TierUnavailable:
    return TierUnavailable(Unavailable.CLOSED, "the tier is closed")
