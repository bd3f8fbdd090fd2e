"""What happened since the service started: counts, latencies, time saved."""

from __future__ import annotations

import threading
import time
from collections import Counter

from blatam_kv.bul.tasks import FINISHED, Task
from blatam_kv.metrics import LatencyHistogram, RecentRate


class Tally:
    """The running totals of one tenant. Safe from any thread, constant in size."""

    def __init__(self, *, started: float | None = None) -> None:
        self.hits = LatencyHistogram()
        self.misses = LatencyHistogram()
        self.rate = RecentRate()
        self._started = time.monotonic() if started is None else started
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._areas: Counter[str] = Counter()
        self._seconds_saved = 0.0

    def finished(self, task: Task, seconds: float) -> None:
        """Count a task that has just finished, ``seconds`` after arrival."""
        with self._lock:
            self._counts[task.status] += 1
            self._counts[task.cache] += 1
            self._areas[task.brief.business_area] += 1
            if task.cache == "hit" and task.answer is not None:
                self._seconds_saved += task.answer.seconds
        if task.status == "completed":
            self.rate.record()
            (self.hits if task.cache == "hit" else self.misses).record(seconds)

    def add(self, other: Tally) -> None:
        """Count what another has counted as well."""
        with other._lock:
            counts, areas, saved = other._counts.copy(), other._areas.copy(), other._seconds_saved
        with self._lock:
            self._counts += counts
            self._areas += areas
            self._seconds_saved += saved
        self.hits.add(other.hits)
        self.misses.add(other.misses)
        self.rate.add(other.rate)

    @property
    def hit_rate(self) -> float:
        """Hits among all finished requests; a collapsed one is not a hit."""
        with self._lock:
            requests = self._requests()
            return self._counts["hit"] / requests if requests else 0.0

    @property
    def tasks_finished(self) -> int:
        """Completed, failed and cancelled together."""
        with self._lock:
            return sum(self._counts[status] for status in FINISHED)

    def _requests(self) -> int:
        return self._counts["hit"] + self._counts["miss"] + self._counts["collapsed"]

    def of_tasks(self) -> dict[str, object]:
        """The totals under the original's names for ``GET /stats``; seconds."""
        with self._lock:
            counts, areas = Counter(self._counts), dict(sorted(self._areas.items()))
            saved = self._seconds_saved
        return {
            "completed_tasks": counts["completed"],
            "failed_tasks": counts["failed"],
            "cancelled_tasks": counts["cancelled"],
            "average_processing_time": round(self.misses.mean, 6),
            "cache_hit_rate": round(self.hit_rate, 6),
            "seconds_saved": round(saved, 3),
            "business_area_distribution": areas,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
        }

    def of_requests(self) -> dict[str, object]:
        """The totals under the original's names for ``GET /api/v1/kv-cache/stats``."""
        with self._lock:
            counts, requests = Counter(self._counts), self._requests()
        hit_rate = counts["hit"] / requests if requests else 0.0
        both = LatencyHistogram()
        for part in (self.hits, self.misses):
            both.add(part)
        return {
            "total_requests": requests,
            "cached_requests": counts["hit"],
            "collapsed_requests": counts["collapsed"],
            "hit_rate": round(hit_rate, 6),
            "miss_rate": round(1.0 - hit_rate, 6) if requests else 0.0,
            "average_latency_ms": _ms(both.mean),
            "p50_latency_ms": _ms(both.quantile(0.50)),
            "p95_latency_ms": _ms(both.quantile(0.95)),
            "p99_latency_ms": _ms(both.quantile(0.99)),
            "hit_latency_ms": self._quantiles(self.hits),
            "miss_latency_ms": self._quantiles(self.misses),
            "throughput_rps": round(self.rate.per_second, 3),
        }

    @staticmethod
    def _quantiles(histogram: LatencyHistogram) -> dict[str, float]:
        return {f"p{q}": _ms(histogram.quantile(q / 100)) for q in (50, 95, 99)}


class Tallies:
    """A tally for each tenant. Everybody's is their sum, made when it is asked for: a request is
    counted once."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._tenants: dict[str, Tally] = {}

    def of(self, tenant: str | None) -> Tally:
        """A tenant's totals; of None, everybody's as they are now."""
        if tenant is not None:
            tally = self._tenants.get(tenant)
            if tally is None:
                made = Tally(started=self._started)
                tally = self._tenants.setdefault(tenant, made)
            return tally
        everybody = Tally(started=self._started)
        for tally in list(self._tenants.values()):
            everybody.add(tally)
        return everybody

    def finished(self, task: Task, seconds: float) -> None:
        """Count a task that has just finished, ``seconds`` after arrival."""
        self.of(task.tenant).finished(task, seconds)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)
