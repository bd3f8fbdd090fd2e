"""The ASGI application: from a path to its system, and from what goes wrong to an answer that says so."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from email.utils import formatdate
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blatam_kv.bul.security.guard import Refusal
from blatam_kv.config import did_you_mean
from blatam_kv.gateway.body import ClientLeft
from blatam_kv.gateway.configuration import OWN_PATH
from blatam_kv.gateway.forward import Outgoing, exchange
from blatam_kv.gateway.headers import end_to_end
from blatam_kv.gateway.journal import Journal, Passing
from blatam_kv.gateway.relay import Refused, relay
from blatam_kv.gateway.request import Preparation
from blatam_kv.gateway.systems import Systems, Upstream
from blatam_kv.gateway.wire import Failure, Headers, Reason
from blatam_kv.server.envelope import REQUEST_ID
from blatam_kv.server.gate import problem_of
from blatam_kv.server.problem import UNAVAILABLE, Problem, problem_response
from blatam_kv.tracing import Kind, Value, span

log = logging.getLogger("blatam_kv.gateway")

_SYSTEMS, _OWN = b"/api/v1/", OWN_PATH.encode()
_STATUS = {
    Reason.CONNECT_TIMEOUT: 504,
    Reason.FIRST_BYTE: 504,
    Reason.IDLE: 504,
    Reason.TOTAL: 504,
    Reason.BUSY: 503,
    Reason.OPEN: 503,
}


class Gateway:
    """Passes on what belongs to a system; everything else is the gateway's own.

    own: what answers that. stopping: set when no stream of the page is to go on.
    """

    def __init__(
        self, systems: Systems, journal: Journal, own: ASGIApp, prepare: Preparation
    ) -> None:
        self._systems = systems
        self._journal = journal
        self._own = own
        self._prepare = prepare
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._own(scope, receive, send)
            return
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        upstream = self._systems.find(path)
        if upstream is not None:
            await self.pass_on(upstream, path, scope, receive, send)
        elif scope["type"] == "http":
            if path.startswith(_SYSTEMS) and not path.startswith(_OWN):
                await self._unknown(path, scope, receive, send)
            else:
                await self._own(scope, receive, _dated(send))
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "nothing is here"})

    async def _unknown(self, path: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        named = path[len(_SYSTEMS) :].partition(b"/")[0].decode("latin-1")[:40]
        known = self._systems.by_name
        hint = did_you_mean(named, known) or f"; there are {', '.join(known)}"
        request_id = _request_id(scope["headers"])
        answer = problem_response(
            status=404,
            detail=f"no system is called {named!r}{hint}",
            path=path.decode("latin-1"),
            request_id=request_id,
            headers={"X-Request-ID": request_id, "Cache-Control": "no-store"},
            more={"system": named},
        )
        await answer(scope, receive, _dated(send))

    async def pass_on(
        self,
        upstream: Upstream,
        path: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        given: Outgoing | None = None,
        request_id: str | None = None,
    ) -> None:
        """One exchange, and its line in the journal. given: a request made up by the gateway."""
        websocket = scope["type"] == "websocket"
        passing = Passing(
            id=request_id or _request_id(scope["headers"]),
            system=upstream.system.name,
            method="WEBSOCKET"
            if websocket
            else (given.method.decode() if given else scope["method"]),
            path=path.decode("latin-1")[:200],
            at=time.time(),
            began=asyncio.get_running_loop().time(),
        )
        self._journal.begin(passing)
        try:
            if websocket:
                await self._relay(upstream, path, scope, receive, send, passing)
                return
            scope.setdefault("template", f"{upstream.system.mount}/{{path}}")  # for a trace
            with span(passing.method, _asked(upstream, passing), kind=Kind.CLIENT) as asking:
                outgoing = given or await self._prepare.outgoing(
                    upstream, path, scope, receive, passing.id
                )
                await exchange(
                    upstream,
                    outgoing,
                    receive,
                    send,
                    passing,
                    via=self._prepare.via,
                    request_id=passing.id.encode(),
                )
                if asking is not None:
                    asking.say(_answered(passing))
        except ClientLeft:
            passing.error = Reason.CLIENT.value
        except (Failure, Problem, Refusal) as error:
            await self._refuse(error, upstream, scope, receive, send, passing)
        finally:
            self._journal.end(passing, now=asyncio.get_running_loop().time())

    async def _relay(
        self,
        upstream: Upstream,
        path: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
        passing: Passing,
    ) -> None:
        await receive()  # websocket.connect
        target, headers = self._prepare.handshake(upstream, path, scope, passing.id)
        passing.attempts = 1
        try:
            passing.status = 101
            await relay(upstream, target, headers, scope, receive, send)
        except Refused as refused:
            passing.status = refused.status
            answer = Response(refused.body, refused.status)
            answer.raw_headers = end_to_end(refused.headers)
            await self._deny(answer, scope, receive, send)
        except (Failure, Problem):
            passing.status = 0  # nothing was accepted
            raise

    async def _deny(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if "websocket.http.response" in scope.get("extensions", ()):
            await answer({"type": "http", "method": "GET"}, receive, _as_denial(send))
        else:
            await send({"type": "websocket.close", "code": 1011, "reason": "refused"})

    # ---- what went wrong ------------------------------------------------------------------------

    async def _refuse(
        self,
        error: Failure | Problem | Refusal,
        upstream: Upstream,
        scope: Scope,
        receive: Receive,
        send: Send,
        passing: Passing,
    ) -> None:
        name = upstream.system.name
        if isinstance(error, Failure):
            passing.error = error.reason.value
            if error.reason is Reason.CLIENT:
                return
            log.warning("request %s: %s %s", passing.id, name, error.detail)
            if passing.status:
                return  # an answer that has begun can only be broken off, which the server does
        response = self.refusal(error, upstream, passing)
        passing.status = response.status_code
        if scope["type"] == "websocket":
            await self._deny(response, scope, receive, send)
        else:
            await response(scope, receive, _dated(send))

    def refusal(
        self, error: Failure | Problem | Refusal, upstream: Upstream, passing: Passing
    ) -> Response:
        """The answer to a request that its system did not answer. It names the system."""
        name = upstream.system.name
        headers = {"X-Request-ID": passing.id, "Cache-Control": "no-store"}
        headers["X-Content-Type-Options"] = "nosniff"
        if isinstance(error, Refusal):
            error = problem_of(error)
        if isinstance(error, Failure):
            status = _STATUS.get(error.reason, 502)
            if status == 503:
                wait = upstream.breaker.seconds_left if error.reason is Reason.OPEN else 1.0
                headers["Retry-After"] = str(max(1, round(wait)))
            error = Problem(status, f"the system {name} {error.detail}", code=UNAVAILABLE)
        # Clients of OpenAI's protocol know one form of errors, wherever it is mounted.
        inner = passing.path.removeprefix(upstream.system.mount)
        return problem_response(
            status=error.status,
            detail=error.detail,
            path=inner if inner.startswith("/v1/") else passing.path,
            request_id=passing.id,
            errors=error.errors,
            headers={**headers, **(error.headers or {})},
            code=error.code,
            more={"system": name},
        )


def _asked(upstream: Upstream, passing: Passing) -> dict[str, Value]:
    """What a span tells of the system that is asked."""
    where = urlsplit(upstream.system.url)
    told: dict[str, Value] = {
        "http.request.method": passing.method,
        "server.address": where.hostname or "",
        "blatam_kv.system": upstream.system.name,
    }
    return told if where.port is None else told | {"server.port": where.port}


def _answered(passing: Passing) -> dict[str, Value]:
    return {
        "http.response.status_code": passing.status,
        "http.request.resend_count": passing.attempts - 1,
    }


def _request_id(headers: Headers) -> str:
    for name, value in headers:
        if name == b"x-request-id":
            claimed = value.decode("latin-1")
            if REQUEST_ID.fullmatch(claimed):
                return claimed
            break
    return os.urandom(16).hex()


def _dated(send: Send) -> Send:
    """The gateway's own answers have a Date; those of systems have theirs."""

    async def dated(message: Message) -> None:
        if message["type"].endswith("response.start"):
            date = formatdate(usegmt=True).encode()
            message["headers"] = [*message["headers"], (b"date", date)]
        await send(message)

    return dated


def _as_denial(send: Send) -> Send:
    """An HTTP answer to a WebSocket's handshake."""

    async def denied(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return denied
