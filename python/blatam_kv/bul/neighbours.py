"""Who else is there: the nodes that share a database with this one, and those that share a Redis.

A database knows them by name. A Redis knows only how many listen to one another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from blatam_kv.bul.storage import Node, StorageUnavailable

# Whoever looks on sees nothing older, and the servers are asked no more often.
LOOK_SECONDS = 5.0


class Register(Protocol):
    """Where nodes are known by name; ``Archive`` is one."""

    @property
    def shared(self) -> bool:
        """Whether there may be others."""

    def nodes(self) -> Sequence[Node]:
        """All of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen. nodes: None while the database is away. database, redis: whether nodes share one.
    listening: how many share the Redis now, None where that is not known."""

    nodes: tuple[Node, ...] | None
    database: bool
    redis: bool
    listening: int | None

    def described(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


class Neighbours:
    """Looks, at most every so many seconds however many ask. Safe from any thread; may wait for the
    servers.

    listening: how many share the Redis, None if it is away; None for a node that has no Redis.
    """

    def __init__(
        self,
        register: Register,
        listening: Callable[[], int | None] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._register = register
        self._listening = listening
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, Seen] | None = None

    def seen(self) -> Seen:
        """Everybody, as of a moment ago."""
        with self._lock:
            if self._seen is None or self._clock() - self._seen[0] >= LOOK_SECONDS:
                seen = self._look()
                self._seen = self._clock(), seen
            return self._seen[1]

    def _look(self) -> Seen:
        try:
            nodes = tuple(self._register.nodes())
        except StorageUnavailable:
            nodes = None
        return Seen(
            nodes=nodes,
            database=self._register.shared,
            redis=self._listening is not None,
            listening=None if self._listening is None else self._listening(),
        )
