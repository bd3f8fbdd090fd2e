"""Cuts the connections of a server that does not answer.

A server that is paused, or behind a line that swallows everything, keeps its connections: the
system's keep-alives are answered, and a driver waits for ever. Its own limits for statements are of no
use, for it is the one that would count. Enough callers that wait take every thread of a service,
and then also what needs no database stands still.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

_LOOK_SECONDS = 0.25


class Watch:
    """A thread that looks at the clock. Safe from any thread; close it when done."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[object, tuple[float, int]] = {}  # deadline, a descriptor of our own
        self._thread: threading.Thread | None = None
        self._stopped = False

    @contextmanager
    def over(self, descriptor: int, *, seconds: float) -> Iterator[None]:
        """Have the body's connection cut, so that it fails at once, if it takes longer."""
        # Our own descriptor: the driver may close its, whose number then is somebody else's.
        mine = os.dup(descriptor)
        key = object()
        with self._changed:
            self._watched[key] = (time.monotonic() + seconds, mine)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="bul-watch", daemon=True)
                self._thread.start()
            elif len(self._watched) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched.pop(key, None)
                os.close(mine)

    def close(self) -> None:
        """Watch no more. May be called again."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                for key, (deadline, descriptor) in list(self._watched.items()):
                    if deadline <= now:
                        del self._watched[key]
                        _cut(descriptor)
                self._changed.wait(_LOOK_SECONDS if self._watched else None)


def _cut(descriptor: int) -> None:
    with closing(socket.socket(fileno=os.dup(descriptor))) as line, suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
