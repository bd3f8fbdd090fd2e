"""The records on a device, and those that are leaving it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from blatam_kv._core import CacheBase, DevicePiece
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Cuts
from blatam_kv.errors import (
    DeviceTrouble,
    DeviceUnavailable,
    EntryTooLarge,
    NoRoom,
)
from blatam_kv.policy import checked_options, checked_policy
from blatam_kv.record import Kind, Record
from blatam_kv.tiers.gpu_figures import GpuFigures, GpuStats
from blatam_kv.tiers.protocol import Tier
from blatam_kv.tiers.resident import Resident

log = logging.getLogger("blatam_kv.tiers")

# What is written down at once, so that a slow tier pays its way once.
_BATCH_RECORDS = 16


class DeviceMemory:
    """Which records are on a device. Thread-safe.

    What the policy lets go and the tier below has not is read back and written there by a thread of
    this object's; until then it is found here. A device that is lost loses what was on it.
    """

    def __init__(self, bus: Bus, below: Tier, *, policy: str, clock: Callable[[], float]) -> None:
        options = checked_options([checked_policy(policy)])
        self._bus, self._below, self._clock = bus, below, clock
        self._records: CacheBase[bytes, Resident] = CacheBase(
            0, bus.pool_bytes, policy, None, lambda resident: resident.weight, self._left, None, None,
            **options,
        )  # fmt: skip
        # Guards what follows, and changes of _records; never held while the device or the tier below
        # works.
        self._moved = threading.Condition(threading.RLock())
        self._leaving: dict[bytes, Resident] = {}  # in the order in which they left
        self._spilling: dict[bytes, Resident] = {}  # what the thread is writing down
        self._batches = 0  # that were written down
        self.figures = GpuFigures()
        self.lost: DeviceUnavailable | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._spill, name="blatam-kv-gpu", daemon=True)
        self._thread.start()

    # ---- finding --------------------------------------------------------------------------------

    def find(self, key: bytes, *, use: bool = True) -> Resident | None:
        """The record of a key, if it is here; use: whether that counts as one."""
        with self._moved:
            found = self._records.get(key) if use else self._records.peek(key)
            if found is None:
                found = self._leaving.get(key) or self._spilling.get(key)
            expired = found is not None and found.head.expired(self._clock() * 1e6)
            return None if expired else found

    def read(self, key: bytes) -> Record | None:
        """The record in host memory, verified; None, counted, if it cannot be had."""
        resident = self.find(key)
        if resident is None:
            return None
        try:
            with self.counted():
                record = resident.come_down(self._bus)
        except DeviceUnavailable:
            return None
        if record is None:
            self._throw_away(key, resident)
        return record

    def pin(self, key: bytes) -> bool:
        """Keep a record here; False if it is not."""
        return self._records.pin(key)

    def unpin(self, key: bytes) -> bool:
        """Let go of it; False if it was not pinned."""
        return self._records.unpin(key)

    # ---- coming up ------------------------------------------------------------------------------

    def risen(self, record: Record) -> Resident | None:
        """The record on the device, where nobody finds it yet; None if the device has no room for it
        or fails. A block is verified first: CorruptBlob, Unsupported."""
        cuts = None
        if record.kind is Kind.BLOCK:
            cuts = Cuts.of(record.payload)
            cuts.verify(record.payload, range(len(cuts.begins)))
        payload = memoryview(record.payload).cast("B")
        if self.lost is not None:
            return None
        try:
            with self.counted():
                piece = self.room(payload.nbytes)
                if piece is None:
                    return None
                self._bus.up([(payload, piece, 0)])
        except DeviceUnavailable:
            return None
        return Resident.of(record, piece, cuts)

    def room(self, size: int) -> DevicePiece | None:
        """Memory of the device, for which records leave; None if all of it is in use or pinned.

        Raises DeviceUnavailable.
        """
        weight = Bus.rounded(size)
        if weight > self._bus.pool_bytes:
            return None
        while True:
            self.require()
            written = self._batches
            piece = self._bus.take(size, wait=True)
            if piece is not None:
                return piece
            with self._moved:
                if self._leaving or self._spilling:
                    self._moved.wait()  # others may take what becomes free, so look again
                elif written == self._batches and not self._evict(weight):
                    return None

    def admit(self, resident: Resident, seconds: float | None) -> None:
        """From now on it is found. seconds: for so long."""
        with self._moved:
            try:
                self._records.put(resident.head.key, resident, ttl=seconds)
            except (EntryTooLarge, NoRoom):  # pinned meanwhile
                self._leave(resident.head.key, resident)

    def forget(self, key: bytes) -> bool:
        """Take a record away, on its way down too; whether it was here."""
        with self._moved:
            self._moved.wait_for(lambda: key not in self._spilling)
            waited = self._leaving.pop(key, None) is not None
            return self._records.delete(key) or waited

    # ---- going down -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when what has left is below, or dropped."""
        with self._moved:
            self._moved.wait_for(lambda: not self._leaving and not self._spilling)

    def end(self) -> None:
        """Write down whatever is only here, and let go of all of it."""
        with self._moved:
            for key in self._records:
                resident = self._records.peek(key)
                if resident is not None:
                    self._leave(key, resident)
            self._ending = True
            self._moved.notify_all()
        self._thread.join()
        self._records.clear()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what the device does not do; one that is lost is not asked again, nor is a bus that is
        broken."""
        try:
            yield
            self.figures.failing = False
        except DeviceUnavailable as error:
            self.figures.failed(error.reason)
            lost = None
            if error.reason is DeviceTrouble.LOST:
                # Another one: a traceback would keep what its frames hold on the device.
                lost = DeviceUnavailable(error.reason, str(error))
            elif self._bus.broken:
                lost = DeviceUnavailable(
                    error.reason,
                    f"{error}. Nobody knows when work on this tier's memory ends: close it and open "
                    "another",
                )
            with self._moved:
                if lost is not None and self.lost is None:
                    self.lost = lost
                    self.figures.add(dropped=len(self._leaving))
                    self._leaving.clear()
                    self._records.clear()
                    self._moved.notify_all()
            raise

    def require(self) -> None:
        """Raise DeviceUnavailable if the device is lost."""
        if self.lost is not None:
            raise DeviceUnavailable(self.lost.reason, str(self.lost))

    def stats(self) -> GpuStats:
        """Exact counters."""
        held = self._records._counters()
        with self._moved:
            leaving = len(self._leaving) + len(self._spilling)
            lost = None if self.lost is None else str(self.lost)
        return self.figures.stats(
            held,
            device=self._bus.device,
            leaving=leaving,
            lost=lost,
            traffic=self._bus.traffic(),
            taken_bytes=self._bus.taken_bytes,
        )

    # ---- inside ---------------------------------------------------------------------------------

    def _throw_away(self, key: bytes, resident: Resident) -> None:
        """What failed its checksum must not be found again."""
        self.figures.add(damaged=1)
        with self._moved:
            if self._records.peek(key) is resident:
                self._records.delete(key)
            if self._leaving.get(key) is resident:
                del self._leaving[key]

    def _evict(self, weight: int) -> bool:
        """Let records of so many bytes leave; False if none may. With the lock held."""
        held = self._records._counters()
        self._records._set_limits(0, max(1, held["bytes"] - weight))
        self._records._set_limits(0, self._bus.pool_bytes)
        return len(self._records) < held["entries"]

    def _left(self, key: bytes, resident: Resident, reason: str) -> None:
        """The policy let a record go."""
        if reason == "capacity":
            self._leave(key, resident)

    def _leave(self, key: bytes, resident: Resident) -> None:
        with self._moved:
            if not resident.clean and self.lost is None:
                self._leaving[key] = resident
                self._moved.notify_all()

    def _spill(self) -> None:
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._leaving or self._ending)
                if not self._leaving:
                    return
                for key in list(self._leaving)[:_BATCH_RECORDS]:
                    self._spilling[key] = self._leaving.pop(key)
                batch = list(self._spilling.values())
            self._write(batch)
            batch.clear()  # their memory is free before anybody hears of it
            with self._moved:
                self._batches += 1
                self._spilling.clear()
                self._moved.notify_all()

    def _write(self, batch: Sequence[Resident]) -> None:
        records, damaged = [], 0
        for resident in batch:
            try:
                with self.counted():
                    record = resident.come_down(self._bus)
            except DeviceUnavailable:
                continue
            damaged += record is None
            if record is not None:
                records.append(record)
        stored = 0
        try:
            stored = self._below.put_many(records) if records else 0
        except Exception as error:  # the thread must outlive any tier
            # Its words alone: a log may keep the error, whose frames hold memory of the device.
            reason = repr(error)
            log.warning("the tier below the GPU's refused %d records: %s", len(records), reason)
        self.figures.add(spilled=stored, damaged=damaged, dropped=len(batch) - stored)
