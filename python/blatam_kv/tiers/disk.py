"""Records under a folder, for ever or until the byte bound: what survives kill -9 and flipped bits.

The layout and what is believed after damage are specified in docs/FORMAT.md. Records are appended
to segments; an index in memory says where each key's last record lies. Every read verifies header,
body and key. Space is made by dropping the oldest segment whole, see ``eviction``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from blatam_kv.errors import (
    ConfigError,
    CorruptRecord,
    Damage,
    TierUnavailable,
    Unavailable,
)
from blatam_kv.record import (
    HEADER_BYTES,
    Kind,
    Record,
    checked_mac_key,
    pack,
    unpack,
    unpack_header,
    unpack_owned,
)
from blatam_kv.tiers.bounds import bounds
from blatam_kv.tiers.counts import Counts, DiskStats
from blatam_kv.tiers.files import Files, SystemFiles, reason_of
from blatam_kv.tiers.index import Index, Indexing
from blatam_kv.tiers.log import Log
from blatam_kv.tiers.manifest import validated_tags
from blatam_kv.tiers.mounts import network_kind
from blatam_kv.tiers.segment import SEGMENT_HEADER_BYTES
from blatam_kv.tiers.windows import Batch, Windows
from blatam_kv.tiers.writer import Packed, Writer, broken, closed

# What is handed to the kernel at once: beyond 1 MiB or so a larger piece gains nothing.
_BATCH_BYTES = 2 << 20
_BATCH_RECORDS = 200


class DiskTier:
    """A Tier in files. Thread-safe; one writing process, any number of reading ones beside it.

    path: the folder, made if missing. disk_bytes: most bytes under it, at every moment; only a
    read-only tier does without. The default
    segment_bytes is a sixteenth of that, at most 64 MiB; a larger record is refused. tags: words
    about the store kept in its metadata.json; None keeps those that are there. read_only: take no
    lock, write nothing, and see what was there at ``refresh``. mac_key: 16 to 64 secret bytes; what
    is written carries a MAC made with them, and what lacks it counts as damaged. clock: seconds
    since 1970. files: the operating system's calls, for tests.

    ``put_many`` hands bytes to the kernel before it returns: they survive kill -9, and with
    ``durable=True`` also a power cut, until their key is put again: of a put that was not durable, a
    power cut may leave the header alone, and the key is then a miss. A call that the operating
    system refuses raises TierUnavailable with the reason and changes nothing that was there. Lack of
    space or of file descriptors may pass; after a failed fsync nothing can be written until the tier
    is opened anew, reading goes on. A process forked from the one that opened the tier must open its
    own.

    Opening raises TierUnavailable, with the holder's process id if another is writing, Unsupported
    if a newer build wrote the store, ConfigError for options out of range. It warns where the folder
    is on a network file system, whose locks and writes may not be what they seem.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        disk_bytes: int | None = None,
        segment_bytes: int | None = None,
        tags: Mapping[str, str] | None = None,
        read_only: bool = False,
        mac_key: bytes | None = None,
        clock: Callable[[], float] = time.time,
        files: Files | None = None,
    ) -> None:
        self.path = Path(path)
        if disk_bytes is None and not read_only:
            raise ConfigError("disk_bytes is needed to write: the most bytes the folder may take")
        self._bounded = disk_bytes is not None
        self._bounds = bounds(disk_bytes, segment_bytes)
        new_tags = None if tags is None else validated_tags(tags)
        self._mac_key = None if mac_key is None else checked_mac_key(mac_key)
        self._read_only = read_only
        self._clock = clock
        self._files: Files = files or SystemFiles()
        self._index = Index()
        self._counts = Counts()
        self._closed = False
        self._network = network_kind(self.path)
        if self._network:
            warnings.warn(
                f"{self.path} is on {self._network}, a network file system: a second writer on "
                "another machine may not be noticed, and durable may not mean what it says. Use a "
                "local disk",
                stacklevel=2,
            )
        # Order of locks: the writer's, then the log's, then the windows' and the counters'.
        with self._translated():
            self._log = Log(self.path, self._files, read_only=read_only)
            self._windows = Windows(self._log, keep=not read_only)
            self._writer = Writer(
                self._log,
                self._index,
                self._bounds,
                self._counts,
                dropped=self._windows.forget,
                clock=clock,
            )
            try:
                self._load()
                if not read_only:
                    self._writer.begin(new_tags)
            except BaseException:
                with suppress(OSError):
                    self._log.close()
                raise

    # ---- the five calls of a Tier ---------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, verified, or None.

        A record that fails verification is forgotten, counted and never asked for again; one that
        the disk fails to deliver is a miss and counted. All answers are in memory at once: where
        records are large, ask for few at a time.
        """
        self._require_open()
        try:  # a context manager would take as long as all the rest of a small read
            with self._windows.batch() as batch:
                records = [self._get(key, batch, owned=True) for key in keys]
        except OSError as error:
            raise self._unavailable(error) from error
        self._count_answers(records)
        return records

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Append records in order; returns how many.

        One larger than a segment is left out, counted, and takes with it the older record of its
        key. Those of a sequence go to the kernel some at a time, those of an iterator one by one, so
        that it may hand out one buffer again and again. durable: return when all have reached the
        disk; many who wait share one fsync.
        """
        self._require_writable()
        together = isinstance(records, Sequence)
        batch: list[Packed] = []
        stored = waiting = 0
        with self._translated(writing=True):
            try:
                for record in records:
                    packed = self._packed(record)
                    if SEGMENT_HEADER_BYTES + packed.size > self._bounds.segment_bytes:
                        waiting = self._put_batch(batch)
                        self._counts.add("refused")
                        self._writer.delete(packed.key)
                        continue
                    stored += 1
                    batch.append(packed)
                    waiting += packed.size
                    if not together or waiting >= _BATCH_BYTES or len(batch) == _BATCH_RECORDS:
                        waiting = self._put_batch(batch)
            finally:
                self._put_batch(batch)
            if durable:
                self._log.sync()
        return stored

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Append a tombstone for each key that is known; returns how many were."""
        self._require_writable()
        with self._translated(writing=True):
            return sum(self._writer.delete(key) for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is in the index; nothing is read, so ``get_many`` may still miss."""
        self._require_open()
        return [key in self._index for key in keys]

    def close(self) -> None:
        """Sync, unlock and let go; raises TierUnavailable if the last bytes cannot be synced."""
        if self._log.forked:
            return
        with self._writer.lock, self._translated(writing=True):
            if not self._closed:
                self._closed = True
                self._windows.close()
                self._writer.close()

    # ---- beyond a Tier --------------------------------------------------------------------------

    @contextmanager
    def borrow_many(self, keys: Sequence[bytes]) -> Iterator[list[Record | None]]:
        """As ``get_many``, for whoever is done with the answers at the end of the ``with`` block.

        Payloads and tokens are views of the mapped file, verified and not copied; behind the block
        they are released. Nothing holds them in memory but the page cache.
        """
        self._require_open()
        with self._windows.batch() as batch:
            with self._translated():
                records = [self._get(key, batch, owned=False) for key in keys]
            self._count_answers(records)
            try:
                yield records
            finally:
                for record in records:
                    if record is not None:
                        for view in (record.payload, record.tokens):
                            # What the caller still looks at stays valid until it lets go.
                            with suppress(BufferError):
                                if isinstance(view, memoryview):
                                    view.release()

    def refresh(self) -> None:
        """Of a read-only tier: see what the writer has written since."""
        self._require_open()
        if self._read_only:
            with self._writer.lock, self._translated():
                self._load()

    def sync(self) -> None:
        """Return when all that was put before has reached the disk."""
        self._require_writable()
        with self._translated(writing=True):
            self._log.sync()

    def keys(self) -> list[bytes]:
        """The keys of all records, in the order of writing."""
        self._require_open()
        return [key for key, _ in self._index.in_order()]

    def keys_tagged(self, tags: bytes) -> list[bytes]:
        """The keys of all records with these tags. Reads every header, in the order of writing."""
        self._require_open()
        found = []
        with self._translated(), self._windows.batch() as batch:
            for key, place in self._index.in_order():
                with suppress(FileNotFoundError, CorruptRecord):
                    head = batch.view(place._replace(size=HEADER_BYTES))
                    if unpack_header(head).tags == tags:
                        found.append(key)
        return found

    @property
    def tags(self) -> dict[str, str]:
        """The words about this store in its metadata.json."""
        return dict(self._log.tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replace them, durably."""
        self._require_writable()
        new = validated_tags(tags)
        with self._translated(writing=True):
            self._writer.set_tags(new)

    def stats(self) -> DiskStats:
        """Exact counters."""
        count, log = self._counts, self._log
        return DiskStats(
            entries=len(self._index),
            index_bytes=self._index.memory_bytes,
            bytes=sum(segment.size for segment in list(log.segments)),
            disk_bytes=self._bounds.disk_bytes if self._bounded else None,
            segments=len(log.segments),
            hits=count["hits"],
            misses=count["misses"],
            puts=count["puts"],
            deletes=count["deletes"],
            refused=count["refused"],
            expired=count["expired"],
            evicted=count["evicted"],
            kept=count["kept"],
            damaged=count["damaged"],
            holes=log.holes,
            syncs=log.syncs,
            failures=count.failures,
            failing=log.broken or self._writer.failing,
            network=self._network,
        )

    def __len__(self) -> int:
        return len(self._index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- reading --------------------------------------------------------------------------------

    def _get(self, key: bytes, batch: Batch, *, owned: bool) -> Record | None:
        while (place := self._index.get(key)) is not None:
            try:
                view = batch.view(place)
                record = (unpack_owned if owned else unpack)(view, mac_key=self._mac_key)
                if record.key != key or record.kind is Kind.TOMBSTONE:
                    raise CorruptRecord(Damage.KEY)
            except FileNotFoundError:
                # Its segment was dropped; if it got a second chance, the index says where.
                self._index.forget(key, place)
                continue
            except CorruptRecord:
                if self._index.forget(key, place):
                    self._counts.add("damaged")
                continue
            except OSError as error:
                if reason_of(error) is not Unavailable.IO_ERROR:
                    raise
                self._counts.failed(error)
                break
            if record.expired(self._clock() * 1e6):
                self._counts.add("expired")
                break
            self._index.use(key, place)
            return record
        return None

    def _count_answers(self, records: Sequence[Record | None]) -> None:
        misses = records.count(None)
        if misses:
            self._counts.add("misses", misses)
        if misses < len(records):
            self._counts.add("hits", len(records) - misses)

    def _load(self) -> None:
        if left := self._log.load(Indexing(self._index, self._counts)):
            self._index.forget_segments(left)

    # ---- writing --------------------------------------------------------------------------------

    def _packed(self, record: Record) -> Packed:
        if record.kind is Kind.TOMBSTONE:
            raise ConfigError("a tombstone cannot be put; use delete_many")
        pieces = pack(record, mac_key=self._mac_key)
        return Packed(record.key, pieces, sum(map(len, pieces)))

    def _put_batch(self, batch: list[Packed]) -> int:
        """Write what is in there and empty it, also where that fails; returns the bytes that wait then."""
        records = batch[:]
        batch.clear()
        self._writer.put(records)
        return 0

    # ---- what can go wrong ----------------------------------------------------------------------

    @contextmanager
    def _translated(self, *, writing: bool = False) -> Iterator[None]:
        """Errors of the operating system as TierUnavailable, counted."""
        try:
            yield
        except OSError as error:
            unavailable = self._unavailable(error)
            if writing:
                self._writer.failing = unavailable.reason
            raise unavailable from error

    def _unavailable(self, error: OSError) -> TierUnavailable:
        return TierUnavailable(self._counts.failed(error), f"the disk tier at {self.path}: {error}")

    def _require_open(self) -> None:
        if self._log.forked:
            raise TierUnavailable(
                Unavailable.FORKED,
                f"the disk tier at {self.path} was opened before this process was forked; "
                "open it in this process",
            )
        if self._closed:
            raise closed(self.path)

    def _require_writable(self) -> None:
        self._require_open()
        if self._read_only:
            raise TierUnavailable(
                Unavailable.READ_ONLY, f"the disk tier at {self.path} was opened read-only"
            )
        if self._log.broken is not None:
            raise broken(self.path)
