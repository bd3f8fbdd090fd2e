"""``Cache``: any hashable key to any value, in this process."""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, SupportsIndex, TypeVar, cast

from blatam_kv._core import CacheBase
from blatam_kv.errors import ConfigError, EntryTooLarge, NoRoom
from blatam_kv.flights import Flight, Flights, computing
from blatam_kv.policy import PolicyReport, checked_options, checked_policy, report_of

K = TypeVar("K")
V = TypeVar("V")

_MISSING = cast("Any", object())  # Any: stands in for a value of whatever type the cache holds
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A cache's counters at one moment.

    entries and bytes are what it holds now (bytes as ``sizeof`` or ``size=`` gave them);
    capacity and capacity_bytes its limits, None for none. evictions counts what left, by reason:
    ``capacity``, ``expired``, ``replaced``, ``deleted``, ``cleared``. refused counts values that
    were too large or found everything pinned. overhead_bytes is the memory of the bookkeeping.

    loads counts the calls of ``compute`` that ended, load_failures those of them that raised or were
    cancelled, load_seconds the time they took together. collapsed counts the callers that waited for
    another's computation instead of starting their own.

    learned: what ``adaptive``, ``density`` and ``pattern`` say of themselves, None for others.
    """

    policy: str
    capacity: int | None
    capacity_bytes: int | None
    entries: int
    bytes: int
    pinned: int
    pinned_bytes: int
    hits: int
    misses: int
    inserts: int
    refused: int
    evictions: dict[str, int]
    overhead_bytes: int
    loads: int
    load_failures: int
    load_seconds: float
    collapsed: int
    learned: PolicyReport | None = None

    @property
    def leader(self) -> str:
        """The order in which entries leave now: the policy itself, unless it follows others."""
        return self.policy if self.learned is None else self.learned.leader

    @property
    def requests(self) -> int:
        """Hits and misses together."""
        return self.hits + self.misses

    @property
    def hit_ratio(self) -> float:
        """Hits per request, 0.0 before the first."""
        return self.hits / self.requests if self.requests else 0.0

    @property
    def mean_load_seconds(self) -> float:
        """Seconds per call of ``compute``, failed ones included; 0.0 before the first."""
        return self.load_seconds / self.loads if self.loads else 0.0


class Cache(CacheBase[K, V], Generic[K, V]):
    """A bounded cache in C++ behind a mapping-like face. Thread-safe.

    capacity: most entries. capacity_bytes: most bytes, an int or ``"512MiB"``, ``"2GB"``. Either,
    both or neither (then it grows without bound). policy: what leaves first. ``lru``, ``lfu``,
    ``fifo`` and ``sieve`` are simple; ``arc``, ``s3fifo`` and ``tinylfu`` keep what is used again
    from being flushed out by what is used once; ``lirs`` is the best at loops and scans; ``gdsf``
    weighs uses times ``cost`` by size; ``adaptive`` learns which order suits and follows it
    (docs/ADAPTIVE.md), ``density`` and ``pattern`` are parts of it. decay: of ``lfu``, what a use is
    worth after as many requests as there are entries, above 0 to 1; left out, 1: counts never fade.
    window: of ``tinylfu``, the share of the entries that are kept for being new, above 0 to 1; left
    out, it adapts. interval: of ``adaptive`` and ``pattern``, how often they decide, in capacities of
    requests; left out, 0.1. shadows: of all that learn, the entries they follow; of a larger cache
    they see a sample: ``"auto"`` (16,384), ``"full"`` (up to a million), ``"sampled"`` (1,024) or a
    number. ttl: seconds
    that an entry lives, unless ``put`` says otherwise (``math.inf``: for ever). sizeof: a value's
    size in bytes; with ``capacity_bytes`` the default knows ``nbytes``, ``bytes``, ``str`` and
    numbers, and asks for ``sizeof`` where it does not know. on_evict: called as
    ``on_evict(key, value, reason)`` for every entry that leaves, outside any lock; what it raises is
    reported through ``sys.unraisablehook``. clock: seconds that never go back, for tests.

    Keys compare as in a dict. ``get`` and ``[]`` count a hit or a miss; ``in`` and ``peek`` count
    nothing. An expired entry is a miss at once; its memory is reclaimed a little on every insert, or
    by ``expire()``, so ``len`` may count some that have expired.

    ``put`` raises EntryTooLarge or NoRoom where a value cannot be stored, and then nothing was
    evicted; ConfigError (a ValueError) or TypeError for options out of range.
    """

    def __init__(
        self,
        *,
        capacity: int | None = None,
        capacity_bytes: int | str | None = None,
        policy: str = "lru",
        ttl: float | None = None,
        sizeof: Callable[[V], int] | None = None,
        on_evict: Callable[[K, V, str], object] | None = None,
        clock: Callable[[], float] | None = None,
        idle_ttl: float | None = None,
        decay: float | None = None,
        window: float | None = None,
        interval: float | None = None,
        shadows: int | str | None = None,
    ) -> None:
        entries = _entries(capacity)
        max_bytes = _bytes(capacity_bytes)
        self._policy = checked_policy(policy)
        for name, seconds in (("ttl", ttl), ("idle_ttl", idle_ttl)):
            if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
                raise ConfigError(f"{name} must be a positive number of seconds, not {seconds!r}")
        options = checked_options(
            [policy], decay=decay, window=window, interval=interval, shadows=shadows
        )
        if sizeof is None and max_bytes:
            sizeof = _default_sizeof
        super().__init__(
            entries, max_bytes, policy, ttl, sizeof, on_evict, clock, idle_ttl, **options
        )
        self._flights: Flights[K, V] = Flights()

    def values(self) -> list[V]:
        """A list of the values; counts nothing."""
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[K, V]]:
        """A list of (key, value); counts nothing."""
        pairs = ((key, self.peek(key, _MISSING)) for key in self.keys())
        return [(key, value) for key, value in pairs if value is not _MISSING]

    def resize(
        self, capacity: int | None = None, *, capacity_bytes: int | str | None = None
    ) -> None:
        """Change the limits that are given; evicts down to them, pinned entries excepted."""
        now = self._counters()
        entries = now["capacity"] if capacity is None else _entries(capacity)
        max_bytes = now["capacity_bytes"] if capacity_bytes is None else _bytes(capacity_bytes)
        if max_bytes and not now["capacity_bytes"]:
            raise ConfigError("a cache made without capacity_bytes has not measured its values")
        self._set_limits(entries, max_bytes)

    def change_policy(
        self,
        policy: str,
        *,
        decay: float | None = None,
        window: float | None = None,
        interval: float | None = None,
        shadows: int | str | None = None,
    ) -> None:
        """Follow another policy from here on, with the options that ``Cache`` takes for it.

        Nothing leaves: what the old policy would have evicted first is the oldest of the new one,
        with the uses that the old one counted (``lfu``, ``gdsf`` and those that learn; up to 16), and
        pins, sizes, costs and times to live stay. A policy that learns begins with nothing learned.
        Other threads wait meanwhile, below a microsecond an entry.

        Raises ConfigError for what cannot be, and after ``begin_request``; all is then as before.
        """
        checked = checked_policy(policy)
        options = checked_options(
            [policy], decay=decay, window=window, interval=interval, shadows=shadows
        )
        try:
            self._change_policy(
                checked,
                options["decay"],
                options["window"],
                options["interval"],
                options["shadows"],
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._policy = checked

    def stats(self) -> CacheStats:
        """Exact counters; cheap enough for every scrape."""
        now = self._counters()
        flights = self._flights
        with flights.lock:  # the four belong together
            loads, failures, seconds = flights.loads, flights.failures, flights.seconds
            collapsed = flights.collapsed
        return CacheStats(
            policy=self._policy,
            capacity=now["capacity"] or None,
            capacity_bytes=now["capacity_bytes"] or None,
            entries=now["entries"],
            bytes=now["bytes"],
            pinned=now["pinned"],
            pinned_bytes=now["pinned_bytes"],
            hits=now["hits"],
            misses=now["misses"],
            inserts=now["inserts"],
            refused=now["refused"],
            evictions=now["removals"],
            overhead_bytes=now["overhead_bytes"],
            loads=loads,
            load_failures=failures,
            load_seconds=seconds,
            collapsed=collapsed,
            learned=report_of(self),
        )

    def save_policy(self) -> bytes:
        """What the policy has learned, for ``restore_policy`` after a restart; empty for those that
        do not learn. Holds no keys."""
        return self._save_policy()

    def restore_policy(self, state: bytes) -> None:
        """Go on from what another cache's policy had learned, best before the first put.

        Raises ConfigError for bytes that are damaged or not from ``save_policy``; the policy is
        then as before.
        """
        wrong = self._restore_policy(state)
        if wrong is not None:
            raise ConfigError(f"cannot restore the policy: {wrong}")

    def get_or_compute(
        self, key: K, compute: Callable[[], V], *, ttl: float | None = None, size: int | None = None
    ) -> V:
        """The value, computed on a miss: once, however many threads and tasks ask meanwhile.

        An exception of ``compute`` reaches everyone who waits and is not cached. A value that the
        cache refuses to store is returned all the same. Raises ReentrantComputation where
        ``compute`` asks for its own key, which would wait for itself.
        """
        value: V = self.get(key, _MISSING)
        return self._compute_once(key, compute, ttl, size) if value is _MISSING else value

    def _compute_once(
        self, key: K, compute: Callable[[], V], ttl: float | None = None, size: int | None = None
    ) -> V:
        """``get_or_compute`` after a miss that was counted."""
        flights = self._flights
        flight = future = None
        again = False
        before = computing.get()
        try:  # from the start: Ctrl-C between two lines must leave no flight that nobody lands
            while True:
                flight, future = flights.join(key, again=again)
                if future is None:
                    break
                from concurrent.futures import CancelledError

                again = True
                try:
                    return future.result()
                except CancelledError:
                    if not future.cancelled():
                        raise
                    # The leader was interrupted: take its place.
            flights.take_off(key)
            # Another flight may have landed between our miss and our take-off.
            value: V = self.peek(key, _MISSING)
            if value is _MISSING:
                flight.begin()
                # Called from here and nowhere deeper: a function that recurses through the cache
                # reaches Python's limit sooner with every frame we add.
                value = compute()
                flight.end()
                self._keep(key, value, ttl, size)
            flights.land(key, flight, value=value)
            return value
        except BaseException as error:
            if flight is not None and future is None:
                flights.land(key, flight, error=error)
            raise
        finally:
            computing.set(before)

    async def aget_or_compute(
        self,
        key: K,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | None = None,
        size: int | None = None,
    ) -> V:
        """``get_or_compute`` for coroutines, sharing its flights with threads.

        ``compute`` runs as a task of its own: cancelling one waiter, the first included, hurts no
        other.
        """
        value: V = self.get(key, _MISSING)
        if value is not _MISSING:
            return value
        return await self._acompute_once(key, compute, ttl, size)

    async def _acompute_once(
        self,
        key: K,
        compute: Callable[[], Awaitable[V]],
        ttl: float | None = None,
        size: int | None = None,
    ) -> V:
        """``aget_or_compute`` after a miss that was counted."""
        import asyncio

        flights = self._flights
        again = False
        while True:
            flight, future = flights.join(key, again=again)
            leads = future is None
            if future is None:
                future = flights.future_of(flight)
                assert future is not None  # our own flight lands no sooner than its task runs
                flight.loop = asyncio.get_running_loop()
                token = flights.take_off(key)
                try:
                    computation = asyncio.create_task(self._fly(key, flight, compute, ttl, size))
                finally:
                    computing.reset(token)
                _running.add(computation)  # the loop itself keeps only a weak reference
                computation.add_done_callback(_running.discard)
                computation.add_done_callback(partial(self._land_unflown, key, flight))
            again = True
            waiter = asyncio.wrap_future(future)
            waiter.add_done_callback(_retrieve)
            try:
                return await asyncio.shield(waiter)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if future.cancelled() and not leads and task is not None and not task.cancelling():
                    continue  # not we but the leader was cancelled: take its place
                raise

    async def _fly(
        self,
        key: K,
        flight: Flight[V],
        compute: Callable[[], Awaitable[V]],
        ttl: float | None,
        size: int | None,
    ) -> None:
        try:
            value: V = self.peek(key, _MISSING)
            if value is _MISSING:
                flight.begin()
                value = await compute()
                flight.end()
                self._keep(key, value, ttl, size)
        except BaseException as error:
            self._flights.land(key, flight, error=error)
            if not isinstance(error, Exception):
                raise
        else:
            self._flights.land(key, flight, value=value)

    def _land_unflown(self, key: K, flight: Flight[V], _: object) -> None:
        """End what a task leaves behind that was cancelled before its first step."""
        if not flight.landed:
            from asyncio import CancelledError

            self._flights.land(key, flight, error=CancelledError())

    def _keep(self, key: K, value: V, ttl: float | None, size: int | None) -> None:
        try:
            if ttl is None and size is None:
                self[key] = value
            else:
                self.put(key, value, ttl=ttl, size=size)
        except (EntryTooLarge, NoRoom):
            pass  # the core counts what it refuses; the caller gets its value all the same

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Cache cannot be pickled or copied; make a new one from its items()")

    def __repr__(self) -> str:
        now = self._counters()
        limits = "".join(
            f", {name}={now[name]}" for name in ("capacity", "capacity_bytes") if now[name]
        )
        return f"<Cache policy={self._policy!r}, entries={now['entries']}{limits}>"


_running: set[Any] = set()  # Any: tasks, without importing asyncio here


def _retrieve(waiter: Any) -> None:  # Any: an asyncio.Future
    """Mark the exception as seen: whoever waited may have been cancelled meanwhile."""
    if not waiter.cancelled():
        waiter.exception()


def _entries(capacity: int | None) -> int:
    """A number of entries for the core, where 0 means unlimited."""
    if capacity is None:
        return 0
    if isinstance(capacity, bool) or not hasattr(capacity, "__index__"):
        raise TypeError(f"capacity must be an int, not {type(capacity).__name__}")
    number = operator.index(capacity)
    if not 1 <= number < 2**32 - 1:
        raise ConfigError(f"capacity must be from 1 to {2**32 - 2} entries, not {number}")
    return number


def _bytes(capacity: int | str | None) -> int:
    """A number of bytes for the core, where 0 means unlimited."""
    return 0 if capacity is None else byte_count("capacity_bytes", capacity)


def byte_count(name: str, bound: int | str) -> int:
    """A number of bytes, an int or ``"512MiB"``, ``"2GB"``.

    name: of the option, for the messages. Raises TypeError or ConfigError.
    """
    number: int
    if isinstance(bound, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", bound, re.IGNORECASE)
        unit = "" if match is None else match[2].upper().replace("I", "i")
        if match is None or (unit and not unit.endswith("B")):
            unit = f"{unit}B" if match is not None and not unit.endswith("i") else "?"
        if match is None or unit not in _UNITS:
            raise ConfigError(f"cannot read {bound!r} as bytes; write 1048576, '512MiB' or '2GB'")
        exact = float(match[1]) * _UNITS[unit]
        number = math.floor(exact) if exact < 2**63 else 2**63
    elif isinstance(bound, bool) or not hasattr(bound, "__index__"):
        raise TypeError(f"{name} must be an int or a str, not {type(bound).__name__}")
    else:
        number = operator.index(bound)
    if not 1 <= number <= 2**62:
        raise ConfigError(f"{name} must be from 1 to 2**62, not {bound!r}")
    return number


def _default_sizeof(value: object) -> int:
    """Bytes of a value whose size is beyond doubt."""
    nbytes: SupportsIndex | None = getattr(value, "nbytes", None)
    if nbytes is not None:
        return operator.index(nbytes)
    if isinstance(value, bytes | bytearray | str | int | float | None):
        return sys.getsizeof(value)
    raise TypeError(
        f"cannot tell the size of a {type(value).__name__}; pass size= to put, or sizeof= to Cache"
    )
