"""Run BUL: take the port, load the model, serve until told to stop, leave nothing undone."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from blatam_kv.config import Settings
from blatam_kv.errors import ConfigError, Error, MissingExtra
from blatam_kv.server.loopback import WHY, loopback_address

DRAIN_SECONDS = 10


class PortInUse(Error, OSError):
    """Another program listens there."""


def serve(settings: Settings, *, version: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, 0 after a graceful stop.

    Raises ConfigError for a host that is not loopback or a port that may not be taken, PortInUse,
    MissingExtra, and ModelError if the model cannot be loaded.
    """
    try:
        # The two fast parts are imported to say which extra brings them; uvicorn would quietly
        # do without.
        import httptools  # noqa: F401
        import uvicorn
        import uvloop  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "uvicorn", extra="server") from error
    from blatam_kv.bul.service import Service
    from blatam_kv.server.bul import create_app
    from blatam_kv.truthgpt import load

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"blatam-kv {version}: BUL listens on {url_of(listener)} ({WHY})", flush=True)

    with ExitStack() as opened:
        listener = opened.enter_context(
            listen(loopback_address(settings.api_host), settings.api_port)
        )
        model = load(settings=settings)
        if isinstance(model, AbstractContextManager):
            opened.enter_context(model)
        # Reads the weights, or asks the endpoint: if there is nothing, say so now.
        _ = model.fingerprint, model.context_tokens
        service = Service(model, settings, version=version)
        try:
            config = uvicorn.Config(
                create_app(service),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                log_level=settings.log_level,
                use_colors=False if os.environ.get("NO_COLOR") else None,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
            with _signals_swallowed():
                Server(config).run(sockets=[listener])
        finally:
            service.close()
    return 0


@contextmanager
def _signals_swallowed() -> Iterator[None]:
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
