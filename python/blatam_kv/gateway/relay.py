"""WebSockets passed through: messages both ways, at the pace of the slower side, with their ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from blatam_kv.gateway.systems import Upstream
from blatam_kv.gateway.wire import Failure, Headers, Reason

MAX_MESSAGE_BYTES = 16 << 20
_CLOSED_NORMALLY, _WENT_AWAY, _BROKE = 1000, 1001, 1011
# These are never sent: they stand for a close without a code, and for none at all.
_UNSAYABLE = (1005, 1006, 1015)


class Refused(Exception):
    """The system answered the handshake with something else, which is passed on."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc  # the client's to follow


async def relay(
    upstream: Upstream,
    target: bytes,
    headers: Headers,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Open the other side, accept this one, and pass on until one of them ends.

    headers: without those of the handshake. Raises Failure or Refused before it is accepted.
    """
    upstream.pool.enter()
    try:
        other = await _tried(upstream, target, headers, scope)
        try:
            await send({"type": "websocket.accept", "subprotocol": other.subprotocol})
            await _both(other, receive, send)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(upstream.system.connect_seconds):
                    await other.close()
    finally:
        upstream.pool.leave()


async def _tried(
    upstream: Upstream, target: bytes, headers: Headers, scope: Scope
) -> ClientConnection:
    """The other side, as far as its circuit allows. Raises Failure or Refused."""
    breaker = upstream.breaker
    if wait := breaker.enter():
        raise Failure(Reason.OPEN, f"failed again and again; ask in {wait:.0f} s", sent=False)
    try:
        other = await _opened(upstream, target, headers, scope)
    except Failure:
        breaker.failed()
        raise
    except BaseException:
        breaker.undecided()
        raise
    breaker.succeeded()
    return other


async def _opened(
    upstream: Upstream, target: bytes, headers: Headers, scope: Scope
) -> ClientConnection:
    parts = urlsplit(upstream.system.url)
    secure = parts.scheme == "https"
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    authority = next((value for name, value in pairs if name == "host"), parts.netloc)
    seconds = upstream.system.connect_seconds
    try:
        return await _Connect(
            f"{'wss' if secure else 'ws'}://{authority}{target.decode('latin-1')}",
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            additional_headers=[pair for pair in pairs if pair[0] != "host"],
            subprotocols=[Subprotocol(name) for name in scope.get("subprotocols", ())] or None,
            user_agent_header=None,
            compression=None,
            open_timeout=seconds + upstream.system.first_byte_seconds,
            max_size=MAX_MESSAGE_BYTES,
            proxy=None,
        )
    except InvalidStatus as error:
        response = error.response
        raise Refused(
            response.status_code,
            [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in response.headers.raw_items()
            ],
            bytes(response.body or b""),
        ) from None
    except TimeoutError:
        raise Failure(Reason.FIRST_BYTE, "did not take the WebSocket in time", sent=True) from None
    except OSError as error:
        detail = f"cannot be reached ({(error.strerror or str(error))[:120]})"
        raise Failure(Reason.CONNECT, detail, sent=False) from None
    except (WebSocketException, ValueError, EOFError) as error:
        detail = f"sent what is no WebSocket ({type(error).__name__})"
        raise Failure(Reason.PROTOCOL, detail, sent=True) from None


async def _both(other: ClientConnection, receive: Receive, send: Send) -> None:
    there = asyncio.ensure_future(_to_system(other, receive))
    back = asyncio.ensure_future(_to_client(other, send))
    try:
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)


async def _to_system(other: ClientConnection, receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code", _WENT_AWAY)
            await other.close(
                _WENT_AWAY if code in _UNSAYABLE else code, message.get("reason") or ""
            )
            return
        text = message.get("text")
        with suppress(ConnectionClosed):  # the other direction says so
            await other.send(message["bytes"] if text is None else text)


async def _to_client(other: ClientConnection, send: Send) -> None:
    code, reason = _BROKE, "the system ended the connection"
    try:
        while True:
            message = await other.recv()
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed as closed:
        if closed.rcvd is not None:
            code, reason = closed.rcvd.code, closed.rcvd.reason
            if code in _UNSAYABLE:
                code = _CLOSED_NORMALLY
    await send({"type": "websocket.close", "code": code, "reason": reason})
