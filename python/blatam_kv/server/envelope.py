"""What every exchange gets, whatever the endpoint: an id, a guard, a stopwatch, safe headers.

Pure ASGI around the whole application, so that errors the framework answers itself are
covered too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blatam_kv.server.fields import WEBSOCKET, Fields, fields, new_id
from blatam_kv.server.hosts import Hosts
from blatam_kv.server.prefix import Prefixes
from blatam_kv.server.problem import problem_response

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
# Of the interface, not of the program: it changes when clients must.
_VERSION = (b"api-version", b"1")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Stopwatch(Protocol):
    """What is told how long each exchange took, and how many are under way."""

    exchanges: int

    def http(self, method: str, route: str, status: int, seconds: float) -> None: ...


class Envelope:
    """Wraps an application. life: what hears of start and end in its place. mount: a path under which
    all of it is served as well, as gateways do; what was signed is the path as it came. proxies:
    networks whose X-Forwarded-Prefix is believed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        life: ASGIApp,
        metrics: Stopwatch,
        hosts: Hosts,
        mount: str = "",
        proxies: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._mount = f"{mount}/"
        self._metrics = metrics
        self._hosts = hosts
        self._life = life
        self._prefixes = Prefixes(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # The same stages and doors; what they refuse is answered as the handshake's response.
            send = _refusing(scope, send)
            scope = {**scope, "type": "http", "method": WEBSOCKET}
        elif scope["type"] != "http":
            await self._life(scope, receive, send)
            return
        start = time.perf_counter()
        self._metrics.exchanges += 1
        status = 500
        mounted = self._mount != "/" and scope["path"].startswith(self._mount)
        if mounted:
            scope["path"] = scope["path"][len(self._mount) - 1 :]
        self._prefixes.note(scope, self._mount[:-1] if mounted else "")
        found = fields(scope)
        claimed = found.get(b"x-request-id")
        request_id = claimed[0] if claimed and REQUEST_ID.fullmatch(claimed[0]) else new_id(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                state["started"] = True
                headers = message["headers"] = list(message["headers"])
                for name, _ in headers:
                    if name == b"cache-control":
                        break
                else:
                    headers.append(_NO_STORE)
                headers += ((b"x-request-id", request_id.encode()), _NO_SNIFF, _VERSION)
            await send(message)

        try:
            refusal = self._refusal(found)
            if refusal is None:
                await self._app(scope, receive, send_with_headers)
            else:
                code, detail = refusal
                response = problem_response(
                    status=code, detail=detail, path=scope["path"], request_id=request_id
                )
                await response(scope, receive, send_with_headers)
        finally:
            self._metrics.exchanges -= 1
            if scope["method"] != WEBSOCKET:  # which lasts as long as it likes
                method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
                route = scope.get("template", "unmatched")
                self._metrics.http(method, route, status, time.perf_counter() - start)

    def _refusal(self, found: Fields) -> tuple[int, str] | None:
        names = found.get(b"host", ())
        if len(names) != 1 or not self._hosts.take(names[0]):
            return 421, "this service does not answer to that name; BUL_ALLOWED_HOSTS adds names"
        if b"origin" in found and not all(map(self._hosts.take_origin, found[b"origin"])):
            return 403, "pages of other sites may not call this service"
        return None


def _refusing(scope: Scope, send: Send) -> Send:
    """Sends an HTTP response as the refusal of a WebSocket, in words where the server has them."""
    in_words = "websocket.http.response" in scope.get("extensions", {})

    async def sending(message: Message) -> None:
        kind = message["type"]
        if not kind.startswith("http.response."):
            await send(message)
        elif in_words:
            await send({**message, "type": f"websocket.{kind}"})
        elif kind == "http.response.start":
            await send({"type": "websocket.close", "code": 1008})

    return sending
