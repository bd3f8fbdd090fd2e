"""Locks by key: calls on one key take turns, calls on different ones mostly do not wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

_LOCKS = 16


class KeyLocks:
    """A lock and a count of changes for each key, shared with others of the same hash. Thread-safe."""

    def __init__(self) -> None:
        self._locks = tuple(threading.RLock() for _ in range(_LOCKS))
        self._versions = [0] * _LOCKS  # each guarded by its lock

    @contextmanager
    def changing(self, keys: Sequence[bytes], *, changes: bool = True) -> Iterator[None]:
        """The only caller with these keys, in the ``with``; changes: whether that is one."""
        with ExitStack() as stack:
            for at in sorted({hash(key) % _LOCKS for key in keys}):
                stack.enter_context(self._locks[at])
                self._versions[at] += changes
            yield

    def version(self, key: bytes) -> int:
        """Grows with every change of the key, and now and then without one."""
        return self._versions[hash(key) % _LOCKS]
