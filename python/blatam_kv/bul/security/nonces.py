"""Every signature once: the nonces seen while their signatures are still believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Nonces:
    """Remembers each nonce for one to two times ``keep`` seconds. Safe from any thread.

    Two sets, of which the older one is dropped when the newer one is ``keep`` seconds old: a
    request costs two lookups and an insertion, whatever has been seen.
    """

    def __init__(
        self, keep: float, *, most: int = 1_000_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep = keep
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._newer: set[tuple[str, str]] = set()
        self._older: set[tuple[str, str]] = set()
        self._since = clock()

    def use(self, key_id: str, nonce: str) -> bool:
        """Whether this is its first use. False as well when ``most`` are remembered already."""
        name = (key_id, nonce)
        with self._lock:
            age = self._clock() - self._since
            if age >= self._keep:
                self._older = self._newer if age < 2 * self._keep else set()
                self._newer = set()
                self._since += age // self._keep * self._keep
            if name in self._newer or name in self._older:
                return False
            if len(self._newer) + len(self._older) >= self._most:
                return False
            self._newer.add(name)
        return True
