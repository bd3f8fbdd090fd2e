"""``Cache`` beside a reference that anyone can read, compared after every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from references import ReferenceCache

import blatam_kv as kv
from blatam_kv._core import policies

KEYS = st.integers(0, 12) | st.sampled_from(["a", "b", b"a", (1, 2), 1.5, ""])


class CacheMachine(RuleBasedStateMachine):
    """Random operations; contents, order of eviction, counts and bytes agree at each step."""

    @initialize(
        policy=st.sampled_from(policies()),
        capacity=st.none() | st.integers(1, 8),
        capacity_bytes=st.none() | st.integers(1, 30),
    )
    def start(self, policy: str, capacity: int | None, capacity_bytes: int | None) -> None:
        self.removed: list[tuple[object, object, str]] = []
        self.model = ReferenceCache(policy, capacity, capacity_bytes)
        self.cache: kv.Cache[object, object] = kv.Cache(
            capacity=capacity,
            capacity_bytes=capacity_bytes,
            policy=policy,
            sizeof=lambda _: 1,
            on_evict=lambda *entry: self.removed.append(entry),
            clock=lambda: self.model.now,
        )
        self.value = 0

    @rule(
        key=KEYS,
        size=st.none() | st.integers(0, 34),
        ttl=st.none() | st.integers(1, 9),
        cost=st.none() | st.integers(0, 9),
    )
    def put(self, key: object, size: int | None, ttl: int | None, cost: int | None) -> None:
        self.value += 1
        of_model = 1.0 if cost is None else float(cost)
        answer = self.model.put(key, self.value, 1 if size is None else size, ttl, of_model)
        if answer == "stored":
            self.cache.put(key, self.value, size=size, ttl=ttl, cost=cost)
        else:
            expected = kv.EntryTooLarge if answer == "too large" else kv.NoRoom
            with pytest.raises(expected):
                self.cache.put(key, self.value, size=size, ttl=ttl, cost=cost)

    @rule(key=KEYS)
    def get(self, key: object) -> None:
        assert self.cache.get(key) == self.model.get(key)

    @rule(key=KEYS)
    def subscript(self, key: object) -> None:
        expected = self.model.get(key)
        if expected is None:
            with pytest.raises(KeyError):
                self.cache[key]
        else:
            assert self.cache[key] == expected

    @rule(keys=st.lists(KEYS, max_size=4))
    def get_many(self, keys: list[object]) -> None:
        assert self.cache.get_many(keys, -1) == [
            -1 if value is None else value for value in map(self.model.get, keys)
        ]

    @rule(key=KEYS)
    def look_without_counting(self, key: object) -> None:
        entry = self.model.entries.get(key)
        assert self.cache.peek(key) == (entry.value if entry else None)
        assert (key in self.cache) == (entry is not None)

    @rule(key=KEYS)
    def touch(self, key: object) -> None:
        known = key in self.model.entries
        assert self.cache.touch(key) == known
        if known:
            self.model.use(key)

    @rule(key=KEYS, pop=st.booleans())
    def remove(self, key: object, pop: bool) -> None:
        entry = self.model.entries.get(key)
        if pop:
            assert self.cache.pop(key, None) == (entry.value if entry else None)
        else:
            assert self.cache.delete(key) == (entry is not None)
        if entry:
            self.model.take(key, "deleted")

    @rule(key=KEYS)
    def pin(self, key: object) -> None:
        entry = self.model.entries.get(key)
        assert self.cache.pin(key) == (entry is not None)
        if entry:
            entry.pins += 1

    @rule(key=KEYS)
    def unpin(self, key: object) -> None:
        entry = self.model.entries.get(key)
        assert self.cache.unpin(key) == bool(entry and entry.pins)
        if entry and entry.pins:
            entry.pins -= 1

    @rule(capacity=st.integers(1, 8))
    def resize(self, capacity: int) -> None:
        self.cache.resize(capacity)
        self.model.resize(capacity)

    @rule(policy=st.sampled_from(policies()))
    def change_policy(self, policy: str) -> None:
        self.cache.change_policy(policy)
        self.model.change_policy(policy)

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds
        self.model.expire()
        self.cache.expire()

    @rule()
    def clear(self) -> None:
        self.model.clear()
        self.cache.clear()

    @invariant()
    def same_contents(self) -> None:
        if not hasattr(self, "cache"):
            return
        model = self.model
        assert dict(self.cache.items()) == {k: e.value for k, e in model.entries.items()}
        assert len(self.cache) == len(model.entries)
        # Order matters for evictions; what expires or is cleared leaves in any order.
        unordered = ("expired", "cleared")
        assert [r for r in self.removed if r[2] not in unordered] == [
            r for r in model.removed if r[2] not in unordered
        ]
        assert sorted(map(repr, self.removed)) == sorted(map(repr, model.removed))
        stats = self.cache.stats()
        assert (stats.hits, stats.misses) == (model.hits, model.misses)
        assert stats.entries == len(model.entries)
        assert stats.bytes == model.bytes()
        pinned = [entry.size for entry in model.entries.values() if entry.pins]
        assert (stats.pinned, stats.pinned_bytes) == (len(pinned), sum(pinned))
        assert stats.policy == model.policy_name
        assert sum(stats.evictions.values()) == len(model.removed)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
