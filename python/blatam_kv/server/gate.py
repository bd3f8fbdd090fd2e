"""From a request to its answer through the stages, in the order they were drawn in.

A route says what it needs; the gate takes every request through authentication, rate limit,
sanitisation and access control, and only then to the answer. A route cannot skip one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from time import perf_counter
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from blatam_kv.bul.caller import ITSELF, Caller, Scope
from blatam_kv.bul.security.guard import Guard, Pending, Refusal, Request
from blatam_kv.bul.security.keys import Known
from blatam_kv.bul.security.sessions import session_in
from blatam_kv.server.body import MAX_BODY_BYTES, read_body
from blatam_kv.server.fields import WEBSOCKET, fields
from blatam_kv.server.hosts import is_in, is_loopback, is_loopback_authority
from blatam_kv.server.limited import Pairs, limit_fields, violated
from blatam_kv.server.once import Once
from blatam_kv.server.outdated import Outdated
from blatam_kv.server.problem import Problem
from blatam_kv.signature import ACCEPT
from blatam_kv.tracing import current

# What a route makes of its request: checked, cleaned, and of the type its answer expects.
Read = Callable[[HTTPRequest], Awaitable[Any]]
# (request, caller, what was read) → the response; a plain function runs in a thread.
Answer = Callable[[HTTPRequest, Caller, Any], Response | Awaitable[Response]]

_FORWARDED = ("x-forwarded-for", "forwarded", "via")
_KEY = b"idempotency-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One method of one path. scope: None for what anyone may see.

    policy: the limit it counts against. local: open to this machine without a key. ticket: open
    to a ticket as well. most_bytes: of
    its body. once: whether Idempotency-Key holds for it. outdated: for a path that another has
    taken the place of. body, options, example: what the document of the interface says of the body
    and the query.
    """

    path: str
    answer: Answer
    scope: Scope | None
    method: str = "GET"
    read: Read | None = None
    policy: str = "read"
    local: bool = False
    ticket: bool = False
    most_bytes: int = MAX_BODY_BYTES
    once: bool = False
    outdated: Outdated | None = None
    body: type[BaseModel] | None = None
    options: tuple[str, ...] = ()
    example: Mapping[str, object] | None = None
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.answer))


class Stopwatch(Protocol):
    """What is told how long each stage took."""

    def stage_took(self, name: str, seconds: float) -> None: ...


class Gate:
    """Takes requests through doors. proxies: networks whose X-Forwarded-For is believed. once:
    what keeps answers under Idempotency-Key, where doors want that."""

    def __init__(
        self,
        guard: Guard,
        metrics: Stopwatch,
        once: Once | None = None,
        *,
        proxies: Sequence[str] = (),
    ) -> None:
        self._guard = guard
        self._metrics = metrics
        self._once = once
        self._proxies = tuple(ip_network(text) for text in proxies)

    async def through(self, door: Door, request: HTTPRequest) -> Response:
        """Take a request through the stages of its door. Raises Problem where one refuses it.

        Leaves in ``state["told"]`` what the headers of any answer should tell.
        """
        state = request.scope["state"]
        told: Pairs = state["told"]
        if door.outdated is not None:
            told += door.outdated.pairs
        if door.scope is None or (door.local and self.is_local(request)):
            return await _call(door, request, ITSELF, None)
        state["most_bytes"] = door.most_bytes
        start = perf_counter()
        try:
            ticket = request.query_params.get("ticket") if door.ticket else None
            known = await self.known(request, ticket=ticket)
            authenticated = perf_counter()
            verdict = self._guard.limit(known, door.policy)
            if verdict is not None:
                told += limit_fields(door.path, verdict, door.policy, self._guard.window)
            limited = perf_counter()
            caller = state["caller"] = known.caller
            wanted = None if door.read is None else await door.read(request)
            sanitised = perf_counter()
            self._guard.allow(caller, door.scope, path=request.scope["path"])
            if door.scope is Scope.ADMIN and door.method != "GET":
                self._guard.note(caller, method=door.method, path=request.scope["path"])
        except Refusal as refusal:
            raise problem_of(refusal, door, self._guard.window) from None
        if (span := current()) is not None:
            allowed = perf_counter()
            span.past("authenticate", start, authenticated)
            span.past("limit", authenticated, limited, {"blatam_kv.policy": door.policy})
            span.past("sanitise", limited, sanitised)
            span.past("authorise", sanitised, allowed)
        # The limit and the right to enter take less time than noting it would.
        self._metrics.stage_took("authenticate", authenticated - start)
        self._metrics.stage_took("sanitise", sanitised - limited)
        if door.once and self._once is not None and _KEY in fields(request.scope):
            response = await self._once.through(
                fields(request.scope)[_KEY],
                caller.tenant,
                f"{door.method} {door.path}",
                await read_body(request),
                lambda: _call(door, request, caller, wanted),
            )
        else:
            response = await _call(door, request, caller, wanted)
        told.append(_timing(authenticated - start, sanitised - limited, perf_counter() - sanitised))
        return response

    async def known(self, request: HTTPRequest, *, ticket: str | None = None) -> Known:
        """Who asks. ticket: one that may stand for a key. Raises Refusal."""
        asked = self._asked(request, ticket)
        found = self._guard.identify(asked)
        if isinstance(found, Pending):
            return self._guard.believe(asked, found, await read_body(request))
        return found

    def _asked(self, request: HTTPRequest, ticket: str | None) -> Request:
        scope = request.scope
        get = fields(scope).get
        path = scope.get("raw_path") or scope["path"].encode()
        hosts = get(b"host")
        return Request(
            method="GET" if scope["method"] == WEBSOCKET else scope["method"],
            authority=hosts[0] if hosts else "",
            path=path.decode("latin-1"),
            query=f"?{scope['query_string'].decode('latin-1')}",
            address=self._address(request),
            api_keys=get(b"x-api-key", ()),
            authorizations=get(b"authorization", ()),
            signature_inputs=get(b"signature-input", ()),
            signatures=get(b"signature", ()),
            content_types=get(b"content-type", ()),
            content_digests=get(b"content-digest", ()),
            has_body=get(b"content-length", ()) not in ((), ["0"])
            or get(b"transfer-encoding") is not None,
            ticket=ticket,
            session=session_in("; ".join(get(b"cookie", ()))) if get(b"cookie") else "",
            forgery_token="".join(get(b"x-csrf-token", ())),
        )

    def _address(self, request: HTTPRequest) -> str:
        """The client's: the last address of X-Forwarded-For that no proxy of ours has."""
        client = request.scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies:
            return address
        forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while forwarded and is_in(address, self._proxies):
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


async def _call(door: Door, request: HTTPRequest, caller: Caller, wanted: Any) -> Response:
    if door.is_async:
        response: Response = await door.answer(request, caller, wanted)  # type: ignore[misc]
        return response
    return await run_in_threadpool(door.answer, request, caller, wanted)  # type: ignore[arg-type]


def _timing(authenticate: float, sanitise: float, answer: float) -> tuple[bytes, bytes]:
    """Server-Timing, in milliseconds."""
    text = "auth;dur=%.3f, read;dur=%.3f, answer;dur=%.3f"
    return b"server-timing", (text % (authenticate * 1e3, sanitise * 1e3, answer * 1e3)).encode()


def problem_of(refusal: Refusal, door: Door | None = None, window: float = 0.0) -> Problem:
    """A refusal as it is answered. door, window: whose limit it was, where that is to be told."""
    headers: dict[str, str] = {}
    more: dict[str, object] = {}
    if refusal.status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="blatam-kv"', "Accept-Signature": ACCEPT}
    elif refusal.retry_after:
        headers = {"Retry-After": str(refusal.retry_after)}
    if refusal.verdict is not None and door is not None:
        headers |= violated(door.path, refusal.verdict, door.policy, window)
        more = {"violated-policies": [door.policy]}
    return Problem(refusal.status, refusal.detail, headers=headers, more=more)
