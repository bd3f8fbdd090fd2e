"""Chooses a GPU for each piece of work.

What was given out is known exactly and at once, utilisation is known late and on average. So the
tokens that a GPU still has to do come first, and what the monitor reads only makes them dearer:

    cost = (tokens it has + tokens of this work) * (1 + busy * utilisation + full * pressure)

where pressure grows from 0 to 1 as memory fills beyond ``roomy``. With nothing given out the GPU
that is least busy wins; with much given out utilisation says little, since all are busy.

*Affinity*: work that begins with a known prefix belongs to the GPU that has it. Every prefix has an
order of the GPUs (rendezvous hashing: D. Thaler and C. Ravishankar, 1998), so all processes agree
without talking, and a GPU that leaves moves only its own prefixes. It takes the work as long as it
has no more than (1 + skew) times the mean, this work included (bounded loads: V. Mirrokni, M. Thorup
and M. Zadimoghaddam, 2018); else the next in the order that has not, so that a popular prefix
spreads over few GPUs and not over all.

*Hysteresis*: without a prefix the GPU chosen last is kept until another is cheaper by ``margin``:
the noise of a reading does not send every second request elsewhere.

*Failure*: a GPU whose work failed, or that cannot be read, is left out for a time that doubles
with each failure in a row; then one piece of work tries it, and its success brings it back.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from blatam_kv.devices.reading import DeviceSnapshot, Monitor, Reading, Smoothed
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the balancer weighs. All times are seconds."""

    busy: float = 1.0  # how much dearer a GPU is that is always busy
    full: float = 3.0  # and one whose memory is full
    roomy: float = 0.8  # the share of memory up to which it costs nothing
    skew: float = 0.25  # how far above the mean the owner of a prefix may be
    margin: float = 0.1  # by how much another GPU must be cheaper
    half_life: float = 2.0  # of utilisation
    stale: float = 10.0  # after which a reading says nothing
    interval: float = 0.25  # between readings of one GPU
    first_pause: float = 1.0  # of a GPU that failed once
    longest_pause: float = 60.0

    def __post_init__(self) -> None:
        for name in ("busy", "full", "skew", "first_pause", "interval"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("half_life", "stale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("roomy", "margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 to below 1")
        if self.longest_pause < self.first_pause:
            raise ConfigError("longest_pause is shorter than first_pause")


class _Gpu:
    def __init__(self, name: str, weights: Weights) -> None:
        self.name = name
        self.readings = Smoothed(half_life=weights.half_life, stale=weights.stale)
        self.read_at: float | None = None  # when a reading was last asked for
        self.in_flight = 0
        self.tokens = 0
        self.failures = 0
        self.in_a_row = 0
        self.back_at: float | None = None  # None: in the rotation
        self.on_trial = False


class Ticket:
    """One piece of work on one GPU. Say ``done`` or ``failed`` once; as a context manager it does,
    by whether its body raised."""

    def __init__(self, balancer: Balancer, gpu: _Gpu, tokens: int, *, trial: bool) -> None:
        self._balancer = balancer
        self._gpu = gpu
        self._left = tokens
        self._trial = trial
        self._open = True

    @property
    def gpu(self) -> str:
        return self._gpu.name

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, DeviceUnavailable):
            self.failed()
        else:  # whatever else went wrong was not the GPU's fault
            self.done()

    def progress(self, tokens: int) -> None:
        """So many tokens of it are done; the GPU has that much less to do."""
        self._balancer._progress(self, tokens)

    def done(self) -> None:
        """It is done, or was given up for a reason that says nothing about the GPU."""
        self._balancer._end(self, "done")

    def failed(self) -> None:
        """The GPU failed."""
        self._balancer._end(self, "failed")


class Balancer:
    """Safe from any thread. It starts none: readings are taken by the calls of ``choose`` and
    ``snapshots``, at most one for each GPU and ``Weights.interval``, and nobody waits for
    another's."""

    def __init__(
        self, monitor: Monitor, *, weights: Weights | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._monitor = monitor
        self._weights = weights or Weights()
        self._clock = clock
        self._gpus = [_Gpu(name, self._weights) for name in monitor.gpus()]
        self._last: _Gpu | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def choose(self, tokens: int, *, prefix: bytes | None = None) -> Ticket:
        """A GPU for work of about ``tokens`` tokens.

        prefix: what names the beginning that this work shares with other work, the digest of its
        first block say. Raises DeviceUnavailable if every GPU is out of the rotation, ValueError
        for fewer than 0 tokens.
        """
        if tokens < 0:
            raise ValueError(f"tokens is {tokens}; it must be at least 0")
        self._refresh()
        with self._lock:
            now = self._clock()
            trial = self._to_try(now)
            gpu = trial or self._pick(tokens, prefix, now)
            gpu.in_flight += 1
            gpu.tokens += tokens
            gpu.on_trial = gpu is trial or gpu.on_trial
            if prefix is None and trial is None:
                self._last = gpu
            return Ticket(self, gpu, tokens, trial=gpu is trial)

    def snapshots(self) -> list[DeviceSnapshot]:
        """Every GPU now."""
        self._refresh()
        with self._lock:
            now = self._clock()
            return [self._snapshot(gpu, now) for gpu in self._gpus]

    # ---- choosing, under the lock ---------------------------------------------------------------

    def _to_try(self, now: float) -> _Gpu | None:
        """A GPU whose pause is over, for one piece of work at a time."""
        for gpu in self._gpus:
            if gpu.back_at is not None and gpu.back_at <= now and not gpu.on_trial:
                return gpu
        return None

    def _pick(self, tokens: int, prefix: bytes | None, now: float) -> _Gpu:
        well = [gpu for gpu in self._gpus if gpu.back_at is None]
        if not well:
            raise DeviceUnavailable(
                DeviceTrouble.NO_DEVICE,
                "every GPU has failed and waits to be tried again"
                if self._gpus
                else "there is no GPU",
            )
        if prefix is not None:
            mean = (sum(gpu.tokens for gpu in well) + tokens) / len(well)
            most = (1 + self._weights.skew) * mean
            for gpu in sorted(well, key=lambda gpu: _rank(prefix, gpu.name), reverse=True):
                if gpu.tokens + tokens <= most or gpu.tokens == 0:
                    return gpu
        costs = {gpu.name: self._cost(gpu, tokens, now) for gpu in well}
        best = min(well, key=lambda gpu: costs[gpu.name])
        last = self._last
        if prefix is None and last is not None and last.name in costs:
            kept = costs[best.name] >= (1 - self._weights.margin) * costs[last.name]
            return last if kept else best
        return best

    def _cost(self, gpu: _Gpu, tokens: int, now: float) -> float:
        weights = self._weights
        dearer = 1 + weights.busy * (gpu.readings.mean(now) or 0.0)
        reading = gpu.readings.latest(now)
        if reading is not None and reading.total_bytes > 0:
            share = reading.used_bytes / reading.total_bytes
            dearer += weights.full * max(share - weights.roomy, 0.0) / (1 - weights.roomy)
        # One more than the tokens: work of none must still tell a busy GPU from an idle one.
        return (gpu.tokens + tokens + 1) * dearer

    def _snapshot(self, gpu: _Gpu, now: float) -> DeviceSnapshot:
        reading: Reading | None = gpu.readings.latest(now)
        return DeviceSnapshot(
            gpu=gpu.name,
            healthy=gpu.back_at is None,
            utilization=gpu.readings.mean(now),
            used_bytes=reading.used_bytes if reading else None,
            total_bytes=reading.total_bytes if reading else None,
            in_flight=gpu.in_flight,
            queued_tokens=gpu.tokens,
            failures=gpu.failures,
        )

    # ---- what tickets say -----------------------------------------------------------------------

    def _progress(self, ticket: Ticket, tokens: int) -> None:
        with self._lock:
            if ticket._open:
                less = min(max(tokens, 0), ticket._left)
                ticket._left -= less
                ticket._gpu.tokens -= less

    def _end(self, ticket: Ticket, how: Literal["done", "failed"]) -> None:
        with self._lock:
            if not ticket._open:
                return
            ticket._open = False
            gpu = ticket._gpu
            gpu.in_flight -= 1
            gpu.tokens -= ticket._left
            if ticket._trial:
                gpu.on_trial = False
            if how == "failed":
                self._fail(gpu)
            elif ticket._trial or gpu.back_at is None:
                # Work from before the failure proves nothing; the trial does.
                gpu.back_at = None
                gpu.in_a_row = 0

    def _fail(self, gpu: _Gpu) -> None:
        gpu.failures += 1
        weights = self._weights
        pause = min(weights.first_pause * 2.0 ** min(gpu.in_a_row, 60), weights.longest_pause)
        gpu.in_a_row += 1
        gpu.back_at = self._clock() + pause
        if self._last is gpu:
            self._last = None

    # ---- readings -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read what is due; if another thread is at it, do without."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            for gpu in self._gpus:
                now = self._clock()
                if gpu.read_at is not None and now - gpu.read_at < self._weights.interval:
                    continue
                gpu.read_at = now
                try:
                    reading = self._monitor.read(gpu.name)
                except DeviceUnavailable:
                    with self._lock:  # a GPU that already waits is not made to wait longer
                        if gpu.back_at is None or (gpu.back_at <= now and not gpu.on_trial):
                            self._fail(gpu)
                    continue
                with self._lock:
                    gpu.readings.add(reading, self._clock())
        finally:
            self._reading.release()


def _rank(prefix: bytes, gpu: str) -> bytes:
    return hashlib.blake2b(prefix, digest_size=8, key=gpu.encode()[:64]).digest()
