"""Another policy for a cache that is full: nothing leaves, and the order goes on where it stood.

That each change chooses the same victims as the references is for test_cache_model.py.
"""

from __future__ import annotations

import threading

import pytest

import blatam_kv as kv
from blatam_kv._core import policies

LEARNING = ("density", "adaptive", "pattern")


def filled(policy: str, **options: object) -> kv.Cache[str, int]:
    """``a`` to ``d``, used in the order b, a, d, c; ``c`` once more than the others."""
    cache: kv.Cache[str, int] = kv.Cache(capacity=4, policy=policy, **options)  # type: ignore[arg-type]  # its own options
    for number, key in enumerate("abcd"):
        cache.put(key, number)
    for key in "cbadc":
        assert cache.get(key) is not None
    return cache


def evicted(cache: kv.Cache[str, int]) -> list[str]:
    """Who leaves, one after the other."""
    left = []
    for size in (3, 2, 1):
        before = set(cache.keys())
        cache.resize(size)
        left += sorted(before - set(cache.keys()))
    return left


@pytest.mark.parametrize("after", ["lru", "fifo", "lfu", "sieve", "arc", "gdsf"])
def test_who_was_next_to_leave_is_next_to_leave(after: str) -> None:
    cache = filled("lru")
    cache.change_policy(after)
    assert cache.stats().policy == after
    assert evicted(cache) == ["b", "a", "d"]


def test_uses_that_were_counted_go_on_counting() -> None:
    cache = filled("lfu")
    cache.change_policy("gdsf")
    cache.change_policy("lfu")
    for key in "bad":
        cache.get(key)  # as often used as c now, and later
    assert evicted(cache) == ["c", "b", "a"]
    far = filled("lfu")
    for _ in range(2):
        far.get("c")
    far.change_policy("gdsf")
    far.change_policy("lfu")
    for key in "bad":
        far.get(key)  # still not as often as c
    assert evicted(far) == ["b", "a", "d"]
    again = filled("lru")
    again.change_policy("lfu")  # which nobody counted for
    assert evicted(again)[:3] == ["b", "a", "d"]


def test_costs_that_no_policy_asked_for_are_there_for_one_that_does() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=3)
    cache.put("cheap", 1, cost=0.5)
    cache.put("usual", 1)
    cache.put("dear", 1, cost=9)
    cache.get("cheap")
    cache.change_policy("gdsf")
    cache.resize(1)
    assert cache.keys() == ["dear"]


@pytest.mark.parametrize("policy", LEARNING)
def test_a_policy_that_learns_begins_with_nothing_learned(policy: str) -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=50, policy="lfu")
    for key in range(400):
        cache.put(key % 80, key)
    cache.change_policy(policy)
    assert len(cache) == 50
    assert cache.save_policy() == kv.Cache(capacity=50, policy=policy).save_policy()


@pytest.mark.parametrize("before", policies())
@pytest.mark.parametrize("after", policies())
def test_nothing_leaves_and_pins_and_lives_stay(before: str, after: str) -> None:
    now = 0.0
    left: list[object] = []
    cache: kv.Cache[int, int] = kv.Cache(
        capacity_bytes=100,
        policy=before,
        sizeof=lambda value: value,
        ttl=10,
        on_evict=lambda *entry: left.append(entry),
        clock=lambda: now,
    )
    for key in range(40):
        cache.put(key, 3, ttl=5 if key == 39 else None)
    held, left[:] = set(cache.keys()), []
    kept = max(held - {39})
    cache.pin(kept)
    cache.change_policy(after)
    assert set(cache.keys()) == held
    assert left == []
    assert cache.pinned() == [kept]
    assert (cache.stats().bytes, cache.stats().pinned_bytes) == (3 * len(held), 3)
    now = 6.0
    assert cache.get(39) is None
    now = 9.0
    cache.resize(capacity_bytes=3)
    assert cache.keys() == [kept]
    assert cache.get(kept) == 3
    now = 11.0
    assert cache.get(kept) is None


def test_what_cannot_be_changes_nothing() -> None:
    cache = filled("lru")
    for policy, options in (("lifo", {}), ("lru", {"decay": 0.5}), ("lfu", {"decay": 2})):
        with pytest.raises(kv.ConfigError):
            cache.change_policy(policy, **options)
    assert cache.stats().policy == "lru"
    assert evicted(cache) == ["b", "a", "d"]
    prompts: kv.Cache[str, int] = kv.Cache(capacity=4, policy="density")
    prompts.begin_request("b")
    prompts.put("a", 1)
    with pytest.raises(kv.ConfigError, match="blocks of prompts"):
        prompts.change_policy("lru")
    prompts.clear()
    prompts.change_policy("lru")


def test_options_of_the_new_policy_hold() -> None:
    cache = filled("lru")
    cache.change_policy("lfu", decay=0.5)
    cache.clear()  # which makes the policy anew, from the same options
    for key in "aab":
        cache.get_or_compute(key, lambda: 1)
        cache.get(key)
    for _ in range(20):
        cache.put("c", 1)
        cache.put("b", 1)
    cache.resize(2)
    assert set(cache.keys()) == {"b", "c"}


def test_no_reader_misses_while_policies_change() -> None:
    """Two readers, a writer and a stream of changes: what is pinned or fits is always there."""
    cache: kv.Cache[int, int] = kv.Cache(capacity=300, policy="adaptive", ttl=3600)
    for key in range(100):
        cache.put(key, key)
        cache.pin(key)
    stop = threading.Event()
    missed: list[int] = []

    def read() -> None:
        while not stop.is_set():
            missed.extend(key for key in range(100) if cache.get(key) != key)

    def write() -> None:
        key = 1000
        while not stop.is_set():
            cache.put(key, key)
            cache.delete(key - 7)
            key += 1

    threads = [threading.Thread(target=work) for work in (read, read, write)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        for policy in policies():
            cache.change_policy(policy)
    stop.set()
    for thread in threads:
        thread.join()
    assert missed == []
    stats = cache.stats()
    assert stats.pinned == 100
    assert stats.entries == len(cache.keys()) <= 300
    assert stats.inserts - sum(stats.evictions.values()) == stats.entries
