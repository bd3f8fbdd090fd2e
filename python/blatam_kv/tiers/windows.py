"""The segments of a log as the page cache holds them: records without a copy."""

from __future__ import annotations

import errno
import threading
from types import TracebackType
from typing import NamedTuple, Self

from blatam_kv.tiers.files import Mapped
from blatam_kv.tiers.index import Place
from blatam_kv.tiers.log import Log

# A process may have 65,530 mappings by default, of which we leave most to others.
MAX_WINDOWS = 512
# Of a segment that still grows as much is mapped at once, so that it need not be mapped again.
_AHEAD_BYTES = 64 << 20


class Window(NamedTuple):
    """A mapping of the first ``size`` bytes of a segment, of which the file has the first ``there``."""

    mapped: Mapped
    size: int
    there: int


class Windows:
    """Where records are read. Safe from any thread.

    A mapping keeps a removed file's bytes on disk, so the writer forgets a segment's as it drops
    the segment, and a reader beside it, who is not told, keeps none beyond a batch.
    """

    def __init__(self, log: Log, *, keep: bool) -> None:
        self._log = log
        self._keep = keep
        self._mapped: dict[int, Window] = {}
        self._lock = threading.Lock()

    def batch(self) -> Batch:
        """What serves one call."""
        return Batch(self._log, self._mapped if self._keep else {}, self._lock)

    def forget(self, number: int) -> None:
        """A segment leaves."""
        with self._lock:
            self._mapped.pop(number, None)

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            self._mapped.clear()


class Batch:
    """Reads the records of one call; a context manager that closes what it opened."""

    def __init__(self, log: Log, mapped: dict[int, Window], lock: threading.Lock) -> None:
        self._log, self._mapped, self._lock = log, mapped, lock
        self._fd, self._number = -1, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            self._log.files.close(self._fd)
            self._fd = -1

    def view(self, place: Place) -> memoryview:
        """The bytes at a place: fewer where the file is shorter. Raises OSError.

        They lie in the mapped file where that can be had, else in memory of their own.
        """
        number, offset, size = place
        window = self._mapped.get(number)
        if window is None or window.there < offset + size:
            window = self._widened(number, window, offset + size)
        view = window.mapped.view(offset, size) if window is not None else None
        if view is None:
            view = memoryview(self._log.files.read(self._descriptor(number), size, offset))
        return view

    def _widened(self, number: int, old: Window | None, end: int) -> Window | None:
        """A window on at least so many bytes of a segment; None where it has not as many, which to
        touch would be a bus error whatever the kernel keeps of the pages behind its end, and where
        it cannot be mapped."""
        files, head = self._log.files, self._log.head
        grows = number == head.number
        if old is not None and grows and end <= head.size <= old.size:
            window = old._replace(there=head.size)
        else:
            fd = self._descriptor(number)
            there = files.size(fd)
            if there < end:
                return None
            size = -(-there // _AHEAD_BYTES) * _AHEAD_BYTES if grows else there
            try:
                window = Window(files.map(fd, size), size, there)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ENOMEM, errno.EACCES):
                    return None
                raise
        with self._lock:
            while len(self._mapped) >= MAX_WINDOWS:
                del self._mapped[next(iter(self._mapped))]
            if self._log.knows(number):
                self._mapped[number] = window
        return window

    def _descriptor(self, number: int) -> int:
        if self._number != number or self._fd < 0:
            self.__exit__(None, None, None)
            self._fd, self._number = self._log.open_segment(number), number
        return self._fd
