"""What every exchange gets, whatever the endpoint: an id, a guard, a stopwatch, safe headers.

Pure ASGI around the whole application, so that errors the framework answers itself are
covered too.
"""

from __future__ import annotations

import os
import re
import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blatam_kv.server.hosts import Hosts
from blatam_kv.server.problem import problem_response

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Stopwatch(Protocol):
    """What is told how long each exchange took."""

    def http(self, method: str, route: str, status: int, seconds: float) -> None: ...


class Envelope:
    """Wraps an application. life: what hears of start and end in its place. mount: a path under which
    all of it is served as well, as gateways do; what was signed is the path as it came."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        life: ASGIApp,
        metrics: Stopwatch,
        hosts: Hosts,
        mount: str = "",
    ) -> None:
        self._app = app
        self._mount = f"{mount}/"
        self._metrics = metrics
        self._hosts = hosts
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._life(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        if self._mount != "/" and scope["path"].startswith(self._mount):
            scope["path"] = scope["path"][len(self._mount) - 1 :]
        found: dict[bytes, list[str]] = {b"host": [], b"origin": [], b"x-request-id": []}
        for name, value in scope["headers"]:
            if name in found:
                found[name].append(value.decode("latin-1"))
        claimed = found[b"x-request-id"][0] if found[b"x-request-id"] else ""
        request_id = claimed if REQUEST_ID.fullmatch(claimed) else os.urandom(16).hex()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [*message["headers"], (b"x-request-id", request_id.encode()), _NO_SNIFF]
                if not any(name == b"cache-control" for name, _ in added):
                    added.append(_NO_STORE)
                message["headers"] = added
            await send(message)

        try:
            refusal = self._refusal(found[b"host"], found[b"origin"])
            if refusal is None:
                await self._app(scope, receive, send_with_headers)
            else:
                code, detail = refusal
                response = problem_response(
                    status=code, detail=detail, path=scope["path"], request_id=request_id
                )
                await response(scope, receive, send_with_headers)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
            route = scope.get("template", "unmatched")
            self._metrics.http(method, route, status, time.perf_counter() - start)

    def _refusal(self, names: list[str], origins: list[str]) -> tuple[int, str] | None:
        if len(names) != 1 or not self._hosts.take(names[0]):
            return 421, "this service does not answer to that name; BUL_ALLOWED_HOSTS adds names"
        if not all(map(self._hosts.take_origin, origins)):
            return 403, "pages of other sites may not call this service"
        return None
