"""From a request to its answer through the stages, in the order they were drawn in.

A route says what it needs; the gate takes every request through authentication, rate limit,
sanitisation and access control, and only then to the answer. A route cannot skip one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from time import perf_counter
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from blatam_kv.bul.caller import ITSELF, Caller, Scope
from blatam_kv.bul.security.guard import Guard, Pending, Refusal, Request
from blatam_kv.bul.security.keys import Known, Network
from blatam_kv.bul.security.limits import Verdict
from blatam_kv.bul.security.sessions import session_in
from blatam_kv.server.body import read_body
from blatam_kv.server.hosts import is_loopback, is_loopback_authority
from blatam_kv.server.problem import Problem
from blatam_kv.signature import ACCEPT

# What a route makes of its request: checked, cleaned, and of the type its answer expects.
Read = Callable[[HTTPRequest], Awaitable[Any]]
# (request, caller, what was read) → the response; a plain function runs in a thread.
Answer = Callable[[HTTPRequest, Caller, Any], Response | Awaitable[Response]]

_LOOKED_AT = (
    *(b"host", b"x-api-key", b"authorization", b"signature-input", b"signature", b"content-type"),
    *(b"content-digest", b"content-length", b"transfer-encoding"),
    *(b"cookie", b"x-csrf-token"),
)
_FORWARDED = ("x-forwarded-for", "forwarded", "via")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One method of one path. scope: None for what anyone may see.

    policy: the limit it counts against. local: open to this machine without a key. body, options:
    what the document of the interface says of the body and the query.
    """

    path: str
    answer: Answer
    scope: Scope | None
    method: str = "GET"
    read: Read | None = None
    policy: str = "read"
    local: bool = False
    body: type[BaseModel] | None = None
    options: tuple[str, ...] = ()


class Stopwatch(Protocol):
    """What is told how long each stage took."""

    def stage_took(self, name: str, seconds: float) -> None: ...


class Gate:
    """Takes requests through doors. proxies: networks whose X-Forwarded-For is believed."""

    def __init__(self, guard: Guard, metrics: Stopwatch, *, proxies: Sequence[str] = ()) -> None:
        self._guard = guard
        self._metrics = metrics
        self._proxies = tuple(ip_network(text) for text in proxies)

    async def through(self, door: Door, request: HTTPRequest) -> Response:
        """Take a request through the stages of its door. Raises Problem where one refuses it."""
        if door.scope is None or (door.local and self.is_local(request)):
            return await _call(door.answer, request, ITSELF, None)
        start = perf_counter()
        try:
            known = await self.known(request)
            authenticated = perf_counter()
            verdict = self._guard.limit(known, door.policy)
            limited = perf_counter()
            request.state.caller = known.caller
            wanted = None if door.read is None else await door.read(request)
            sanitised = perf_counter()
            self._guard.allow(known.caller, door.scope, path=request.scope["path"])
        except Refusal as refusal:
            raise problem_of(refusal) from None
        # The limit and the right to enter take less time than noting it would.
        self._metrics.stage_took("authenticate", authenticated - start)
        self._metrics.stage_took("sanitise", sanitised - limited)
        response = await _call(door.answer, request, known.caller, wanted)
        if verdict is not None:
            _tell_limit(response, verdict, door.policy, self._guard.window)
        return response

    async def known(self, request: HTTPRequest) -> Known:
        """Who asks. Raises Refusal."""
        asked = self._asked(request)
        found = self._guard.identify(asked)
        if isinstance(found, Pending):
            return self._guard.believe(asked, found, await read_body(request))
        return found

    def _asked(self, request: HTTPRequest) -> Request:
        scope = request.scope
        # One walk over the headers in place of a search for each.
        found: dict[bytes, list[str]] = {name: [] for name in _LOOKED_AT}
        for name, value in scope["headers"]:
            if name in found:
                found[name].append(value.decode("latin-1"))
        path = scope.get("raw_path") or scope["path"].encode()
        return Request(
            method=scope["method"],
            authority=found[b"host"][0] if found[b"host"] else "",
            path=path.decode("latin-1"),
            query=f"?{scope['query_string'].decode('latin-1')}",
            address=self._address(request),
            api_keys=found[b"x-api-key"],
            authorizations=found[b"authorization"],
            signature_inputs=found[b"signature-input"],
            signatures=found[b"signature"],
            content_types=found[b"content-type"],
            content_digests=found[b"content-digest"],
            has_body=found[b"content-length"] not in ([], ["0"])
            or bool(found[b"transfer-encoding"]),
            session=session_in("; ".join(found[b"cookie"])) if found[b"cookie"] else "",
            forgery_token="".join(found[b"x-csrf-token"]),
        )

    def _address(self, request: HTTPRequest) -> str:
        """The client's: the last address of X-Forwarded-For that no proxy of ours has."""
        client = request.scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies:
            return address
        forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while forwarded and _is_in(address, self._proxies):
            named = forwarded.pop().strip()
            if not named:
                break
            address = named
        return address

    def is_local(self, request: HTTPRequest) -> bool:
        """Whether somebody on this machine asks, and not a proxy on it for somebody else."""
        return (
            request.client is not None
            and is_loopback(request.client.host)
            and is_loopback_authority(request.headers.get("host", ""))
            and not any(name in request.headers for name in _FORWARDED)
        )


async def _call(answer: Answer, request: HTTPRequest, caller: Caller, wanted: Any) -> Response:
    if inspect.iscoroutinefunction(answer):
        response: Response = await answer(request, caller, wanted)
        return response
    return await run_in_threadpool(answer, request, caller, wanted)  # type: ignore[arg-type]


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        return any(ip_address(address) in network for network in networks)
    except ValueError:
        return False


def problem_of(refusal: Refusal) -> Problem:
    """A refusal as it is answered."""
    headers = {}
    if refusal.status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="blatam-kv"', "Accept-Signature": ACCEPT}
    elif refusal.retry_after:
        headers = {"Retry-After": str(refusal.retry_after)}
    return Problem(refusal.status, refusal.detail, headers=headers)


def _tell_limit(response: Response, verdict: Verdict, policy: str, window: float) -> None:
    """RateLimit header fields (draft-ietf-httpapi-ratelimit-headers)."""
    response.raw_headers += (
        (b"ratelimit-policy", f'"{policy}";q={verdict.limit};w={window:g}'.encode()),
        (b"ratelimit", f'"{policy}";r={verdict.left};t={verdict.reset:.0f}'.encode()),
    )
