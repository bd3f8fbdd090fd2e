"""uvicorn's connection, with bounds on what comes before a request is one.

Three things are ours. A head that is larger than MAX_HEAD_BYTES, or does not come within HEAD_SECONDS,
ends its connection: the parser would gather it for ever. So does a connection on which nothing is asked.
And an ``Upgrade`` to what is not spoken here is ignored, as RFC 9110 (7.8) has it, with the body that
follows: Java's client offers h2c with every request, and the parser takes what comes after the head for
h2c and drops it.
"""

from __future__ import annotations

import asyncio
import http

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# As nginx has it for all headers together; those of a signed request take less than 2.
MAX_HEAD_BYTES = 64 << 10
HEAD_SECONDS = 20.0


class Heads(HttpToolsProtocol):
    """One connection of a client."""

    # Of the class, so that a connection costs nothing for them.
    _in_head = _in_body = _ignored = False
    _head_bytes = 0
    _line = b""
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._clock = self.loop.call_later(HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        began_before = self._in_head
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._ignored:
                self._stop_clock()
                self.handle_websocket_upgrade()
                return
            rest = data[upgrade.args[0] :]
            self._ignored, self.parser = False, httptools.HttpRequestParser(self)
            self.data_received(self._head_without_upgrade() + rest)
            return
        except httptools.HttpParserError:
            self._refuse(http.HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
            return
        if self._in_head:
            if began_before:  # else a body may lie before it
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(status, f"The head is larger than {MAX_HEAD_BYTES >> 10} KiB.")
                return
        elif self._in_body:
            return
        # Between two requests too: a single line break ends uvicorn's own patience.
        if self._clock is None and (
            self._in_head or self.cycle is None or self.cycle.response_complete
        ):
            self._clock = self.loop.call_later(HEAD_SECONDS, self._late)

    # ---- what the parser tells ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_clock()
        if self.parser.should_upgrade() and not self._should_upgrade():
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self._line = b"%b %b HTTP/%b" % (method, self.url, version.encode())
            self._ignored = method != b"CONNECT"
        if not self._ignored:
            self._in_body = True
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._ignored:
            self._in_body = False
            super().on_message_complete()

    # ---- what becomes of it ---------------------------------------------------------------------

    def _head_without_upgrade(self) -> bytes:
        lines = [self._line]
        for name, value in self.headers:
            if name == b"connection":
                words = [word.strip() for word in value.split(b",")]
                value = b", ".join(word for word in words if word.lower() != b"upgrade")
            if name != b"upgrade" and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self._in_head:
            self._refuse(http.HTTPStatus.REQUEST_TIMEOUT, "The head did not come in time.")
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: http.HTTPStatus, text: str) -> None:
        """The answer to what is no request, and the end. What was asked before it is answered first,
        and then there is no telling which of them this would be the answer to."""
        self._stop_clock()
        self.logger.warning("%s", text)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not self.transport.is_closing():
            fields = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{fields}connection: close\r\n\r\n"
            self.transport.write((head + text).encode())
        self.transport.close()
