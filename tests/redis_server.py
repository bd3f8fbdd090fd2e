"""A Redis of the tests' own: a socket in a folder that goes away, nothing kept."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 60.0


def binary() -> str:
    """The server."""
    path = shutil.which("redis-server") or shutil.which("valkey-server")
    assert path, (
        "redis-server is missing; Debian's package redis-server brings it (./run test asks for it)"
    )
    return path


class Redis:
    """A running server. url leads to it; options are those of its configuration."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self.url = f"unix://{folder}/r.sock"
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [binary(), "--port", "0", "--unixsocket", f"{self.folder}/r.sock"]
        command += ["--dir", str(self.folder), "--save", "", "--appendonly", "no", *self._options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(f"{self.folder}/r.sock")
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(100))
            except OSError:
                return False

    def stop(self) -> None:
        """End it at once, as a crash would."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def freeze(self) -> None:
        """Let it hear and not answer."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis(*options: str) -> Iterator[Redis]:
    """A server for the body of a ``with``."""
    # Directly below the system's folder: the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="blatam-redis-"))
    server = Redis(folder, *options)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
