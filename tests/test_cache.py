"""What users of ``Cache`` rely on, one promise a test."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import math
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv.flights import Flight, Flights


def test_mapping_face() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    cache["a"] = 1
    cache.put("b", 2)
    cache.put_many({"c": 3})
    cache.put_many(iter([("d", 4), ("e", 5)]), ttl=60)
    assert cache["a"] == 1
    assert "b" in cache
    assert "x" not in cache
    assert cache.get("x") is None
    assert cache.get("x", 7) == 7
    assert cache.get("x", default=7) == 7
    assert sorted(cache) == ["a", "b", "c", "d", "e"]
    assert sorted(cache.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
    assert sorted(cache.values()) == [1, 2, 3, 4, 5]
    assert cache.get_many(["a", "x"]) == [1, None]
    assert cache.pop("a") == 1
    assert cache.pop("a", None) is None
    with pytest.raises(KeyError, match="a"):
        cache.pop("a")
    del cache["b"]
    with pytest.raises(KeyError, match="b"):
        del cache["b"]
    with pytest.raises(KeyError, match="b"):
        cache["b"]
    assert len(cache) == 3
    cache.clear()
    assert len(cache) == 0
    assert repr(cache) == "<Cache policy='lru', entries=0, capacity=10>"


def test_default_policy_is_lru_and_stats_name_the_reasons() -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=2)
    for key in (1, 2, 3):
        cache[key] = key
    cache[3] = 4
    cache.delete(2)
    cache.get(3)
    cache.get(9)
    stats = cache.stats()
    assert (stats.policy, stats.capacity, stats.capacity_bytes) == ("lru", 2, None)
    assert stats.evictions == {
        "capacity": 1,
        "expired": 0,
        "replaced": 1,
        "deleted": 1,
        "cleared": 0,
    }
    assert (stats.hits, stats.misses, stats.hit_ratio, stats.inserts) == (1, 1, 0.5, 3)
    assert kv.Cache().stats().hit_ratio == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1048576", 2**20), ("512MiB", 2**29), ("2GB", 2 * 10**9), ("1.5 KiB", 1536), ("4k", 4000)],
)
def test_capacity_bytes_reads_units(text: str, expected: int) -> None:
    assert kv.Cache(capacity_bytes=text).stats().capacity_bytes == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be from 1"),
        ({"capacity": -1}, ValueError, "capacity must be from 1"),
        ({"capacity": 2**40}, ValueError, "capacity must be from 1"),
        ({"capacity": 1.5}, TypeError, "capacity must be an int, not float"),
        ({"capacity": True}, TypeError, "capacity must be an int, not bool"),
        ({"capacity_bytes": "2 parsecs"}, ValueError, "write 1048576, '512MiB' or '2GB'"),
        ({"capacity_bytes": "9" * 400}, ValueError, "must be from 1 to 2"),
        ({"capacity_bytes": "0"}, ValueError, "from 1 to"),
        ({"capacity_bytes": math.nan}, TypeError, "int or a str, not float"),
        ({"policy": "mru"}, ValueError, "choose one of lru, lfu, fifo"),
        ({"ttl": 0}, ValueError, "ttl must be a positive number"),
        ({"ttl": -3}, ValueError, "ttl must be a positive number"),
        ({"ttl": math.nan}, ValueError, "ttl must be a positive number"),
        ({"ttl": "soon"}, ValueError, "ttl must be a positive number"),
        ({"sizeof": 3}, TypeError, "sizeof must be callable"),
        ({"on_evict": 3}, TypeError, "on_evict must be callable"),
        ({"clock": 3}, TypeError, "clock must be callable"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kv.Cache(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.get(), "missing the argument 'key'"),
        (lambda c: c.get(1, 2, 3), "at most 2 positional"),
        (lambda c: c.get(1, defualt=2), "unexpected keyword argument 'defualt'"),
        (lambda c: c.get(1, key=2), "multiple values for argument 'key'"),
        (lambda c: c.put(1, 2, 3), "at most 2 positional"),
        (lambda c: c.put(1, 2, size=1.5), "size must be an int"),
        (lambda c: c.get([]), "unhashable"),
        (lambda c: c.put([], 1), "unhashable"),
        (lambda c: [] in c, "unhashable"),
        (lambda c: c.get_many(3), "iterable of keys"),
        (lambda c: c.put_many([3]), "pairs"),
    ],
)
def test_bad_calls_are_type_errors(call: Callable[[Any], object], message: str) -> None:
    cache: kv.Cache[Any, Any] = kv.Cache(capacity=2)
    cache["kept"] = 1
    with pytest.raises(TypeError, match=message):
        call(cache)
    assert cache.items() == [("kept", 1)]


def test_bad_numbers_in_put_store_nothing() -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=2)
    for options in ({"size": -1}, {"size": 2**70}, {"ttl": 0}, {"ttl": math.nan}, {"ttl": -1}):
        with pytest.raises(ValueError, match="must be"):
            cache.put(1, 1, **options)
    with pytest.raises(ValueError, match="pairs"):
        cache.put_many([(1, 2, 3)])  # type: ignore[list-item]
    assert len(cache) == 0


def test_oversized_value_is_refused_and_evicts_nothing() -> None:
    cache: kv.Cache[str, bytes] = kv.Cache(capacity_bytes=100, sizeof=len)
    cache["a"] = b"x" * 60
    with pytest.raises(kv.EntryTooLarge, match="takes 101 bytes but the whole cache holds 100"):
        cache["b"] = b"x" * 101
    with pytest.raises(kv.EntryTooLarge):
        cache["a"] = b"x" * 101
    assert cache["a"] == b"x" * 60
    assert cache.stats().refused == 2
    assert cache.stats().bytes == 60


def test_everything_pinned_leaves_no_room() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=1)
    cache["a"] = 1
    assert cache.pin("a")
    with pytest.raises(kv.NoRoom, match="unpin something or raise the capacity"):
        cache["b"] = 2
    cache["a"] = 3
    assert cache.unpin("a")
    assert not cache.unpin("a")
    cache["b"] = 2
    assert cache.keys() == ["b"]


def test_default_sizeof_knows_arrays_and_asks_where_it_does_not() -> None:
    cache: kv.Cache[str, object] = kv.Cache(capacity_bytes="1MiB")
    cache["array"] = np.zeros(1000, np.float32)
    assert cache.stats().bytes == 4000
    cache["text"] = "hello"
    assert cache.stats().bytes == 4000 + sys.getsizeof("hello")
    with pytest.raises(TypeError, match="pass size= to put, or sizeof= to Cache"):
        cache["list"] = [1, 2]
    cache.put("list", [1, 2], size=88)


@pytest.mark.parametrize(
    ("answer", "error"),
    [(-1, ValueError), (1.5, TypeError), (None, TypeError), (2**80, ValueError)],
)
def test_nonsense_from_sizeof_is_an_error_that_stores_nothing(
    answer: Any, error: type[Exception]
) -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity_bytes=10, sizeof=lambda _: answer)
    with pytest.raises(error, match="what sizeof returns"):
        cache[1] = 1
    assert len(cache) == 0


def test_ttl_counts_from_the_put() -> None:
    now = 0.0
    cache: kv.Cache[str, int] = kv.Cache(ttl=10, clock=lambda: now)
    cache.put("short", 1, ttl=5)
    cache.put("default", 2)
    cache.put("for ever", 3, ttl=math.inf)
    now = 4.999
    assert cache.get_many(["short", "default", "for ever"]) == [1, 2, 3]
    now = 5.0
    assert "short" not in cache
    assert cache.get("short") is None
    now = 1e6
    assert cache.keys() == ["for ever"]
    assert cache["for ever"] == 3
    cache.expire()
    assert cache.stats().evictions["expired"] == 2


def test_real_clock_is_used_by_default() -> None:
    cache: kv.Cache[str, int] = kv.Cache(ttl=1e-9)
    cache["a"] = 1
    assert cache.get("a") is None


@pytest.mark.parametrize("answer", [-1.0, math.nan, 1e30, "noon"])
def test_nonsense_from_the_clock_is_an_error(answer: Any) -> None:
    cache: kv.Cache[str, int] = kv.Cache(ttl=10, clock=lambda: answer)
    with pytest.raises((ValueError, TypeError)):
        cache["a"] = 1


# ---- keys that run code -------------------------------------------------------------------------


class Key:
    """Equal by name; calls ``on_compare`` at each comparison."""

    on_compare: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, name: str, hash_value: int = 7) -> None:
        self.name = name
        self.hash_value = hash_value

    def __hash__(self) -> int:
        return self.hash_value

    def __eq__(self, other: object) -> bool:
        type(self).on_compare()
        return isinstance(other, Key) and self.name == other.name


@pytest.fixture(autouse=True)
def _quiet_keys() -> Any:
    yield
    Key.on_compare = staticmethod(lambda: None)


def test_keys_that_collide_are_told_apart_by_equality() -> None:
    cache: kv.Cache[Key, int] = kv.Cache(capacity=100)
    for i in range(50):
        cache[Key(str(i))] = i
    assert [cache[Key(str(i))] for i in range(50)] == list(range(50))
    cache[Key("7")] = 70
    assert cache[Key("7")] == 70
    assert len(cache) == 50


def test_keys_compare_across_types_as_in_a_dict() -> None:
    cache: kv.Cache[object, str] = kv.Cache(capacity=10)
    cache[1] = "one"
    assert cache[1.0] == "one"
    assert cache[True] == "one"
    nan = math.nan
    cache[nan] = "nan"
    assert cache[nan] == "nan"
    assert cache.get(float("nan")) is None
    cache["\N{LATIN SMALL LETTER E WITH ACUTE}"] = "e"
    assert cache.get("e") is None
    big = 2**61 - 1  # hash(big) == hash(0)
    cache[0] = "zero"
    assert cache.get(big) is None
    assert hash(big) == hash(0)


def test_equality_that_raises_reaches_the_caller_and_changes_nothing() -> None:
    cache: kv.Cache[Key, int] = kv.Cache(capacity=10)
    cache[Key("a")] = 1

    def fail() -> None:
        raise RuntimeError("no comparison today")

    Key.on_compare = staticmethod(fail)
    for call in (
        lambda: cache.get(Key("a")),
        lambda: cache.put(Key("b"), 2),
        lambda: cache.delete(Key("a")),
        lambda: Key("a") in cache,
        lambda: cache.pin(Key("a")),
        lambda: cache.get_many([Key("a")]),
    ):
        with pytest.raises(RuntimeError, match="no comparison today"):
            call()
    Key.on_compare = staticmethod(lambda: None)
    assert cache[Key("a")] == 1
    assert len(cache) == 1


def test_hash_that_raises_reaches_the_caller() -> None:
    class Bad:
        def __hash__(self) -> int:
            raise RuntimeError("no hash")

    cache: kv.Cache[object, int] = kv.Cache(capacity=1)
    with pytest.raises(RuntimeError, match="no hash"):
        cache.get(Bad())


@pytest.mark.parametrize("meddle", ["clear", "delete", "fill", "replace"])
def test_equality_that_changes_the_cache_is_survived(meddle: str) -> None:
    cache: kv.Cache[Key, object] = kv.Cache(capacity=4)
    calls = 0

    def reenter() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            return
        if meddle == "clear":
            cache.clear()
        elif meddle == "delete":
            cache.delete(Key("a"))
        elif meddle == "fill":
            for i in range(10):
                cache.put(Key(f"{calls} {i}", hash_value=7), i)
        else:
            cache.put(Key("a"), "new")

    for name in "abcd":
        cache[Key(name)] = name * 100
    Key.on_compare = staticmethod(reenter)
    cache.get(Key("d"))
    calls = 0
    cache.put(Key("e"), "e")
    calls = 0
    cache.delete(Key("c"))
    Key.on_compare = staticmethod(lambda: None)
    assert len(cache) <= 4
    assert sorted(k.name for k in cache) == sorted({k.name for k in cache})


def test_string_subclass_with_its_own_equality_is_respected() -> None:
    class Loose(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("a")

    cache: kv.Cache[object, int] = kv.Cache(capacity=2)
    cache["a"] = 1
    assert cache[Loose("other")] == 1


# ---- callbacks ----------------------------------------------------------------------------------


def test_on_evict_may_use_the_cache() -> None:
    spilled: dict[int, int] = {}
    cache: kv.Cache[int, int]

    def spill(key: int, value: int, reason: str) -> None:
        if reason == "capacity":
            spilled[key] = value
            cache.get(key)
            if key < 3:
                cache.put(key + 100, value)

    cache = kv.Cache(capacity=3, on_evict=spill)
    for i in range(10):
        cache[i] = i
    assert len(cache) == 3
    assert set(range(7)) <= set(spilled)


def test_on_evict_that_raises_is_reported_and_the_put_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda problem: reported.append(problem.exc_value))

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    cache: kv.Cache[int, int] = kv.Cache(capacity=1, on_evict=fail)
    cache[1] = 1
    cache[2] = 2
    assert cache.items() == [(2, 2)]
    assert [str(error) for error in reported] == ["disk full"]


def test_value_destructor_may_use_the_cache() -> None:
    cache: kv.Cache[int, object] = kv.Cache(capacity=2)

    class Value:
        def __init__(self, i: int) -> None:
            self.i = i

        def __del__(self) -> None:
            cache.put(self.i + 1000, "buried")
            cache.get(self.i)

    for i in range(20):
        cache[i] = Value(i)
    cache.clear()
    assert len(cache) <= 2


# ---- memory -------------------------------------------------------------------------------------


def test_cycle_through_the_cache_is_collected() -> None:
    class Node:
        cache: Any

    cache: kv.Cache[str, Node] = kv.Cache(capacity=2)
    node = Node()
    node.cache = cache
    cache["node"] = node
    gone = weakref.ref(node)
    del node, cache
    gc.collect()
    assert gone() is None


def test_weak_reference_and_subclass() -> None:
    class Named(kv.Cache[str, int]):
        def __init__(self, name: str) -> None:
            super().__init__(capacity=5)
            self.name = name

    cache = Named("mine")
    cache["a"] = 1
    gone = weakref.ref(cache)
    assert gone() is cache
    assert cache.name == "mine"
    del cache
    gc.collect()
    assert gone() is None


def test_references_are_balanced() -> None:
    key, value = object(), object()
    counts = sys.getrefcount(key), sys.getrefcount(value)
    cache: kv.Cache[object, object] = kv.Cache(capacity=2, on_evict=lambda *_: None)
    for _ in range(100):
        cache.put(key, value)
        cache.get(key)
        cache.peek(key)
        cache[key]
        cache.get_many([key, 1])
        cache.keys()
        cache.items()
        assert key in cache
        cache.pin(key)
        cache.unpin(key)
        cache.put(1, 1)
        cache.put(2, 2)
        cache.pop(key, None)
        cache.put(key, value)
        cache.delete(key)
        cache.put(key, value)
        cache.clear()
    assert (sys.getrefcount(key), sys.getrefcount(value)) == counts


def test_uninitialised_cache_says_so() -> None:
    class Forgetful(kv.Cache[int, int]):
        def __init__(self) -> None:
            pass

    cache = Forgetful()
    with pytest.raises(RuntimeError, match=r"super\(\).__init__\(\)"):
        cache.get(1)
    with pytest.raises(RuntimeError, match="not initialised"):
        len(cache)
    ready: kv.Cache[int, int] = kv.Cache(capacity=1)
    with pytest.raises(RuntimeError, match="already initialised"):
        ready.__init__(capacity=2)  # type: ignore[misc]


def test_cache_refuses_to_be_pickled_or_copied() -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=1)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(cache)


def test_bookkeeping_stays_small() -> None:
    for policy, most in (("lru", 64), ("fifo", 64), ("lfu", 96)):
        cache: kv.Cache[int, int] = kv.Cache(capacity=100_000, policy=policy)
        for i in range(300_000):
            cache[i] = i
        assert cache.stats().overhead_bytes / len(cache) < most


# ---- setdefault ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(), st.booleans())))
def test_setdefault_is_a_dicts(steps: list[tuple[int, int | None, bool]]) -> None:
    cache: kv.Cache[int, int | None] = kv.Cache(capacity=10)
    model: dict[int, int | None] = {}
    hits = 0
    for key, value, forget in steps:
        if forget:
            assert cache.delete(key) == (key in model)
            model.pop(key, None)
            continue
        hits += key in model
        assert cache.setdefault(key, value) == model.setdefault(key, value)
        assert dict(cache.items()) == model
    assert cache.stats().hits == hits


def test_setdefault_replaces_what_has_expired() -> None:
    now = 0.0
    cache: kv.Cache[str, int] = kv.Cache(capacity=10, clock=lambda: now)
    assert cache.setdefault("k", 1, ttl=5) == 1
    now = 4.0
    assert cache.setdefault("k", 2) == 1
    now = 5.0
    assert cache.setdefault("k", 3) == 3
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.evictions["expired"]) == (1, 2, 1)


def test_setdefault_that_is_refused_stores_nothing() -> None:
    cache: kv.Cache[str, bytes] = kv.Cache(capacity_bytes=10, sizeof=len)
    with pytest.raises(kv.EntryTooLarge):
        cache.setdefault("k", b"x" * 11)
    assert "k" not in cache


def test_of_a_thousand_threads_one_sets_the_default() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    answers: list[int] = []
    gate = threading.Event()

    def ask(mine: int) -> None:
        gate.wait()
        answers.append(cache.setdefault("k", mine))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(1000)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == [cache["k"]] * 1000
    assert (cache.stats().inserts, cache.stats().misses) == (1, 1)


# ---- single flight ------------------------------------------------------------------------------


def test_thousand_threads_compute_once() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    calls = 0
    gate = threading.Event()

    def compute() -> int:
        nonlocal calls
        calls += 1
        gate.wait()
        return 42

    def ask() -> None:
        answers.append(cache.get_or_compute("key", compute))

    answers: list[int] = []
    threads = [threading.Thread(target=ask) for _ in range(1000)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == [42] * 1000
    assert calls == 1


def test_thousand_tasks_compute_once() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    calls = 0

    async def compute() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return 42

    async def main() -> list[int]:
        return await asyncio.gather(*(cache.aget_or_compute("k", compute) for _ in range(1000)))

    assert asyncio.run(main()) == [42] * 1000
    assert calls == 1


def test_threads_and_tasks_share_one_flight() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    started, gate = threading.Event(), threading.Event()

    def compute() -> int:
        started.set()
        gate.wait()
        return 1

    async def never() -> int:
        raise AssertionError("a second computation")

    async def main() -> int:
        waiting = asyncio.create_task(cache.aget_or_compute("k", never))
        await asyncio.sleep(0)
        gate.set()
        return await waiting

    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(cache.get_or_compute, "k", compute)
        started.wait()
        assert asyncio.run(main()) == 1
        assert leader.result() == 1


def test_exception_reaches_every_waiter_and_is_not_cached() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    started, gate = threading.Event(), threading.Event()

    def fail() -> int:
        started.set()
        gate.wait()
        raise LookupError("model is down")

    with ThreadPoolExecutor(5) as pool:
        leader = pool.submit(cache.get_or_compute, "k", fail)
        started.wait()
        waiters = [pool.submit(cache.get_or_compute, "k", fail) for _ in range(4)]
        gate.set()
        for future in (leader, *waiters):
            with pytest.raises(LookupError, match="model is down"):
                future.result()
    assert cache.get_or_compute("k", lambda: 1) == 1


def test_asking_for_the_key_being_computed_is_an_error_not_a_deadlock() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    with pytest.raises(kv.ReentrantComputation, match="would wait for itself"):
        cache.get_or_compute("k", lambda: cache.get_or_compute("k", lambda: 1))
    assert cache.get_or_compute("a", lambda: cache.get_or_compute("b", lambda: 2)) == 2

    async def again() -> int:
        return await cache.aget_or_compute("c", again)

    with pytest.raises(kv.ReentrantComputation):
        asyncio.run(cache.aget_or_compute("c", again))


def test_cancelling_one_waiter_hurts_no_other() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    calls = 0

    async def main() -> None:
        gate = asyncio.Event()

        async def compute() -> int:
            nonlocal calls
            calls += 1
            await gate.wait()
            return 5

        first = asyncio.create_task(cache.aget_or_compute("k", compute))
        await asyncio.sleep(0)
        second = asyncio.create_task(cache.aget_or_compute("k", compute))
        third = asyncio.create_task(cache.aget_or_compute("k", compute))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await third == 5
        for cancelled in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(main())
    assert calls == 1
    assert cache["k"] == 5


def test_a_computation_cancelled_before_its_first_step_blocks_no_one() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)

    async def compute() -> int:
        return 7

    async def hasty() -> None:
        asyncio.create_task(cache.aget_or_compute("k", compute))  # noqa: RUF006 - cancelled below
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(hasty())
    assert asyncio.run(cache.aget_or_compute("k", compute)) == 7
    assert cache.get_or_compute("k", lambda: 8) == 7


def test_a_loop_that_was_closed_in_the_middle_leaves_the_key_to_others() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)

    async def never() -> int:
        await asyncio.Event().wait()
        return 1

    async def begin() -> None:
        asyncio.create_task(cache.aget_or_compute("k", never))  # noqa: RUF006 - nobody waits for it
        while not cache._flights._under_way:
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()  # as asyncio.run never does, but scripts of their own
    assert cache.get_or_compute("k", lambda: 2) == 2
    assert asyncio.run(cache.aget_or_compute("k", never)) == 2


def test_who_meets_a_flight_at_the_moment_it_lands_takes_off_anew() -> None:
    class Late(Flights[str, int]):
        def future_of(self, flight: Flight[int], *, waits: bool = False) -> Any:
            self.land("k", flight, value=1)
            return super().future_of(flight, waits=waits)

    flights = Late()
    first, future = flights.join("k")
    assert future is None
    second, future = flights.join("k")
    assert future is None
    assert second is not first
    assert flights.collapsed == 0


def test_interrupted_leader_is_replaced() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    started, gate = threading.Event(), threading.Event()

    def interrupted() -> int:
        started.set()
        gate.wait()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.get_or_compute, "k", interrupted)
        started.wait()
        follower = pool.submit(cache.get_or_compute, "k", lambda: 3)
        gate.set()
        with pytest.raises(KeyboardInterrupt):
            leader.result()
        assert follower.result() == 3


def test_value_the_cache_refuses_is_returned_all_the_same() -> None:
    cache: kv.Cache[str, bytes] = kv.Cache(capacity_bytes=10, sizeof=len)
    assert cache.get_or_compute("k", lambda: b"x" * 99) == b"x" * 99
    assert "k" not in cache
    assert cache.stats().refused == 1


def test_get_or_compute_honours_ttl_and_size() -> None:
    now = 0.0
    cache: kv.Cache[str, int] = kv.Cache(capacity_bytes=10, sizeof=lambda _: 1, clock=lambda: now)
    cache.get_or_compute("k", lambda: 1, ttl=5, size=9)
    assert cache.stats().bytes == 9
    now = 6.0
    assert cache.get_or_compute("k", lambda: 2) == 2


# ---- what computing costs -----------------------------------------------------------------------


class Gates(Flights[str, int]):
    """Opens a gate whenever as many callers as it stands for have joined a flight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.gates = {size: threading.Event() for size in sizes}
        self._joined = itertools.count(1)

    def join(self, key: str, *, again: bool = False) -> Any:
        joined = super().join(key, again=again)
        if gate := self.gates.get(next(self._joined)):
            gate.set()
        return joined


class Crowd(kv.Cache[str, int]):
    def __init__(self, *sizes: int) -> None:
        super().__init__(capacity=10)
        self._flights = Gates(*sizes)
        self.gates = self._flights.gates


@pytest.fixture
def seconds_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which computations are timed."""
    now = 100.0

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("blatam_kv.flights.perf_counter", lambda: now)
    return move


def test_loads_are_counted_and_timed_failures_too(seconds_pass: Callable[[float], None]) -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    assert cache.stats().mean_load_seconds == 0.0

    def compute() -> int:
        seconds_pass(2.0)
        return 1

    def fail() -> int:
        seconds_pass(5.0)
        raise LookupError

    cache.get_or_compute("a", compute)
    with pytest.raises(LookupError):
        cache.get_or_compute("b", fail)
    cache.get_or_compute("a", fail)
    cache["c"] = 3
    stats = cache.stats()
    assert (stats.loads, stats.load_failures, stats.load_seconds) == (2, 1, 7.0)
    assert stats.mean_load_seconds == 3.5
    assert stats.collapsed == 0


def test_loads_of_coroutines_are_counted_and_timed(seconds_pass: Callable[[float], None]) -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)

    async def compute() -> int:
        seconds_pass(1.0)
        await asyncio.sleep(0)
        seconds_pass(1.0)
        return 1

    async def fail() -> int:
        await compute()
        raise LookupError

    async def endless() -> int:
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never

    async def main() -> None:
        await asyncio.gather(*(cache.aget_or_compute("a", compute) for _ in range(5)))
        with pytest.raises(LookupError):
            await cache.aget_or_compute("b", fail)
        asyncio.create_task(cache.aget_or_compute("c", endless))  # noqa: RUF006 - dies with the loop
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    stats = cache.stats()
    assert (stats.loads, stats.load_failures, stats.collapsed) == (3, 2, 4)
    assert stats.load_seconds == 4.0


def test_a_thousand_callers_are_one_load_and_the_rest_collapsed() -> None:
    cache = Crowd(1000)

    def compute() -> int:
        cache.gates[1000].wait()
        return 1

    def ask() -> None:
        cache.get_or_compute("k", compute)

    threads = [threading.Thread(target=ask) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert (stats.misses, stats.loads, stats.load_failures, stats.collapsed) == (1000, 1, 0, 999)


def test_a_caller_that_outlives_two_leaders_has_collapsed_once() -> None:
    # Three ask; the two that wait ask again when the first is interrupted; one is left at last.
    cache = Crowd(3, 5, 6)
    gates = iter(cache.gates.values())

    def interrupted() -> int:
        next(gates).wait()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(cache.get_or_compute, "k", interrupted) for _ in range(3)]
        for call in calls:
            with pytest.raises(KeyboardInterrupt):
                call.result()
    stats = cache.stats()
    assert (stats.loads, stats.load_failures, stats.collapsed) == (3, 3, 2)


def test_a_hit_never_reaches_the_counters_of_loads() -> None:
    cache: kv.Cache[str, int] = kv.Cache(capacity=10)
    cache["k"] = 1
    cache._flights = None  # type: ignore[assignment]
    assert cache.get_or_compute("k", lambda: 2) == 1
    assert asyncio.run(cache.aget_or_compute("k", lambda: asyncio.sleep(0, 2))) == 1


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["value", "error", "forget"]))),
)
def test_counters_of_loads_agree_with_a_dict(capacity: int, steps: list[tuple[int, str]]) -> None:
    model: dict[int, int] = {}
    loads = failures = hits = misses = 0
    cache: kv.Cache[int, int] = kv.Cache(
        capacity=capacity, policy="fifo", on_evict=lambda key, *_: model.pop(key, None)
    )

    def compute() -> int:
        if outcome == "error":
            raise LookupError
        return key

    for key, outcome in steps:
        if outcome == "forget":
            cache.delete(key)
            continue
        known = key in model
        fails = not known and outcome == "error"
        try:
            assert cache.get_or_compute(key, compute) == key
        except LookupError:
            assert fails
        hits += known
        misses += not known
        loads += not known
        failures += fails
        if not fails:
            model[key] = key
        stats = cache.stats()
        assert (stats.hits, stats.misses) == (hits, misses)
        assert (stats.loads, stats.load_failures, stats.collapsed) == (loads, failures, 0)


def test_counters_of_loads_are_exact_under_threads() -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=20)
    computed: list[bool] = []

    def work(seed: int) -> None:
        for key in np.random.default_rng(seed).integers(0, 60, 3000).tolist():

            def compute(fails: bool = key % 7 == 0) -> int:
                computed.append(fails)
                if fails:
                    raise LookupError
                return 1

            with suppress(LookupError):
                cache.get_or_compute(key, compute)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    stats = cache.stats()
    assert (stats.loads, stats.load_failures) == (len(computed), sum(computed))
    assert stats.requests == 8 * 3000
    assert stats.loads + stats.collapsed <= stats.misses


def test_threads_keep_the_bound_and_the_values() -> None:
    cache: kv.Cache[int, int] = kv.Cache(capacity=50)
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for key in rng.integers(0, 200, 5000).tolist():
            value = cache.get(key)
            if value is None:
                cache[key] = -key
            elif value != -key:
                wrong.append((key, value))
            if len(cache) > 50:
                wrong.append(len(cache))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong
