"""Latencies against a sorted list, and what Prometheus would read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import promtool

from blatam_kv.bul.security.guard import Cause
from blatam_kv.cache import Cache
from blatam_kv.devices import DeviceSnapshot
from blatam_kv.documents.rendering import FORMATS
from blatam_kv.errors import Unavailable
from blatam_kv.metrics import (
    BackupsSnapshot,
    BlocksSnapshot,
    CacheSnapshot,
    LatencyHistogram,
    ModelMetrics,
    RecentRate,
    ServiceMetrics,
    TierSnapshot,
)
from blatam_kv.metrics.codecs import CodecWork
from blatam_kv.metrics.exposition import Exposition
from blatam_kv.metrics.histograms import Buckets, Histogram
from blatam_kv.tiers.took import Took, timed


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=50),
    st.floats(0, 1, exclude_min=True),
)
def test_quantile_is_the_sorted_lists_within_one_bucket(values: list[float], q: float) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    exact = sorted(values)[math.ceil(q * len(values)) - 1]
    assert exact * (1 - 1e-9) <= histogram.quantile(q) <= max(exact, 1e-7) * 1.045
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(math.fsum(values) / len(values))


@given(st.lists(st.floats(0, 1e4)), st.lists(st.floats(0, 1e4), min_size=1))
def test_a_sum_of_histograms_is_the_histogram_of_all(some: list[float], more: list[float]) -> None:
    parts, whole = (LatencyHistogram(), LatencyHistogram()), LatencyHistogram()
    for part, values in zip(parts, (some, more), strict=True):
        for value in values:
            part.record(value)
            whole.record(value)
    parts[0].add(parts[1])
    assert parts[0].count == whole.count
    assert parts[0].mean == pytest.approx(whole.mean)
    for q in (0.5, 0.95, 1.0):
        assert parts[0].quantile(q) == whole.quantile(q)


def test_a_sum_of_rates_counts_both_and_forgets_as_they_do() -> None:
    now = 0.0
    rates = [RecentRate(clock=lambda: now) for _ in range(2)]
    for second in range(120):
        now = float(second)
        rates[0].record()
        rates[1].record()
        rates[1].record()
    rates[0].add(rates[1])
    assert rates[0].per_second == pytest.approx(3.0)
    now = 1000.0
    assert rates[0].per_second == 0.0


def test_empty_histogram_answers_zero() -> None:
    histogram = LatencyHistogram()
    assert (histogram.quantile(0.99), histogram.mean, histogram.count) == (0.0, 0.0, 0)


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, math.nan])
def test_quantile_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="q must be"):
        LatencyHistogram().quantile(q)


def test_recent_rate_forgets_what_is_older_than_a_minute() -> None:
    now = 0.0
    rate = RecentRate(clock=lambda: now)
    for second in range(120):
        now = float(second)
        rate.record()
        rate.record()
    assert rate.per_second == pytest.approx(2.0)
    now = 1000.0
    assert rate.per_second == 0.0


def snapshot() -> CacheSnapshot:
    return CacheSnapshot(
        policy="lru",
        entries=3,
        memory_bytes=1234,
        memory_limit_bytes=9999,
        evictions={"capacity": 5, "expired": 1},
    )


def blocks() -> BlocksSnapshot:
    work = {"encode": CodecWork(), "decode": CodecWork()}
    work["encode"].did(0.0003, raw=1000, encoded=250)
    work["encode"].did(0.0001, raw=1000, encoded=150)
    return BlocksSnapshot(
        codec="int4_kc",
        codec_work=work,
        entries=4,
        memory_bytes=4096,
        memory_limit_bytes=8192,
        disk_bytes=65536,
        tokens_asked=640,
        tokens_found={"memory": 128, "disk": 64},
        damaged=2,
    )


@pytest.fixture
def metrics() -> ServiceMetrics:
    depth = {0: 0, 1: 7}
    return ServiceMetrics(version="1.2.3", cache=snapshot, queue_depth=lambda: depth, blocks=blocks)


def samples(metrics: ServiceMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, media_type = metrics.expose()
    assert media_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_everything_counted_is_exposed_under_its_canonical_name(metrics: ServiceMetrics) -> None:
    metrics.cache_request("hit", tier="memory")
    metrics.answered(0.0004)
    with metrics.document("html"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.document("html"):
        1 / 0  # noqa: B018
    metrics.http("GET", "/healthz", 200, 0.001)
    metrics.exchanges += 2
    with metrics.stage("model"):
        pass
    found = samples(metrics)
    for name, labels, value in (
        ("kv_cache_requests_total", {"status": "hit", "tier": "memory"}, 1),
        ("kv_cache_latency_seconds_count", {}, 1),
        ("kv_cache_latency_seconds_bucket", {"le": "0.0005"}, 1),
        ("kv_cache_latency_seconds_bucket", {"le": "0.00025"}, 0),
        ("kv_cache_entries", {}, 3),
        ("kv_cache_memory_usage_bytes", {}, 1234),
        ("kv_cache_memory_limit_bytes", {}, 9999),
        ("kv_cache_evictions_total", {"policy": "lru", "reason": "capacity"}, 5),
        ("kv_blocks_entries", {}, 4),
        ("kv_blocks_memory_usage_bytes", {}, 4096),
        ("kv_blocks_memory_limit_bytes", {}, 8192),
        ("kv_blocks_disk_usage_bytes", {}, 65536),
        ("kv_blocks_tokens_asked_total", {}, 640),
        ("kv_blocks_tokens_found_total", {"tier": "memory"}, 128),
        ("kv_blocks_tokens_found_total", {"tier": "disk"}, 64),
        ("kv_blocks_damaged_total", {}, 2),
        ("kv_codec_raw_bytes_total", {"codec": "int4_kc", "operation": "encode"}, 2000),
        ("kv_codec_encoded_bytes_total", {"codec": "int4_kc", "operation": "encode"}, 400),
        ("kv_codec_encoded_bytes_total", {"codec": "int4_kc", "operation": "decode"}, 0),
        ("kv_codec_duration_seconds_count", {"codec": "int4_kc", "operation": "encode"}, 2),
        ("bul_document_duration_seconds_count", {"format": "html"}, 2),
        ("http_server_active_requests", {}, 2),
        ("bul_stage_duration_seconds_count", {"stage": "model"}, 1),
        ("bul_documents_total", {"format": "html", "outcome": "ok"}, 1),
        ("bul_documents_total", {"format": "html", "outcome": "error"}, 1),
        ("bul_queue_depth", {"priority": "1"}, 7),
        ("bul_build_info", {"version": "1.2.3"}, 1),
        (
            "http_server_request_duration_seconds_count",
            {
                "http_request_method": "GET",
                "http_route": "/healthz",
                "http_response_status_code": "200",
            },
            1,
        ),
    ):
        assert found[name, tuple(sorted(labels.items()))] == value, name


def test_a_stage_that_raises_is_timed_too(metrics: ServiceMetrics) -> None:
    with pytest.raises(ZeroDivisionError), metrics.stage("model"):
        1 / 0  # noqa: B018
    assert samples(metrics)["bul_stage_duration_seconds_count", (("stage", "model"),)] == 1


def test_two_services_in_one_process_do_not_share_counts(metrics: ServiceMetrics) -> None:
    other = ServiceMetrics(version="1.2.3", cache=snapshot, queue_depth=dict)
    other.cache_request("hit", tier="memory")
    hit = ("kv_cache_requests_total", (("status", "hit"), ("tier", "memory")))
    assert (samples(metrics)[hit], samples(other)[hit]) == (0, 1)


def test_where_no_prompts_are_kept_nothing_is_said_of_blocks() -> None:
    metrics = ServiceMetrics(version="1", cache=snapshot, queue_depth=dict)
    assert not any(name.startswith("kv_blocks") for name, _ in samples(metrics))


def test_each_gpu_has_its_gauges_and_one_that_cannot_be_read_has_no_utilisation() -> None:
    known = DeviceSnapshot(
        gpu="0", in_rotation=True, utilization=0.3, used_bytes=10, total_bytes=80, in_flight=2,
        in_flight_tokens=40, queued_tokens=900, routed=7, saved_tokens=64, failures=1, unread=3,
        temperature_celsius=61.0, power_watts=250.0,
    )  # fmt: skip
    lost = replace(
        known, gpu="1", in_rotation=False, utilization=None, used_bytes=None, total_bytes=None
    )
    metrics = ServiceMetrics(
        version="1", cache=snapshot, queue_depth=dict, devices=lambda: [known, lost]
    )
    found = samples(metrics)
    for name, value in (
        ("utilization_ratio", 0.3), ("memory_used_bytes", 10), ("memory_bytes", 80),
        ("in_flight", 2), ("in_flight_tokens", 40), ("queued_tokens", 900), ("in_rotation", 1),
        ("temperature_celsius", 61), ("power_watts", 250), ("routed_total", 7),
        ("saved_tokens_total", 64), ("failures_total", 1), ("unread_total", 3),
    ):  # fmt: skip
        assert found[f"kv_cache_gpu_{name}", (("gpu", "0"),)] == value
    assert ("kv_cache_gpu_utilization_ratio", (("gpu", "1"),)) not in found
    assert found["kv_cache_gpu_in_rotation", (("gpu", "1"),)] == 0
    without = samples(ServiceMetrics(version="1", cache=snapshot, queue_depth=dict))
    assert not any(name.startswith("kv_cache_gpu") for name, _ in without)


def test_what_a_policy_learned_is_exposed() -> None:
    cache: Cache[int, bool] = Cache(capacity=100, policy="adaptive")
    for at in range(5000):
        cache.setdefault(at % 150, True)
    learned = cache.stats().learned
    assert learned is not None
    metrics = ServiceMetrics(
        version="1",
        cache=lambda: replace(snapshot(), policy="adaptive", learned=learned),
        queue_depth=dict,
    )
    found = samples(metrics)
    for order, ratio in learned.recent_shadow_hit_ratios.items():
        assert found["kv_cache_shadow_hit_ratio", (("policy", order),)] == ratio
        leads = found["kv_cache_policy_leader", (("policy", order),)]
        assert leads == (order == learned.leader)
    assert found["kv_cache_access_pattern", (("pattern", "sequential"),)] == 1
    assert found["kv_cache_policy_switches_total", ()] == learned.switched
    assert found["kv_cache_optimum_hit_ratio", ()] == learned.optimum_hit_ratio
    assert found["kv_cache_gain_if_larger", ()] == learned.gain_if_larger


def test_blocks_of_prompts_have_a_leader_and_no_shadows() -> None:
    cache: Cache[int, bool] = Cache(capacity=4, policy="adaptive")
    cache.begin_request(1)
    cache.put(1, True)
    metrics = ServiceMetrics(
        version="1",
        cache=lambda: replace(snapshot(), learned=cache.stats().learned),
        queue_depth=dict,
    )
    found = samples(metrics)
    assert found["kv_cache_policy_leader", (("policy", "density"),)] == 1
    assert not any(name == "kv_cache_shadow_hit_ratio" for name, _ in found)
    assert not any(name == "kv_cache_gain_if_larger" for name, _ in found)


def test_regret_is_what_the_best_single_order_would_have_hit_more() -> None:
    cache: Cache[int, bool] = Cache(capacity=100, policy="adaptive")
    for at in range(5000):
        cache.setdefault(at % 150, True)
    stats = cache.stats()
    learned = stats.learned
    assert learned is not None
    metrics = ServiceMetrics(
        version="1",
        cache=lambda: replace(snapshot(), learned=learned, hits=stats.hits),
        queue_depth=dict,
    )
    regret = samples(metrics)["kv_cache_policy_regret_ratio", ()]
    best = max(learned.shadow_hit_ratios.values())
    assert regret == pytest.approx(best - stats.hits / 5000, abs=0.01)
    assert abs(regret) < 0.2


def test_places_are_told_apart_by_what_lies_there_and_by_tier() -> None:
    took = Took()
    with timed(took.get):
        pass
    with pytest.raises(ZeroDivisionError), timed(took.get):
        1 / 0  # noqa: B018
    tiers = (
        TierSnapshot(store="answers", tier="memory", entries=3, bytes=10, limit_bytes=20),
        TierSnapshot(
            store="answers",
            tier="redis",
            lookups={"hit": 4, "miss": 5},
            damaged=1,
            failures={"timed out": 2},
            failing=True,
            left_alone=True,
            took=took.by_operation(),
        ),
    )
    metrics = ServiceMetrics(version="1", cache=snapshot, queue_depth=dict, tiers=lambda: tiers)
    found = samples(metrics)
    memory, redis = (
        (("store", "answers"), ("tier", "memory")),
        (("store", "answers"), ("tier", "redis")),
    )
    assert found["kv_cache_size_bytes", memory] == 10
    assert found["kv_cache_size_limit_bytes", memory] == 20
    assert found["kv_tier_entries", memory] == 3
    assert found["kv_tier_failing", memory] == 0
    assert found["kv_tier_failing", redis] == 1
    assert found["kv_tier_requests_total", (("result", "hit"), *redis)] == 4
    assert found["kv_tier_failures_total", (("reason", "timed out"), *redis)] == 2
    assert found["kv_tier_damaged_total", redis] == 1
    assert found["kv_tier_circuit_open", redis] == 1
    assert ("kv_tier_circuit_open", memory) not in found  # memory is never left alone
    name = "kv_tier_operation_duration_seconds_count"
    assert found[name, (("operation", "get"), *redis)] == 2
    assert found[name, (("operation", "put"), *redis)] == 0
    assert (name, (("operation", "get"), *memory)) not in found
    assert ("kv_cache_size_bytes", redis) not in found  # nobody asks Redis at each scrape


def everything_noted() -> ServiceMetrics:
    """Metrics of a service of which everything was asked that can be."""
    cache: Cache[int, bool] = Cache(capacity=100, policy="adaptive")
    for at in range(5000):
        cache.setdefault(at % 150, True)
    tiers = [
        TierSnapshot(
            store=store,
            tier=tier,
            entries=1,
            bytes=1,
            limit_bytes=1,
            lookups={"hit": 1, "miss": 1},
            failures={} if tier == "memory" else {reason: 1 for reason in Unavailable},
            left_alone=True,
            took={} if tier == "memory" else Took().by_operation(),
        )
        for store, tier in (
            *(("answers", "memory"), ("answers", "disk"), ("answers", "redis")),
            *(("blocks", "memory"), ("blocks", "disk"), ("blocks", "redis")),
        )
    ]
    reasons = ("capacity", "expired", "deleted", "replaced", "cleared", "resized")
    metrics = ServiceMetrics(
        version="1",
        cache=lambda: replace(
            snapshot(), learned=cache.stats().learned, evictions=dict.fromkeys(reasons, 1)
        ),
        queue_depth=lambda: dict.fromkeys(range(5), 1),
        blocks=blocks,
        tiers=lambda: tiers,
        backups=lambda: BackupsSnapshot(
            last_timestamp=1.0, last_seconds=1.0, last_bytes=1, made=1, failed=1
        ),
    )
    model = ModelMetrics(metrics.histograms, provider="openai", model="m" * 80)
    model.wrote(2.0, 0.5, prompt=100, completion=31, cached=64)
    model.failed(1.0)
    for stage in ("authenticate", "sanitise", "validate", "model", "document"):
        metrics.stage_took(stage, 0.1)
    for priority in range(5):
        metrics.waited(priority, 1.0)
    for operation in ("add", "save", "read", "retain"):
        metrics.storage_failed(operation)
    for format in FORMATS:
        with metrics.document(format):
            pass
        with pytest.raises(ZeroDivisionError), metrics.document(format):
            1 / 0  # noqa: B018
    for cause in Cause:
        metrics.rejected("authentication", cause)
    for outcome in ("delivered", "failed", "given_up"):
        metrics.called_back(outcome)
    for route in range(60):
        for method in ("GET", "HEAD", "POST", "DELETE"):
            for status in (200, 202, 302, 400, 401, 403, 404, 422, 429, 503):
                metrics.http(method, f"/route/{route}", status, 0.001)
    return metrics


def test_a_scrape_has_less_than_a_thousand_lines_whatever_was_asked() -> None:
    text, _ = everything_noted().expose()
    assert text.count(b"\n") < 1000


def test_exchanges_beyond_the_bound_are_counted_by_the_class_of_their_status() -> None:
    found = samples(everything_noted())
    name = "http_server_request_duration_seconds_count"
    series = {labels: count for (each, labels), count in found.items() if each == name}
    assert sum(series.values()) == 60 * 4 * 10
    own = {labels for labels in series if ("http_route", "_OTHER") not in labels}
    assert len(own) == 12
    assert all(series[labels] == 1 for labels in own)
    assert {dict(labels)["http_response_status_code"] for labels in series.keys() - own} == {
        *("2xx", "3xx", "4xx", "5xx")
    }


def test_promtool_finds_nothing_to_say_of_the_names(tmp_path: Path) -> None:
    text, _ = everything_noted().expose()
    assert promtool("check", "metrics", cwd=tmp_path, text=text) == ""


# ---- the text against the library's own -----------------------------------------------------------

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
_NUMBERS = st.one_of(st.floats(), st.integers(-(2**60), 2**60))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["counter", "gauge"]),
            _TEXTS,
            st.lists(st.tuples(_TEXTS, _TEXTS, _NUMBERS), max_size=4),
        ),
        max_size=5,
    )
)
def test_the_text_says_what_the_librarys_says(
    described: list[tuple[str, str, list[tuple[str, str, float]]]],
) -> None:
    made: list[Metric] = []
    for at, (kind, text, rows) in enumerate(described):
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(f"name_{at}", text, labels=["b", "a"])
        for one, other, value in rows:
            family.add_metric([one, other], value)
        made.append(family)
    registry = CollectorRegistry()
    registry.register(_Given(made))
    exposition = Exposition()
    for _ in range(2):  # the second time from what was kept of the first
        assert parsed(exposition.text(made)) == parsed(generate_latest(registry))


@given(
    st.lists(st.tuples(_TEXTS, _TEXTS), unique=True, max_size=3),
    st.lists(st.floats(0, 1e3), max_size=20),
)
def test_a_histogram_says_of_itself_what_the_library_would(
    series: list[tuple[str, str]], values: list[float]
) -> None:
    histogram = Histogram("took_seconds", "100 %\nof \\ it.", (0.5, 0.001, 100.0), ["b", "a"])
    for at, value in enumerate(values):
        if series:
            histogram.of(*series[at % len(series)]).observe(value)
    registry = CollectorRegistry()
    registry.register(_Given([histogram.family()]))
    assert parsed(histogram.exposed()) == parsed(generate_latest(registry))
    counts = [row[-1] for row in parsed(histogram.exposed()) if row[1].endswith("_count")]
    assert sum(map(float, counts)) == (len(values) if series else 0)


def test_a_family_of_a_type_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="is of the type info"):
        Exposition().text([InfoMetricFamily("built", "By whom.", value={"by": "us"})])


def test_a_series_of_other_bounds_is_not_shown() -> None:
    histogram = Histogram("took_seconds", "It took.", (0.5,), ["a"])
    with pytest.raises(ValueError, match="other bounds"):
        histogram.show(("x",), Buckets((0.25,)))
    counted_elsewhere = Buckets((0.5,))
    histogram.show(("x",), counted_elsewhere)
    counted_elsewhere.observe(0.1)
    assert b'took_seconds_count{a="x"} 1.0\n' in histogram.exposed()


class _Given:
    """A collector of what it is given."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def parsed(text: bytes) -> list[tuple[str, str, tuple[tuple[str, str], ...], str]]:
    """What a parser reads: for each sample what is said of its metric, its name, labels and value."""
    return sorted(
        (
            f"{family.type} {family.documentation}",
            sample.name,
            tuple(sorted(sample.labels.items())),
            repr(float(sample.value)),
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    )
