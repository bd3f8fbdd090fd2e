"""Looks after nodes that died, where several share a database: their unfinished tasks go on here.

And after itself: a node whose connection was lost does not know what the others thought of it
meanwhile. It lets go of what they took, and takes up what has a row and was forgotten because the
commit of that row was not heard of.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import Task

log = logging.getLogger("blatam_kv.bul")

# How long a dead node's tasks may wait for somebody to look. A look is two small queries.
LOOK_SECONDS = 1.0


class Estate(Protocol):
    """Where nodes leave tasks; ``Archive`` is one."""

    def live(self) -> bool:
        """Show that this node lives."""

    @property
    def lives(self) -> int:
        """How often it had to show so anew."""

    def adopt(self) -> list[Task]:
        """Take over unfinished tasks of dead nodes."""

    def lost(self, held: Sequence[Task]) -> list[Task]:
        """Of unfinished tasks, those that another node has taken over."""

    def take_up(self, known: Callable[[str], bool]) -> list[Task]:
        """Take again this node's unfinished tasks, but for those that it knows."""


class Hands(Protocol):
    """What this node is at; the ledger is one."""

    def held(self) -> list[Task]:
        """Its unfinished tasks."""

    def knows(self, task_id: str) -> bool:
        """Whether a task is one of them, or one whose end is still to be written."""

    def let_go(self, tasks: Sequence[Task]) -> None:
        """They are another node's."""


class Adopter:
    """A thread that shows this node's life and takes over. Close it when done.

    go_on: called with tasks that are this node's from now on. taken: told how many were a dead node's.
    """

    def __init__(
        self,
        estate: Estate,
        hands: Hands,
        *,
        go_on: Callable[[Sequence[Task]], object],
        failed: Callable[[str], object],
        taken: Callable[[int], object] = lambda count: None,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._estate = estate
        self._hands = hands
        self._go_on = go_on
        self._failed = failed
        self._taken = taken
        self._seconds = seconds
        self._sure_of = -1  # the life since which nothing can have been missed
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
            if not self._estate.live():
                return  # its own tasks are being taken over
            if self._estate.lives != self._sure_of:
                self._settle()
            sure, self._sure_of = self._sure_of, -1
            adopted = self._estate.adopt()
            self._sure_of = sure
        except StorageUnavailable:
            self._failed("adopt")
            return
        if adopted:
            log.warning("%d unfinished tasks of a node that is gone go on here", len(adopted))
            self._taken(len(adopted))
            self._go_on(adopted)

    def _settle(self) -> None:
        """After a time that this node knows nothing of."""
        life = self._estate.lives
        lost = self._estate.lost(self._hands.held())
        if lost:
            log.warning(
                "%d unfinished tasks were taken over: this node was thought dead", len(lost)
            )
            self._hands.let_go(lost)
        self._go_on(self._estate.take_up(self._hands.knows))
        self._sure_of = life

    def _look_forever(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:  # the next look may go better
                log.exception("looking after other nodes failed")
            self._stopped.wait(self._seconds)
