"""Latencies against a sorted list, and what Prometheus would read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from blatam_kv.cache import Cache
from blatam_kv.metrics import (
    BlocksSnapshot,
    CacheSnapshot,
    LatencyHistogram,
    RecentRate,
    ServiceMetrics,
)


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
    return BlocksSnapshot(
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
    metrics.document("html", ok=True)
    metrics.document("html", ok=False)
    metrics.http("GET", "/healthz", 200, 0.001)
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
    assert not any(name == "kv_cache_requests_total" for name, _ in samples(metrics))


def test_where_no_prompts_are_kept_nothing_is_said_of_blocks() -> None:
    metrics = ServiceMetrics(version="1", cache=snapshot, queue_depth=dict)
    assert not any(name.startswith("kv_blocks") for name, _ in samples(metrics))


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
