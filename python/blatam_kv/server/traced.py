"""Around a whole application, where traces are wanted: a span for each HTTP request.

Names and attributes are those of OpenTelemetry's conventions for HTTP. The query of a URL may hold
somebody's words and is left out; probes and scrapes are, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blatam_kv.tracing import HEADERS, Value, under

if TYPE_CHECKING:
    from blatam_kv.tracing.otel import Tracing

_QUIET = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CARRIERS = frozenset(name.encode() for name in HEADERS)


class Traced:
    """Wraps an application. tracing: closed by who opened it."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        told: dict[str, Value] = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "network.protocol.version": scope["http_version"],
        }
        carried = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _CARRIERS
        }
        span = self._tracing.request(method, carried, told)
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with under(span):
                await self._app(scope, receive, sending)
        finally:
            # The route is known only after the application has found it.
            if route := scope.get("template"):
                span.call(f"{method} {route}")
                span.say({"http.route": route})
            span.say({"http.response.status_code": status})
            if status >= 500:
                span.fail(str(status))
            span.end()
