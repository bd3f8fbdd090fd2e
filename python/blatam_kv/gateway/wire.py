"""One kept connection to a system: HTTP/1.1, one exchange after the other.

The parser is llhttp's, by httptools, as in the server. Requests and answers pass as they are, in
pieces, with the pace of the slower side; nothing is gathered that is not waited for. A general
client costs several times as much for each request (bench/gateway.py) and normalises targets and
headers, which signatures cover.

What a system sends is judged: a head beyond MAX_HEAD_BYTES, bytes nobody asked for, an answer that
ends early or says two things about its length are a Failure, never a short answer.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import cast

import httptools

MAX_HEAD_BYTES = 64 << 10
# Above this many bytes that the client has not taken, nothing more is read from the system.
_HIGH_WATER = 256 << 10

Headers = list[tuple[bytes, bytes]]


class Reason(StrEnum):
    """Why a system did not answer; the label of a metric."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE = "first_byte_timeout"
    IDLE = "idle_timeout"
    TOTAL = "total_timeout"
    RESET = "reset"
    TRUNCATED = "truncated"
    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    OPEN = "circuit_open"
    CLIENT = "client_left"


class Failure(Exception):
    """An exchange that a system did not finish. sent: whether it may have seen the request."""

    def __init__(self, reason: Reason, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.sent = sent


class Connection(asyncio.Protocol):
    """A connection that is open. Used by one exchange at a time, in the loop's thread.

    begin, then perhaps write and drain, then head, then more until it returns nothing. status,
    headers and framed_by_close are of the answer, once head has returned. spoiled: may be set, so that
    no other exchange follows.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.used = 0
        self.idle_since = 0.0
        self._forget()

    def _forget(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.framed_by_close = self.spoiled = False
        self._asked = self._bodiless = self._has_head = self._interim = False
        self._complete = self._kept = self._reading_paused = False
        self._failure: Failure | None = None
        self._chunks: list[bytes] = []
        self._queued = self._head_bytes = 0

    # ---- asking ---------------------------------------------------------------------------------

    def begin(self, request: bytes, *, bodiless: bool) -> None:
        """Send a request's head, with its body if that is at hand. bodiless: a HEAD."""
        self._forget()
        self._asked, self._bodiless = True, bodiless
        self.used += 1
        self.write(request)

    def write(self, data: bytes) -> None:
        """Send more of the body."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the system takes nothing."""
        if self._writable is not None and self._failure is None:
            await self._writable

    async def head(self, seconds: float) -> None:
        """Wait for status and headers. Raises Failure."""
        while not self._has_head:
            if self._failure is not None:
                raise self._failure
            await self._news(seconds, Reason.FIRST_BYTE)

    async def more(self, seconds: float) -> bytes:
        """The next piece of the body, nothing at its end. Raises Failure."""
        while not self._chunks:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._news(seconds, Reason.IDLE)
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._queued = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    @property
    def at_hand(self) -> bool:
        """Whether the rest of the body needs no waiting for."""
        return self._complete

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow on it."""
        transport = self._transport
        return (
            self._complete
            and not (self.framed_by_close or self.spoiled or self._bodiless)
            and self._failure is None
            and transport is not None
            and not transport.is_closing()
            and self._kept
        )

    @property
    def alive(self) -> bool:
        """Whether it is still open."""
        return self._transport is not None and not self._transport.is_closing()

    def fail(self, failure: Failure) -> None:
        """End it now; who waits is told why."""
        if self._failure is None and not self._complete:
            self._failure = failure
        self.close()
        self._wake()

    def close(self) -> None:
        """End it; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _news(self, seconds: float, late: Reason) -> None:
        waiter = self._waiter = self._loop.create_future()
        clock = self._loop.call_later(seconds, self._late, seconds, late)
        try:
            await waiter
        finally:
            clock.cancel()
            self._waiter = None

    def _late(self, seconds: float, late: Reason) -> None:
        what = "did not begin to answer" if late is Reason.FIRST_BYTE else "fell silent"
        self.fail(Failure(late, f"{what} within {seconds:g} seconds", sent=True))

    def _wake(self) -> None:
        for waiter in (self._waiter, self._writable):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # ---- what asyncio tells ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self.close()  # it speaks unasked: nothing after this could be told from an answer
            return
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken("switched protocols unasked")
        except httptools.HttpParserError as error:
            self._broken(f"sent what is not HTTP ({str(error)[:80]})")
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            limit = f"sent headers beyond {MAX_HEAD_BYTES >> 10} KiB"
            self.fail(Failure(Reason.TOO_LARGE, limit, sent=True))
        if self._queued > _HIGH_WATER and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        if self._has_head and self._waiter is not None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._complete and self._failure is None:
            if self._has_head and self.framed_by_close and exc is None:
                self._complete = True
            elif self._has_head:
                self._failure = Failure(
                    Reason.TRUNCATED, "closed the connection in the middle of an answer", sent=True
                )
            else:
                self._failure = Failure(
                    Reason.RESET, "closed the connection without an answer", sent=True
                )
        self._wake()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _broken(self, what: str) -> None:
        self.fail(Failure(Reason.PROTOCOL, what, sent=True))

    # ---- what the parser tells ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self.close()  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # those after the body are hop by hop
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # of these only 101 ends in more than a new head, and that is an error
            self._interim = True
            return
        self._interim = False
        self._has_head, self.status = True, status
        self._kept = self._parser.should_keep_alive()
        if self._bodiless:
            self._complete = True
        elif status not in (204, 304):
            self.framed_by_close = not any(
                name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
            )

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._chunks.append(data)
            self._queued += len(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self.headers = []
        else:
            self._complete = True
