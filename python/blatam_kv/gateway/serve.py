"""Run the gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from blatam_kv.bul.security import make_guard, open_keys
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.config import Settings
from blatam_kv.gateway.app import Gateway
from blatam_kv.gateway.checks import Checks
from blatam_kv.gateway.configuration import Configuration
from blatam_kv.gateway.desk import Desk
from blatam_kv.gateway.journal import Journal
from blatam_kv.gateway.reload import Watch
from blatam_kv.gateway.request import Preparation
from blatam_kv.gateway.systems import Systems
from blatam_kv.server.doors import Doors
from blatam_kv.server.envelope import Envelope
from blatam_kv.server.gate import Gate
from blatam_kv.server.hosts import Hosts, bind_address
from blatam_kv.server.problem import Problem, respond
from blatam_kv.server.serve import listen, signals_swallowed, url_of
from blatam_kv.server.traced import Traced
from blatam_kv.server.webpage import Page
from blatam_kv.tracing import open_tracing

log = logging.getLogger("blatam_kv.gateway")

# What a stop gives to requests that are under way.
_DRAIN_SECONDS = 15


def create_app(
    configuration: Configuration,
    guard: Guard,
    keys: KeyRing,
    journal: Journal,
    *,
    version: str,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Gateway:
    """The application; its life runs the checks and watches the file."""
    systems = Systems(configuration)
    checks = Checks(systems)
    watch = Watch(file, {} if environ is None else environ, systems)
    hosts = Hosts(bind_address(configuration.host), configuration.allowed_hosts)
    proxies = configuration.trusted_proxies
    gate = Gate(guard, journal, proxies=proxies)
    prepare = Preparation(gate, guard, hosts=hosts, proxies=proxies, name=name)
    bul = systems.by_name.get("bul")
    page = Page(gate.is_local, base="" if bul is None else bul.system.mount, gateway=True)
    desk = Desk(systems, journal, checks, watch, prepare, keys, version=version, page=page)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(checks.run()), loop.create_task(watch.run())]
        with suppress(RuntimeError, ValueError):  # not the main thread
            loop.add_signal_handler(signal.SIGHUP, watch.reload)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            systems.close()

    own = Envelope(
        Doors(gate, desk.doors(), failed=_failed),
        life=Starlette(lifespan=lifespan),
        metrics=journal,
        hosts=hosts,
    )
    desk.gateway = Gateway(systems, journal, own, prepare)
    return desk.gateway


def _failed(request: Request, error: Exception) -> tuple[Response, bool]:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400), False
    if isinstance(error, Problem):
        return respond(request, error), False
    log.error("request %s failed: %s", request.state.request_id, type(error).__name__)
    detail = "the gateway failed at this request; its log has the reason under the request id"
    return respond(request, Problem(500, detail)), True


def serve(
    configuration: Configuration, settings: Settings, *, file: Path | None, version: str
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, 0 after a graceful stop.

    settings: where the keys are. Raises ConfigError, PortInUse.
    """
    import uvicorn

    from blatam_kv.server.heads import Heads

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(
                f"blatam-kv {version}: the gateway listens on {url_of(listener)} (its page, too)",
                flush=True,
            )
            for system in configuration.systems:
                print(f"  {system.mount} → {system.url}", flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            app.stopping = True  # streams of the page end; others are finished

    tracing = open_tracing("blatam-kv-gateway", version=version) if settings.otel else None
    keys = open_keys(settings)
    journal = Journal(version=version, recent=configuration.recent)
    guard = make_guard(settings, keys, count=journal.rejected)
    with listen(bind_address(configuration.host), configuration.port) as listener:
        app = create_app(
            configuration, guard, keys, journal, version=version, file=file, environ=os.environ
        )
        config = uvicorn.Config(
            app if tracing is None else Traced(app, tracing),
            loop="uvloop",
            http=Heads,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="on",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            log_level=configuration.log_level,
            use_colors=False if os.environ.get("NO_COLOR") else None,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        try:
            with signals_swallowed():
                Server(config).run(sockets=[listener])
        finally:
            guard.close()
            if tracing is not None:
                tracing.close()
    return 0
