"""One exchange with a system: sent, perhaps sent again, and its answer passed on as it comes.

Sent again is only what cannot have had an effect, or may have it twice: a request that no system
has seen, a method that is idempotent (RFC 9110, 9.2.2), or one that carries an Idempotency-Key. And
only while nothing of an answer has been passed on.

A client that leaves takes its request with it. Looking out for that costs more than a short
exchange, so it begins only when one takes long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Send

from blatam_kv.gateway.body import Body, ClientLeft
from blatam_kv.gateway.headers import back_through, end_to_end, without_session
from blatam_kv.gateway.journal import Passing
from blatam_kv.gateway.patience import within
from blatam_kv.gateway.systems import Upstream
from blatam_kv.gateway.wire import Connection, Failure, Headers, Reason

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_REDIRECTED = frozenset((b"location", b"content-location"))
# Before a second try and, doubled, before each further one; less up to a half by chance.
_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 0.05
_NOT_THE_SYSTEM = (Reason.BUSY, Reason.CLIENT)


@dataclass(slots=True)
class Outgoing:
    """A request for a system. headers: made anew for each try, for a signature holds once; those of
    framing are added here."""

    method: bytes
    target: bytes
    headers: Callable[[], Headers]
    body: Body
    repeatable: bool

    def head(self) -> bytes:
        """Request line, headers, and as much of the body as is at hand."""
        body = self.body
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += [b"%b: %b" % pair for pair in self.headers()]
        if body.whole:
            if body.first or self.method in _WITH_BODY:
                lines.append(b"content-length: %d" % len(body.first))
            first = body.first
        elif body.length is not None:
            lines.append(b"content-length: %d" % body.length)
            first = body.first
        else:
            lines.append(b"transfer-encoding: chunked")
            first = _chunk(body.first) if body.first else b""
        return b"\r\n".join(lines) + b"\r\n\r\n" + first


def is_repeatable(method: bytes, headers: Headers) -> bool:
    """Whether doing it twice is doing it once."""
    return method in _IDEMPOTENT or _has(headers, b"idempotency-key")


def _has(headers: Headers, wanted: bytes) -> bool:
    """Whether a field is there; a generator would take three times as long."""
    return wanted in [name for name, _ in headers]


async def exchange(
    upstream: Upstream,
    outgoing: Outgoing,
    receive: Receive,
    send: Send,
    passing: Passing,
    *,
    via: bytes,
    request_id: bytes,
) -> None:
    """Ask, and pass the answer on. Raises Failure, Problem, ClientLeft; nothing of an answer has been
    sent if ``passing.status`` is still 0."""
    total = upstream.system.total_seconds
    leaving = _Leaving(outgoing.body, receive)
    passed = _passed(upstream, outgoing, leaving, send, passing, via, request_id)
    try:
        if total is None:
            await passed
            return
        async with asyncio.timeout(total):
            await passed
    except TimeoutError:
        detail = f"did not finish within {total:g} seconds"
        raise Failure(Reason.TOTAL, detail, sent=True) from None
    finally:
        leaving.end()


async def _passed(
    upstream: Upstream,
    outgoing: Outgoing,
    leaving: _Leaving,
    send: Send,
    passing: Passing,
    via: bytes,
    request_id: bytes,
) -> None:
    connection = await _asked(upstream, outgoing, leaving, passing)
    try:
        answer = _Answer(upstream, connection, via=via, request_id=request_id)
        await answer.pass_on(send, passing)
    finally:
        upstream.pool.give_back(connection)


async def _asked(
    upstream: Upstream, outgoing: Outgoing, leaving: _Leaving, passing: Passing
) -> Connection:
    """A connection on which an answer has begun. Raises Failure, Problem, ClientLeft."""
    breaker, attempts = upstream.breaker, upstream.system.attempts
    fresh = False
    while True:
        if wait := breaker.enter():
            raise Failure(Reason.OPEN, f"failed again and again; ask in {wait:.0f} s", sent=False)
        passing.attempts += 1
        stale = False
        try:
            connection = await upstream.pool.take(fresh=fresh)
            stale = connection.used > 0
            try:
                leaving.ends(connection)
                await _begin(connection, outgoing, upstream.system.first_byte_seconds)
            except BaseException:
                connection.close()
                upstream.pool.give_back(connection)
                raise
            breaker.succeeded()
            return connection
        except Failure as failure:
            # A kept connection that ends says that it was kept too long, no more.
            stale = stale and failure.reason is Reason.RESET
            if stale or failure.reason in _NOT_THE_SYSTEM:
                breaker.undecided()
            else:
                breaker.failed()
            may_repeat = not failure.sent or (outgoing.repeatable and outgoing.body.whole)
            if failure.reason in _NOT_THE_SYSTEM or not may_repeat:
                raise
            if passing.attempts >= attempts + stale:
                raise
            fresh = True
        except BaseException:
            breaker.undecided()
            raise
        if not stale:
            pause = _PAUSE_SECONDS * 2 ** (passing.attempts - 1)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))


async def _begin(connection: Connection, outgoing: Outgoing, seconds: float) -> None:
    body = outgoing.body
    connection.begin(outgoing.head(), bodiless=outgoing.method == b"HEAD")
    if body.whole:
        await connection.head(seconds)
        return
    pump = asyncio.ensure_future(_pump(connection, body))
    try:
        await connection.head(seconds)
    except Failure:
        if pump.done() and not pump.cancelled() and (error := pump.exception()) is not None:
            raise error from None  # it was the client's fault
        raise
    finally:
        if not pump.done():
            # Answered before all was said: what follows on this connection would be guesswork.
            connection.spoiled = True
            pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def _pump(connection: Connection, body: Body) -> None:
    """The rest of a body, at the pace of the slower side."""
    try:
        async for piece in body.rest():
            connection.write(piece if body.length is not None else _chunk(piece))
            await connection.drain()
        if body.length is None:
            connection.write(b"0\r\n\r\n")
    except Exception as error:
        connection.fail(Failure(Reason.CLIENT, str(error), sent=True))
        raise


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class _Leaving:
    """Looks out for the client's leaving, once an exchange takes long and its body has been read."""

    def __init__(self, body: Body, receive: Receive) -> None:
        self._body = body
        self._receive = receive
        self._connection: Connection | None = None
        self._left = False
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.call_later(_PATIENCE_SECONDS, self._look)

    def ends(self, connection: Connection) -> None:
        """Which connection ends if the client leaves. Raises ClientLeft if it has."""
        if self._left:
            raise ClientLeft
        self._connection = connection

    def end(self) -> None:
        """Look no more."""
        self._clock.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        if self._body.whole:
            self._task = self._loop.create_task(self._watch())
        else:
            self._clock = self._loop.call_later(_PATIENCE_SECONDS, self._look)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._connection is not None:
            self._connection.fail(Failure(Reason.CLIENT, "the client left", sent=True))


class _Answer:
    """What a system answers, passed on."""

    def __init__(
        self, upstream: Upstream, connection: Connection, *, via: bytes, request_id: bytes
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._via = via
        self._request_id = request_id

    async def pass_on(self, send: Send, passing: Passing) -> None:
        """Status, headers, and the body piece by piece."""
        connection = self._connection
        idle = self._upstream.system.idle_seconds
        passing.first_byte_seconds = asyncio.get_running_loop().time() - passing.began
        passing.status = connection.status
        await send(
            {
                "type": "http.response.start",
                "status": connection.status,
                "headers": self._headers(),
            }
        )
        while not connection.at_hand:
            if piece := await connection.more(idle):
                await self._say(send, piece, more=True)
        last = await connection.more(idle)
        await self._say(send, last, more=False)

    async def _say(self, send: Send, piece: bytes, *, more: bool) -> None:
        """A piece, at the client's pace, but not for as long as it likes: its connection to the system
        is one of those that all clients share."""
        idle = self._upstream.system.idle_seconds
        try:
            await within(
                idle, send({"type": "http.response.body", "body": piece, "more_body": more})
            )
        except TimeoutError:
            detail = f"waits for a client that took nothing for {idle:g} seconds"
            raise Failure(Reason.CLIENT, detail, sent=True) from None

    def _headers(self) -> Headers:
        system = self._upstream.system
        headers = end_to_end(self._connection.headers)
        if system.credentials != "keep":
            headers = without_session(headers, mount=system.mount if system.strip else "")
        status = self._connection.status
        if system.strip and (status in (201, 202) or status >= 300):
            headers = [
                (name, back_through(value, base=system.url, mount=system.mount))
                if name in _REDIRECTED
                else (name, value)
                for name, value in headers
            ]
        headers.append((b"via", self._via))
        if not _has(headers, b"x-request-id"):
            headers.append((b"x-request-id", self._request_id))
        return headers
