"""Run BUL: take the port, load the model, serve until told to stop, leave nothing undone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from blatam_kv.config import Settings
from blatam_kv.errors import ConfigError, Error, MissingExtra
from blatam_kv.server import life
from blatam_kv.server.hosts import Hosts, bind_address, is_loopback
from blatam_kv.server.instance import instance

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from blatam_kv.blocks import KVStore
    from blatam_kv.truthgpt.protocol import TruthGPT

# What a stop gives to requests that are being answered; the rest of drain_seconds is the writers'.
_REQUESTS_SHARE = 0.6
_CLEAR_TEXT = (
    "API keys travel as they are; put TLS in front (nginx), or let callers sign their requests"
)


class PortInUse(Error, OSError):
    """Another program listens there."""


def need_libraries() -> None:
    """Raises MissingExtra without what every service here needs."""
    try:
        # The two fast parts are imported to say which extra brings them; uvicorn would quietly
        # do without.
        import httptools  # noqa: F401
        import uvicorn  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "uvicorn", extra="server") from error


def serve(settings: Settings, *, version: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, 0 after a graceful stop.

    Raises ConfigError for an address or a port that cannot be taken, or a weak secret, PortInUse,
    DirectoryInUse, MissingExtra, StorageUnavailable, ModelError if the model cannot be loaded, and
    TierUnavailable for a data directory that cannot be used.
    """
    need_libraries()
    import uvicorn

    from blatam_kv.bul.courier import Courier
    from blatam_kv.bul.security import make_guard, open_keys
    from blatam_kv.bul.service import Service
    from blatam_kv.bul.shared import open_redis
    from blatam_kv.bul.storage import open_storage
    from blatam_kv.server.bul import create_app
    from blatam_kv.server.traced import Traced
    from blatam_kv.tracing import open_tracing
    from blatam_kv.truthgpt import load
    from blatam_kv.truthgpt.placement import watched

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.life = None if self.should_exit else life.begin()
            print(
                f"blatam-kv {version}: BUL listens on {url_of(listener)} (its page, too)",
                flush=True,
            )
            if not is_loopback(address):
                print(f"blatam-kv: {_CLEAR_TEXT}", flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            life.stopping()
            # The writers drain while requests do. In a thread of its own: this is a signal handler,
            # which may have interrupted somebody who holds the lock it would wait for.
            threading.Thread(target=service.drain, name="bul-drain", daemon=True).start()

    with ExitStack() as opened:
        tracing = None
        if settings.otel:
            tracing = open_tracing("blatam-kv", version=version)
            opened.callback(tracing.close)
        address = bind_address(settings.api_host)
        hosts = Hosts(address, settings.allowed_hosts)
        keys = open_keys(settings)
        listener = opened.enter_context(listen(address, settings.api_port))
        node = opened.enter_context(instance(settings.data_dir))
        archive = open_storage(database_url(settings), node=node)
        opened.callback(archive.close)
        model = load(settings=settings)
        if isinstance(model, AbstractContextManager):
            opened.enter_context(model)
        # Reads the weights, or asks the endpoint: if there is nothing, say so now.
        _ = model.fingerprint, model.context_tokens
        blocks = _blocks(model, settings, keys.mac_key("redis"))
        if blocks is not None:
            opened.enter_context(blocks)
        redis = open_redis(settings, mac_key=keys.mac_key("redis"))
        service = Service(
            model,
            settings,
            version=version,
            blocks=blocks,
            redis=redis,
            archive=archive,
            salt_of=keys.salt_of,
            devices=opened.enter_context(watched(model, settings)),
            resumed=None if tracing is None else tracing.resumed,
        )
        guard = make_guard(settings, keys, count=service.metrics.rejected, redis=redis)
        courier = Courier(
            archive.callbacks,
            service,
            keys.signer,
            service.outbound,
            count=service.metrics.called_back,
        )
        courier.start()
        try:
            app = create_app(service, guard, hosts=hosts, proxies=settings.trusted_proxies)
            if tracing is not None:
                app = Traced(app, tracing)
            with signals_swallowed():
                Server(uvicorn_config(app, settings)).run(sockets=[listener])
        finally:
            courier.close()
            service.close()
            guard.close()
    return 0


def _blocks(model: TruthGPT, settings: Settings, mac_key: bytes) -> KVStore | None:
    """Where prompts' keys and values are kept, for a model that shows them."""
    from blatam_kv.truthgpt.protocol import KeepsPrefixes, RunsOnDevices

    models = model.models if isinstance(model, RunsOnDevices) else (model,)
    keepers = [each for each in models if isinstance(each, KeepsPrefixes)]
    if not keepers:
        return None
    from blatam_kv.truthgpt.prefixes import open_store

    store = open_store(keepers[0], settings, mac_key=mac_key)
    for other in keepers[1:]:  # the blocks are the host's: each device is as near to them
        if store is not None:
            other.keep_prefixes(store)
    return store


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How every service here is served."""
    import uvicorn

    from blatam_kv.server.heads import Heads

    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Heads,
        ws="websockets-sansio",
        ws_max_size=4096,  # nothing that a caller says there is listened to
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level=settings.log_level,
        use_colors=False if os.environ.get("NO_COLOR") else None,
        timeout_graceful_shutdown=max(1, round(_REQUESTS_SHARE * settings.drain_seconds)),
    )


def database_url(settings: Settings) -> str:
    """Where tasks and documents are kept."""
    if settings.database_url is not None:
        return settings.database_url.reveal()
    return f"sqlite:///{settings.data_dir.absolute() / 'bul.db'}"


@contextmanager
def signals_swallowed() -> Iterator[None]:
    """For the body, a stop signal that nobody handles is ignored.

    uvicorn handles them while it runs, and raises them again when it has stopped; that second
    one would end the process with a status other than 0.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; port 0 takes a free one.

    Raises PortInUse, and ConfigError for another reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening now, not when the server starts, makes a second server fail here.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use; stop the program that has it, or choose "
                "another with --port (0 takes a free one)"
            ) from error
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
