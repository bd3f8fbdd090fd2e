"""A Redis Cluster of the tests' own: three masters on the loopback, nothing kept."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis_server import PATIENCE_SECONDS, binary

_BUS = 10_000  # how far above a server's port the others reach it


class Node:
    """One server of a cluster."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        folder.mkdir()
        self.start()

    def start(self) -> None:
        """Start it, as it was when it ended."""
        options = f"--port {self.port} --bind 127.0.0.1 --dir {self._folder} --save ''"
        options += " --appendonly no --cluster-enabled yes --cluster-node-timeout 5000"
        options += " --cluster-require-full-coverage no --protected-mode no"
        command = [binary(), *(word.strip("'") for word in options.split())]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.said(b"PING"):
            assert self.process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def said(self, command: bytes) -> bytes:
        """The beginning of its answer; nothing where it does not answer."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as asked:
            asked.sendall(command + b"\r\n")
            return asked.recv(1000)
        return b""


class Cluster:
    """Three running masters. url leads to them."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.wait()
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def wait(self) -> None:
        """Until every one of them takes commands, after all have been started."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for node in self.nodes:
            while b"cluster_state:ok" not in node.said(b"CLUSTER INFO"):
                assert time.monotonic() < deadline
                time.sleep(0.02)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster for the body of a ``with``."""
    folder = Path(tempfile.mkdtemp(prefix="blatam-cluster-"))
    nodes: list[Node] = []
    try:
        nodes += [Node(folder / str(number), _free_port()) for number in range(3)]
        cli = str(Path(binary()).with_name(Path(binary()).name.replace("server", "cli")))
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        command = [cli, "--cluster", "create", *places, "--cluster-yes"]
        # They hear of one another from one another, again and again, so it may take a while.
        patience = 4 * PATIENCE_SECONDS
        made = subprocess.run(command, capture_output=True, text=True, timeout=patience)
        assert made.returncode == 0, made.stdout + made.stderr
        yield Cluster(nodes)
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    """A port that is free, and the one above it that the others use."""
    for _ in range(100):
        # Both below those that the system gives to who asks for any.
        port = random.randrange(11_000, 20_000)
        with socket.socket() as one, socket.socket() as two, suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + _BUS))
            return port
    raise AssertionError("no two free ports")
