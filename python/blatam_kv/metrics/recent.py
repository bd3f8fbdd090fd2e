"""What the process knows of itself without Prometheus: latencies and how much happened of late."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

Clock = Callable[[], float]


class LatencyHistogram:
    """Counts of durations in logarithmic buckets: 600 integers, whatever is recorded.

    A quantile is at most 4.5 % above the true one (16 buckets for each doubling, from 0.1 µs).
    Safe from any thread.
    """

    _FLOOR = 1e-7
    _PER_DOUBLING = 16

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * 600
        self._count = 0
        self._sum = 0.0
        self._max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one counts as zero."""
        seconds = max(seconds, 0.0)
        steps = self._PER_DOUBLING * math.log2(max(seconds, self._FLOOR) / self._FLOOR)
        bucket = min(int(steps), len(self._counts) - 1)
        with self._lock:
            self._counts[bucket] += 1
            self._count += 1
            self._sum += seconds
            self._max = max(self._max, seconds)

    def add(self, other: LatencyHistogram) -> None:
        """Count what another has counted as well."""
        with other._lock:
            counts, count, total, most = (other._counts[:], other._count, other._sum, other._max)
        with self._lock:
            self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
            self._count += count
            self._sum += total
            self._max = max(self._max, most)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return self._count

    @property
    def sum(self) -> float:
        """Seconds of all together."""
        return self._sum

    @property
    def mean(self) -> float:
        """Seconds; 0 when nothing was recorded."""
        with self._lock:
            return self._sum / self._count if self._count else 0.0

    def quantile(self, q: float) -> float:
        """The duration that a share ``q`` in (0, 1] of the records does not exceed; 0 if none."""
        if not 0.0 < q <= 1.0:
            raise ValueError(f"q must be above 0 and at most 1, not {q}")
        with self._lock:
            rank = math.ceil(q * self._count)
            seen = 0
            for bucket, count in enumerate(self._counts):
                seen += count
                if count and seen >= rank:
                    upper = self._FLOOR * math.exp2((bucket + 1) / self._PER_DOUBLING)
                    return min(upper, self._max)
        return 0.0


class RecentRate:
    """Events per second over the last minute. Safe from any thread."""

    _SECONDS = 60

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._slots: dict[int, int] = {}

    def record(self) -> None:
        """Count one event now."""
        second = int(self._clock())
        with self._lock:
            self._slots[second] = self._slots.get(second, 0) + 1
            while len(self._slots) > self._SECONDS:
                del self._slots[next(iter(self._slots))]

    def add(self, other: RecentRate) -> None:
        """Count what another has counted as well, from when the earlier of the two began."""
        with other._lock:
            slots = dict(other._slots)
        with self._lock:
            self._start = min(self._start, other._start)
            for second in self._slots:
                slots[second] = slots.get(second, 0) + self._slots[second]
            self._slots = {second: slots[second] for second in sorted(slots)[-self._SECONDS :]}

    @property
    def per_second(self) -> float:
        """The mean of the last minute, or of the time since the start if that is less, but at least a
        second."""
        now = self._clock()
        oldest = int(now) - self._SECONDS
        with self._lock:
            events = sum(count for second, count in self._slots.items() if second > oldest)
        return events / max(1.0, min(float(self._SECONDS), now - self._start))
