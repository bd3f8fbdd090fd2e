"""What the page shows while it is open: the figures of /metrics as they change, texts as they grow,
and its sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.security.guard import Guard, Refusal
from blatam_kv.bul.security.sessions import COOKIE, SECONDS, session_in
from blatam_kv.bul.service import Service
from blatam_kv.errors import Error
from blatam_kv.server.gate import Door, Gate, problem_of
from blatam_kv.server.options import read_options, whole
from blatam_kv.server.prefix import prefix_of
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import describe, json_reply

log = logging.getLogger("blatam_kv.server")

EVERY_SECONDS = 1.0
# A stream tells so many figures each second, then one in three: who has just come wants to see something
# move, and a page that stays open costs its machine and ours a third.
BRISK, CALM_SECONDS = 20, 3.0
_TEXT_EVERY_SECONDS = 0.1
# Nodes come and go slowly: so many figures between two looks.
_NODES_EVERY = 5
# Each open page is one; more would be somebody's mistake, or worse.
MOST_STREAMS = 64
# Of these the page draws; the rest of /metrics is for Prometheus.
_SHOWN = (
    *("kv_cache_", "kv_blocks_", "kv_tier_", "kv_gpu_", "kv_node_", "bul_documents_total"),
    *("bul_queue_depth", "bul_rejected_total", "bul_retries_total", "process_"),
)
_HEADERS = {"X-Accel-Buffering": "no"}

INDEX = {
    "GET /api/v1/events": "the figures of /metrics as they change, as server-sent events; ?count",
    "GET /task/{id}/text": "a document's text as it is written, as server-sent events",
    "POST /api/v1/backups": "back up every store now",
    "POST /api/v1/session": "a key for a cookie, for the page",
}


class Figures:
    """The figures of a registry, read at most once a second however many look on."""

    def __init__(self, registry: Any) -> None:  # a CollectorRegistry, which is an extra's
        self._registry = registry
        self._read = 0.0
        self._now: Mapping[str, float] = {}

    def now(self) -> Mapping[str, float]:
        """Every sample that is shown, by the name that the text of /metrics gives it."""
        if time.monotonic() - self._read >= 0.9 * EVERY_SECONDS:
            self._now = {
                _named(sample.name, sample.labels): sample.value
                for family in self._registry.collect()
                if family.name.startswith(_SHOWN) or f"{family.name}_total".startswith(_SHOWN)
                for sample in family.samples
                if sample.value == sample.value  # JSON has no NaN
            }
            self._read = time.monotonic()
        return self._now


def _named(name: str, labels: Mapping[str, str]) -> str:
    if not labels:
        return name
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


class LiveDesk:
    """The endpoints."""

    def __init__(self, service: Service, gate: Gate, guard: Guard) -> None:
        self._service = service
        self._gate = gate
        self._guard = guard
        self._figures = Figures(service.metrics.registry)
        self._streams = 0

    def doors(self) -> list[Door]:
        """Every endpoint."""
        return [
            Door(
                path="/api/v1/events",
                answer=self.events,
                scope=Scope.METRICS,
                local=True,
                options=("count",),
            ),
            Door(path="/api/v1/session", answer=self.session, scope=None),
            Door(path="/api/v1/session", answer=self.begin, scope=None, method="POST"),
            Door(path="/api/v1/session", answer=self.end, scope=None, method="DELETE"),
            Door(
                path="/api/v1/backups",
                answer=self.back_up,
                scope=Scope.ADMIN,
                method="POST",
                policy="write",
            ),
            Door(path="/task/{id}/text", answer=self.text, scope=Scope.READ),
        ]

    # ---- figures --------------------------------------------------------------------------------

    async def events(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Figures as they change, all of them first, and the nodes; ``count`` ends it."""
        count = read_options(request, {"count": whole(1, 100_000)}).get("count")
        self._one_more()
        told = self._told(count, caller)
        return StreamingResponse(told, media_type="text/event-stream", headers=_HEADERS)

    async def _told(self, count: int | None, caller: Caller) -> AsyncIterator[bytes]:
        try:
            about = await run_in_threadpool(self._about)
            yield _event("about", about)
            seen: Mapping[str, float] = {}
            others: dict[str, object] = {}
            turn = 0
            while not self._service.queue.closed and self._guard.knows(caller):
                now = self._figures.now()
                changed = {name: value for name, value in now.items() if seen.get(name) != value}
                gone = [name for name in seen if name not in now]
                seen = now
                yield _event("figures", {"at": time.time(), "samples": changed, "gone": gone})
                if turn % _NODES_EVERY == 0:
                    now_others = await run_in_threadpool(self._nodes)
                    if now_others != others:
                        others = now_others
                        yield _event("nodes", others)
                turn += 1
                if count is not None and (count := count - 1) == 0:
                    return
                await asyncio.sleep(EVERY_SECONDS if turn < BRISK else CALM_SECONDS)
        finally:
            self._streams -= 1

    def _about(self) -> dict[str, object]:
        service = self._service
        settings = service.settings
        return {
            "version": service.version,
            "model": service.model.model_id,
            "strategy": service.steering.policy,
            "codec": settings.kv_codec,
            "writers": len(service.writers),
            "health": service.reports.cache_health()["components"],
            "readiness": service.reports.readiness(),
        }

    def _nodes(self) -> dict[str, object]:
        return self._service.neighbours.seen().described()

    def _one_more(self) -> None:
        if self._streams >= MOST_STREAMS:
            detail = f"{MOST_STREAMS} pages are open; close one"
            raise Problem(503, detail, headers={"Retry-After": "10"})
        self._streams += 1

    def back_up(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Back up every store now; null where nothing is on disk."""
        backups = self._service.backups
        try:
            made = backups.make_now()
        except (Error, OSError) as error:
            log.error("request %s: no backup: %s", request.state.request_id, error)
            raise Problem(503, "the backup failed; the service's log says why") from None
        return json_reply({"backup": str(backups.root) if made else None})

    # ---- texts ----------------------------------------------------------------------------------

    async def text(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A document as it is written: ``text`` pieces, ``again`` where it begins anew, then ``done``."""
        key = request.path_params["id"]
        await run_in_threadpool(self._service.task, key, tenant=caller.tenant)
        self._one_more()
        written = self._written(key, caller, prefix_of(request))
        return StreamingResponse(written, media_type="text/event-stream", headers=_HEADERS)

    async def _written(self, key: str, caller: Caller, prefix: str) -> AsyncIterator[bytes]:
        try:
            pieces: list[str] = []
            told = told_task = 0
            while self._guard.knows(caller):
                now = self._service.ledger.pieces(key)
                if now is not None and now is not pieces:
                    if told:
                        yield _event("again", {})
                    pieces, told = now, 0
                if told < len(pieces):
                    end = len(pieces)
                    yield _event("text", "".join(pieces[told:end]))
                    told = end
                task = await run_in_threadpool(self._service.task, key, tenant=caller.tenant)
                if task.is_finished or self._service.queue.closed:
                    yield _event("done", describe(task, prefix=prefix))
                    return
                if now is None or not told:
                    told_task += 1
                    if told_task % 10 == 1:
                        position = self._service.ledger.position(task)
                        yield _event("waiting", {"status": task.status, "position": position})
                await asyncio.sleep(_TEXT_EVERY_SECONDS)
        finally:
            self._streams -= 1

    # ---- sessions -------------------------------------------------------------------------------

    async def session(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Whether there is a session, and what it may do. Open to all: it tells nobody anything new."""
        token = session_in(request.headers.get("cookie", ""))
        if not token or self._guard.sessions.key_of(token) is None:
            return json_reply({"signed_in": False})
        try:
            known = await self._gate.known(request)
        except Refusal:
            return json_reply({"signed_in": False})
        return json_reply(self._described(known.caller, token))

    async def begin(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A session for a key (X-API-Key, or a signature): a cookie, and the token that changes take."""
        try:
            known = await self._gate.known(request)
            self._guard.limit(known, "write")
        except Refusal as refusal:
            raise problem_of(refusal) from None
        if not any(name in request.headers for name in ("x-api-key", "authorization", "signature")):
            raise Problem(401, "a session begins with a key, not with a session")
        session = self._guard.sessions.begin(known.key.key_id)
        response = json_reply(self._described(known.caller, session.token), status=201)
        response.headers["Set-Cookie"] = self._cookie(request, session.token, SECONDS)
        return response

    async def end(self, request: Request, caller: Caller, wanted: None) -> Response:
        """End it, here and in the browser."""
        token = session_in(request.headers.get("cookie", ""))
        try:
            await self._gate.known(request)
        except Refusal as refusal:
            raise problem_of(refusal) from None
        self._guard.sessions.end(token)
        response = json_reply({"signed_in": False})
        response.headers["Set-Cookie"] = self._cookie(request, "", 0)
        return response

    def _described(self, caller: Caller, token: str) -> dict[str, object]:
        return {
            "signed_in": True,
            "tenant": caller.tenant,
            "scopes": sorted(caller.scopes),
            "csrf_token": self._guard.sessions.forgery_token(token),
            "seconds": self._guard.sessions.seconds_left(token),
        }

    def _cookie(self, request: Request, token: str, seconds: int) -> str:
        secure = "; Secure" if request.headers.get("x-forwarded-proto") == "https" else ""
        return f"{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))
