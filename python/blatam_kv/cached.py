"""``cached``: a function that remembers what it returned, in a ``Cache``.

The call that hits is the one to make short. Each function therefore gets a wrapper written for its
own parameters and compiled once, when it is decorated: Python binds the arguments, fills in the
defaults and complains about wrong ones, and the key is made of local variables. One wrapper for all,
with ``*args`` and ``**kwargs``, took three times as long for one argument; it remains for callables
whose parameters cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial, update_wrapper
from types import FunctionType
from typing import (
    Any,
    Concatenate,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
)

from blatam_kv.cache import Cache
from blatam_kv.errors import ConfigError

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class _Unset:
    """What tells ``capacity=None``, no bound, from no word about it."""

    def __repr__(self) -> str:
        return "128, or none beside capacity_bytes"


_UNSET = cast("Any", _Unset())  # Any: stands in for a capacity


class CacheInfo(NamedTuple):
    """What ``functools.lru_cache`` tells; ``function.cache.stats()`` tells all."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class _Cached(Protocol):
    """What a cached function and a cached method have in common."""

    @property
    def cache(self) -> Cache[Any, Any]: ...  # Any: its keys are the function's own affair

    def cache_info(self) -> CacheInfo:
        """Hits, misses and sizes of ``cache``, so of all functions that share it."""

    def cache_clear(self) -> None:
        """Forget every call of this function. The counters go on."""


class CachedMethod(_Cached, Protocol[P, R_co]):
    """``instance.method``. What needs the instance is asked of the class: ``C.method.cache_key``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class CachedFunction(_Cached, Protocol[P, R_co]):
    """What ``cached`` makes of a function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @property
    def __wrapped__(self) -> Callable[P, R_co]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """The key in ``cache`` under which this call's result is kept."""

    def cache_invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget this call; False where nothing was known of it."""

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> CachedMethod[Q, R]: ...


@overload
def cached(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    *,
    capacity: int | None = ...,
    capacity_bytes: int | str | None = ...,
    policy: str | None = ...,
    ttl: float | None = ...,
    idle_ttl: float | None = ...,
    decay: float | None = ...,
    window: float | None = ...,
    interval: float | None = ...,
    shadows: int | str | None = ...,
    sizeof: Callable[[Any], int] | None = ...,  # Any: the result of a function not yet known
    on_evict: Callable[[Any, Any, str], object] | None = ...,
    clock: Callable[[], float] | None = ...,
    key: Callable[..., Hashable] | None = ...,
    typed: bool = ...,
    cache: Cache[Any, Any] | None = ...,
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
def cached(
    function: Callable[P, R] | None = None,
    /,
    *,
    capacity: int | None = _UNSET,
    capacity_bytes: int | str | None = None,
    policy: str | None = None,
    ttl: float | None = None,
    idle_ttl: float | None = None,
    decay: float | None = None,
    window: float | None = None,
    interval: float | None = None,
    shadows: int | str | None = None,
    sizeof: Callable[[Any], int] | None = None,
    on_evict: Callable[[Any, Any, str], object] | None = None,
    clock: Callable[[], float] | None = None,
    key: Callable[..., Hashable] | None = None,
    typed: bool = False,
    cache: Cache[Any, Any] | None = None,
) -> CachedFunction[P, R] | Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """Remember what a function, a method or a coroutine function returns: ``@cached``,
    ``@cached(capacity=1000, ttl=60)`` or ``@cached(cache=shared)``.

    The options up to ``clock`` are those of ``Cache``; each decorated function gets one of its own.
    Without ``capacity`` and ``capacity_bytes`` it holds 128 results, as functools.lru_cache does;
    ``capacity=None`` is no bound. ``cache`` is a Cache to keep the results in instead: any number of
    functions may share it, their keys never meet.

    Two calls are one where the function sees equal arguments: ``f(1, b=2)``, ``f(b=2, a=1)`` and
    ``f(1)`` with 2 for a default. (Callables that are not Python functions hide their parameters:
    there, as in functools, each spelling is a call of its own.) typed: 1, 1.0 and True are different
    arguments. key: called with the arguments as the function would get them, defaults filled in;
    returns the key. Of a method, ``self`` is an argument like the others, and lives as long as the
    entry.

    Each result is computed once, however many threads or tasks ask meanwhile; what fails is not
    kept; a function that asks for the very call it is in raises ReentrantComputation (see
    ``Cache.get_or_compute``). What a call in progress returns is kept even if it was invalidated
    meanwhile. For the attributes of the result see CachedFunction.

    Raises ConfigError for options that contradict each other, TypeError for what cannot be cached:
    classes, generators, and at the call an argument that is not hashable.
    """
    given: dict[str, Any] = {
        "capacity_bytes": capacity_bytes,
        "policy": policy,
        "ttl": ttl,
        "idle_ttl": idle_ttl,
        "decay": decay,
        "window": window,
        "interval": interval,
        "shadows": shadows,
        "sizeof": sizeof,
        "on_evict": on_evict,
        "clock": clock,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if capacity is not _UNSET:
        options["capacity"] = capacity
    elif capacity_bytes is None and cache is None:
        options["capacity"] = 128
    if cache is not None:
        if not isinstance(cache, Cache):
            raise TypeError(f"cache must be a blatam_kv.Cache, not {type(cache).__name__}")
        if options:
            named = ", ".join(f"{name}=" for name in options)
            raise ConfigError(f"cache= comes with its own options: give {named} to that Cache")
    if key is not None:
        import inspect

        if not callable(key) or inspect.iscoroutinefunction(key):
            raise TypeError(f"key must be a function that is not awaited, not {key!r}")
        if typed:
            raise ConfigError("typed= says how keys are made, and so does key=: leave one out")

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        awaited = _is_coroutine_function(function)
        home: Cache[Any, Any] = Cache(**options) if cache is None else cache
        mark = None if cache is None else _Mark(_name(function))
        return cast("CachedFunction[P, R]", _wrap(function, awaited, home, mark, key, typed))

    return decorate if function is None else decorate(function)


# ---- what may be cached -------------------------------------------------------------------------


def _is_coroutine_function(function: Callable[..., object]) -> bool:
    """Whether to await what it returns; TypeError for what cannot be cached."""
    import inspect

    if isinstance(function, staticmethod | classmethod | property):
        kind = type(function).__name__
        raise TypeError(f"cached goes below @{kind}, next to the function")
    if not callable(function):
        raise TypeError(f"cached decorates functions, not {function!r}; options go by name")
    if inspect.isclass(function):
        name = _name(function)
        raise TypeError(f"{name} is a class: cache a function that returns an instance of it")
    forms = (function, type(function).__call__)  # the second, for objects that can be called
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms):
        raise TypeError(
            f"{_name(function)} is a generator, which is read once: return a list or a tuple"
        )
    return any(inspect.iscoroutinefunction(form) for form in forms)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


# ---- keys ---------------------------------------------------------------------------------------


class _Mark:
    """Begins every key of one function in a cache that it shares; equal to nothing but itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<cached {self.name}>"


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


# ---- the wrapper --------------------------------------------------------------------------------

# [] is the shortest way into the cache, and try costs nothing until something is raised. Helpers
# have names that begin with {_}, as no parameter does.
_SOURCE = """
{define} wrapper({declared}):
    {_}key = {key}
    try:
        return {_}cache[{_}key]
    except {_}KeyError:
        pass
    except {_}TypeError as {_}error:
        {_}explain({_}error, {_}key, {arguments})
    return {wait} {_}compute({_}key, {_}partial({_}function, {passed}))

def cache_key({declared}):
    {_}key = {key}
    try:
        {_}hash({_}key)
    except {_}TypeError as {_}error:
        {_}explain({_}error, {_}key, {arguments})
    return {_}key
"""
_HELPERS = (KeyError, TypeError, dict, hash, map, partial, sorted, tuple, type)


def _wrap(
    function: Callable[..., object],
    awaited: bool,
    cache: Cache[Any, Any],
    mark: _Mark | None,
    key: Callable[..., Hashable] | None,
    typed: bool,
) -> Any:  # Any: a function, with attributes
    """The function's wrapper; with a mark, for a cache that holds more than this function's."""
    from blatam_kv.parameters import Parameters  # who decorates nothing loads nothing

    name = _name(function)
    parameters = Parameters.of(function)

    def refuse_unhashable(arguments: Mapping[str, Any], error: TypeError | None = None) -> None:
        for label, value in parameters.labelled(arguments):
            if not _hashable(value):
                raise TypeError(
                    f"{name}() cannot be cached: the argument {label!r} is an unhashable "
                    f"{type(value).__name__}; pass key=, a function of the arguments that returns "
                    "a hashable key"
                ) from error

    def explain(error: TypeError, made: object, arguments: Mapping[str, Any]) -> NoReturn:
        if key is None:
            refuse_unhashable(arguments, error)
        elif not _hashable(made):
            raise TypeError(
                f"the key= of {name}() returned an unhashable value, {made!r}; return a str, "
                "bytes, a number or a tuple of them"
            ) from error
        raise error  # it came from a comparison or from the clock

    our = "_"
    while any(each.startswith(our) for each in parameters.every):
        our += "_"
    parts = [f"{our}key_of({parameters.passed()})"]
    if key is None:
        parts = parameters.key(our, typed=typed)
    if mark is not None or len(parts) != 1:  # a single part needs no tuple around it
        parts = [f"{our}mark"] * (mark is not None) + parts
        parts = [f"({''.join(f'{part}, ' for part in parts)})"]
    source = _SOURCE.format(
        _=our,
        define="async def" if awaited else "def",
        wait="await" if awaited else "",
        declared=parameters.declared(),
        passed=parameters.passed(),
        arguments="{" + ", ".join(f"{each!r}: {each}" for each in parameters.every) + "}",
        key=parts[0],
    )
    helpers: dict[str, Any] = {each.__name__: each for each in _HELPERS}
    helpers |= {
        "cache": cache,
        "compute": cache._acompute_once if awaited else cache._compute_once,
        "explain": explain,
        "function": function,
        "key_of": key,
        "mark": mark,
    }
    scope = {f"{our}{each}": helper for each, helper in helpers.items()}
    exec(compile(source, f"<cached {name}>", "exec"), scope)
    wrapper, cache_key = scope["wrapper"], scope["cache_key"]
    if isinstance(function, FunctionType):
        for made in (wrapper, cache_key):
            made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        if key is None:
            refuse_unhashable(parameters.defaults(function))

    def cache_info() -> CacheInfo:
        stats = cache.stats()
        return CacheInfo(stats.hits, stats.misses, stats.capacity, stats.entries)

    def cache_clear() -> None:
        if mark is None:
            cache.clear()
            return
        for each in cache:  # a list of keys, made before the first is deleted
            if type(each) is tuple and each and each[0] is mark:
                cache.delete(each)

    def cache_invalidate(*args: Any, **kwargs: Any) -> bool:
        return cache.delete(cache_key(*args, **kwargs))

    update_wrapper(wrapper, function)
    wrapper.cache = cache
    for attribute in (cache_info, cache_clear, cache_key, cache_invalidate):
        attribute.__qualname__ = f"{name}.{attribute.__name__}"  # what Python's own errors show
        setattr(wrapper, attribute.__name__, attribute)
    return wrapper
