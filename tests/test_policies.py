"""Every policy beside its slow reference in ``policies/``, and beside published hit ratios."""

from __future__ import annotations

import csv
import lzma
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from policies import REFERENCES
from references import ReferenceCache

import blatam_kv as kv
from blatam_kv._core import policies

DATA = Path(__file__).parent / "data"


@cache
def trace_of(name: str) -> list[int]:
    ids = np.frombuffer(lzma.decompress((DATA / f"{name}.u32.xz").read_bytes()), "<u4")
    return [int(key) for key in ids]


def replay(policy: str, capacity: int, trace: list[int], **options: float) -> None:
    """Get, and put on a miss: the same victims after every request."""
    removed: list[tuple[object, object, str]] = []
    cache: kv.Cache[int, int] = kv.Cache(
        capacity=capacity,
        policy=policy,
        on_evict=lambda *entry: removed.append(entry),
        **options,  # type: ignore[arg-type]  # decay=, window=
    )
    model = ReferenceCache(policy, capacity, options=options)
    for step, key in enumerate(trace):
        assert cache.get(key) == model.get(key), f"step {step}"
        if key not in model.entries:
            cache.put(key, step)
            model.put(key, step)
        assert removed == model.removed, f"step {step}"
        removed.clear()
        model.removed.clear()
    assert cache.stats().hits == model.hits


def test_every_policy_has_its_reference() -> None:
    assert sorted(REFERENCES) == sorted(policies())


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 25, 90])
def test_victims_on_a_random_trace_are_the_references_step_by_step(
    policy: str, seed: int, capacity: int
) -> None:
    rng = np.random.default_rng(seed)
    trace = (rng.zipf(1.3, 2500) % 200).tolist()
    replay(policy, capacity, trace)


@pytest.mark.parametrize("policy", policies())
def test_victims_on_a_real_trace_are_the_references_step_by_step(policy: str) -> None:
    replay(policy, 60, trace_of("lirs_cpp")[:6000])


# Name in hit_ratios.csv: our policy, its options, and the largest difference allowed. What is exact
# must agree to the digit; for the others implementations differ, in what they remember above all.
PUBLISHED: dict[str, tuple[str, dict[str, float], float]] = {
    "LRU": ("lru", {}, 1e-6),
    "LFU": ("lfu", {}, 1e-6),
    "FIFO": ("fifo", {}, 1e-6),
    "SIEVE": ("sieve", {}, 1e-6),
    "S3FIFO": ("s3fifo", {}, 1e-6),
    "ARC": ("arc", {}, 1e-6),
    "LIRS": ("lirs", {}, 1e-6),
    # Another sketch: ties and collisions decide much on loops, where the larger differences are.
    "WTLFU-1": ("tinylfu", {"window": 0.01}, 0.06),
    "WTLFU-20": ("tinylfu", {"window": 0.20}, 0.045),
    "WTLFU-80": ("tinylfu", {"window": 0.80}, 0.02),
}


def published() -> list[tuple[str, str, int, float]]:
    with (DATA / "hit_ratios.csv").open() as file:
        return [
            (row["trace"], row["policy"], int(row["size"]), float(row["hit_ratio"]))
            for row in csv.DictReader(file)
            if row["policy"] in PUBLISHED
        ]


@pytest.mark.parametrize(("trace", "published_as", "capacity", "expected"), published())
def test_hit_ratio_is_the_published_one(
    trace: str, published_as: str, capacity: int, expected: float
) -> None:
    policy, options, tolerance = PUBLISHED[published_as]
    cache: kv.Cache[int, bool] = kv.Cache(
        capacity=capacity,
        policy=policy,
        **options,  # type: ignore[arg-type]
    )
    get, put = cache.get, cache.put
    for key in trace_of(trace):
        if get(key) is None:
            put(key, True)
    assert cache.stats().hit_ratio == pytest.approx(expected, abs=tolerance)
