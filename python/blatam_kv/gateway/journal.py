"""What passed through the gateway: counts and times of each system, and the latest requests."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from blatam_kv.errors import MissingExtra
from blatam_kv.gateway.breaker import State
from blatam_kv.metrics import LatencyHistogram
from blatam_kv.metrics.exposition import Exposition
from blatam_kv.metrics.histograms import Buckets, Histograms

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from blatam_kv.gateway.systems import Upstream

_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
# As the service does it: a system may answer with any status, but cannot make a scrape large.
_MOST_KINDS = 16


@dataclass(slots=True)
class Passing:
    """One request on its way, or after. Times are of a clock that never goes back but ``at``."""

    id: str
    system: str
    method: str
    path: str
    at: float
    began: float
    status: int = 0
    seconds: float = 0.0
    first_byte_seconds: float = 0.0
    attempts: int = 0
    error: str | None = None

    def described(self) -> dict[str, object]:
        """For ``GET /requests``."""
        return {
            "id": self.id,
            "system": self.system,
            "method": self.method,
            "path": self.path,
            "at": round(self.at, 3),
            "status": self.status or None,
            "milliseconds": round(1000 * self.seconds, 3),
            "first_byte_milliseconds": round(1000 * self.first_byte_seconds, 3),
            "attempts": self.attempts,
            "error": self.error,
        }


class SystemTally:
    """Totals of one system since it was first configured."""

    def __init__(self) -> None:
        self.requests = self.retries = 0
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.latency = LatencyHistogram()

    def described(self) -> dict[str, object]:
        """For ``GET /statistics``."""
        classes: Counter[str] = Counter()
        for status, count in self.statuses.items():
            classes[f"{status // 100}xx"] += count
        return {
            "requests": self.requests,
            "retries": self.retries,
            "statuses": dict(sorted(classes.items())),
            "errors": dict(sorted(self.errors.items())),
            **{
                f"p{q}_milliseconds": round(1000 * self.latency.quantile(q / 100), 3)
                for q in (50, 95, 99)
            },
        }


class Journal:
    """Of all systems. Used in the loop's thread; the exporter may read from another."""

    def __init__(self, *, version: str, recent: int) -> None:
        try:
            import prometheus_client as prom
        except ImportError as error:
            raise MissingExtra("prometheus-client", extra="server") from error
        prom.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.under_way: dict[int, Passing] = {}
        self.recent: deque[Passing] = deque(maxlen=recent)
        self.started = time.time()
        self._tallies: dict[str, SystemTally] = {}
        self._children: dict[tuple[str, int], Buckets] = {}
        self._own_children: dict[tuple[str, str, int], Buckets] = {}
        self._exposition = Exposition()
        self._registry = registry = prom.CollectorRegistry()
        self._histograms = Histograms()
        self._durations = self._histograms.new(
            "gateway_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            _BUCKETS,
            ["system", "status"],
        )
        self._first_bytes = self._histograms.new(
            "gateway_first_byte_seconds",
            "Time from a request's head until its system begins to answer.",
            _BUCKETS,
            ["system"],
        )
        self._own = self._histograms.new(
            "http_server_request_duration_seconds",
            "The same of the gateway's own endpoints.",
            _BUCKETS,
            ["http_request_method", "http_route", "http_response_status_code"],
        )
        self.exchanges = 0  # with its own endpoints, under way
        self._rejected = prom.Counter(
            "gateway_rejected",
            "Requests refused, by stage and reason.",
            ["stage", "reason"],
            registry=registry,
        )
        prom.Gauge("gateway_build_info", "Always 1.", ["version"], registry=registry).labels(
            version
        ).set(1)
        self.systems: Mapping[str, Upstream] = {}

    def of(self, system: str) -> SystemTally:
        """The totals of a system."""
        tally = self._tallies.get(system)
        if tally is None:
            tally = self._tallies[system] = SystemTally()
        return tally

    def begin(self, passing: Passing) -> None:
        """A request has come."""
        self.under_way[id(passing)] = passing

    def end(self, passing: Passing, *, now: float) -> None:
        """It has been answered, or given up."""
        del self.under_way[id(passing)]
        passing.seconds = now - passing.began
        self.recent.append(passing)
        tally = self.of(passing.system)
        tally.requests += 1
        tally.statuses[passing.status] += 1
        tally.latency.record(passing.seconds)
        if passing.attempts > 1:
            tally.retries += passing.attempts - 1
        if passing.error is not None:
            tally.errors[passing.error] += 1
        child = self._children.get((passing.system, passing.status))
        if child is None:
            child = self._durations.of(
                passing.system, _kind(passing.status, self._children.values())
            )
            self._children[passing.system, passing.status] = child
        child.observe(passing.seconds)
        if passing.first_byte_seconds:
            self._first_bytes.of(passing.system).observe(passing.first_byte_seconds)

    # ---- what the gateway's own endpoints tell --------------------------------------------------

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Time one exchange of the gateway's own."""
        child = self._own_children.get((method, route, status))
        if child is None:
            kind = _kind(status, self._own_children.values())
            named = (method, route) if kind == str(status) else ("_OTHER", "_OTHER")
            child = self._own_children[method, route, status] = self._own.of(*named, kind)
        child.observe(seconds)

    def rejected(self, stage: str, reason: str) -> None:
        """Count one request that a stage refused."""
        self._rejected.labels(stage, reason).inc()

    def stage_took(self, name: str, seconds: float) -> None:
        """Own endpoints are asked too seldom for this to matter."""

    def _figures(self) -> Iterator[Metric]:
        """What the tallies and the systems know."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        errors = CounterMetricFamily(
            "gateway_errors", "Requests a system did not answer.", labels=["system", "reason"]
        )
        retries = CounterMetricFamily(
            "gateway_retries", "Requests sent once more.", labels=["system"]
        )
        for name, tally in list(self._tallies.items()):
            retries.add_metric([name], tally.retries)
            for reason, count in sorted(tally.errors.items()):
                errors.add_metric([name, reason], count)
        yield from (errors, retries)
        systems = list(self.systems.items())
        for name, text, values in (
            ("system_up", "By the last health check.", [each.well for _, each in systems]),
            (
                "circuit_open",
                "1 while a system is not asked.",
                [each.breaker.state is State.OPEN for _, each in systems],
            ),
            ("active_requests", "Requests under way.", [each.pool.in_use for _, each in systems]),
            ("idle_connections", "Kept ones.", [each.pool.idle for _, each in systems]),
            (
                "health_check_seconds",
                "What the last health check took.",
                [each.history[-1].seconds if each.history else None for _, each in systems],
            ),
        ):
            gauge = GaugeMetricFamily(f"gateway_{name}", text, labels=["system"])
            for (system, _), value in zip(systems, values, strict=True):
                if value is not None:  # not checked yet
                    gauge.add_metric([system], float(value))
            yield gauge
        checks = CounterMetricFamily(
            "gateway_health_checks", "Health checks.", labels=["system", "outcome"]
        )
        for system, each in systems:
            checks.add_metric([system, "ok"], each.checked - each.checked_unwell)
            checks.add_metric([system, "error"], each.checked_unwell)
        yield checks
        text = "Exchanges with the gateway's own endpoints under way, streams included."
        yield GaugeMetricFamily("http_server_active_requests", text, value=self.exchanges)

    def expose(self) -> tuple[bytes, str]:
        """The text Prometheus scrapes, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST

        text = self._exposition.text(chain(self._registry.collect(), self._figures()))
        return text + self._histograms.exposed(), CONTENT_TYPE_LATEST


def _kind(status: int, known: Iterable[Buckets]) -> str:
    """A status, or where too many series are there already, its class."""
    many = len(set(map(id, known))) >= _MOST_KINDS
    return f"{status // 100}xx" if many else str(status)
