"""What every exchange gets, whatever the endpoint: an id, a guard, a stopwatch, safe headers.

Pure ASGI around the whole application, so that errors the framework answers itself are
covered too.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blatam_kv.metrics import ServiceMetrics
from blatam_kv.server.hosts import Hosts
from blatam_kv.server.problem import problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Envelope:
    """Wraps an application. routes: from an endpoint to its path template, for the metrics."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServiceMetrics,
        hosts: Hosts,
        routes: Mapping[Callable[..., object], str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        headers = Headers(scope=scope)
        claimed = headers.get("x-request-id", "")
        request_id = claimed if _REQUEST_ID.fullmatch(claimed) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-ID"] = request_id
                added["X-Content-Type-Options"] = "nosniff"
                added.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refusal = self._refusal(headers)
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
            route = self._routes.get(scope.get("endpoint", _nowhere), "unmatched")
            self._metrics.http(method, route, status, time.perf_counter() - start)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        names = headers.getlist("host")
        if len(names) != 1 or not self._hosts.take(names[0]):
            return 421, "this service does not answer to that name; BUL_ALLOWED_HOSTS adds names"
        origin = headers.get("origin")
        if origin is not None and not self._hosts.take_origin(origin):
            return 403, "pages of other sites may not call this service"
        return None


def _nowhere() -> None:
    """The endpoint of a request that matched no route."""
