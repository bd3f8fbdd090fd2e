"""What a monitor reads of a GPU, and what is made of many readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at one GPU. utilization: the share of the last moment in which it was busy, 0 to 1;
    at: when it was read, by the clock that the balancer has too."""

    utilization: float
    used_bytes: int
    total_bytes: int
    at: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.utilization <= 1.0:
            raise ValueError(f"utilization is {self.utilization}; it must be 0 to 1")
        if not 0 <= self.used_bytes <= self.total_bytes:
            raise ValueError(
                f"used_bytes is {self.used_bytes}; it must be 0 to total_bytes, {self.total_bytes}"
            )


class Monitor(Protocol):
    """Where readings come from. Calls come from any thread, one at a time."""

    def gpus(self) -> Sequence[str]:
        """The GPUs by name, always the same ones in the same order."""

    def read(self, gpu: str) -> Reading:
        """A look at one of them now; DeviceUnavailable where it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSnapshot:
    """One GPU at one moment, for metrics and reports. Utilisation and memory are None where no
    reading is recent enough."""

    gpu: str
    healthy: bool
    utilization: float | None  # smoothed
    used_bytes: int | None
    total_bytes: int | None
    in_flight: int
    queued_tokens: int
    failures: int


class Smoothed:
    """An exponentially weighted mean of utilisation over time, not over readings: what was read
    ``half_life`` seconds ago counts half.

    A reading that is no newer than the last, or older than ``stale`` seconds, is ignored; when the
    last one is that old, there is no mean.
    """

    def __init__(self, *, half_life: float, stale: float) -> None:
        self._half_life = half_life
        self._stale = stale
        self._mean = 0.0
        self._last: Reading | None = None

    def add(self, reading: Reading, now: float) -> None:
        if now - reading.at > self._stale or reading.at > now:
            return
        last = self._last
        if last is None or reading.at - last.at > self._stale:
            self._mean = reading.utilization
        elif reading.at <= last.at:
            return
        else:
            kept = math.exp2((last.at - reading.at) / self._half_life)
            self._mean = kept * self._mean + (1 - kept) * reading.utilization
        self._last = reading

    def mean(self, now: float) -> float | None:
        return self._mean if self.latest(now) is not None else None

    def latest(self, now: float) -> Reading | None:
        """The last reading, if it is recent enough."""
        last = self._last
        return last if last is not None and now - last.at <= self._stale else None
