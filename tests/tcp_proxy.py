"""A network between two processes of one machine: as slow as it is told to be, and cut when it is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 16 << 10


class Proxy:
    """Carries bytes between a port of its own and a Unix socket. Safe from any thread.

    bytes_per_second: of each direction of each connection; None carries as quickly as it can.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.bytes_per_second: float | None = None
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Carry nothing more, and say so to nobody."""
        self._open.clear()

    def mend(self) -> None:
        """Carry again. Connections that were open before are lost."""
        self.drop()
        self._open.set()

    def drop(self) -> None:
        """End every connection."""
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self.mend()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connect, args=(near,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self, near: socket.socket) -> None:
        """Carry one connection to its end."""
        with near, socket.socket(socket.AF_UNIX) as far:
            pair = {near, far}
            self._sockets |= pair
            self._open.wait()
            with suppress(OSError):
                far.connect(self._path)
                back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
                back.start()
                self._carry(near, far)
                back.join()
            self._sockets -= pair

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        due = time.monotonic()
        with suppress(OSError):
            while data := source.recv(_PIECE):
                self._open.wait()
                if self.bytes_per_second is not None:
                    due = max(due, time.monotonic()) + len(data) / self.bytes_per_second
                    time.sleep(max(0.0, due - time.monotonic()))
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(path: str) -> Iterator[Proxy]:
    """A proxy for the body of a ``with``."""
    between = Proxy(path)
    try:
        yield between
    finally:
        between.close()
