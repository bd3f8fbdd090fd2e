"""What a GPU tier counts and times."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from blatam_kv.cuda.bus import HOST, Traffic
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, NoRoom, Unsupported
from blatam_kv.metrics.device_memory import DeviceMemorySnapshot
from blatam_kv.metrics.histograms import Buckets
from blatam_kv.metrics.tiers import SECONDS, TierSnapshot

Operation = Literal["encode", "decode"]

_COUNTED = (
    *("hits", "misses", "puts", "passed", "promoted", "spilled", "dropped"),
    *("damaged", "foreign", "failures"),
)
_OUTCOMES = ("whole", "part", "refused", "failed")
_RECORDS = ("promoted", "spilled", "dropped", "passed", "foreign")


@dataclass(frozen=True, slots=True)
class GpuStats:
    """A GPU tier's counters at one moment.

    entries and bytes are on the device. hits were answered from there, loads included, passed went
    below at once for lack of room, promoted came up, spilled went down, dropped could not. leaving are
    on their way down. damaged failed their checksums, foreign were no blocks of the cache they were
    asked for. failures are calls that the device did not do, by reason in reasons; lost is what it said
    when it was lost, None while it serves; failing: whether the last call was such. loads: see
    ``metrics.device_memory``; raw_bytes and encoded_bytes, of keys and values that were encoded or
    decoded, too. traffic: of the bus; taken_bytes: of its pool.
    """

    entries: int
    bytes: int
    capacity_bytes: int
    device: int
    hits: int
    misses: int
    puts: int
    passed: int
    promoted: int
    spilled: int
    dropped: int
    damaged: int
    foreign: int
    failures: int
    leaving: int
    lost: str | None
    failing: bool
    evictions: dict[str, int]
    reasons: dict[str, int]
    loads: dict[str, int]
    raw_bytes: dict[tuple[str, str], int]
    encoded_bytes: dict[tuple[str, str], int]
    traffic: Traffic
    taken_bytes: int


class GpuFigures:
    """Counters and times of one tier. Safe from any thread.

    Its lock is held for as long as it takes to add some numbers, or to copy them; never while the
    device or the tier below works, so no load waits for a scrape.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._loads = dict.fromkeys(_OUTCOMES, 0)
        self._raw: Counter[tuple[str, str]] = Counter()
        self._encoded: Counter[tuple[str, str]] = Counter()
        self.failing = False  # written alone, and read alone
        self.took = {name: Buckets(SECONDS) for name in ("get", "put", "load", "save")}

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            self._counts.update(counts)

    def failed(self, reason: DeviceTrouble) -> None:
        """One more call that the device did not do."""
        self.failing = True
        with self._lock:
            self._counts["failures"] += 1
            self._reasons[reason.value] += 1

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Counts a load that the body of the ``with`` does not begin."""
        try:
            yield
        except (NoRoom, DeviceUnavailable, Unsupported):
            with self._lock:
                self._loads["refused"] += 1
            raise

    def load_ended(
        self, seconds: float, raw: int, encoded: int, error: Exception | None, *, codec: str,
        whole: bool,
    ) -> None:  # fmt: skip
        """One more load. raw, encoded: bytes of the layers that were decoded. whole: whether all came
        that was asked for."""
        self.took["load"].observe(seconds)
        with self._lock:
            self._loads["failed" if error is not None else "whole" if whole else "part"] += 1
        self.worked("decode", codec, raw=raw, encoded=encoded)

    def worked(self, operation: Operation, codec: str, *, raw: int, encoded: int) -> None:
        """Bytes of keys and values that were encoded or decoded."""
        if not raw:
            return
        with self._lock:
            self._raw[codec, operation] += raw
            self._encoded[codec, operation] += encoded

    def stats(
        self,
        held: Mapping[str, object],
        *,
        device: int,
        leaving: int,
        lost: str | None,
        traffic: Traffic,
        taken_bytes: int,
    ) -> GpuStats:
        """Everything; held: what the policy says of its entries."""
        with self._lock:
            return GpuStats(
                **{name: held[name] for name in ("entries", "bytes", "capacity_bytes")},  # type: ignore[arg-type]
                evictions=held["removals"],  # type: ignore[arg-type]
                device=device,
                leaving=leaving,
                lost=lost,
                failing=self.failing or lost is not None,
                reasons=dict(self._reasons),
                loads=dict(self._loads),
                raw_bytes=dict(self._raw),
                encoded_bytes=dict(self._encoded),
                traffic=traffic,
                taken_bytes=taken_bytes,
                **{name: self._counts[name] for name in _COUNTED},
            )


def snapshot_of(now: GpuStats, took: Mapping[str, Buckets], *, store: str) -> TierSnapshot:
    """A GPU tier as the exporter shows it."""
    traffic = now.traffic
    return TierSnapshot(
        store=store,
        tier="host" if now.device == HOST else f"cuda:{now.device}",
        entries=now.entries,
        bytes=now.bytes,
        limit_bytes=now.capacity_bytes,
        lookups={"hit": now.hits, "miss": now.misses},
        evicted=now.evictions["capacity"],
        damaged=now.damaged,
        failures=now.reasons,
        failing=now.failing,
        left_alone=now.lost is not None,
        took=took,
        device=DeviceMemorySnapshot(
            taken_bytes=now.taken_bytes,
            buffers=traffic.buffers,
            busy={"up": traffic.up_busy, "down": traffic.down_busy},
            waits=traffic.up_waits,
            moved_bytes={"up": traffic.up_bytes, "down": traffic.down_bytes},
            leaving=now.leaving,
            loads=now.loads,
            records={name: getattr(now, name) for name in _RECORDS},
            raw_bytes=now.raw_bytes,
            encoded_bytes=now.encoded_bytes,
        ),
    )
