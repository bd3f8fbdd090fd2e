"""Run the renderer alone (:8005): no model, no cache, no database, the same gate."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.security import make_guard, open_keys
from blatam_kv.bul.security.guard import Guard
from blatam_kv.config import Settings
from blatam_kv.metrics import CacheSnapshot, ServiceMetrics
from blatam_kv.server import exports
from blatam_kv.server.doors import Doors
from blatam_kv.server.envelope import Envelope
from blatam_kv.server.failures import failed
from blatam_kv.server.gate import Door, Gate
from blatam_kv.server.hosts import Hosts, bind_address
from blatam_kv.server.openapi import describe
from blatam_kv.server.replies import json_reply
from blatam_kv.server.serve import listen, signals_swallowed, url_of, uvicorn_config

INDEX = {
    **exports.INDEX,
    "GET /healthz": "200 while the process lives; /readyz and /health are the same",
    "GET /metrics": "Prometheus metrics",
    "GET /version": "version",
    "GET /openapi.json": "all of this for programs",
}


def create_export_app(
    metrics: ServiceMetrics,
    guard: Guard,
    *,
    version: str,
    hosts: Hosts | None = None,
    proxies: Sequence[str] = (),
) -> ASGIApp:
    """The application of the renderer."""
    about = {"service": "documents in six formats", "version": version}

    async def index(request: Request, caller: Caller, wanted: None) -> Response:
        """What is served here."""
        return json_reply(about | {"endpoints": INDEX})

    async def well(request: Request, caller: Caller, wanted: None) -> Response:
        """200 while the loop runs: there is nothing else to wait for."""
        return json_reply({"status": "ready"})

    async def named(request: Request, caller: Caller, wanted: None) -> Response:
        """Which program."""
        return json_reply({"name": "blatam-kv", "version": version})

    def exposed(request: Request, caller: Caller, wanted: None) -> Response:
        """What Prometheus scrapes."""
        text, media_type = metrics.expose()
        return Response(text, media_type=media_type)

    async def interface(request: Request, caller: Caller, wanted: None) -> Response:
        """All of this for programs."""
        return Response(document, media_type="application/json")

    doors = [
        *exports.ExportDesk(metrics).doors(),
        Door(path="/", answer=index, scope=None),
        *(Door(path=path, answer=well, scope=None) for path in ("/healthz", "/readyz", "/health")),
        Door(path="/version", answer=named, scope=None),
        Door(path="/metrics", answer=exposed, scope=Scope.METRICS, local=True),
        Door(path="/openapi.json", answer=interface, scope=None),
    ]
    document = json.dumps(describe(doors, version=version)).encode()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    gate = Gate(guard, metrics, proxies=proxies)
    return Envelope(
        Doors(gate, doors, failed=failed),
        life=Starlette(lifespan=lifespan),
        metrics=metrics,
        hosts=hosts or Hosts("127.0.0.1"),
    )


def export_metrics(version: str) -> ServiceMetrics:
    """Metrics of a service that has no cache and no queue."""
    empty = CacheSnapshot(
        policy="lru", entries=0, memory_bytes=0, memory_limit_bytes=0, evictions={}
    )
    return ServiceMetrics(version=version, cache=lambda: empty, queue_depth=dict)


def serve_export(settings: Settings, *, version: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, 0 after a graceful stop.

    Any number may run in one data directory, beside the service whose keys they take. Raises
    ConfigError for an address or a port that cannot be taken, or a weak secret, and PortInUse.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"blatam-kv {version}: export listens on {url_of(listener)}", flush=True)

    with ExitStack() as opened:
        address = bind_address(settings.api_host)
        hosts = Hosts(address, settings.allowed_hosts)
        keys = open_keys(settings)
        listener = opened.enter_context(listen(address, settings.api_port))
        metrics = export_metrics(version)
        guard = opened.enter_context(closing(make_guard(settings, keys, count=metrics.rejected)))
        app = create_export_app(
            metrics, guard, version=version, hosts=hosts, proxies=settings.trusted_proxies
        )
        with signals_swallowed():
            Server(uvicorn_config(app, settings)).run(sockets=[listener])
    return 0
