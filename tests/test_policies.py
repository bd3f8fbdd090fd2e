"""Every policy beside its slow reference in ``policies/``, and beside published hit ratios."""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policies import REFERENCES
from references import ReferenceCache

import blatam_kv as kv
from blatam_kv._core import policies
from blatam_kv.policy import LEARNING

DATA = Path(__file__).parent / "data"


@cache
def trace_of(name: str) -> list[int]:
    ids = np.frombuffer(lzma.decompress((DATA / f"{name}.u32.xz").read_bytes()), "<u4")
    return [int(key) for key in ids]


def replay(policy: str, capacity: int, trace: list[int], **options: Any) -> None:
    """Get, and put on a miss: the same victims after every request."""
    removed: list[tuple[object, object, str]] = []
    cache: kv.Cache[int, int] = kv.Cache(
        capacity=capacity,
        policy=policy,
        on_evict=lambda *entry: removed.append(entry),
        **options,
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


@pytest.mark.parametrize(
    ("policy", "seed"),
    # The references of those that learn are the slowest by far.
    [(name, seed) for name in policies() for seed in range(1 if name in LEARNING else 3)],
)
@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 25, 90])
def test_victims_on_a_random_trace_are_the_references_step_by_step(
    policy: str, seed: int, capacity: int
) -> None:
    rng = np.random.default_rng(seed)
    trace = (rng.zipf(1.3, 2500) % 200).tolist()
    replay(policy, capacity, trace)


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 90])
@pytest.mark.parametrize(
    ("policy", "option", "value"),
    [
        *[("lfu", "decay", decay) for decay in (1e-9, 0.2, 0.5, 0.9, 0.999, 1.0)],
        *[("tinylfu", "window", window) for window in (1e-9, 0.01, 0.3, 0.8, 1.0)],
        ("adaptive", "interval", 1.0),
        ("pattern", "interval", 0.02),
        *[(name, "shadows", 8) for name in LEARNING],  # of a capacity of 90 they see a sixteenth
    ],
)
def test_victims_with_an_option_are_the_references_step_by_step(
    policy: str, option: str, value: float, capacity: int
) -> None:
    rng = np.random.default_rng(7)
    trace = (rng.zipf(1.3, 2500) % 200).tolist()
    replay(policy, capacity, trace, **{option: value})


@pytest.mark.parametrize("policy", policies())
def test_victims_on_a_real_trace_are_the_references_step_by_step(policy: str) -> None:
    replay(policy, 60, trace_of("lirs_cpp")[:6000])


@pytest.mark.parametrize("policy", LEARNING)
def test_victims_through_a_change_of_leader_are_the_references_step_by_step(policy: str) -> None:
    rng = np.random.default_rng(11)
    loop = np.resize(np.arange(130), 2500)
    noise = rng.random(len(loop)) < 0.1
    loop[noise] = 1000 + rng.integers(0, 60, int(noise.sum()))
    draws = 2000 + rng.zipf(1.2, 1000) % 300
    replay(policy, 90, [*loop.tolist(), *draws.tolist()])


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("seed", range(4))
def test_victims_are_the_references_whatever_is_done(policy: str, seed: int) -> None:
    """Bytes and costs, updates, deletes, pins and new limits, many more steps than hypothesis has."""
    rng = np.random.default_rng(seed)
    removed: list[tuple[object, object, str]] = []
    capacity, capacity_bytes = [(20, None), (None, 300), (12, 120), (40, 400)][seed]
    cache: kv.Cache[int, int] = kv.Cache(
        capacity=capacity,
        capacity_bytes=capacity_bytes,
        policy=policy,
        sizeof=lambda _: 1,
        on_evict=lambda *entry: removed.append(entry),
    )
    model = ReferenceCache(policy, capacity, capacity_bytes)
    keys = (rng.zipf(1.2, 4000) % 90).tolist()
    for step, key in enumerate(keys):
        action = int(rng.integers(100))
        size, cost = int(rng.integers(0, 40)), float(rng.integers(0, 5) * 1.7)
        if action < 65:
            assert cache.get(key) == model.get(key)
        if action < 80 and (action >= 65 or key not in model.entries):
            if model.put(key, step, size, cost=cost) == "stored":
                cache.put(key, step, size=size, cost=cost)
        elif action < 86 and key in model.entries:
            cache.delete(key)
            model.take(key, "deleted")
        elif action < 91 and key in model.entries:
            cache.pin(key)
            model.entries[key].pins += 1
        elif action < 98 and key in model.entries and model.entries[key].pins:
            cache.unpin(key)
            model.entries[key].pins -= 1
        elif action == 99 and capacity is not None and step % 5 == 0:
            capacity = int(rng.integers(1, 40))
            cache.resize(capacity)
            model.resize(capacity)
        assert removed == model.removed, f"step {step}"
        removed.clear()
        model.removed.clear()
    assert len(cache) == len(model.entries)


@pytest.mark.parametrize("policy", LEARNING)
@pytest.mark.parametrize("bound", ["entries", "bytes"])
def test_victims_at_prices_far_apart_are_the_references_step_by_step(
    policy: str, bound: str
) -> None:
    """More octaves than there are shelves for, and others later."""
    rng = np.random.default_rng(13)
    removed: list[tuple[object, object, str]] = []
    capacity, capacity_bytes = (40, None) if bound == "entries" else (None, 1 << 22)
    cache: kv.Cache[int, int] = kv.Cache(
        capacity=capacity,
        capacity_bytes=capacity_bytes,
        policy=policy,
        on_evict=lambda *entry: removed.append(entry),
    )
    model = ReferenceCache(policy, capacity, capacity_bytes)
    for step, key in enumerate((rng.zipf(1.2, 1500) % 150).tolist()):
        spread = 2.0 ** rng.uniform(-14, 14)
        cost = spread * 2.0 ** (step // 50) if bound == "entries" else 1.0
        size = 1 + int(spread * 200) if bound == "bytes" else 1
        assert cache.get(key) == model.get(key)
        if key not in model.entries or step % 11 == 0:
            cache.put(key, step, size=size, cost=cost)
            model.put(key, step, size, cost=cost)
        assert removed == model.removed, f"step {step}"
        removed.clear()
        model.removed.clear()


@pytest.mark.parametrize("policy", LEARNING)
def test_victims_among_blocks_of_many_prices_are_the_references_step_by_step(policy: str) -> None:
    rng = np.random.default_rng(17)
    removed: list[tuple[object, object, str]] = []
    cache: kv.Cache[tuple[int, ...], int] = kv.Cache(
        capacity=40, policy=policy, on_evict=lambda *entry: removed.append(entry)
    )
    model = ReferenceCache(policy, 40)
    for step in range(400):
        whole = (int(rng.zipf(1.3)) % 9, *rng.integers(0, 2, int(rng.integers(1, 9))).tolist())
        prompt = [whole[: at + 1] for at in range(len(whole))]
        cache.begin_request(prompt[-1])
        model.policy.begin_request(prompt[-1])
        for at, block in enumerate(prompt):
            new = block not in model.entries
            assert (block not in cache) == new
            if new:
                cache.put(block, step, cost=4.0**at)
                model.put(block, step, cost=4.0**at)
            if at:
                there = prompt[at - 1] in model.entries
                assert cache.link(prompt[at - 1], block) == there
                if not there:
                    cache.delete(block)
                    model.take(block, "deleted")
                    break
                if new:
                    model.policy.link(prompt[at - 1], block)
        for block in reversed(prompt):
            if cache.touch(block):
                model.use(block)
        assert removed == model.removed, f"step {step}"
        removed.clear()
        model.removed.clear()
