"""Request bodies: counted while they arrive, then read as strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from blatam_kv.cache import Cache
from blatam_kv.server.fields import field, fields
from blatam_kv.server.problem import Problem

JSON = "application/json"
MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 16
# Less than the server waits for running requests when it stops, so a stalled one cannot hold it.
MAX_BODY_SECONDS = 8.0


T = TypeVar("T")


class Recent(Generic[T]):
    """Reads bodies, and remembers what those came to that may come again byte for byte.

    Who asks the same again mostly sends the same bytes, and what they come to follows from them
    alone. make: of the JSON value; raises Problem, which is not remembered. Tenants share nothing:
    how long reading takes would tell one what another has sent.
    """

    _MOST, _LONGEST = 1024, 16 << 10

    def __init__(self, make: Callable[[object], T]) -> None:
        self._make = make
        self._made: Cache[tuple[str, bytes], T] = Cache(capacity=self._MOST)

    async def __call__(self, request: Request) -> T:
        """What a request's body comes to. Raises Problem."""
        check_type(request, JSON)
        body = await read_body(request)
        key = (request.scope["state"]["caller"].tenant, body)
        made = self._made.get(key)
        if made is None:
            made = self._make(parsed(body))
            if len(body) <= self._LONGEST:
                self._made.put(key, made)
        return made


async def read_json(request: Request) -> object:
    """The body as a JSON value. Raises Problem 400, 408, 413 or 415 with the fix.

    Strict UTF-8, no NaN, at most MAX_DEPTH levels. The limit holds for what really arrives,
    whatever Content-Length says.
    """
    check_type(request, JSON)
    return parsed(await read_body(request))


def check_type(request: Request, *allowed: str) -> str:
    """The media type of the body, one of those that are allowed. Raises Problem 415."""
    found = fields(request.scope)
    if (
        found.get(b"content-type") == [JSON]
        and b"content-encoding" not in found
        and JSON in allowed
    ):
        return JSON  # mostly
    given = field(request.scope, b"content-type").partition(";")[0].strip().lower()
    if given not in allowed:
        raise Problem(415, f"send the body as Content-Type: {' or '.join(allowed)}")
    if field(request.scope, b"content-encoding").lower() not in ("", "identity"):
        raise Problem(415, "send the body without Content-Encoding")
    return given


def parsed(body: bytes) -> object:
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(400, f"the body is not valid JSON: {error.msg} ({where})") from None
    # No more brackets than levels allowed: it cannot be deeper, and need not be walked.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise Problem(400, f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


async def read_body(request: Request) -> bytes:
    """The body, read once, of at most ``state["most_bytes"]`` (MAX_BODY_BYTES). Raises Problem 408 or
    413, ClientDisconnect."""
    state = request.scope.setdefault("state", {})
    kept: bytes | None = state.get("body")
    if kept is not None:
        return kept
    most = state.get("most_bytes", MAX_BODY_BYTES)
    announced = field(request.scope, b"content-length")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most)
    body: bytes = await _Arrival(_received(request.receive, most))
    state["body"] = body
    return body


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most:,} bytes")


async def _received(receive: Receive, most: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return body


class _Arrival:
    """Awaits a body, by the clock only if it has to wait: most have arrived with their headers, and
    arming a clock costs as much as reading them."""

    def __init__(self, body: Coroutine[Any, Any, bytes]) -> None:
        self._body = body

    def __await__(self) -> Generator[Any, Any, bytes]:
        steps = self._body.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as done:
            body: bytes = done.value
            return body
        return (yield from self._in_time(waits_for, steps).__await__())

    async def _in_time(self, waits_for: Any, steps: Generator[Any, Any, bytes]) -> bytes:
        try:
            async with asyncio.timeout(MAX_BODY_SECONDS):
                return await _Rest(waits_for, steps)
        except TimeoutError:
            raise Problem(
                408, f"the body did not arrive within {MAX_BODY_SECONDS} seconds"
            ) from None
        finally:
            self._body.close()


class _Rest:
    """What is left of an awaitable after its first step."""

    def __init__(self, waits_for: Any, steps: Generator[Any, Any, bytes]) -> None:
        self._waits_for = waits_for
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, bytes]:
        yield self._waits_for
        return (yield from self._steps)


def _deeper_than(value: object, levels: int) -> bool:
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [
            item
            for holder in layer
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not layer:
            return False
    return any(isinstance(item, dict | list) for item in layer)
