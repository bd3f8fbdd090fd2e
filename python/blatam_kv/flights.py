"""``Flights``: of all who miss a key at once, one computes and the others wait for it.

Most flights carry one caller. What waiting needs, a ``Future`` with its lock and condition, is made
for the first who waits: it costs more than all the rest of a miss.
"""

from __future__ import annotations

import contextvars
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from blatam_kv.errors import ReentrantComputation

if TYPE_CHECKING:
    from concurrent.futures import Future

K = TypeVar("K")
V = TypeVar("V")

_MISSING = cast("Any", object())  # Any: stands in for a value of whatever type is computed

# The computations that this thread or task is in the middle of, as (id of the flights, key).
computing: contextvars.ContextVar[tuple[tuple[int, object], ...]] = contextvars.ContextVar(
    "blatam_kv_computing", default=()
)


class Flight(Generic[V]):
    """One computation under way."""

    # Defaults of the class, so that a flight without company is made at once and without __init__.
    future: Future[V] | None = None  # changes under the lock of the Flights only, as does landed
    landed = False
    began: float | None = None
    seconds: float | None = None

    def begin(self) -> None:
        """``compute`` is about to be called."""
        self.began = perf_counter()

    def end(self) -> None:
        """It has returned. One that raises is timed by the landing."""
        self.seconds = perf_counter() - (self.began or 0.0)


class Flights(Generic[K, V]):
    """The computations under way in one cache, and what those that ended have cost. Thread-safe.

    loads counts the calls of compute functions that ended, failures those of them that raised,
    seconds the time of all. collapsed counts the callers that waited for another's computation.

    The lock guards a few assignments, on misses only. It is re-entrant because a destructor or a
    signal handler may run between any two lines and use the same cache.
    """

    __slots__ = ("_under_way", "collapsed", "failures", "loads", "lock", "seconds")

    def __init__(self) -> None:
        self._under_way: dict[K, Flight[V]] = {}
        self.lock = RLock()
        self.loads = self.failures = self.collapsed = 0
        self.seconds = 0.0

    def join(self, key: K, *, again: bool = False) -> tuple[Flight[V], Future[V] | None]:
        """A flight of one's own and None, or another's and the future to wait for.

        Who gets its own must land it. again: this caller has joined before and is counted.
        Raises ReentrantComputation where the caller is in the middle of computing this very key.
        """
        inside = computing.get()
        if inside and (id(self), key) in inside:
            raise ReentrantComputation(
                f"computing {key!r} asked the cache for {key!r}; it would wait for itself"
            )
        while True:
            mine: Flight[V] = Flight()
            flight = self._under_way.setdefault(key, mine)  # one atomic step: a single leader
            if flight is mine:
                return mine, None
            future = self.future_of(flight, waits=not again)
            if future is not None:
                return flight, future
            # It landed after we saw it, so it is under way no more: look again.

    def take_off(self, key: K) -> contextvars.Token[tuple[tuple[int, object], ...]]:
        """Note that this thread or task computes key, until ``computing`` is reset."""
        return computing.set((*computing.get(), (id(self), key)))

    def future_of(self, flight: Flight[V], *, waits: bool = False) -> Future[V] | None:
        """What to wait for, None for a flight that has landed; waits: count one that waits."""
        from concurrent.futures import Future

        made: Future[V] = Future()
        with self.lock:
            if flight.landed:
                return None
            self.collapsed += waits
            if flight.future is None:
                flight.future = made
            return flight.future

    def land(
        self,
        key: K,
        flight: Flight[V],
        *,
        value: V = _MISSING,
        error: BaseException | None = None,
    ) -> None:
        """End a flight, once: with a value, or with what those who wait shall see raised.

        An error that is no Exception, an interruption, is its leader's alone: the others take its
        place.
        """
        failed = flight.began is not None and flight.seconds is None
        if failed:
            flight.end()
        self._under_way.pop(key, None)
        with self.lock:
            flight.landed = True
            future = flight.future
            if flight.seconds is not None:
                self.loads += 1
                self.seconds += flight.seconds
                self.failures += failed
        if future is None:
            return
        if error is None:
            future.set_result(value)
        elif isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.cancel()
