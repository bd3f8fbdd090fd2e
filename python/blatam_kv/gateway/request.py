"""From a client's request to what a system is asked: judged, rid of claims, told whom it is for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_network

from starlette.requests import Request
from starlette.types import Receive, Scope

from blatam_kv.bul.caller import Caller
from blatam_kv.bul.caller import Scope as KeyScope
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import Known
from blatam_kv.gateway.body import Body
from blatam_kv.gateway.forward import Outgoing, is_repeatable
from blatam_kv.gateway.headers import (
    MOST_HOPS,
    forwarded_for,
    hops,
    is_within,
    to_system,
    without_ours,
)
from blatam_kv.gateway.systems import Upstream
from blatam_kv.gateway.wire import Headers
from blatam_kv.server.body import read_body
from blatam_kv.server.gate import Gate
from blatam_kv.server.hosts import Hosts
from blatam_kv.server.problem import UNAVAILABLE, Problem
from blatam_kv.signature import sign
from blatam_kv.tracing import HEADERS as TRACE_HEADERS
from blatam_kv.tracing import carried

# One step up leads out of the path that a system has here, so no path may have any. Servlets read
# what follows a semicolon as a parameter of the step.
_STEPS = re.compile(rb"(?:^|[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:$|[/\\;]|%2f|%5c|%3b)", re.IGNORECASE)
_READING = (b"GET", b"HEAD", b"OPTIONS")
_NOT_PASSED_ON = (b"CONNECT", b"TRACE")
# Of the handshake, which is made anew.
_HANDSHAKE = frozenset(
    (
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"),
        b"sec-websocket-protocol",
    )
)
# Those of the caller are the gateway's own parent, where it traces, and not the system's.
_TRACE = tuple(name.encode() for name in TRACE_HEADERS)


class Preparation:
    """Makes requests for systems out of those of clients.

    name: this gateway's in Via, by which it knows its own requests when they come back.
    """

    def __init__(
        self,
        gate: Gate,
        guard: Guard,
        *,
        hosts: Hosts,
        proxies: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        self._gate = gate
        self._guard = guard
        self._hosts = hosts
        self._proxies = tuple(ip_network(text) for text in proxies)
        self._name = (name or f"blatam-{os.urandom(4).hex()}").encode()
        self.via = b"1.1 " + self._name

    def check(self, path: bytes, headers: Headers) -> None:
        """Raises Problem for a request that goes nowhere."""
        names = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(names) != 1 or not self._hosts.take(names[0]):
            raise Problem(421, "the gateway does not answer to that name; see allowed_hosts")
        for name, value in headers:
            if name == b"origin" and not self._hosts.take_origin(value.decode("latin-1")):
                raise Problem(403, "pages of other sites may not call this gateway")
            if name == b"via":
                seen = hops(headers)
                if self._name in seen or len(seen) >= MOST_HOPS:
                    detail = "the request has been here before: a system leads back to the gateway"
                    raise Problem(502, detail, code=UNAVAILABLE)
        if _STEPS.search(path):
            raise Problem(400, "the path has steps (. or ..); send it without them")

    def headers_for(self, upstream: Upstream, scope: Scope, request_id: str) -> Headers:
        """What a system is told, without framing and signature."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        believed = bool(self._proxies) and is_within(address, self._proxies)
        given: Headers = scope["headers"]
        host = next((value for name, value in given if name == b"host"), b"")
        kept = to_system(given, believed=believed)
        if upstream.system.credentials != "keep":
            kept = without_ours(kept)
        scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
        kept = forwarded_for(
            kept, address=address, scheme=scheme, host=host, taken_off=upstream.taken_off
        )
        named = host if upstream.system.host == "keep" else upstream.authority
        if trace := carried():
            kept = [pair for pair in kept if pair[0] not in _TRACE]
            kept += [(name.encode(), value.encode()) for name, value in trace.items()]
        kept.append((b"x-request-id", request_id.encode()))
        kept.append((b"via", self.via))
        return [(b"host", named), *kept]

    async def outgoing(
        self, upstream: Upstream, path: bytes, scope: Scope, receive: Receive, request_id: str
    ) -> Outgoing:
        """For an HTTP request. Raises Problem, Refusal, ClientLeft."""
        given: Headers = scope["headers"]
        self.check(path, given)
        method = scope["method"].encode()
        if method in _NOT_PASSED_ON:
            raise Problem(405, f"{scope['method']} is not passed on")
        headers = self.headers_for(upstream, scope, request_id)
        body = Body(given, receive, most_bytes=upstream.system.max_body_mb << 20)
        target = upstream.target(path, scope["query_string"])
        repeatable = is_repeatable(method, given)
        if upstream.key is None:
            if not body.whole:
                await body.gather()
            return Outgoing(method, target, lambda: headers, body, repeatable)
        request = Request(scope, receive)
        known = await self._known(request, method)
        request.state.caller = known.caller
        content = await read_body(request) if not body.whole else b""
        body.whole, body.first = True, content
        make = self.signing(upstream, method, target, headers, content)
        return Outgoing(method, target, make, body, repeatable)

    def handshake(
        self, upstream: Upstream, path: bytes, scope: Scope, request_id: str
    ) -> tuple[bytes, Headers]:
        """For a WebSocket: what is asked for, and with which headers. Raises Problem."""
        self.check(path, scope["headers"])
        if upstream.key is not None:
            detail = "WebSockets are not passed to a system that the gateway signs for"
            raise Problem(501, detail, code=UNAVAILABLE)
        headers = self.headers_for(upstream, scope, request_id)
        target = upstream.target(path, scope["query_string"])
        return target, [pair for pair in headers if pair[0] not in _HANDSHAKE]

    async def _known(self, request: Request, method: bytes) -> Known:
        """Who asks, if that is proved and allowed. Raises Refusal, Problem."""
        known = await self._gate.known(request)
        self._guard.limit(known, "read" if method in _READING else "write")
        self.allow(known.caller, method, path=request.scope["path"])
        return known

    def allow(self, caller: Caller, method: bytes, *, path: str) -> None:
        """Raises Refusal for a caller in whose place the gateway does not sign such a request."""
        scope = KeyScope.READ if method in _READING else KeyScope.WRITE
        self._guard.allow(caller, scope, path=path)

    def signing(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        headers: Headers,
        content: bytes,
        *,
        key_id: str | None = None,
        key: bytes | None = None,
    ) -> Callable[[], Headers]:
        """What makes headers with a new signature: the gateway's own, or that of another key."""
        key_id, key = key_id or upstream.system.key_id, key or upstream.key
        assert key_id is not None
        assert key is not None
        named = next(value for name, value in headers if name == b"host").decode("latin-1")
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        bodiless = not content and method not in (b"POST", b"PUT", b"PATCH")
        dropped = (b"authorization", b"x-api-key", b"cookie", b"content-type", b"content-digest")
        kept = [pair for pair in headers if pair[0] not in dropped]

        def make() -> Headers:
            made = sign(
                method.decode(),
                f"http://{named}{target.decode('latin-1')}",
                key_id=key_id,
                key=key,
                body=None if bodiless else content,
                content_type=kind.decode("latin-1") or "application/octet-stream",
            )
            return kept + [(name.lower().encode(), text.encode()) for name, text in made.items()]

        return make
