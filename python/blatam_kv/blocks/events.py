"""What happens to the blocks in memory, told to whoever wants to know: a router, a monitor."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger("blatam_kv.blocks")


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A block came into memory or left it.

    kind: "stored" or "removed". name: the block's digest. parent: that of the block before it, or
    the digest of the store's tags for the first of a prompt. position: how many blocks are before
    it. tokens: its ids as little-endian uint32. reason: why it left, as in ``CacheStats.evictions``;
    empty for "stored". What left for lack of room may go on living on disk.
    """

    kind: Literal["stored", "removed"]
    name: bytes
    parent: bytes
    position: int
    tokens: bytes
    reason: str = ""


Listener = Callable[[BlockEvent], object]


class News:
    """Events on their way to the listeners: in the order in which things happened, with no lock
    held that a listener could need. Safe from any thread."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._waiting: deque[BlockEvent] = deque()
        self._lock = threading.Lock()  # guards _listeners
        self._delivering = threading.Lock()
        self.failures = 0

    @property
    def wanted(self) -> bool:
        """Whether anyone listens."""
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener for every event from now on; returns what ends that."""

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        with self._lock:
            self._listeners = (*self._listeners, listener)
        return unsubscribe

    def note(self, event: BlockEvent) -> None:
        """Keep an event for delivery. Calls must come in the order of the events."""
        self._waiting.append(event)

    def deliver(self) -> None:
        """Tell the listeners what was noted. What one of them raises is logged and counted."""
        # Another thread that is delivering takes ours along; it looks again after it has let go.
        while self._waiting and self._delivering.acquire(blocking=False):
            try:
                while self._waiting:
                    event = self._waiting.popleft()
                    for listener in self._listeners:
                        self._tell(listener, event)
            finally:
                self._delivering.release()

    def _tell(self, listener: Listener, event: BlockEvent) -> None:
        try:
            listener(event)
        except Exception:
            self.failures += 1
            log.exception("a listener failed on %s", event.kind)
