"""``Rate``: how much a second brings, by what it brought lately."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# How much of what was known an observation that follows at once leaves, and the seconds in which
# that halves by itself.
_KEPT = 0.75
_HALF_LIFE_SECONDS = 30.0
# An observation further off than this counts as being so far off: one stall proves little. The next
# one that is as far off on the same side is believed. What is known of long ago says less of what is
# likely, so the bound widens as it fades.
_REACH = 4.0
_FADED = 1e-9


class Rate:
    """A speed: bytes, tokens or round trips a second. Safe from any thread.

    The mean is one of logarithms, so that ten times slower and ten times faster weigh the same, and
    every observation counts alike, however much it brought: after a change two small ones are
    enough. clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: float | None = None  # for one of what is brought
        self._at = 0.0
        self._surprise = 0  # on which side the last observation was too far off

    def note(self, amount: float, seconds: float) -> None:
        """So much came in so many seconds, both above 0; others are ignored."""
        if not (amount > 0 and 0 < seconds < math.inf):
            return
        each = seconds / amount
        with self._lock:
            now = self._clock()
            if self._seconds is None:
                self._seconds = each
            else:
                faded = max(_FADED, 0.5 ** ((now - self._at) / _HALF_LIFE_SECONDS))
                reach = _REACH / faded
                likely = min(max(each, self._seconds / reach), self._seconds * reach)
                surprise = (each > likely) - (each < likely)
                if surprise and surprise == self._surprise:
                    self._seconds, self._surprise = each, 0
                else:
                    self._seconds *= (likely / self._seconds) ** (1 - _KEPT * faded)
                    self._surprise = surprise
            self._at = now

    @property
    def settled(self) -> bool:
        """Whether the last observation was about what was expected."""
        return self._seconds is not None and not self._surprise

    def seconds(self, amount: float) -> float | None:
        """What so much takes; None before the first observation."""
        return None if self._seconds is None else amount * self._seconds

    @property
    def per_second(self) -> float | None:
        """How much a second brings; None before the first observation."""
        return None if self._seconds is None else 1 / self._seconds

    @property
    def age(self) -> float:
        """Seconds since the last observation."""
        return self._clock() - self._at if self._seconds is not None else math.inf
