"""A circuit breaker: who fails again and again is asked less, so that nobody waits for it in vain."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

# An open circuit that failed its trial stays open twice as long, up to this many times the first.
_LONGEST = 16


class State(StrEnum):
    """closed lets all pass, open none; half_open waits for the outcome of one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after ``failures`` in a row for ``seconds``, then lets one request try.

    Every ``enter`` that returns 0 is followed by one of ``succeeded``, ``failed`` or ``undecided``.
    clock: seconds that never go back.
    """

    def __init__(self, *, failures: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._in_a_row = 0
        self._times = 1
        self._until = 0.0
        self._trying = False
        self.state = State.CLOSED

    @property
    def seconds_left(self) -> float:
        """Until an open circuit lets one try."""
        return max(self._until - self._clock(), 0.0)

    def enter(self) -> float:
        """0 if a request may pass now, else the seconds after which it is worth asking again."""
        if self.state is State.CLOSED:
            return 0.0
        now = self._clock()
        if self._trying or now < self._until:
            return max(self._until - now, 1.0)
        self.state, self._trying = State.HALF_OPEN, True
        return 0.0

    def succeeded(self) -> None:
        """The system answered."""
        if self._in_a_row or self.state is not State.CLOSED:
            self._in_a_row, self._times = 0, 1
            self._trying = False
            self.state = State.CLOSED

    def failed(self) -> None:
        """The system did not answer."""
        self._in_a_row += 1
        if self.state is State.HALF_OPEN:
            self._trying = False
            self._times = min(2 * self._times, _LONGEST)
        elif self.state is State.OPEN or self._in_a_row < self._most:
            return  # a request from before it opened
        self.state = State.OPEN
        self._until = self._clock() + self._seconds * self._times

    def undecided(self) -> None:
        """The request said nothing about the system, which the next one may."""
        if self.state is State.HALF_OPEN:
            self._trying = False
            self.state = State.OPEN

    def looks_well(self) -> None:
        """A health check passed: the next request may try, however long is left. If one tries already
        and is not answered yet, a model may be at work for it, and the others need not wait for that;
        the next failure opens the circuit again."""
        if self.state is State.OPEN:
            self._until = self._clock()
        elif self.state is State.HALF_OPEN:
            self.state, self._trying = State.CLOSED, False
            self._in_a_row = self._most - 1
