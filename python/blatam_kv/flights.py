"""``Flights``: of all who miss a key at once, one computes and the others wait for it.

Most flights carry one caller. What waiting needs, a ``Future`` with its lock and condition, is made
for the first who waits: it costs more than all the rest of a miss.
"""

from __future__ import annotations

import contextvars
import os
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakSet

from blatam_kv.errors import ReentrantComputation

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future

K = TypeVar("K")
V = TypeVar("V")

_MISSING = cast("Any", object())  # Any: stands in for a value of whatever type is computed

# The computations that this thread or task is in the middle of, as (id of the flights, key).
computing: contextvars.ContextVar[tuple[tuple[int, object], ...]] = contextvars.ContextVar(
    "blatam_kv_computing", default=()
)


_all: WeakSet[Flights[Any, Any]] = WeakSet()


class Flight(Generic[V]):
    """One computation under way."""

    # Defaults of the class, so that a flight without company is made at once and without __init__.
    future: Future[V] | None = None  # changes under the lock of the Flights only, as does landed
    landed = False
    began: float | None = None
    seconds: float | None = None
    loop: AbstractEventLoop | None = None  # that a coroutine computes on

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

    __slots__ = ("__weakref__", "_under_way", "collapsed", "failures", "loads", "lock", "seconds")

    def __init__(self) -> None:
        _all.add(self)
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
        if inside and (id(self), key) in inside and key in self._under_way:
            raise ReentrantComputation(
                f"computing {key!r} asked the cache for {key!r}; it would wait for itself"
            )
        while True:
            mine: Flight[V] = Flight()
            try:
                flight = self._under_way.setdefault(key, mine)  # one atomic step: a single leader
                if flight is mine:
                    return mine, None
            except KeyboardInterrupt as error:  # after that step, and nobody would land it
                self.land(key, mine, error=error)
                raise
            if flight.loop is not None and flight.loop.is_closed():
                from asyncio import CancelledError

                self.land(key, flight, error=CancelledError())  # its task will never go on
                continue
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
        """End a flight: with a value, or with what those who wait shall see raised. A second time
        finishes what an interruption left of the first.

        An error that is no Exception, an interruption, is its leader's alone: the others take its
        place.
        """
        failed = flight.began is not None and flight.seconds is None
        if failed:
            flight.end()
        if self._under_way.get(key) is flight:
            del self._under_way[key]
        with self.lock:
            counts = flight.seconds is not None and not flight.landed
            flight.landed = True
            future = flight.future
            if counts:
                assert flight.seconds is not None
                self.loads += 1
                self.seconds += flight.seconds
                self.failures += failed
        if future is None or future.done():
            return
        if error is None:
            future.set_result(value)
        elif isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.cancel()

    def begin_anew(self) -> None:
        """In a forked child: forget the flights of threads that are not here, and their lock."""
        inside = computing.get()
        self.lock = RLock()
        for key in list(self._under_way):
            if (id(self), key) not in inside:
                del self._under_way[key]


def _begin_anew() -> None:
    for flights in list(_all):
        flights.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
