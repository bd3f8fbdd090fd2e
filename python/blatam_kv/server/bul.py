"""The HTTP face of BUL (:8002): each endpoint translates, the service does the work."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from blatam_kv.bul.analyse import AREA_OF_TYPE
from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.request import one_of
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.service import Service
from blatam_kv.server import (
    batches,
    devices,
    documents,
    exports,
    letterheads,
    live,
    progress,
    steering,
    tasks,
)
from blatam_kv.server.doors import Doors
from blatam_kv.server.envelope import Envelope
from blatam_kv.server.failures import failed
from blatam_kv.server.gate import Door, Gate
from blatam_kv.server.hosts import Hosts
from blatam_kv.server.once import Once
from blatam_kv.server.openai import OpenAIFace
from blatam_kv.server.openapi import describe
from blatam_kv.server.outdated import original
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply
from blatam_kv.server.webpage import Page
from blatam_kv.truthgpt.brief import AREAS

log = logging.getLogger("blatam_kv.server")

# Where the gateway has it. A client signs the path it asks for, so the gateway leaves it as it is.
MOUNT = "/api/v1/bul"

INDEX = {
    **tasks.INDEX,
    **batches.INDEX,
    **progress.INDEX,
    **documents.INDEX,
    **live.INDEX,
    **letterheads.INDEX,
    **steering.INDEX,
    **exports.INDEX,
    **devices.INDEX,
    "POST /v1/chat/completions": "OpenAI's, also as a stream; /v1/completions, /v1/models",
    "GET /agents": "business areas and the documents written for them",
    "GET /agents/{area}": "one of them",
    "GET /processor/status": "the queue and its writers",
    "POST /processor/stop": "write nothing new until started again",
    "POST /processor/start": "go on writing",
    "GET /stats": "totals of the service",
    "GET /api/v1/kv-cache/stats": "totals and latencies of the cache",
    "GET /api/v1/kv-cache/health": "state of the cache",
    "POST /api/v1/kv-cache/clear": "forget every cached answer and prefix",
    "DELETE /cache/{key}": "forget one cached answer, by the key in Cache-Status",
    "GET /healthz": "200 while the process lives",
    "GET /readyz": "200 when documents can be written; /health is the same",
    "GET /metrics": "Prometheus metrics",
    "GET /version": "version and model",
    "GET /openapi.json": "all of this for programs",
}


def doors(service: Service, page: Page | None = None) -> list[Door]:
    """The endpoints of tasks, batches, documents and the service itself; page: for browsers at ``/``."""
    desks = (
        tasks.TaskDesk(service),
        batches.BatchDesk(service),
        documents.DocumentDesk(service),
        letterheads.LetterheadDesk(service),
        exports.ExportDesk(service.metrics, letterhead_of=service.press.letterhead_of),
        devices.DeviceDesk(service),
        steering.SteeringDesk(service.steering),
        Face(service, page),
    )
    return [door for desk in desks for door in desk.doors()]


def create_app(
    service: Service, guard: Guard, *, hosts: Hosts | None = None, proxies: Sequence[str] = ()
) -> ASGIApp:
    """The application for a service; its shutdown closes the service."""
    service.archive.replies.release_all()
    once = Once(service.archive.replies)
    gate = Gate(guard, service.metrics, once, proxies=proxies)
    page = Page(gate.is_local)
    openai = OpenAIFace(service.chats, service.metrics, ttl=service.settings.cache_ttl)
    desk = live.LiveDesk(service, gate, guard)
    watching = progress.ProgressDesk(service, guard)
    everything = [*doors(service, page), *watching.doors(), *openai.doors()]
    everything += [*desk.doors(), *page.doors()]
    # Not by orjson: limits of integers are larger than it writes.
    document = json.dumps(describe(everything, version=service.version)).encode()

    async def interface(request: Request, caller: Caller, wanted: None) -> Response:
        return Response(document, media_type="application/json")

    everything.append(Door(path="/openapi.json", answer=interface, scope=None))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    hosts = hosts or Hosts("127.0.0.1")
    app = Doors(gate, everything, failed=failed)
    life = Starlette(lifespan=lifespan)
    return Envelope(
        app, life=life, metrics=service.metrics, hosts=hosts, mount=MOUNT, proxies=proxies
    )


class Face:
    """The endpoints. Plain functions run in a thread, so rendering never holds up the loop."""

    def __init__(self, service: Service, page: Page | None = None) -> None:
        self._service = service
        self._page = page

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        cache = "/api/v1/kv-cache"
        admin: dict[str, Any] = {"method": "POST", "scope": Scope.ADMIN, "policy": "write"}
        return [
            Door(path="/", answer=self.index, scope=None),
            Door(path="/healthz", answer=self.healthz, scope=None),
            Door(path="/readyz", answer=self.readyz, scope=None),
            Door(path="/version", answer=self.version, scope=None),
            Door(path="/health", answer=self.readyz, scope=None),
            Door(path="/agents", answer=self.agents, scope=Scope.READ),
            Door(path="/agents/{area}", answer=self.agent, scope=Scope.READ),
            Door(path="/processor/status", answer=self.processor, scope=Scope.METRICS),
            Door(path="/processor/start", answer=self.start, **admin),
            Door(path="/processor/stop", answer=self.stop, **admin),
            Door(path="/stats", answer=self.stats, scope=Scope.METRICS),
            Door(
                path="/api/stats",
                answer=self.stats,
                scope=Scope.METRICS,
                outdated=original("/stats"),
            ),
            Door(path="/metrics", answer=self.metrics, scope=Scope.METRICS, local=True),
            Door(path=f"{cache}/stats", answer=self.cache_stats, scope=Scope.METRICS),
            Door(path=f"{cache}/health", answer=self.cache_health, scope=Scope.METRICS),
            Door(path=f"{cache}/clear", answer=self.clear, **admin),
            Door(
                path="/cache/{key}",
                method="DELETE",
                answer=self.forget,
                scope=Scope.WRITE,
                policy="write",
            ),
        ]

    async def index(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What is served here, as a page for browsers."""
        if self._page is not None and self._page.wanted(request):
            return self._page.index(request)
        name = {"service": "BUL, documents through the cache", "version": self._service.version}
        return json_reply(name | {"endpoints": INDEX})

    async def healthz(self, request: Request, caller: Caller, wanted: None) -> Response:
        """200 while the loop runs; asks nothing else."""
        return json_reply({"status": "ok"})

    async def readyz(self, request: Request, caller: Caller, wanted: None) -> Response:
        """200 when documents can be written, else 503; with what is well and what is not."""
        checks = self._service.reports.readiness()
        ready = all(state in ("ok", "degraded") for state in checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return json_reply(body, status=200 if ready else 503)

    async def version(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Which program and which model."""
        model = self._service.model
        return json_reply(
            {
                "name": "blatam-kv",
                "version": self._service.version,
                "model": model.model_id,
                "model_fingerprint": model.fingerprint,
            }
        )

    async def stats(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Totals of the service."""
        return json_reply(self._service.reports.stats(caller))

    async def cache_stats(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Totals and latencies of the cache."""
        return json_reply(self._service.reports.cache_stats(caller))

    async def cache_health(self, request: Request, caller: Caller, wanted: None) -> Response:
        """State of the cache; 503 when documents can no longer be written."""
        health = self._service.reports.cache_health()
        return json_reply(health, status=200 if health["status"] == "healthy" else 503)

    async def clear(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Forget every cached answer, and every prefix."""
        return json_reply({"cleared": self._service.clear()})

    def forget(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Forget one cached answer of yours, by the key that Cache-Status told."""
        if not self._service.forget(request.path_params["key"], caller):
            raise Problem(404, "no answer of yours is cached under this key")
        return json_reply({"deleted": True})

    async def agents(self, request: Request, caller: Caller, wanted: None) -> Response:
        """The business areas, and the types of document that belong to each."""
        return json_reply({"agents": [_agent(area) for area in AREAS]})

    async def agent(self, request: Request, caller: Caller, wanted: None) -> Response:
        """One business area."""
        area = request.path_params["area"]
        if area not in AREAS:
            raise Problem(404, f"no such area: {one_of(area, AREAS)}")
        return json_reply(_agent(area))

    async def processor(self, request: Request, caller: Caller, wanted: None) -> Response:
        """The queue and its writers."""
        return json_reply(self._service.reports.processor(caller))

    async def start(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Go on writing."""
        self._service.go_on()
        return json_reply(self._service.reports.processor(caller))

    async def stop(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Write nothing new; what waits and what comes is kept, hits are answered."""
        self._service.pause()
        return json_reply(self._service.reports.processor(caller))

    def metrics(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What Prometheus scrapes."""
        text, media_type = self._service.metrics.expose()
        return Response(text, media_type=media_type)


def _agent(area: str) -> dict[str, object]:
    types = [name for name, home in AREA_OF_TYPE.items() if home == area]
    return {"area": area, "document_types": types}
