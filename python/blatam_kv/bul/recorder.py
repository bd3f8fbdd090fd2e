"""Rows of finished tasks, written in batches by a thread of its own.

A hit must not wait for a database, nor fail with one. Its task goes into the book, and from there
into a row within a second; while the database is away, rows wait in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import Task, TaskBook

log = logging.getLogger("blatam_kv.bul")

FLUSH_SECONDS = 0.5
RETENTION_SECONDS = 60.0
# As many rows in one transaction: others write in between.
BATCH = 1_000
# While the database fails it is asked this often.
PATIENCE_SECONDS = 2.0
LAST_PAUSE_SECONDS = 1.1


class EndRows(Protocol):
    """Where the ends of tasks are written; an archive is one."""

    def save(self, finished: Sequence[Task]) -> Sequence[Task]:
        """Write finished tasks, all or none, but for those that are no longer this node's, which are
        returned. Raises StorageUnavailable."""


class Rows(EndRows, Protocol):
    """What the recorder needs of an archive."""

    def retain(self, *, newest: int, days: float) -> int:
        """Delete what is older than is kept. Raises StorageUnavailable."""


def save_ends(
    finished: Sequence[Task], rows: EndRows, book: TaskBook, *, lost: Callable[[int], object]
) -> list[Task]:
    """Write finished tasks; returns those that are this node's. The others leave the book: this node was
    thought dead, and what the one writes that took them is what holds.

    lost: told how many these are. Raises StorageUnavailable.
    """
    others = rows.save(finished)
    if not others:
        return list(finished)
    log.warning("%d finished tasks are other nodes' by now", len(others))
    lost(len(others))
    book.drop(others)
    return [task for task in finished if task not in others]


class Recorder:
    """The thread and its two chores: to write what the book has not saved, to delete what is old.

    newest, days: see ``Archive.retain``. failed: called with the operation at each failure. lost: told
    how many tasks were another node's by then.
    """

    def __init__(
        self,
        book: TaskBook,
        rows: Rows,
        *,
        newest: int,
        days: float,
        failed: Callable[[str], None],
        lost: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._book = book
        self._rows = rows
        self._newest, self._days = newest, days
        self._failed = failed
        self._lost = lost
        self._stop = threading.Event()
        self._flushing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bul-recorder", daemon=True)

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left, with a second attempt if the database fails, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.flush():
            time.sleep(LAST_PAUSE_SECONDS)
            self.flush()

    def flush(self) -> bool:
        """Write a row for each finished task that has none; False if the database fails."""
        with self._flushing:
            while batch := self._book.unsaved(BATCH):
                try:
                    mine = save_ends(batch, self._rows, self._book, lost=self._lost)
                except StorageUnavailable as error:
                    self._failed("save")
                    log.warning("%d finished tasks are not recorded yet: %s", len(batch), error)
                    return False
                self._book.saved(mine)
            return True

    def _run(self) -> None:
        cleaned = time.monotonic()
        pause = FLUSH_SECONDS
        while not self._stop.wait(pause):
            try:
                pause = FLUSH_SECONDS if self.flush() else PATIENCE_SECONDS
                if time.monotonic() - cleaned >= RETENTION_SECONDS:
                    cleaned = time.monotonic()
                    self._rows.retain(newest=self._newest, days=self._days)
            except StorageUnavailable as error:
                self._failed("retain")
                log.warning("old tasks are not deleted: %s", error)
            except Exception:  # what goes wrong once must not end the record
                log.exception("recording failed")
