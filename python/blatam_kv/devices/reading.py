"""What a monitor reads of a GPU, and what is made of many readings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blatam_kv.errors import DeviceTrouble, DeviceUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at one GPU. utilization: the share of the last moment in which it was busy, 0 to 1;
    at: when it was read, by the clock that the balancer has too. What a GPU does not tell is None."""

    utilization: float | None
    used_bytes: int
    total_bytes: int
    at: float
    temperature_celsius: float | None = None
    power_watts: float | None = None

    def __post_init__(self) -> None:
        if self.utilization is not None and not 0.0 <= self.utilization <= 1.0:
            raise ValueError(f"utilization is {self.utilization}; it must be 0 to 1")
        if not 0 <= self.used_bytes <= self.total_bytes:
            raise ValueError(
                f"used_bytes is {self.used_bytes}; it must be 0 to total_bytes, {self.total_bytes}"
            )
        for name in ("temperature_celsius", "power_watts"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a number")


class Monitor(Protocol):
    """Where readings come from. Calls come from any thread, one at a time."""

    def gpus(self) -> Sequence[str]:
        """The GPUs by name, always the same ones in the same order."""

    def read(self, gpu: str) -> Reading:
        """A look at one of them now. Raises DeviceUnavailable where it cannot be read, with the
        reason LOST where the GPU is gone."""


class Devices:
    """Devices by these names, read as far as another monitor knows them: not at all by default.

    What follows a slash in a name tells apart those that share a device.
    """

    def __init__(self, names: Iterable[str], monitor: Monitor | None = None) -> None:
        self._names = tuple(names)
        self._monitor = monitor
        self._known = frozenset(() if monitor is None else monitor.gpus())

    def gpus(self) -> Sequence[str]:
        """The names it was given."""
        return self._names

    def read(self, gpu: str) -> Reading:
        """What the other monitor reads of it. Raises DeviceUnavailable, with the reason NO_DEVICE where
        that knows neither the name nor what stands before its slash."""
        shared = gpu.partition("/")[0]
        for name in (gpu, shared):
            if self._monitor is not None and name in self._known:
                return self._monitor.read(name)
        raise DeviceUnavailable(DeviceTrouble.NO_DEVICE, f"nothing reads {gpu}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSnapshot:
    """One GPU at one moment, for metrics and reports. What is read of it is None where no reading is
    recent enough, or the GPU does not tell.

    in_flight: pieces of work that it was given and has not done; in_flight_tokens: what is left of
    those that have begun, queued_tokens: of the others. Since the start, routed: pieces that it was
    given, saved_tokens: of prompts that it had already, failures: of it, unread: looks in vain.
    balanced: False for the only device of a model, which is not asked for what it has to do: all of
    that is 0, and in_rotation says that it is not lost.
    """

    gpu: str
    in_rotation: bool
    utilization: float | None  # smoothed
    used_bytes: int | None
    total_bytes: int | None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    in_flight: int = 0
    in_flight_tokens: int = 0
    queued_tokens: int = 0
    routed: int = 0
    saved_tokens: int = 0
    failures: int = 0
    unread: int = 0
    balanced: bool = True


class Smoothed:
    """An exponentially weighted mean of utilisation over time, not over readings: what was read
    ``half_life`` seconds ago counts half.

    A reading that is no newer than the last, older than ``stale`` seconds, or from the future is
    ignored; when the last one is that old, there is no mean. If the clock goes back, what was read
    before counts no more.
    """

    def __init__(self, *, half_life: float, stale: float) -> None:
        self._half_life = half_life
        self._stale = stale
        self._mean: float | None = None
        self._last: Reading | None = None

    def add(self, reading: Reading, now: float) -> None:
        """Take a reading in. now: by the clock of ``Reading.at``, here and below."""
        if not 0 <= now - reading.at <= self._stale:
            return
        last = self.latest(now)
        if last is not None and reading.at <= last.at:
            return
        utilization = reading.utilization
        if last is not None and self._mean is not None and utilization is not None:
            kept = math.exp2((last.at - reading.at) / self._half_life)
            utilization = kept * self._mean + (1 - kept) * utilization
        self._mean = utilization
        self._last = reading

    def mean(self, now: float) -> float | None:
        """The share of time in which the GPU was busy, 0 to 1; None if it does not tell, or if nobody has
        looked for too long."""
        return self._mean if self.latest(now) is not None else None

    def latest(self, now: float) -> Reading | None:
        """The last reading, if it is recent enough."""
        last = self._last
        return last if last is not None and 0 <= now - last.at <= self._stale else None
