"""The gateway's own endpoints: systems and their health, requests, totals, and asking by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ASGIScope

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.security.guard import Refusal
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.config import did_you_mean
from blatam_kv.gateway.app import Gateway
from blatam_kv.gateway.body import Body
from blatam_kv.gateway.checks import Checks
from blatam_kv.gateway.configuration import OWN_PATH
from blatam_kv.gateway.forward import Outgoing, is_repeatable
from blatam_kv.gateway.journal import Journal
from blatam_kv.gateway.reload import Watch
from blatam_kv.gateway.request import Preparation
from blatam_kv.gateway.systems import Systems, Upstream
from blatam_kv.server.body import read_json
from blatam_kv.server.gate import Door, problem_of
from blatam_kv.server.options import choice, read_options, whole
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply
from blatam_kv.server.webpage import Page

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MOST_ITEMS = 200
_EVENTS_SECONDS = 2.0

INDEX = {
    "/api/v1/{system}/…": "a system, at the path that GET /systems tells",
    "POST /api/v1/gateway/route": "a request to a system by its name",
    "GET /api/v1/gateway/systems": "every system, its health and its circuit",
    "GET /api/v1/gateway/systems/{name}": "one of them, with its checks",
    "POST /api/v1/gateway/systems/{name}/health-check": "check it now",
    "POST /api/v1/gateway/systems/health-check-all": "check all now",
    "GET /api/v1/gateway/operations": "requests under way",
    "GET /api/v1/gateway/requests": "the latest requests; ?limit, ?system",
    "GET /api/v1/gateway/requests/{id}": "one of them",
    "GET /api/v1/gateway/statistics": "totals by system",
    "GET /api/v1/gateway/events": "systems as they change, as server-sent events",
    "GET /healthz": "200 while the process lives",
    "GET /readyz": "200 while at least one system is well; /health is the same",
    "GET /metrics": "Prometheus metrics",
    "GET /version": "version",
}


class RouteRequest(BaseModel):
    """A request to a system by its name. data: the JSON body, or for GET, HEAD and DELETE the query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    target_system: str = Field(max_length=40)
    endpoint: str = Field(max_length=2000)
    method: str = "POST"
    data: Any = None


async def read_route(request: Request) -> RouteRequest:
    """The body of ``POST /route``. Raises Problem."""
    from pydantic import ValidationError

    try:
        wanted = RouteRequest.model_validate(await read_json(request))
    except ValidationError as error:
        errors = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        detail = "; ".join(f"{field}: {text}" for field, text in errors)
        raise Problem(422, f"the request is not valid: {detail}", errors=errors) from None
    if wanted.method not in METHODS:
        raise _invalid("method", f"must be one of {', '.join(METHODS)}")
    if not wanted.endpoint.startswith("/") or not wanted.endpoint.isprintable():
        raise _invalid("endpoint", "must be a path that begins with /")
    if (
        wanted.method in ("GET", "HEAD", "DELETE")
        and wanted.data is not None
        and not (
            isinstance(wanted.data, dict)
            and all(isinstance(value, str | int | float) for value in wanted.data.values())
        )
    ):
        raise _invalid("data", f"must hold names and plain values: {wanted.method} has no body")
    return wanted


def _invalid(field: str, text: str) -> Problem:
    return Problem(422, f"the request is not valid: {field}: {text}", errors=[(field, text)])


class Desk:
    """The endpoints. All but ``route`` answer from memory."""

    def __init__(
        self,
        systems: Systems,
        journal: Journal,
        checks: Checks,
        watch: Watch,
        prepare: Preparation,
        keys: KeyRing,
        *,
        version: str,
        page: Page,
    ) -> None:
        self._systems = systems
        self._journal = journal
        self._checks = checks
        self._watch = watch
        self._prepare = prepare
        self._keys = keys
        self._version = version
        self._page = page
        self.gateway: Gateway | None = None  # which in turn needs the desk

    def doors(self) -> list[Door]:
        """Every endpoint under its own path and under the original's short one."""
        found = []
        for base in (OWN_PATH, ""):
            seen: dict[str, Any] = {"scope": Scope.METRICS, "local": True}
            admin: dict[str, Any] = {"method": "POST", "scope": Scope.ADMIN, "policy": "write"}
            found += [
                Door(path=f"{base}/systems", answer=self.systems, **seen),
                Door(path=f"{base}/systems/{{name}}", answer=self.system, **seen),
                Door(path=f"{base}/statistics", answer=self.statistics, **seen),
                Door(path=f"{base}/operations", answer=self.operations, scope=Scope.ADMIN),
                Door(
                    path=f"{base}/requests",
                    answer=self.requests,
                    scope=Scope.ADMIN,
                    options=("limit", "system"),
                ),
                Door(path=f"{base}/requests/{{id}}", answer=self.request, scope=Scope.ADMIN),
                Door(path=f"{base}/systems/health-check-all", answer=self.check_all, **admin),
                Door(path=f"{base}/systems/{{name}}/health-check", answer=self.check, **admin),
            ]
        for path in (f"{OWN_PATH}/route", f"{OWN_PATH}/systems/route", "/systems/route"):
            found.append(
                Door(
                    path=path,
                    answer=self.route,
                    scope=Scope.READ,
                    method="POST",
                    read=read_route,
                    policy="write",
                    body=RouteRequest,
                )
            )
        return [
            *found,
            Door(path="/", answer=self.index, scope=None),
            Door(path="/healthz", answer=self.healthz, scope=None),
            Door(path="/readyz", answer=self.readyz, scope=None),
            Door(path="/health", answer=self.readyz, scope=None),
            Door(path="/version", answer=self.version, scope=None),
            Door(path="/metrics", answer=self.metrics, scope=Scope.METRICS, local=True),
            Door(path=f"{OWN_PATH}/events", answer=self.events, scope=Scope.METRICS, local=True),
            *self._page.doors(),
        ]

    async def index(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What is served here, as a page for browsers."""
        if self._page.wanted(request):
            return self._page.index(request)
        return json_reply({"service": "gateway", "version": self._version, "endpoints": INDEX})

    async def healthz(self, request: Request, caller: Caller, wanted: None) -> Response:
        """200 while the loop runs."""
        return json_reply({"status": "ok"})

    async def readyz(self, request: Request, caller: Caller, wanted: None) -> Response:
        """200 while at least one system is well, or none has been checked yet."""
        states = {name: each.well for name, each in self._systems.by_name.items()}
        ready = any(well is not False for well in states.values())
        words = {None: "unknown", True: "ok", False: "down"}
        body = {
            "status": "ready" if ready else "not ready",
            "checks": {name: words[well] for name, well in states.items()},
        }
        return json_reply(body, status=200 if ready else 503)

    async def version(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Which program."""
        return json_reply({"name": "blatam-kv gateway", "version": self._version})

    async def systems(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Every system."""
        return json_reply(
            {"systems": [each.described() for each in self._systems.by_name.values()]}
        )

    async def system(self, request: Request, caller: Caller, wanted: None) -> Response:
        """One system, with what its checks found, the newest first."""
        upstream = self._named(request.path_params["name"])
        history = [check.described() for check in reversed(upstream.history)]
        total = self._journal.of(upstream.system.name).described()
        return json_reply(upstream.described() | {"checks": history, "statistics": total})

    async def check(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Check one system now."""
        upstream = self._named(request.path_params["name"])
        found = await self._checks.one(upstream)
        return json_reply({"system": upstream.system.name} | found.described())

    async def check_all(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Check all systems now, at once."""
        found = await self._checks.all()
        return json_reply({"systems": {name: each.described() for name, each in found.items()}})

    async def operations(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What is under way."""
        now = asyncio.get_running_loop().time()
        operations = [
            passing.described() | {"milliseconds": round(1000 * (now - passing.began), 3)}
            for passing in self._journal.under_way.values()
        ]
        return json_reply({"operations": operations})

    async def requests(self, request: Request, caller: Caller, wanted: None) -> Response:
        """The latest requests, the newest first."""
        readers = {"limit": whole(1, _MOST_ITEMS), "system": choice(*self._systems.by_name)}
        options = read_options(request, readers)
        system = options.get("system")
        found = [
            passing.described()
            for passing in reversed(self._journal.recent)
            if system in (None, passing.system)
        ]
        return json_reply({"requests": found[: options.get("limit", 50)], "total": len(found)})

    async def request(self, request: Request, caller: Caller, wanted: None) -> Response:
        """One request by its id, if it is among the latest."""
        wanted_id = request.path_params["id"]
        for passing in reversed(self._journal.recent):
            if passing.id == wanted_id:
                return json_reply(passing.described())
        raise Problem(404, "no such request among the latest ones")

    async def statistics(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Totals by system since the start."""
        tallies = {
            name: self._journal.of(name).described() | {"circuit": each.breaker.state}
            for name, each in self._systems.by_name.items()
        }
        return json_reply(
            {
                "total_requests": sum(self._journal.of(name).requests for name in tallies),
                "under_way": len(self._journal.under_way),
                "uptime_seconds": round(time.time() - self._journal.started, 3),
                "configuration": self._watch.described(),
                "systems": tallies,
            }
        )

    async def events(self, request: Request, caller: Caller, wanted: None) -> Response:
        """The systems every two seconds, as server-sent events, for the page."""
        return StreamingResponse(self._told(), media_type="text/event-stream")

    async def _told(self) -> AsyncIterator[bytes]:
        while self.gateway is not None and not self.gateway.stopping:
            systems = []
            for name, each in self._systems.by_name.items():
                tally = self._journal.of(name)
                described = each.described()
                systems.append(
                    {
                        "name": name,
                        "status": described["status"],
                        "circuit": described["circuit"],
                        "requests": tally.requests,
                        "p95": tally.latency.quantile(0.95),
                        "errors": sum(tally.errors.values()),
                    }
                )
            yield b"event: systems\ndata: %b\n\n" % orjson.dumps(systems)
            await asyncio.sleep(_EVENTS_SECONDS)

    def metrics(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What Prometheus scrapes."""
        self._journal.systems = self._systems.by_name
        text, media_type = self._journal.expose()
        return Response(text, media_type=media_type)

    # ---- asking by name -------------------------------------------------------------------------

    async def route(self, request: Request, caller: Caller, wanted: RouteRequest) -> Response:
        """Ask a system by its name; its answer is the answer."""
        upstream = self._named(wanted.target_system)
        path, _, query = wanted.endpoint.partition("?")
        raw = upstream.mount + quote(path, safe="/%:@!$&'()*+,;=~-._").encode()
        headers = self._headers(request, upstream)
        method = wanted.method.encode()
        bodiless = wanted.method in ("GET", "HEAD", "DELETE")
        if bodiless and wanted.data:
            query = "&".join(filter(None, (query, urlencode(wanted.data))))
        content = b"" if bodiless or wanted.data is None else orjson.dumps(wanted.data)
        if content:
            headers.append((b"content-type", b"application/json"))
        self._prepare.check(raw, request.scope["headers"])
        target = upstream.target(raw, quote(query, safe="%=&+:@!$'()*,;/?~-._").encode())
        make = lambda: headers  # noqa: E731  # what stays the same is made once
        signed = any(name == b"signature" for name, _ in request.scope["headers"])
        if upstream.key is not None:
            try:
                self._prepare.allow(caller, method, path=request.scope["path"])
            except Refusal as refusal:
                raise problem_of(refusal) from None
            make = self._prepare.signing(upstream, method, target, headers, content)
        elif signed and upstream.system.credentials == "keep":
            # The signature was for this path. Who made it is proved, so it is made again for that.
            known = self._keys.by_id(caller.key_id)
            assert known is not None
            make = self._prepare.signing(
                upstream,
                method,
                target,
                headers,
                content,
                key_id=caller.key_id,
                key=known.signing_key,
            )
        body = Body((), request.receive, most_bytes=len(content))
        body.first = content
        repeatable = is_repeatable(method, headers)
        outgoing = Outgoing(method, target, make, body, repeatable)
        assert self.gateway is not None
        return _Passed(self.gateway, upstream, raw, outgoing, request.state.request_id)

    def _headers(self, request: Request, upstream: Upstream) -> list[tuple[bytes, bytes]]:
        """Of the caller's request only what is about the caller, not about the body it sent here."""
        dropped = (b"content-type", b"content-digest", b"signature", b"signature-input")
        headers = self._prepare.headers_for(upstream, request.scope, request.state.request_id)
        return [pair for pair in headers if pair[0] not in dropped]

    def _named(self, name: str) -> Upstream:
        upstream = self._systems.by_name.get(name)
        if upstream is None:
            known = self._systems.by_name
            hint = did_you_mean(name[:40], known) or f"; there are {', '.join(known)}"
            raise Problem(404, f"there is no system {name[:40]!r}{hint}")
        return upstream


class _Passed(Response):
    """A system's answer as the answer of an endpoint."""

    def __init__(
        self,
        gateway: Gateway,
        upstream: Upstream,
        path: bytes,
        outgoing: Outgoing,
        request_id: str,
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._upstream = upstream
        self._path = path
        self._outgoing = outgoing
        self._request_id = request_id

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        async def without_id(message: Message) -> None:
            # The envelope around the endpoint says these.
            if message["type"] == "http.response.start":
                said = (b"x-request-id", b"x-content-type-options", b"date")
                message["headers"] = [pair for pair in message["headers"] if pair[0] not in said]
            await send(message)

        await self._gateway.pass_on(
            self._upstream,
            self._path,
            scope,
            receive,
            without_id,
            given=self._outgoing,
            request_id=self._request_id,
        )
