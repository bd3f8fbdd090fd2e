"""One service's Prometheus registry, under the canonical names.

Hit rates and quantiles over time are computed in PromQL, never exported as gauges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from blatam_kv.devices.reading import DeviceSnapshot
from blatam_kv.errors import MissingExtra
from blatam_kv.metrics.codecs import BLOCK_SECONDS, bytes_of
from blatam_kv.metrics.devices import of_gpus
from blatam_kv.metrics.exposition import Exposition
from blatam_kv.metrics.histograms import Buckets, Histograms
from blatam_kv.metrics.policies import learned
from blatam_kv.metrics.snapshots import BackupsSnapshot, BlocksSnapshot, CacheSnapshot, backed_up
from blatam_kv.metrics.tiers import TIMES, TierSnapshot, families

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_CACHE_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
# A stage takes microseconds or, where it is the model's, seconds.
_STAGE_BUCKETS = (0.00001, 0.00005, 0.0001, 0.00025, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
_DOCUMENT_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
# Half of OpenTelemetry's buckets, and finer ones below: a hit takes less than their first.
_HTTP_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0)


# Of an exchange that got no series of its own, the class of its status is what is left.
_MOST_EXCHANGES = 12
_ERRORS = ("internal", "model", "storage", "timeout")


class ServiceMetrics:
    """The Prometheus registry of one service. Safe from any thread; needs the extra ``server``.

    cache, queue_depth, unsaved, blocks, tiers and backups are asked at each scrape, so a gauge can never
    be stale; blocks answers None where no prompts are kept, backups where none are made. No label holds
    anything a caller chooses: the number of series is bounded by the code, to less than a thousand lines.
    """

    def __init__(
        self,
        *,
        version: str,
        cache: Callable[[], CacheSnapshot],
        queue_depth: Callable[[], Mapping[int, int]],
        unsaved: Callable[[], int] = lambda: 0,
        blocks: Callable[[], BlocksSnapshot | None] = lambda: None,
        devices: Callable[[], Sequence[DeviceSnapshot]] = tuple,
        tiers: Callable[[], Iterable[TierSnapshot]] = lambda: (),
        backups: Callable[[], BackupsSnapshot | None] = lambda: None,
    ) -> None:
        try:
            import prometheus_client as prom
        except ImportError as error:
            raise MissingExtra("prometheus-client", extra="server") from error
        # Two more series per counter that no dashboard reads; the library's switch is global.
        prom.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._blocks = blocks
        self._devices = devices
        self._backups = backups
        self._queue_depth = queue_depth
        self._unsaved = unsaved
        self._tiers = tiers
        self.registry = prom.CollectorRegistry()
        self._counted = registry = prom.CollectorRegistry()
        self._exposition = Exposition()
        self.histograms = Histograms()
        histogram = self.histograms.new
        prom.ProcessCollector(registry=registry)
        self._requests = prom.Counter(
            "kv_cache_requests",
            "Requests by what the cache knew and by the tier that answered.",
            ["status", "tier"],
            registry=registry,
        )
        # Counters begin at zero: the first increase is then one.
        self._request_children = {
            (status, tier): self._requests.labels(status, tier)
            for status, tier in (
                *(("hit", "memory"), ("hit", "disk"), ("hit", "redis"), ("miss", "none")),
                *(("collapsed", "none"), ("bypass", "none")),
            )
        }
        errors = prom.Counter(
            "kv_cache_errors", "What went wrong, by its kind.", ["error_type"], registry=registry
        )
        self._errors = {kind: errors.labels(kind) for kind in _ERRORS}
        self._latency = histogram(
            "kv_cache_latency_seconds",
            "Time from a valid request to its answer, cached or computed.",
            _CACHE_BUCKETS,
        ).of()
        self._stages = histogram(
            "bul_stage_duration_seconds",
            "Time spent in one stage of the pipeline.",
            _STAGE_BUCKETS,
            ["stage"],
        )
        self._rejected = prom.Counter(
            "bul_rejected",
            "Requests refused, by stage and reason.",
            ["stage", "reason"],
            registry=registry,
        )
        self._waits = histogram(
            "bul_queue_wait_seconds",
            "Time from a request to the first try at writing, by the priority asked for.",
            _WAIT_BUCKETS,
            ["priority"],
        )
        self._retries = prom.Counter(
            "bul_retries", "Answers that failed and are tried again.", registry=registry
        )
        self._storage_errors = prom.Counter(
            "bul_storage_errors",
            "Database failures by what was to be done.",
            ["operation"],
            registry=registry,
        )
        for operation in ("add", "adopt", "save", "read", "retain"):
            self._storage_errors.labels(operation)
        self._taken = prom.Counter(
            "bul_tasks_taken",
            "Tasks of a dead node that go on here, or of this one, thought dead, elsewhere.",
            ["by"],
            registry=registry,
        )
        for by in ("this", "another"):
            self._taken.labels(by)
        self._callbacks = prom.Counter(
            "bul_callbacks", "Tries to deliver a callback.", ["outcome"], registry=registry
        )
        self._documents = prom.Counter(
            "bul_documents",
            "Documents rendered or failed, by format.",
            ["format", "outcome"],
            registry=registry,
        )
        self._rendering = histogram(
            "bul_document_duration_seconds",
            "Time of rendering one document, by format.",
            _DOCUMENT_BUCKETS,
            ["format"],
        )
        self._tier_times = histogram(*TIMES)
        self._codec_times = histogram(
            "kv_codec_duration_seconds",
            "Time of one block of a prompt, decoded or encoded as a whole.",
            BLOCK_SECONDS,
            ["codec", "operation"],
        )
        self._http = histogram(
            "http_server_request_duration_seconds",
            "Time from the request's first byte to the answer's last.",
            _HTTP_BUCKETS,
            ["http_request_method", "http_route", "http_response_status_code"],
        )
        self.exchanges = 0  # under way; changed in the loop's thread only
        self._http_children: dict[tuple[str, str, int], Buckets] = {}
        build = prom.Gauge("bul_build_info", "Always 1.", ["version"], registry=registry)
        build.labels(version).set(1)
        self.registry.register(self)

    def cache_request(self, status: str, *, tier: str) -> None:
        """Count one request: status is hit, miss, collapsed, or bypass for one that did not want to
        look; tier is memory, redis or none."""
        child = self._request_children.get((status, tier))
        if child is None:
            child = self._requests.labels(status, tier)
            self._request_children[status, tier] = child
        child.inc()

    def answered(self, seconds: float) -> None:
        """Time one request from its arrival to its answer."""
        self._latency.observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a ``with``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_took(name, time.perf_counter() - start)

    def stage_took(self, name: str, seconds: float) -> None:
        """Record a stage that was timed elsewhere."""
        self._stages.of(name).observe(seconds)

    def rejected(self, stage: str, reason: str) -> None:
        """Count one request that a stage refused."""
        self._rejected.labels(stage, reason).inc()

    def failed(self, kind: str) -> None:
        """Count one error: kind is model, timeout, storage or internal."""
        self._errors[kind].inc()

    def waited(self, priority: int, seconds: float) -> None:
        """Time the wait of one answer for a writer."""
        self._waits.of(str(int(priority))).observe(seconds)

    def retried(self) -> None:
        """Count one answer that failed and is tried again."""
        self._retries.inc()

    def storage_failed(self, operation: str) -> None:
        """Count one failure of the database: operation is add, save, read or retain."""
        self._storage_errors.labels(operation).inc()
        self.failed("storage")

    def taken(self, by: str, count: int) -> None:
        """Count tasks that changed their node: by this one or another."""
        self._taken.labels(by).inc(count)

    def called_back(self, outcome: str) -> None:
        """Count one try: delivered, failed or given_up."""
        self._callbacks.labels(outcome).inc()

    @contextmanager
    def document(self, format: str) -> Iterator[None]:
        """Count and time the rendering in the body of a ``with``."""
        start = time.perf_counter()
        outcome = "error"
        try:
            yield
            outcome = "ok"
        finally:
            seconds = time.perf_counter() - start
            self.stage_took("document", seconds)
            self._rendering.of(format).observe(seconds)
            self._documents.labels(format, outcome).inc()

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Time one HTTP exchange; ``route`` is the template, never the path.

        Each kind of exchange has a series of its own, up to a number; those that come later share
        one for each class of status, so that nobody can make a scrape large.
        """
        child = self._http_children.get((method, route, status))
        if child is None:
            known = len(set(self._http_children.values()))
            names = (method, route, str(status))
            if known >= _MOST_EXCHANGES:
                names = ("_OTHER", "_OTHER", f"{status // 100}xx")
            child = self._http.of(*names)
            self._http_children[method, route, status] = child
        child.observe(seconds)
        if status == 500:
            self.failed("internal")

    def collect(self) -> Iterator[Metric]:
        """Everything, for who reads the registry and not the text."""
        yield from self._counted.collect()
        yield from self._figures()  # which show the histograms what others count
        yield from (histogram.family() for histogram in self.histograms)

    def _figures(self) -> Iterator[Metric]:
        """The gauges and counters that live elsewhere."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._cache()
        for name, text, value in (
            ("kv_cache_entries", "Answers held.", now.entries),
            ("kv_cache_memory_usage_bytes", "Bytes of the answers held.", now.memory_bytes),
            ("kv_cache_memory_limit_bytes", "Bytes it may hold.", now.memory_limit_bytes),
            ("kv_cache_pinned_bytes", "Bytes of answers that are pinned.", now.pinned_bytes),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        evictions = CounterMetricFamily(
            "kv_cache_evictions", "Answers that left, by reason.", labels=["policy", "reason"]
        )
        for policy, counts in (now.evictions_by_policy or {now.policy: now.evictions}).items():
            for reason, count in sorted(counts.items()):
                evictions.add_metric([policy, reason], count)
        yield evictions
        decides = GaugeMetricFamily(
            "kv_cache_policy_info", "1 for the policy that decides what leaves.", labels=["policy"]
        )
        decides.add_metric([now.policy], 1)
        yield decides
        if now.learned is not None:
            yield from learned(now.learned, hits=now.hits)
        if (blocks := self._blocks()) is not None:
            for name, text, value in (
                ("kv_blocks_entries", "Blocks of prompts in memory.", blocks.entries),
                ("kv_blocks_memory_usage_bytes", "Bytes of them.", blocks.memory_bytes),
                ("kv_blocks_memory_limit_bytes", "Bytes they may have.", blocks.memory_limit_bytes),
                ("kv_blocks_disk_usage_bytes", "Bytes of blocks on disk.", blocks.disk_bytes),
            ):
                yield GaugeMetricFamily(name, text, value=value)
            yield CounterMetricFamily(
                "kv_blocks_tokens_asked", "Prompt tokens looked up.", value=blocks.tokens_asked
            )
            found = CounterMetricFamily(
                "kv_blocks_tokens_found", "Prompt tokens not computed again.", labels=["tier"]
            )
            for place, count in sorted(blocks.tokens_found.items()):
                found.add_metric([place], count)
            yield found
            yield CounterMetricFamily(
                "kv_blocks_damaged", "Blocks that failed verification.", value=blocks.damaged
            )
            if "redis" in blocks.tokens_found:
                yield CounterMetricFamily(
                    "kv_blocks_recomputed",
                    "Blocks in Redis that were quicker to compute.",
                    value=blocks.recomputed,
                )
            ratio = GaugeMetricFamily(
                "kv_cache_compression_ratio",
                "Bytes of keys and values for each byte that holds them.",
                labels=["codec"],
            )
            if blocks.memory_bytes:
                ratio.add_metric([blocks.codec], blocks.raw_bytes / blocks.memory_bytes)
            yield ratio
            for operation, work in blocks.codec_work.items():
                self._codec_times.show((blocks.codec, operation), work.took)
            yield from bytes_of(blocks.codec, blocks.codec_work)
        tiers = list(self._tiers())
        for tier in tiers:
            for operation, took in tier.took.items():
                self._tier_times.show((tier.store, tier.tier, operation), took)
        yield from families(tiers)
        if devices := self._devices():
            yield from of_gpus(devices)
        if (backups := self._backups()) is not None:
            yield from backed_up(backups)
        depth = GaugeMetricFamily("bul_queue_depth", "Tasks waiting.", labels=["priority"])
        for priority, waiting in sorted(self._queue_depth().items()):
            depth.add_metric([str(priority)], waiting)
        yield depth
        text = "Exchanges under way, streams included."
        yield GaugeMetricFamily("http_server_active_requests", text, value=self.exchanges)
        text = "Finished tasks whose rows are still to be written."
        yield GaugeMetricFamily("bul_unsaved_tasks", text, value=self._unsaved())

    def expose(self) -> tuple[bytes, str]:
        """The text Prometheus scrapes, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST

        # The figures first: they show the histograms what others count.
        text = self._exposition.text(chain(self._counted.collect(), self._figures()))
        return text + self.histograms.exposed(), CONTENT_TYPE_LATEST
