"""An nginx of the tests' own: everything it writes in one folder, one worker, ended gracefully."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blatam_kv.cli.nginx import write_alone

PATIENCE_SECONDS = 60.0


def binary() -> str:
    """The server, which Debian keeps off the path of users."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert path, "nginx is missing; Debian's package nginx-light brings it (./run test asks for it)"
    return path


def free_port() -> int:
    """A port that nobody has now, below those that the system gives to who asks for any: none of them
    gets it before the one it is for."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def write(folder: Path, site: str) -> list[str]:
    """Write the configuration down; returns the command that runs it."""
    write_alone(folder, site)
    return [binary(), "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "error.log")]


def check(folder: Path, site: str) -> None:
    """Have nginx read a configuration; fails where it finds an error or has a warning."""
    done = subprocess.run([*write(folder, site), "-t"], capture_output=True, text=True, check=False)
    said = (folder / "error.log").read_text() + done.stderr
    assert done.returncode == 0, said
    assert "[warn]" not in said, said


@contextmanager
def nginx(folder: Path, site: str, *, port: int) -> Iterator[None]:
    """A server with this configuration for the body of a ``with``."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            write(folder, site), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_SECONDS)
