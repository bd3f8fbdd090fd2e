"""Hit ratios beside published ones, and what users of such policies have suffered from."""

from __future__ import annotations

import csv
import lzma
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

import blatam_kv as kv

DATA = Path(__file__).parent / "data"


@cache
def trace_of(name: str, suffix: str = "u32") -> list[int]:
    ids = np.frombuffer(lzma.decompress((DATA / f"{name}.{suffix}.xz").read_bytes()), "<u4")
    return [int(key) for key in ids]


def hit_ratio(policy: str, trace: list[int], capacity: int, **options: float) -> float:
    """Of a get, and a put on a miss, for each request."""
    cache: kv.Cache[int, bool] = kv.Cache(
        capacity=capacity,
        policy=policy,
        **options,  # type: ignore[arg-type]  # decay=, window=
    )
    get, put = cache.get, cache.put
    for key in trace:
        if get(key) is None:
            put(key, True)
    return cache.stats().hit_ratio


def published(*names: str) -> list[tuple[str, str, int, float]]:
    """(trace, name, capacity, hit ratio) from hit_ratios.csv."""
    with (DATA / "hit_ratios.csv").open() as file:
        return [
            (row["trace"], row["policy"], int(row["size"]), float(row["hit_ratio"]))
            for row in csv.DictReader(file)
            if row["policy"] in names
        ]


# Name in hit_ratios.csv: our policy. These agree to the last of its digits.
EXACT = {
    "LRU": "lru",
    "LFU": "lfu",
    "FIFO": "fifo",
    "SIEVE": "sieve",
    "S3FIFO": "s3fifo",
    "ARC": "arc",
    "LIRS": "lirs",
}


@pytest.mark.parametrize(("trace", "name", "capacity", "expected"), published(*EXACT))
def test_hit_ratio_is_the_published_one(
    trace: str, name: str, capacity: int, expected: float
) -> None:
    ratio = hit_ratio(EXACT[name], trace_of(trace), capacity)
    assert ratio == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "window", "worst"),
    [("WTLFU-1", 0.01, 0.04), ("WTLFU-20", 0.2, 0.02), ("WTLFU-80", 0.8, 0.02)],
)
def test_tinylfu_with_a_given_window_is_no_worse_than_published(
    name: str, window: float, worst: float
) -> None:
    """Another sketch has other collisions and ties, which decide much on loops: better on average,
    and nowhere far below."""
    gains = {
        (trace, capacity): hit_ratio("tinylfu", trace_of(trace), capacity, window=window) - expected
        for trace, _, capacity, expected in published(name)
    }
    assert mean(gains.values()) >= 0
    assert min(gains.values()) >= -worst, min(gains, key=lambda cell: gains[cell])


def test_tinylfu_that_adapts_beats_the_reactive_climber_on_average() -> None:
    gains = {
        (trace, capacity): hit_ratio("tinylfu", trace_of(trace), capacity) - expected
        for trace, _, capacity, expected in published("WTHC")
    }
    assert mean(gains.values()) >= 0.001
    assert min(gains.values()) >= -0.06, min(gains, key=lambda cell: gains[cell])


@pytest.mark.parametrize("window", [{}, {"window": 0.01}])
def test_tinylfu_does_not_collapse_where_few_entries_fit(window: dict[str, float]) -> None:
    """libCacheSim 0.3.5 lost 87 points on the first of these."""
    for trace, capacity in [("address_twolf", 74), ("cache2k_web07", 20), ("lirs_2_pools", 99)]:
        lru = hit_ratio("lru", trace_of(trace), capacity)
        assert hit_ratio("tinylfu", trace_of(trace), capacity, **window) > lru - 0.01


def test_tinylfu_lets_old_favourites_go() -> None:
    """Counts are halved, so what was used a lot before a change of taste does not stay for ever."""
    old = [key for _ in range(100) for key in range(50)]
    new = [key for _ in range(100) for key in range(1000, 1050)]
    cache: kv.Cache[int, bool] = kv.Cache(capacity=50, policy="tinylfu", window=0.01)
    for key in old + new:
        if cache.get(key) is None:
            cache.put(key, True)
    assert sum(key in cache for key in new[:50]) >= 45


def test_large_entry_is_not_evicted_at_once_by_tinylfu() -> None:
    """Its window counts entries: larger than a hundredth of the bytes is no reason to go."""
    cache: kv.Cache[str, bool] = kv.Cache(
        capacity_bytes=10_000, policy="tinylfu", window=0.01, sizeof=lambda _: 10
    )
    for number in range(2000):
        cache.setdefault(f"small {number % 900}", True)
    cache.put("large", True, size=5000)
    for number in range(2000):
        assert cache.get("large"), number
        cache.setdefault(f"small {number % 400}", True)


def test_gdsf_gets_most_requests_of_a_web_trace_with_sizes() -> None:
    """What libCacheSim gets with GDSF, in entries of real sizes; LRU is at 20.9 and 29.8 %."""
    trace, sizes = trace_of("adaptsize_request"), trace_of("adaptsize_request", "sz")
    size_of = dict(zip(trace, sizes, strict=True))
    for share, lru, gdsf in [(0.01, 0.209, 0.290), (0.1, 0.298, 0.372)]:
        capacity_bytes = int(share * sum(size_of.values()))
        ratios = {}
        for policy in ("lru", "gdsf"):
            cache: kv.Cache[int, bool] = kv.Cache(
                capacity_bytes=capacity_bytes, policy=policy, sizeof=lambda _: 1
            )
            for key, size in zip(trace, sizes, strict=True):
                if cache.get(key) is None and size <= capacity_bytes:
                    cache.put(key, True, size=size)
            ratios[policy] = cache.stats().hit_ratio
        assert ratios["lru"] == pytest.approx(lru, abs=0.005)
        assert ratios["gdsf"] == pytest.approx(gdsf, abs=0.01)


def test_gdsf_keeps_what_costs_much() -> None:
    cache: kv.Cache[int, bool] = kv.Cache(capacity=10, policy="gdsf")
    for key in range(5):
        cache.put(key, True, cost=30)
    for key in range(100, 120):
        cache.put(key, True)
    assert all(key in cache for key in range(5))
    for key in range(1000, 1200):
        cache.put(key, True)
    assert not any(key in cache for key in range(5))  # but not for ever


def test_lfu_that_fades_follows_a_change_of_taste_and_plain_lfu_does_not() -> None:
    old = [key for _ in range(200) for key in range(50)]
    new = [key for _ in range(60) for key in range(1000, 1040)]
    kept = {}
    for decay in (1.0, 0.9):
        cache: kv.Cache[int, bool] = kv.Cache(capacity=50, policy="lfu", decay=decay)
        for key in old + new:
            if cache.get(key) is None:
                cache.put(key, True)
        kept[decay] = sum(key in cache for key in new[:40])
    assert kept[1.0] <= 1
    assert kept[0.9] == 40
