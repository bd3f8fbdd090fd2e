"""Records in a GPU's memory, over a tier of the host's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from blatam_kv.cuda.bus import BUFFER_BYTES, BUFFERS, Bus, chosen
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.cuda.memory import stream_number
from blatam_kv.errors import (
    ConfigError,
    CorruptBlob,
    InvalidRequest,
    NoRoom,
    TierUnavailable,
    Unavailable,
    Unsupported,
)
from blatam_kv.metrics.tiers import TierSnapshot
from blatam_kv.record import Kind, Record, check
from blatam_kv.tiers.arrivals import DeviceLoad
from blatam_kv.tiers.control import Control
from blatam_kv.tiers.departures import departing
from blatam_kv.tiers.device import DeviceMemory
from blatam_kv.tiers.gathering import checked_target, gathered, source_of
from blatam_kv.tiers.gpu_figures import GpuStats, snapshot_of
from blatam_kv.tiers.key_locks import KeyLocks
from blatam_kv.tiers.lock import abandoned_in_children
from blatam_kv.tiers.protocol import Tier
from blatam_kv.tiers.resident import DeviceBlob, Resident
from blatam_kv.tiers.took import timed

log = logging.getLogger("blatam_kv.tiers")


class GpuTier:
    """A Tier in the memory of a GPU, above another one. Thread-safe.

    below: where records go that leave for lack of room, as they are, by a thread of its own; and
    where those are that never came. Closed with this one. capacity_bytes: all that is ever taken of the
    device, now, records and what moves them. device: a GPU's number; "host", whose memory is then the
    device's; or "auto", the first GPU or, with a warning that says what is missing, the host.
    policy: as in ``Cache``. buffers, buffer_bytes: of pinned memory, for each direction. bus: in place
    of these, for tests. clock: seconds since 1970.

    A record is verified on the host before its bytes are copied up: each blob of a block against its
    checksum. The checksum of the whole stays on the host, and what comes down again is believed only if
    it agrees. While a record is on the device, ``below`` holds no other one of its key, so what
    is lost with a device is a miss and never an older answer.

    A device that fails is a miss and a counter: its records are looked for below, and new ones go
    there. Only what needs the device itself (``load_layers``, ``lend_many``) raises
    DeviceUnavailable. The constructor raises it too, and ConfigError or TypeError for options.
    """

    def __init__(
        self,
        below: Tier,
        *,
        capacity_bytes: int,
        device: int | str = "auto",
        policy: str = "lru",
        buffers: int = BUFFERS,
        buffer_bytes: int = BUFFER_BYTES,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(capacity_bytes, bool) or not isinstance(capacity_bytes, int):
            raise TypeError(f"capacity_bytes must be an int, not {type(capacity_bytes).__name__}")
        self.reason: str | None = None
        if bus is None:
            number, self.reason = chosen(device)
            if device == "auto" and self.reason is not None:
                log.warning("the GPU tier keeps its records in host memory: %s", self.reason)
            bus = Bus(capacity_bytes, device=number, buffers=buffers, buffer_bytes=buffer_bytes)
        self._bus, self._below, self._clock = bus, below, clock
        self._memory = DeviceMemory(bus, below, policy=policy, clock=clock)
        self._figures = self._memory.figures
        # One caller at a time puts or deletes a key. Held while the device and the tier below work;
        # the thread that writes down takes none of them.
        self._keys = KeyLocks()
        self._closed = self._forked = False
        abandoned_in_children(self)

    # ---- the five calls of a Tier ---------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key in host memory, verified, or None.

        What is below stays there: who wants bytes on the host has no use for them on the device.
        """
        self._require_open()
        with timed(self._figures.took["get"]):
            found = [self._memory.read(key) for key in keys]
        missing = [at for at, record in enumerate(found) if record is None]
        self._figures.add(hits=len(keys) - len(missing), misses=len(missing))
        if missing:
            more = self._below.get_many([keys[at] for at in missing])
            for at, record in zip(missing, more, strict=True):
                found[at] = record
        return found

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Store records in order; returns how many.

        They are on the device when this returns; what it has no room for, also because of pins, goes
        below at once. A block whose blobs fail their checksums is left out. durable: all go below
        too, durably.
        """
        self._require_open()
        with timed(self._figures.took["put"]):
            return sum(self._put(record, durable=durable) for record in records)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys, on the device and below; returns how many were known."""
        self._require_open()
        with self._keys.changing(keys):
            here = [self._memory.forget(key) for key in keys]
            below = self._below.contains_many(keys)
            self._below.delete_many(keys)
        return sum(a or b for a, b in zip(here, below, strict=True))

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known, on the device or below."""
        self._require_open()
        here = [self._memory.find(key, use=False) is not None for key in keys]
        below = self._below.contains_many(keys)
        return [a or b for a, b in zip(here, below, strict=True)]

    def close(self) -> None:
        """Write down what is only on the device, let go of it and close the tier below. Engines' caches
        are theirs again, whatever failed."""
        if self._forked or self._closed:
            return
        self._closed = True
        self._memory.end()
        self._bus.close()
        self._below.close()

    # ---- with the device ------------------------------------------------------------------------

    def load_layers(
        self,
        keys: Sequence[bytes],
        cache: PagedCache,
        slots: Any,
        *,
        stream: Any = None,
        seed: int = 0,
    ) -> DeviceLoad:
        """Begin to decode blocks into an engine's paged cache, layer by layer; see ``DeviceLoad``.

        keys: of successive blocks; as many of the first ones come as are here or below, are blocks
        of this cache in one codec, and have room on the device. cache: keys and values of each layer
        in turn, on this tier's device. slots: int64 [len(keys), tokens] on the host, -1 for a token to
        leave out. stream: whose work so far is done before the cache changes, as in ``cuda.fetch``.
        seed: of codecs that rotate. What came up from below stays on the device.

        Blocks whose codec has no kernel are decoded by the host, which takes the room of two raw layers,
        and stay where they were.

        Raises InvalidRequest for slots or a cache that do not fit, Unsupported for blocks too large for
        a launch, NoRoom if pins leave none for what the kernels are told, DeviceUnavailable; after that
        the cache must live until the tier is closed, for what was queued before may go on.
        """
        self._require_open()
        memory, figures, control = self._memory, self._figures, None
        with figures.refusals():
            self._memory.require()
            table, number = checked_target(keys, cache, slots, stream, device=self._bus.device)
            arrivals, form = gathered(
                memory, self._below, self._keys, keys, cache,
                tokens=table.shape[1], seed=seed, bad=self._bad,
            )  # fmt: skip
            source = source_of(memory, self._bus, form, arrivals, self._bad)
            with memory.counted():
                if arrivals:
                    control = memory.room(Control(form, len(arrivals), table.shape[1]).bytes)
                    if control is None:
                        raise NoRoom("pins leave no room for a list of slots; unpin something")
                self._bus.follow(number)
        return DeviceLoad(
            self._bus,
            form,
            arrivals,
            source,
            table[: len(arrivals)],
            control,
            number,
            self._arrived,
            self._bad,
            memory.counted,
            partial(figures.load_ended, codec=form.codec, whole=len(arrivals) == len(keys)),
        )

    def save_blocks(
        self,
        keys: Sequence[bytes],
        cache: PagedCache,
        slots: Any,
        *,
        codec: str,
        tags: bytes,
        tokens: Sequence[bytes],
        stream: Any = None,
        seed: int = 0,
    ) -> int:
        """Encode blocks of an engine's paged cache, and store them; returns how many.

        keys, tokens, tags: of their records. cache, slots, stream, seed: as in ``load_layers``; -1
        counts as a token of zeros. They come down once for their checksums, compressed by the device, or
        raw and compressed by the host where the codec has no kernel, and are then put as any record. A
        block with more NaN or infinities than the device has room for is left out. Raises as
        ``load_layers``.
        """
        self._require_open()
        self._memory.require()
        table, number = checked_target(keys, cache, slots, stream, device=self._bus.device)
        if len(tokens) != len(keys):
            raise InvalidRequest(
                f"{len(tokens)} blocks of tokens for {len(keys)} keys", field="tokens"
            )
        now_us, stored, encoded = int(self._clock() * 1e6), 0, []
        with timed(self._figures.took["save"]):
            payloads = departing(
                self._bus, self._memory, cache, table, codec=codec, seed=seed, stream=number
            )
            for key, ids, payload in zip(keys, tokens, payloads, strict=True):
                if payload is not None:
                    record = Record(key, Kind.BLOCK, payload, tags, codec, ids, created_us=now_us)
                    stored += self._put(record, durable=False)
                    encoded.append(memoryview(payload).nbytes)
        each = 2 * table.shape[1] * cache.kv_heads * cache.head_dim * len(cache.bases)
        self._figures.worked("encode", codec, raw=each * len(encoded), encoded=sum(encoded))
        return stored

    @contextmanager
    def lend_many(
        self, keys: Sequence[bytes], *, stream: Any = 0
    ) -> Iterator[list[DeviceBlob | None]]:
        """The payload of each record on the device, or None, until the end of the ``with`` block.

        What is below comes up first, as far as there is room. stream: where they are used: it waits
        for them, and after the block their memory stays until it has come so far.
        """
        self._require_open()
        self._memory.require()
        number = stream_number(stream, None, self._bus.device)
        residents = [self._brought(key) for key in keys]
        pieces = [resident.piece for resident in residents if resident is not None]
        with self._memory.counted():
            self._bus.lend(pieces, number)
        try:
            yield [
                None
                if each is None
                else DeviceBlob(each.head, each.piece.address, each.piece.bytes, self._bus.device)
                for each in residents
            ]
        finally:
            with self._memory.counted():
                self._bus.lent(pieces, number)

    def leading(self, keys: Sequence[bytes]) -> int:
        """How many of the first records are on the device; counts no use."""
        found = (self._memory.find(key, use=False) is not None for key in keys)
        return next((at for at, there in enumerate(found) if not there), len(keys))

    def pin(self, key: bytes) -> bool:
        """Keep a record on the device; False if it is not there."""
        return self._memory.pin(key)

    def unpin(self, key: bytes) -> bool:
        """Let go of it; False if it was not pinned."""
        return self._memory.unpin(key)

    # ---- the tier as a whole --------------------------------------------------------------------

    @property
    def device(self) -> int:
        """The number of its GPU; -1: the host."""
        return self._bus.device

    def flush(self) -> None:
        """Return when what has left the device is below, or dropped."""
        self._memory.flush()

    def stats(self) -> GpuStats:
        """Exact counters."""
        return self._memory.stats()

    def snapshot(self, *, store: str = "blocks") -> TierSnapshot:
        """What a service shows of it (``metrics.TierMetrics``); store: what lies there."""
        return snapshot_of(self._memory.stats(), self._figures.took, store=store)

    def abandon(self) -> None:
        """In a forked child: threads and device stayed with the parent."""
        self._forked = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- inside ---------------------------------------------------------------------------------

    def _put(self, record: Record, *, durable: bool) -> bool:
        if record.kind is Kind.TOMBSTONE:
            raise ConfigError("a tombstone cannot be put; use delete_many")
        check(record)
        key, left, resident = record.key, self._seconds_left(record), None
        alive = left is None or left > 0
        if alive:
            try:
                resident = self._memory.risen(record)
            except (CorruptBlob, Unsupported):
                self._figures.add(damaged=1)
                return False
        with self._keys.changing([key]):
            self._memory.forget(key)
            if any(self._below.contains_many([key])):
                self._below.delete_many([key])
            if not alive:
                return False
            if durable or resident is None:
                stored = self._below.put_many([record.owned()], durable=durable) == 1
                if resident is None:
                    self._figures.add(passed=int(stored))
                    return stored
                resident.clean = stored
            self._memory.admit(resident, left)
        self._figures.add(puts=1)
        return True

    def _brought(self, key: bytes) -> Resident | None:
        """The record on the device, if need be from below."""
        resident = self._memory.find(key)
        if resident is not None:
            return resident
        version = self._keys.version(key)
        (record,) = self._below.get_many([key])
        if record is None:
            return None
        try:
            resident = self._memory.risen(record)
        except (CorruptBlob, Unsupported):
            self._figures.add(damaged=1)
            return None
        if resident is not None:
            self._arrived(key, resident, version)
        return resident

    def _arrived(self, key: bytes, resident: Resident, version: int) -> None:
        """A record came up from below; it stays if it is still the one."""
        resident.clean = True
        with self._keys.changing([key], changes=False):
            if self._keys.version(key) == version and self._memory.find(key, use=False) is None:
                self._memory.admit(resident, self._seconds_left(resident.head))
                self._figures.add(promoted=1)

    def _bad(self, key: bytes) -> None:
        """A block turned out to be damaged, wherever it is."""
        self._figures.add(damaged=1)
        try:
            self.delete_many([key])
        except TierUnavailable:
            self._figures.add(dropped=1)

    def _require_open(self) -> None:
        if self._forked:
            raise TierUnavailable(
                Unavailable.FORKED,
                "this tier was opened before this process was forked; open it in this process",
            )
        if self._closed:
            raise TierUnavailable(Unavailable.CLOSED, "the tier is closed")

    def _seconds_left(self, record: Record) -> float | None:
        return record.expires_us / 1e6 - self._clock() if record.expires_us else None
