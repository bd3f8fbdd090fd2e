"""What is told of a policy that watches itself: whom it follows, and how well that goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from blatam_kv.policy import PolicyReport

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def learned(report: PolicyReport, *, hits: int) -> Iterator[Metric]:
    """The metrics of a report; no counter could tell its ratios. hits: of the cache it is of."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    shadows = GaugeMetricFamily(
        "kv_cache_shadow_hit_ratio",
        "What this order of eviction alone would have hit of late.",
        labels=["policy"],
    )
    leads = GaugeMetricFamily(
        "kv_cache_policy_leader", "1 for the order that is followed.", labels=["policy"]
    )
    for name, ratio in (report.recent_shadow_hit_ratios or {report.leader: math.nan}).items():
        leads.add_metric([name], float(name == report.leader))
        if not math.isnan(ratio):
            shadows.add_metric([name], ratio)
    yield shadows
    yield leads
    patterns = GaugeMetricFamily(
        "kv_cache_access_pattern", "1 for what the requests look like.", labels=["pattern"]
    )
    for pattern in ("mixed", "random", "sequential"):
        patterns.add_metric([pattern], float(pattern == report.pattern))
    yield patterns
    yield CounterMetricFamily(
        "kv_cache_policy_switches", "Changes of leader.", value=report.switched
    )
    yield GaugeMetricFamily(
        "kv_cache_optimum_hit_ratio",
        "About what nobody could have bettered, knowing the future.",
        value=report.optimum_hit_ratio,
    )
    if report.shadow_hit_ratios:
        best = max(report.shadow_hit_ratios.values())
        yield GaugeMetricFamily(
            "kv_cache_policy_regret_ratio",
            "Hit ratio that the best single order would have had more since the start.",
            value=best - hits / max(1, report.requests),
        )
    if report.gain_if_larger is not None:
        yield GaugeMetricFamily(
            "kv_cache_gain_if_larger",
            "Hit ratio that a quarter more memory would add.",
            value=report.gain_if_larger,
        )
