"""How often: the generic cell rate algorithm (ITU-T I.371), one number for each who is limited.

Kept is the theoretical arrival time: when the next request would be due if all had come evenly. A
request is let through if that is at most a window ahead, so a burst of the whole limit passes, and
from then on one request each ``window / limit``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# Above so many names those that have recovered are forgotten.
_SWEEP_ABOVE = 10_000


class Verdict(NamedTuple):
    """retry_after: seconds until one more would pass, 0 if this one did. left: how many more may
    follow at once. reset: seconds until all of the limit is there again."""

    allowed: bool
    limit: int
    left: int
    retry_after: float
    reset: float


class Limiter:
    """``limit`` requests in ``window`` seconds for each name. Safe from any thread."""

    def __init__(
        self,
        limit: int,
        window: float,
        *,
        most_names: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.window = window
        self._most_names = most_names
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}

    def take(self, name: str, *, limit: int | None = None) -> Verdict:
        """Ask for one request. limit: this name's own, in place of the general one.

        With ``most_names`` names that are all in use, a new name is refused: forgetting one would
        set it free.
        """
        limit = limit or self.limit
        interval = self.window / limit
        with self._lock:
            now = self._clock()
            due = self._due.get(name)
            if due is None:
                if len(self._due) >= _SWEEP_ABOVE and not self._sweep(now):
                    return Verdict(False, limit, 0, self.window, self.window)
                due = now
            due = max(due, now) + interval
            ahead = due - now
            # A rounding error must not cost the last request of a burst.
            if ahead > self.window + interval * 1e-6:
                return Verdict(False, limit, 0, ahead - self.window, ahead - interval)
            self._due[name] = due
        left = max(0, math.floor((self.window - ahead) / interval + 1e-6))
        return Verdict(True, limit, left, 0.0, ahead)

    def put_off(self, name: str, ahead: float) -> None:
        """Let nobody in earlier than if the next one were due ``ahead`` seconds from now."""
        with self._lock:
            now = self._clock()
            self._due[name] = max(self._due.get(name, now), now + ahead)

    def _sweep(self, now: float) -> bool:
        """Forget who has recovered, now and then; False if there is still no room."""
        if len(self._due) >= self._most_names or len(self._due) % _SWEEP_ABOVE == 0:
            self._due = {name: due for name, due in self._due.items() if due > now}
        return len(self._due) < self._most_names

    def __len__(self) -> int:
        return len(self._due)
