"""``Commands``: what is asked of the Redis that nodes share, one server or many.

A command goes to the server that has its key; a batch is one round trip to each server that has any
of it, all at the same time. Whatever fails is counted and raised as TierUnavailable, and what keeps
failing is left alone, each server by itself.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.servers import Server, servers_of
from blatam_kv.tiers.trip import Put, Trip, asking, pipelined_asking

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")
U = TypeVar("U")

# Keys of one round trip. Larger batches gain nothing and hold up the server's other clients.
BATCH = 64


class Commands:
    """Commands to the servers that a URL leads to. Thread-safe: each call has a connection of its own.

    place: what the URL is called in messages. timeout: seconds for a connection and for an answer.
    channel: where nodes tell one another. breaker: what each server's is like.
    """

    def __init__(
        self, url: str, place: str, *, timeout: float, channel: bytes, breaker: Breaker
    ) -> None:
        self._place, self._channel = place, channel
        self._redis, self._servers = servers_of(url, timeout, breaker, place=place)
        self._only = self._servers.of(b"") if self._servers.one else None
        self._errors = (self._redis.exceptions.RedisError, OSError)
        self._lock = threading.Lock()  # guards the failures
        self._failures: Counter[str] = Counter()
        self.failing: Unavailable | None = None
        self._listened: Server | None = None
        self.closed = False

    def ask(self, command: str, name: bytes, *arguments: Any, **options: Any) -> Any:
        """What redis-py's client answers to a command about a key, or a channel. Raises
        TierUnavailable, at once where the server is being left alone.

        Any: redis-py types its answers for every protocol and for coroutines at once.
        """

        def call(client: Any) -> Any:
            return getattr(client, command)(name, *arguments, **options)

        return self._attempt(name, call) if self._only is None else self._try(self._only, call)

    def found(self) -> None:
        """Who listens has just seen that the server is there: ask it again, whatever was."""
        if self._listened is not None:
            self._listened.breaker.succeeded()

    def lost(self, error: Exception) -> None:
        """Who listens met this error: listen elsewhere, if it goes on and there is an elsewhere."""
        self._failed(error, self._listened)

    def script(self, text: str) -> Callable[..., Any]:
        """A Lua script about one key, sent once and called by its digest: ``script(name,
        *arguments)``, which raises as ``ask``."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        def run(name: bytes, *arguments: Any) -> Any:
            def call(client: Any) -> Any:
                try:
                    return client.evalsha(digest, 1, name, *arguments)
                except self._redis.exceptions.NoScriptError:
                    return client.eval(text, 1, name, *arguments)

            return self._attempt(name, call)

        return run

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What a subscription may raise."""
        return (*self._errors, ValueError)

    def listen(self) -> Any:
        """A subscription of redis-py, on a connection of its own. Raises ``errors``."""
        self._listened = None
        self._listened = self._near()
        return self._listened.client.pubsub()

    def publish(self, data: bytes) -> None:
        """Tell all who listen, wherever they do. Raises TierUnavailable."""

        def call(client: Any) -> None:
            client.publish(self._channel, data)

        self._try(self._located(self._near), call)

    def listening(self, channel: bytes) -> int:
        """How many listen to a channel, wherever they do. Raises TierUnavailable."""

        def call(client: Any) -> int:
            ((_, count),) = client.pubsub_numsub(channel)
            return int(count)

        return sum(self._try(server, call) for server in self._located(self._servers.all))

    def each(
        self,
        command: str,
        names: Sequence[bytes],
        *arguments: Any,
        partly: bool = False,
        instead: Any = None,
        size: int = BATCH,
    ) -> list[Any]:
        """What is answered to a command about each name; see ``spread``."""

        def put(pipeline: Any, name: bytes) -> None:
            getattr(pipeline, command)(name, *arguments)

        return self.spread(names, put, partly=partly, instead=instead, size=size)

    def spread(
        self,
        names: Sequence[bytes],
        put: Put,
        *,
        partly: bool = False,
        instead: Any = None,
        size: int = BATCH,
    ) -> list[Any]:
        """The answers about some names, ``size`` of one server in one round trip.

        partly: where a server does not answer and another does, ``instead`` is the answer about its
        names; else, and where none does, raises TierUnavailable after all have been asked.
        """
        answers, waiting = [instead] * len(names), list(range(len(names)))
        failed: TierUnavailable | None = None
        served = False
        for last in (False, True):
            elsewhere: list[int] = []
            for server, places, said in self._asked(names, waiting, put, size):
                if isinstance(said, TierUnavailable):
                    failed = said
                    continue
                for at, answer in zip(places, said, strict=True):
                    if isinstance(answer, self._redis.exceptions.MovedError) and not last:
                        elsewhere.append(at)
                    elif isinstance(answer, Exception):
                        failed = self._failed(answer, server)
                    else:
                        answers[at], served = answer, True
            if not elsewhere:
                break
            self._servers.doubt(now=True)
            waiting = elsewhere
        if failed is not None and not (partly and served):
            raise failed
        return answers

    def values(self, names: Sequence[bytes]) -> list[bytes | None]:
        """The value of each name, None where there is none; of a cluster what can be had. Raises
        TierUnavailable."""
        if not self._servers.one:
            return self.each("get", names, partly=True)
        found: list[bytes | None] = []
        for batch in batches(names):
            found += self.ask("mget", batch[0], *batch[1:])
        return found

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """All names that begin so, some at a time. Raises TierUnavailable."""
        for server in self._located(self._servers.all):
            cursor, begun = 0, False
            while cursor or not begun:
                page = partial(_page, cursor=cursor, match=prefix + b"*")
                (cursor, names), begun = self._try(server, page), True
                yield names

    @property
    def one(self) -> bool:
        """Whether there is a single server."""
        return self._servers.one

    @property
    def failures(self) -> dict[str, int]:
        """Calls that were not served, by reason."""
        with self._lock:
            return dict(self._failures)

    @property
    def left_alone(self) -> bool:
        """Whether nothing is asked of a server for now."""
        return self._servers.left_alone

    def close(self) -> None:
        """Let go of the connections."""
        self.closed = True
        self._servers.close()

    # ---- inside ---------------------------------------------------------------------------------

    def _grouped(
        self, names: Sequence[bytes], places: Sequence[int]
    ) -> list[tuple[Server, list[int]]]:
        """Which of the names at these places which server has."""
        groups: dict[int, tuple[Server, list[int]]] = {}
        for at in places:
            server = self._located(partial(self._servers.of, names[at]))
            groups.setdefault(id(server), (server, []))[1].append(at)
        return list(groups.values())

    def _asked(
        self, names: Sequence[bytes], places: Sequence[int], put: Put, size: int
    ) -> Iterator[tuple[Server, Sequence[int], list[Any] | TierUnavailable]]:
        """What each server says about its names, or why it does not, with their places: the next portion
        of all servers at a time. One that failed is asked no more."""
        left = [(server, batches(its, size)) for server, its in self._grouped(names, places)]
        while left:
            turn = [(server, its, rest) for server, rest in left if (its := next(rest, None))]
            asked = [(server, [names[at] for at in its]) for server, its, _ in turn]
            said = self._together(asked, put)
            left = []
            for (server, its, rest), answers in zip(turn, said, strict=True):
                yield server, its, answers
                if not isinstance(answers, TierUnavailable):
                    left.append((server, rest))

    def _together(
        self, asked: Sequence[tuple[Server, list[bytes]]], put: Put
    ) -> list[list[Any] | TierUnavailable]:
        """What several servers say, each about some names: all are told before the first is heard."""
        trips = [self._sent(server, names, put) for server, names in asked]
        try:
            return [
                trip if isinstance(trip, TierUnavailable) else self._heard(server, trip)
                for (server, _), trip in zip(asked, trips, strict=True)
            ]
        finally:
            for trip in trips:
                if isinstance(trip, Trip):
                    trip.close()

    def _sent(self, server: Server, names: list[bytes], put: Put) -> Trip | TierUnavailable:
        try:
            self._check(server)
        except TierUnavailable as error:
            return error
        return Trip(server.client, put, names, self._errors)

    def _heard(self, server: Server, trip: Trip) -> list[Any] | TierUnavailable:
        try:
            said = self._outcome(server, trip.answers)
        except TierUnavailable as error:
            return error
        return [
            self._followed(server, trip, name, each) if isinstance(each, Exception) else each
            for name, each in zip(trip.names, said, strict=True)
        ]

    def _followed(self, server: Server, trip: Trip, name: bytes, error: Any) -> Any:
        """What is said instead of an answer, or, where a name has just been given to another server,
        what that one says."""
        if not self._asks(error):
            return error
        target = self._servers.at(error.host, error.port, near=server)
        try:
            (said,) = self._try(target, partial(pipelined_asking, trip.put, [name]))
        except TierUnavailable:
            return error
        return said

    def _asks(self, error: Any) -> bool:  # Any: redis-py's, with the place it names
        """Whether it says where to ask, this once."""
        exceptions = self._redis.exceptions
        return isinstance(error, exceptions.AskError) and not isinstance(
            error, exceptions.MovedError
        )

    def _attempt(self, name: bytes, call: Callable[[Any], T]) -> T:
        """What a call to the client of the server that has a name returns."""
        if self._only is not None:
            return self._try(self._only, call)

        def asked(client: Any) -> T:
            with closing(asking(client)) as line:
                return call(line)

        again: Callable[[Any], T] = call
        server = self._located(partial(self._servers.of, name))
        try:
            return self._try(server, call)
        except self._redis.exceptions.AskError as error:
            if self._asks(error):
                server, again = self._servers.at(error.host, error.port, near=server), asked
            else:
                self._servers.doubt(now=True)
                server = self._located(partial(self._servers.of, name))
        try:
            return self._try(server, again)
        except self._redis.exceptions.AskError as error:
            raise self._failed(error, server) from None

    def _try(self, server: Server, call: Callable[[Any], T]) -> T:
        """What a call to a server's client returns. Raises TierUnavailable, and, of a cluster's,
        AskError and MovedError."""
        self._check(server)
        return self._outcome(server, partial(call, server.client))

    def _check(self, server: Server) -> None:
        """Raises TierUnavailable where a server is not to be asked."""
        if self.closed:
            raise TierUnavailable(Unavailable.CLOSED, "the Redis tier is closed")
        if not server.breaker.allows():
            raise TierUnavailable(
                self.failing or Unavailable.UNREACHABLE,
                f"{server.place} is left alone for a while",
            )

    def _outcome(self, server: Server, call: Callable[[], T]) -> T:
        """What a call that was allowed returns; raises as ``_try``."""
        try:
            answer = call()
        # The cause may hold the URL with its password. OSError: TLS files that are not there.
        except self._errors as error:
            if isinstance(error, self._redis.exceptions.AskError) and not self._servers.one:
                server.breaker.succeeded()
                raise
            raise self._failed(error, server) from None
        server.breaker.succeeded()
        self.failing = None
        return answer

    def _located(self, find: Callable[[], T]) -> T:
        """The server, or servers, that a question leads to, which may have to be asked for."""
        try:
            return find()
        except self._errors as error:
            raise self._failed(error) from None

    def _near(self) -> Server:
        """The server that notices go through: any does, so one that is not being left alone."""
        first = self._servers.of(self._channel)
        every = [first, *self._servers.all()]
        return next((server for server in every if not server.breaker.open), first)

    def _failed(self, error: Exception, server: Server | None = None) -> TierUnavailable:
        """Count a failure: of a server, or of all where nobody says which it is."""
        reason = _reason(error, self._redis)
        if server is not None:
            # One that says no is there: only silence is worth leaving it alone.
            if isinstance(error, self._redis.exceptions.ResponseError):
                server.breaker.succeeded()
            elif reason in (Unavailable.UNREACHABLE, Unavailable.TIMED_OUT):
                server.breaker.failed()
                self._servers.doubt()
            else:
                server.breaker.succeeded()
        with self._lock:
            self._failures[reason] += 1
            self.failing = reason
        place = self._place if server is None else server.place
        return TierUnavailable(reason, f"{place}: {reason} ({type(error).__name__})")


def batches(items: Sequence[U], size: int = BATCH) -> Iterator[Sequence[U]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _page(client: Any, *, cursor: int, match: bytes) -> tuple[int, list[bytes]]:
    found: tuple[int, list[bytes]] = client.scan(cursor, match, count=500)
    return found


def _reason(error: Exception, redis: ModuleType) -> Unavailable:
    exceptions = redis.exceptions
    for kind, reason in (
        (exceptions.TimeoutError, Unavailable.TIMED_OUT),
        (exceptions.OutOfMemoryError, Unavailable.NO_SPACE),
        (exceptions.ReadOnlyError, Unavailable.READ_ONLY),
        (exceptions.AuthenticationError, Unavailable.REFUSED),
        # A cluster that is being changed, or has lost a part of itself.
        (exceptions.AskError, Unavailable.UNREACHABLE),
        (exceptions.ClusterError, Unavailable.UNREACHABLE),
        (exceptions.ResponseError, Unavailable.REFUSED),
    ):
        if isinstance(error, kind):
            return reason
    return Unavailable.UNREACHABLE
