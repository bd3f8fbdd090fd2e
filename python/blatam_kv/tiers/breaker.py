"""``Breaker``: leaves alone what keeps failing, and looks after it now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Decides whether a call is worth trying. Safe from any thread.

    After ``failures`` failures in a row nothing is tried for ``pause`` seconds; then one call may
    try, and if it fails the pause doubles, up to ``longest``. clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        pause: float = 1.0,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._first, self._longest = failures, pause, longest
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._pause = pause
        self._opened: float | None = None  # when nothing was tried any more, or a try began

    def allows(self) -> bool:
        """Whether to try now. Who is allowed tells ``succeeded`` or ``failed`` how it went."""
        if self._opened is None:
            return True
        with self._lock:
            now = self._clock()
            if self._opened is None:
                return True
            if now - self._opened < self._pause:
                return False
            self._opened = now  # this one tries; the others wait for it, or for another pause
            return True

    def succeeded(self) -> None:
        """A call that was allowed went well."""
        if self._in_a_row or self._opened is not None:
            with self._lock:
                self._in_a_row, self._opened, self._pause = 0, None, self._first

    def failed(self) -> None:
        """A call that was allowed did not."""
        with self._lock:
            self._in_a_row += 1
            if self._opened is not None:
                self._opened, self._pause = self._clock(), min(2 * self._pause, self._longest)
            elif self._in_a_row >= self._failures:
                self._opened = self._clock()

    def like(self) -> Breaker:
        """Another one that decides alike."""
        return Breaker(
            failures=self._failures, pause=self._first, longest=self._longest, clock=self._clock
        )

    @property
    def open(self) -> bool:
        """Whether it is being left alone."""
        return self._opened is not None
