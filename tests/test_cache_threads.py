"""Threads on one ``Cache``: every history must have an order in which it makes sense.

Without a GIL these races are real; with one, a short switch interval provokes what it can.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pytest

import blatam_kv as kv
from blatam_kv._core import policies

ABSENT = "absent"


@pytest.fixture(autouse=True)
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@dataclass(frozen=True)
class Event:
    """One operation on one key, from invoked to returned."""

    name: str
    argument: int
    result: object
    invoked: int
    returned: int


def step(state: object, event: Event) -> tuple[bool, object]:
    """Whether a register in this state could have answered so, and its next state."""
    if event.name == "get":
        return event.result == state, state
    if event.name == "put":
        return True, event.argument
    if event.name == "pop":
        return event.result == state, ABSENT
    if event.name == "delete":
        return event.result == (state != ABSENT), ABSENT
    if event.name == "setdefault":
        after = event.argument if state == ABSENT else state
        return event.result == after, after
    raise AssertionError(event.name)


def has_an_order(threads: list[list[Event]]) -> bool:
    """Brute force: some order that respects time explains every result."""

    @cache
    def search(done: tuple[int, ...], state: object) -> bool:
        heads = [t[i] for t, i in zip(threads, done, strict=True) if i < len(t)]
        if not heads:
            return True
        horizon = min(head.returned for head in heads)
        for number, (events, i) in enumerate(zip(threads, done, strict=True)):
            if i == len(events) or events[i].invoked > horizon:
                continue
            legal, after = step(state, events[i])
            advanced = (*done[:number], i + 1, *done[number + 1 :])
            if legal and search(advanced, after):
                return True
        return False

    return search((0,) * len(threads), ABSENT)


class Slow:
    """A key whose equality runs Python code, so that lookups let go of the cache in the middle."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and other.name == self.name


def perform(shared: kv.Cache[Any, Any], key: object, name: str, argument: int) -> Event:
    operations: dict[str, Callable[[], object]] = {
        "get": lambda: shared.get(key, ABSENT),
        "put": lambda: shared.put(key, argument),
        "pop": lambda: shared.pop(key, ABSENT),
        "delete": lambda: shared.delete(key),
        "setdefault": lambda: shared.setdefault(key, argument),
    }
    invoked = time.perf_counter_ns()
    result = operations[name]()
    return Event(name, argument, result, invoked, time.perf_counter_ns())


@pytest.mark.parametrize("kind", ["int", "slow"])
def test_histories_are_linearizable(kind: str) -> None:
    names = ["get", "get", "put", "put", "pop", "delete", "setdefault"]
    with ThreadPoolExecutor(3) as pool:
        for seed in range(400):
            shared: kv.Cache[Any, Any] = kv.Cache(capacity=100)
            barrier = threading.Barrier(3)

            def work(
                thread: int,
                seed: int = seed,
                shared: kv.Cache[Any, Any] = shared,
                barrier: threading.Barrier = barrier,
            ) -> list[tuple[int, Event]]:
                rng = Random(seed * 3 + thread)
                plan = [(rng.randrange(2), rng.choice(names)) for _ in range(6)]
                # A key object of its own: equal, not identical.
                keys: list[object] = [Slow("a"), Slow("b")] if kind == "slow" else [10**12, 7]
                barrier.wait()
                return [
                    (k, perform(shared, keys[k], name, thread * 100 + i))
                    for i, (k, name) in enumerate(plan)
                ]

            histories = list(pool.map(work, range(3)))
            for key in range(2):
                threads = [[event for k, event in h if k == key] for h in histories]
                assert has_an_order(threads), f"seed {seed}, key {key}: {threads}"


def test_the_search_itself_rejects_what_cannot_be() -> None:
    put = Event("put", 1, None, 0, 1)
    assert has_an_order([[put], [Event("get", 0, 1, 2, 3)]])
    assert has_an_order([[put], [Event("get", 0, ABSENT, 0, 3)]])
    assert not has_an_order([[put], [Event("get", 0, ABSENT, 2, 3)]])
    assert not has_an_order([[put], [Event("get", 0, 2, 2, 3)]])
    assert not has_an_order([[Event("pop", 0, 1, 2, 3)], [Event("pop", 0, 1, 2, 3)], [put]])


@pytest.mark.parametrize("policy", policies())
def test_every_operation_at_once_keeps_the_bound_and_the_books(policy: str) -> None:
    left: list[int] = []
    shared: kv.Cache[Any, int] = kv.Cache(
        capacity=40, policy=policy, ttl=60, idle_ttl=30, on_evict=lambda *_: left.append(1)
    )
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = Random(seed)
        keys: list[Any] = [n if n % 2 else f"key {n}" for n in range(120)]
        for turn in range(4000):
            n = rng.randrange(120)
            key = keys[n]
            action = rng.randrange(12)
            if action < 5:
                value = shared.get(key)
                if value not in (None, n):
                    wrong.append((key, value))
            elif action < 8:
                shared.put(key, n, cost=1 + n % 3)
            elif action == 8:
                shared.delete(key)
            elif action == 9:
                batch = [rng.randrange(120) for _ in range(20)]
                for m, value in zip(batch, shared.get_many([keys[m] for m in batch]), strict=True):
                    if value not in (None, m):
                        wrong.append((m, value))
            elif action == 10:
                if shared.pin(key):
                    shared.unpin(key)
                shared.touch(key)
            elif turn % 50 == 0:
                shared.resize(30 + rng.randrange(10))
                shared.keys()
                shared.expire()
            if len(shared) > 40:
                wrong.append(len(shared))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong
    stats = shared.stats()
    assert stats.pinned == 0
    assert (
        stats.inserts - stats.entries == sum(stats.evictions.values()) - stats.evictions["replaced"]
    )
    assert len(left) == sum(stats.evictions.values())
    assert sorted(map(str, shared.keys())) == sorted({str(key) for key in shared})


@pytest.mark.free_threaded
def test_without_a_gil_it_stays_off() -> None:
    enabled: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    if enabled is None or "free-threading" not in sys.version:
        pytest.skip("this Python has a GIL")
    assert not enabled()
