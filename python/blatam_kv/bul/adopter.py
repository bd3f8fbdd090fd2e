"""Looks after nodes that died, where several share a database: their unfinished tasks go on here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import Task

log = logging.getLogger("blatam_kv.bul")

# How long a dead node's tasks may wait for somebody to look.
LOOK_SECONDS = 5.0


class Estate(Protocol):
    """Where nodes leave tasks; ``Archive`` is one."""

    def live(self) -> bool:
        """Show that this node lives."""

    def adopt(self) -> list[Task]:
        """Take over unfinished tasks of dead nodes."""


class Adopter:
    """A thread that shows this node's life and takes over. Close it when done.

    go_on: called with tasks that are this node's from now on.
    """

    def __init__(
        self,
        estate: Estate,
        *,
        go_on: Callable[[Sequence[Task]], object],
        failed: Callable[[str], object],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._estate = estate
        self._go_on = go_on
        self._failed = failed
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="bul-adopter", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Once."""
        try:
            # A node whose own tasks are being taken over has been thought dead; it takes none.
            adopted = self._estate.adopt() if self._estate.live() else []
        except StorageUnavailable:
            self._failed("adopt")
            return
        if adopted:
            log.warning("%d unfinished tasks of a node that is gone go on here", len(adopted))
            self._go_on(adopted)

    def _look_forever(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:  # the next look may go better
                log.exception("looking after other nodes failed")
            self._stopped.wait(self._seconds)
