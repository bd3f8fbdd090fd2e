"""What users of ``cached`` rely on: ``inspect`` says which calls are one, ``lru_cache`` counts them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blatam_kv as kv


def calls_of(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    """The function with a list of the arguments of each call it gets."""
    calls: list[Any] = []

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    return counted, calls


# ---- results and attributes ---------------------------------------------------------------------


@pytest.mark.parametrize("result", [42, None, False, 0, "", math.nan, KeyError])
def test_a_result_is_computed_once_whatever_it_is(result: object) -> None:
    function, calls = calls_of(lambda x: result)
    remembered = kv.cached(function)
    assert remembered(1) is result
    assert remembered(1) is result
    assert len(calls) == 1


def test_the_wrapper_looks_like_the_function() -> None:
    def area(width: float, height: float = 2.0, *, unit: str = "m") -> str:
        """Width times height."""
        return f"{width * height} {unit}²"

    area.tag = "kept"  # type: ignore[attr-defined]
    remembered = kv.cached(area)
    assert remembered.__wrapped__ is area
    assert remembered.__name__ == "area"  # type: ignore[attr-defined]
    assert remembered.__qualname__ == area.__qualname__  # type: ignore[attr-defined]
    assert remembered.__module__ == __name__
    assert remembered.__doc__ == "Width times height."
    assert remembered.tag == "kept"  # type: ignore[attr-defined]
    assert inspect.signature(remembered) == inspect.signature(area)
    assert remembered(3) == "6.0 m²"


def test_types_are_kept() -> None:
    @kv.cached
    def plain(x: int, *, y: str = "") -> float:
        return x

    @kv.cached(capacity=3)
    async def awaited(x: int) -> list[int]:
        return [x]

    class Holder:
        @kv.cached
        def method(self, x: int) -> str:
            return str(x)

    assert_type(plain(1, y="a"), float)
    assert_type(awaited(1), Coroutine[Any, Any, list[int]]).close()
    assert_type(Holder().method(1), str)
    assert_type(Holder.method(Holder(), 1), str)
    assert_type(plain.cache_invalidate(1), bool)
    fits: Callable[[int], float] = plain
    assert fits(1) == 1
    with pytest.raises(TypeError):
        plain(1, z=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Holder().method()  # type: ignore[call-arg]


def test_cache_info_clear_and_invalidate() -> None:
    function, calls = calls_of(lambda x, y=2: x + y)
    remembered = kv.cached(capacity=5)(function)
    assert remembered.cache_info() == (0, 0, 5, 0)
    for x in (1, 2, 1):
        remembered(x)
    assert remembered.cache_info() == (1, 2, 5, 2)
    assert remembered.cache_info()._fields == functools.lru_cache(len).cache_info()._fields
    assert remembered.cache_invalidate(1) is True
    assert remembered.cache_invalidate(1) is False
    assert remembered.cache_info().currsize == 1
    remembered(1)
    assert len(calls) == 3
    remembered.cache_clear()
    assert remembered.cache_info().currsize == 0
    remembered(1)
    assert len(calls) == 4
    assert remembered.cache_key(1) in remembered.cache
    assert remembered.cache.stats().loads == 4


@given(st.integers(1, 6), st.lists(st.integers(0, 9)))
def test_counts_and_evicts_as_lru_cache_does(capacity: int, arguments: list[int]) -> None:
    ours, our_calls = calls_of(operator.neg)
    theirs, their_calls = calls_of(operator.neg)
    remembered = kv.cached(capacity=capacity)(ours)
    model = functools.lru_cache(capacity)(theirs)
    for argument in arguments:
        assert remembered(argument) == model(argument)
        assert tuple(remembered.cache_info()) == tuple(model.cache_info())
    assert our_calls == their_calls


# ---- options ------------------------------------------------------------------------------------


def test_every_option_of_a_cache_is_an_option_of_cached() -> None:
    options = set(inspect.signature(kv.Cache.__init__).parameters) - {"self"}
    assert options <= set(inspect.signature(kv.cached).parameters)


def test_128_results_unless_told_otherwise() -> None:
    assert kv.cached(abs).cache_info().maxsize == 128
    assert kv.cached()(abs).cache_info().maxsize == 128
    assert kv.cached(ttl=5)(abs).cache_info().maxsize == 128
    assert kv.cached(capacity=7)(abs).cache_info().maxsize == 7
    assert kv.cached(capacity=None)(abs).cache_info().maxsize is None
    by_bytes = kv.cached(capacity_bytes="1KiB")(abs)
    assert by_bytes.cache_info().maxsize is None
    assert by_bytes.cache.stats().capacity_bytes == 1024


def test_options_reach_the_cache() -> None:
    now = 0.0
    left: list[tuple[object, object, str]] = []
    remembered = kv.cached(
        capacity=2,
        capacity_bytes=100,
        policy="fifo",
        ttl=10,
        sizeof=lambda _: 7,
        on_evict=lambda *entry: left.append(entry),
        clock=lambda: now,
    )(abs)
    remembered(-1)
    stats = remembered.cache.stats()
    assert (stats.policy, stats.capacity, stats.capacity_bytes) == ("fifo", 2, 100)
    assert stats.bytes == 7
    now = 10.0
    remembered(-1)
    assert left == [(remembered.cache_key(-1), 1, "expired")]


def test_options_of_time_and_policy_reach_the_cache() -> None:
    now = 0.0
    idle = kv.cached(idle_ttl=10, clock=lambda: now)(abs)
    idle(-1)
    now = 9.0
    idle(-1)
    now = 18.0
    idle(-1)
    now = 28.0
    idle(-1)
    assert idle.cache_info()[:2] == (2, 2)
    with pytest.raises(kv.ConfigError, match="decay"):
        kv.cached(decay=2.0)(abs)
    with pytest.raises(kv.ConfigError, match="window"):
        kv.cached(window=2.0)(abs)


def test_each_function_gets_a_cache_of_its_own() -> None:
    remember = kv.cached(capacity=5)
    first, second = remember(abs), remember(operator.neg)
    assert (first(1), second(1)) == (1, -1)
    assert first.cache is not second.cache


def test_a_result_the_cache_refuses_is_returned_all_the_same() -> None:
    remembered = kv.cached(capacity_bytes=10, sizeof=len)(lambda x: b"x" * x)
    assert remembered(99) == b"x" * 99
    assert remembered.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, kv.ConfigError, "capacity must be from 1"),
        ({"policy": "mru"}, kv.ConfigError, "unknown policy"),
        ({"cache": {}}, TypeError, "cache must be a blatam_kv.Cache, not dict"),
        ({"cache": kv.Cache(), "capacity": 5}, kv.ConfigError, "give capacity= to that Cache"),
        ({"cache": kv.Cache(), "capacity": None}, kv.ConfigError, "give capacity= to that Cache"),
        ({"cache": kv.Cache(), "ttl": 5, "policy": "lfu"}, kv.ConfigError, "policy=, ttl= to that"),
        ({"key": 3}, TypeError, "key must be a function"),
        ({"key": asyncio.sleep}, TypeError, "that is not awaited"),
        ({"key": len, "typed": True}, kv.ConfigError, "leave one out"),
        ({"capcity": 3}, TypeError, "capcity"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kv.cached(**options)(abs)


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


class Generating:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (generator, "generator is a generator, which is read once"),
        (async_generator, "async_generator is a generator"),
        (functools.partial(generator), "is a generator"),
        (Generating(), "is a generator"),
        (Generating, "Generating is a class: cache a function that returns an instance"),
        (staticmethod(abs), "cached goes below @staticmethod"),
        (classmethod(lambda cls: cls), "cached goes below @classmethod"),
        (property(abs), "cached goes below @property"),
        (128, "cached decorates functions, not 128; options go by name"),
        ("lru", "not 'lru'"),
    ],
)
def test_what_cannot_be_cached_is_refused_when_it_is_decorated(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        kv.cached(function)
    with pytest.raises(TypeError, match=message):
        kv.cached(capacity=5)(function)


# ---- keys ---------------------------------------------------------------------------------------


def none() -> object:
    return ()


def one(a: object) -> object:
    return a


def two(a: object, b: object = 0) -> object:
    return a, b


def fixed(a: object, /, b: object, *, c: object = 1) -> object:
    return a, b, c


def only_named(*, a: object, b: object = 0) -> object:
    return a, b


def many(*a: object) -> object:
    return a


def named(**a: object) -> object:
    return sorted(a.items())


def everything(a: object, /, b: object = 1, *c: object, d: object = 0, **e: object) -> object:
    return a, b, c, d, sorted(e.items())


def awkward(_key: object, __cache: object = 0, *KeyError: object, type: object = 1) -> object:
    return _key, __cache, KeyError, type  # the names that our own code likes


FUNCTIONS = [none, one, two, fixed, only_named, many, named, everything, awkward]
# Equal across types, and tuples that look like the keys of other calls.
VALUES = st.sampled_from([0, 1, 1.0, True, "1", b"1", None, (), (0,), (1,), (1, 0), ((), ())])
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "_key", "__cache", "KeyError", "type"])
CALLS = st.tuples(
    st.lists(VALUES, max_size=3).map(tuple), st.dictionaries(NAMES, VALUES, max_size=2)
)


def seen_by(function: Callable[..., object], call: Any, typed: bool) -> object:
    """The arguments as the function sees them; None for a call that it cannot be given."""
    try:
        bound = inspect.signature(function).bind(*call[0], **call[1])
    except TypeError:
        return None
    bound.apply_defaults()
    args, kwargs = bound.args, bound.kwargs
    types = [*map(type, args), *((name, type(value)) for name, value in sorted(kwargs.items()))]
    return args, kwargs, types if typed else None


@settings(max_examples=400)
@given(
    function=st.sampled_from(FUNCTIONS),
    typed=st.booleans(),
    shared=st.booleans(),
    calls=st.lists(CALLS, min_size=1, max_size=4),
)
def test_calls_have_one_key_where_the_function_sees_equal_arguments(
    function: Callable[..., object], typed: bool, shared: bool, calls: list[Any]
) -> None:
    if shared:
        remembered = kv.cached(typed=typed, cache=kv.Cache(capacity=99))(function)
    else:
        remembered = kv.cached(typed=typed)(function)
    known: list[tuple[object, object]] = []
    for args, kwargs in calls:
        seen = seen_by(function, (args, kwargs), typed)
        if seen is None:
            for call in (remembered, remembered.cache_key, remembered.cache_invalidate):
                with pytest.raises(TypeError, match=f"{function.__name__}.*argument"):
                    call(*args, **kwargs)
            continue
        assert remembered(*args, **kwargs) == function(*args, **kwargs)
        key = remembered.cache_key(*args, **kwargs)
        assert key in remembered.cache
        for other_key, other_seen in known:
            assert (key == other_key) == (seen == other_seen)
        known.append((key, seen))
    assert len(remembered.cache) == len({key for key, _ in known})


def test_every_spelling_of_a_call_is_one_call() -> None:
    remembered = kv.cached(two)
    for _ in range(2):
        assert remembered(1) == (1, 0)
        assert remembered(1, 0) == (1, 0)
        assert remembered(a=1) == (1, 0)
        assert remembered(b=0, a=1) == (1, 0)
    assert remembered.cache_info()[:2] == (7, 1)


def test_typed_tells_equal_arguments_of_other_types_apart() -> None:
    for function, name in ((one, "a"), (many, ""), (named, "z"), (everything, "d")):
        loose, strict = kv.cached(function), kv.cached(typed=True)(function)
        for value in (1, 1.0, True, 1):
            for remembered in (loose, strict):
                call: Any = functools.partial(remembered, "x") if name == "d" else remembered
                call(**{name: value}) if name else call(value)
        assert loose.cache_info()[:2] == (3, 1)
        assert strict.cache_info()[:2] == (1, 3)


def test_key_gets_the_arguments_as_the_function_does() -> None:
    asked: list[Any] = []

    def key(*args: object, **kwargs: object) -> object:
        asked.append((args, kwargs))
        return len(asked) < 3

    remembered = kv.cached(key=key)(everything)
    assert remembered(1) == remembered([2], 3, 4, d=5, z=6) == (1, 1, (), 0, [])
    assert asked == [((1, 1), {"d": 0}), (([2], 3, 4), {"d": 5, "z": 6})]
    assert remembered.cache_key({}) is False
    assert remembered.cache.keys() == [True]
    assert remembered.cache_invalidate([]) is False


def test_key_runs_once_for_each_call() -> None:
    key, asked = calls_of(lambda x: len(x))
    remembered = kv.cached(key=key)(lambda x: sum(x))
    assert [remembered([1, 2]), remembered([3, 4])] == [3, 3]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "name", "kind"),
    [
        (one, ([],), {}, "a", "list"),
        (one, ((1, []),), {}, "a", "tuple"),
        (two, (1,), {"b": {}}, "b", "dict"),
        (fixed, (1, 2), {"c": set()}, "c", "set"),
        (many, (1, 2, bytearray()), {}, r"a\[2\]", "bytearray"),
        (named, (), {"x": 1, "y": []}, "y", "list"),
        (len, ([],), {}, r"args\[0\]", "list"),
    ],
)
def test_an_unhashable_argument_is_named(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, kind: str
) -> None:
    remembered = kv.cached(function)
    message = rf"{function.__name__}\(\) .*argument '{name}' is an unhashable {kind}; pass key="
    for call in (remembered, remembered.cache_key, remembered.cache_invalidate):
        with pytest.raises(TypeError, match=message):
            call(*args, **kwargs)


def test_an_unhashable_self_is_named() -> None:
    class Point:
        def __eq__(self, other: object) -> bool:
            return True

        @kv.cached
        def norm(self) -> int:
            return 1

        @kv.cached(key=id)
        def by_identity(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Point\.norm\(\).*'self' is an unhashable Point"):
        Point().norm()
    assert Point().by_identity() == 1


def test_an_unhashable_default_is_named_at_once() -> None:
    def rounded(x: int, *, places: list[int] = []) -> int:  # noqa: B006 - the very mistake
        return x

    def positional(x: int, places: dict[str, int] = {}) -> int:  # noqa: B006
        return x

    for function, kind in ((rounded, "list"), (positional, "dict")):
        with pytest.raises(TypeError, match=f"'places' is an unhashable {kind}; pass key="):
            kv.cached(function)
    assert kv.cached(key=lambda x, places: x)(rounded)(1) == 1


def test_an_unhashable_key_is_blamed_on_the_key_function() -> None:
    key: Any = lambda x: [x]  # noqa: E731 - no one who checks types gets this far
    remembered = kv.cached(key=key)(one)
    for call in (remembered, remembered.cache_key):
        with pytest.raises(TypeError, match=r"the key= of one\(\) returned an unhashable .*\[1\]"):
            call(1)


class Moody:
    """Compares only with what raises."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        raise self.error("no comparison today")


@pytest.mark.parametrize("error", [TypeError, KeyError, RuntimeError])
def test_an_error_of_a_comparison_is_left_as_it_is(error: type[Exception]) -> None:
    function, calls = calls_of(one)
    remembered = kv.cached(function)
    remembered(Moody(error))
    with pytest.raises(error, match="no comparison today"):
        remembered(Moody(error))
    assert len(calls) == 1


@pytest.mark.parametrize("error", [TypeError, KeyError, LookupError])
def test_an_error_of_the_function_is_not_cached_nor_dressed_up(error: type[Exception]) -> None:
    def fail(x: int) -> int:
        raise problem

    problem = error("mine")
    function, calls = calls_of(fail)
    remembered = kv.cached(function)
    for _ in range(2):
        with pytest.raises(error) as caught:
            remembered(1)
        assert caught.value is problem
        assert caught.value.__context__ is None
    assert len(calls) == 2
    assert remembered.cache_info().currsize == 0
    assert remembered.cache.stats().load_failures == 2


def test_callables_without_parameters_to_read_are_cached_as_spelled() -> None:
    class Adder:
        def __call__(self, x: int, y: int = 1) -> int:
            return x + y

    power: Any = kv.cached(pow)
    assert power(2, 3) == power(2, exp=3) == power(base=2, exp=3) == 8
    assert power.cache_info()[:2] == (0, 3)
    assert power(exp=3, base=2) == 8
    assert power.cache_info()[:2] == (1, 3)
    for add in (Adder(), Adder().__call__, functools.partial(operator.add, 1)):
        remembered = kv.cached(add)
        assert remembered(1) == remembered(1) == 2
        assert remembered.cache_info()[:2] == (1, 1)


def test_a_decorated_function_is_called_as_its_wrapper_wants() -> None:
    def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # claims the parameters of the function, takes others
        def wrapper(*args: Any) -> Any:
            return function("session", *args)

        return wrapper

    @kv.cached
    @with_session
    def load(session: str, key: int) -> str:
        return f"{session} {key}"

    assert load(3) == load(3) == "session 3"
    assert load.cache_info().hits == 1


# ---- methods ------------------------------------------------------------------------------------


class Counter:
    def __init__(self, step: int) -> None:
        self.step = step
        self.calls = 0

    @kv.cached(capacity=10)
    def times(self, n: int = 1) -> int:
        self.calls += 1
        return self.step * n

    @kv.cached
    async def later(self, n: int) -> int:
        self.calls += 1
        return self.step * n

    @property
    @kv.cached
    def double(self) -> int:
        return self.step * 2

    @staticmethod
    @kv.cached
    def static(n: int) -> int:
        return -n

    @classmethod
    @kv.cached
    def made(cls, n: int) -> tuple[type, int]:
        return cls, n


def test_self_is_part_of_the_key() -> None:
    Counter.times.cache_clear()
    a, b = Counter(2), Counter(3)
    assert [a.times(5), b.times(5), a.times(n=5), b.times(5)] == [10, 15, 10, 15]
    assert (a.calls, b.calls) == (1, 1)
    assert a.times.cache_info().currsize == 2
    assert Counter.times.cache_key(a, 5) in Counter.times.cache
    assert Counter.times.cache_invalidate(a, n=5)
    assert a.times(5) == 10
    assert (a.calls, b.calls) == (2, 1)
    a.times.cache_clear()
    assert Counter.times.cache_info().currsize == 0


def test_methods_of_every_kind() -> None:
    a = Counter(2)
    assert [a.double, a.double] == [4, 4]
    assert Counter.static(1) == -1
    made: Any = Counter.made  # mypy binds no class to a decorator's object
    assert made(1) == (Counter, 1)
    assert made.cache_key(Counter, 1) in made.cache

    class Other(Counter):
        pass

    made = Other.made
    assert made(1) == (Other, 1)


def test_a_coroutine_method() -> None:
    a, b = Counter(2), Counter(3)

    async def main() -> Any:
        return await asyncio.gather(a.later(1), b.later(1), a.later(n=1))

    assert asyncio.run(main()) == [2, 3, 2]
    assert (a.calls, b.calls) == (1, 1)


# ---- shared caches ------------------------------------------------------------------------------


def test_functions_that_share_a_cache_never_meet() -> None:
    cache: kv.Cache[Any, Any] = kv.Cache(capacity=100)
    cache[1] = "the user's"
    cache[(1,)] = "own"
    negative = kv.cached(cache=cache)(operator.neg)
    plus = kv.cached(cache=cache)(lambda x: x + 1)
    by_key = kv.cached(cache=cache, key=lambda x: x)(lambda x: x * 10)
    strict = kv.cached(cache=cache, typed=True)(lambda x: x * 100)
    nothing = kv.cached(cache=cache)(lambda: "nothing")
    functions: list[Any] = [negative, plus, by_key, strict]
    for _ in range(2):
        assert [function(1) for function in functions] == [-1, 2, 10, 100]
        assert nothing() == "nothing"
    assert all(function.cache is cache for function in functions)
    assert cache.stats().entries == 7
    plus.cache_clear()
    nothing.cache_clear()
    assert len(cache) == 5
    assert negative.cache_key(1) in cache
    assert plus.cache_key(1) not in cache
    assert negative.cache_invalidate(1)
    assert not negative.cache_invalidate(1)
    assert (cache[1], cache[(1,)]) == ("the user's", "own")


def test_one_function_decorated_twice_is_two_functions_to_a_shared_cache() -> None:
    cache: kv.Cache[Any, Any] = kv.Cache(capacity=100)
    loose, strict = kv.cached(cache=cache)(many), kv.cached(cache=cache, typed=True)(many)
    assert loose(1, (int,)) == (1, (int,))
    assert strict(1) == (1,)
    assert strict.cache_info() == (0, 2, 100, 2)


def test_a_key_in_a_shared_cache_names_its_function() -> None:
    remembered = kv.cached(cache=kv.Cache(capacity=9))(one)
    assert repr(remembered.cache_key("x")) == "(<cached one>, 'x')"


# ---- single flight ------------------------------------------------------------------------------


def test_recursion_with_other_arguments_works() -> None:
    @kv.cached
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(100) == 354224848179261915075
    assert fibonacci.cache_info() == (98, 101, 128, 101)


def test_recursion_with_other_arguments_works_for_coroutines() -> None:
    @kv.cached
    async def fibonacci(n: int) -> int:
        return n if n < 2 else await fibonacci(n - 1) + await fibonacci(n - 2)

    assert asyncio.run(fibonacci(60)) == 1548008755920
    assert fibonacci.cache_info().misses == 61


def test_a_call_that_needs_itself_is_an_error_not_a_deadlock() -> None:
    @kv.cached
    def endless(n: int) -> int:
        return endless(n)

    @kv.cached
    async def endless_later(n: int) -> int:
        return await endless_later(n)

    with pytest.raises(kv.ReentrantComputation, match="wait for itself"):
        endless(1)
    with pytest.raises(kv.ReentrantComputation, match="wait for itself"):
        asyncio.run(endless_later(1))


def test_a_thousand_threads_compute_once() -> None:
    gate = threading.Event()
    calls: list[int] = []
    answers: list[int] = []

    @kv.cached
    def slow(n: int) -> int:
        calls.append(n)
        gate.wait()
        return n * 2

    threads = [threading.Thread(target=lambda: answers.append(slow(21))) for _ in range(1000)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == [42] * 1000
    assert calls == [21]
    assert slow.cache.stats().requests == 1000


def test_a_thousand_tasks_compute_once() -> None:
    calls: list[int] = []

    @kv.cached
    async def slow(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0)
        return n * 2

    async def main() -> list[int]:
        return await asyncio.gather(*(slow(21) for _ in range(1000)))

    assert inspect.iscoroutinefunction(slow)
    assert asyncio.run(main()) == [42] * 1000
    assert asyncio.run(main()) == [42] * 1000
    assert calls == [21]


def test_a_failure_reaches_everyone_who_waits_and_the_next_call_tries_again() -> None:
    started, gate = threading.Event(), threading.Event()
    healthy = False

    @kv.cached
    def flaky(n: int) -> int:
        started.set()
        gate.wait()
        if not healthy:
            raise LookupError("model is down")
        return n

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(flaky, 1)]
        started.wait()
        waiting += [pool.submit(flaky, 1) for _ in range(4)]
        gate.set()
        for future in waiting:
            with pytest.raises(LookupError, match="model is down"):
                future.result()
    healthy = True
    assert flaky(1) == 1


def test_a_failing_coroutine_is_not_cached() -> None:
    failures = iter([LookupError("first"), None])

    @kv.cached
    async def flaky(n: int) -> int:
        if error := next(failures):
            raise error
        return n

    async def main() -> None:
        with pytest.raises(LookupError, match="first"):
            await flaky(1)
        assert await flaky(1) == 1
        assert await flaky(1) == 1

    asyncio.run(main())


def test_cancelling_one_caller_hurts_no_other() -> None:
    calls: list[int] = []

    async def main() -> None:
        gate = asyncio.Event()

        @kv.cached
        async def slow(n: int) -> int:
            calls.append(n)
            await gate.wait()
            return n

        first, second, third = (asyncio.create_task(slow(5)) for _ in range(3))
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
    assert calls == [5]


def test_callables_that_return_coroutines_are_awaited() -> None:
    class Later:
        async def __call__(self, n: int) -> int:
            return n

    async def add(a: int, b: int) -> int:
        return a + b

    later, plus_one = kv.cached(Later()), kv.cached(functools.partial(add, 1))

    async def main() -> list[int]:
        return [await later(3), await later(3), await plus_one(3), await plus_one(3)]

    assert asyncio.run(main()) == [3, 3, 4, 4]
    assert later.cache_info()[:2] == plus_one.cache_info()[:2] == (1, 1)
