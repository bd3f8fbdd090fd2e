"""Chooses a GPU for each piece of work.

What was given out is known exactly and at once, utilisation is known late and on average. So the
tokens that a GPU still has to do come first, and what a monitor reads only makes them dearer:

    cost = (what it has to do + this work - skew * what of it is there) * dearer
    dearer = 1 + busy * utilisation + full * pressure

where pressure grows from 0 to 1 as memory fills beyond ``roomy``. With nothing given out the GPU
that is least busy wins; with much given out utilisation says little, since all are busy.

*Affinity*: the balancer remembers which GPU was given which beginnings of prompts. What a GPU need
not compute again is taken off its cost and not put on its books. So a prefix is worth a wait, and
no more of a wait than it saves: whoever is chosen has, before this work, at most ``skew`` times the
tokens saved more to do than the GPU with least. That is the rule of list scheduling (R. Graham,
1969), and it holds without a bound of its own on the mean of the loads; rendezvous hashing with such
a bound was here before, and kept half as many tokens on prompts that share their beginning with all
others (bench/balance.py).

*Hysteresis*: GPUs that are dearer than the cheapest by no more than ``margin`` of what this work
alone would cost there count as good. Among these, work without a
prefix stays with the GPU chosen last, so the noise of a reading does not send every second request
elsewhere; work with one goes where most of it is, else in the prefix's own order of the GPUs
(rendezvous hashing: D. Thaler and C. Ravishankar, 1998), in which all processes agree unspoken.

*Failure*: a GPU whose work failed, or that is lost, is left out for a time that doubles with each
failure until work succeeds. Then it is tried: by a probe where there is one (``Watch``), else by one
piece of work, and success brings it back. If every GPU is out, the one that has least and is due
first gets the work: the failures may have been the work's own.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from blatam_kv.devices.reading import DeviceSnapshot, Monitor, Reading, Smoothed
from blatam_kv.devices.weights import Weights
from blatam_kv.devices.whereabouts import Whereabouts
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable

Clock = Callable[[], float]
Kind = Literal["work", "trial", "probe"]


class _Gpu:
    def __init__(self, name: str, place: int, weights: Weights) -> None:
        self.name, self.place = name, place
        self.readings = Smoothed(half_life=weights.half_life, stale=weights.stale)
        self.in_flight = 0
        self.queued_tokens = 0  # of work that has not begun
        self.begun_tokens = 0  # what is left of work that has
        self.routed = 0
        self.saved_tokens = 0
        self.failures = 0
        self.unread = 0
        self.in_a_row = 0
        self.failed_at: float | None = None  # None: in the rotation
        self.pause = 0.0
        self.on_trial = False

    @property
    def tokens(self) -> int:
        return self.queued_tokens + self.begun_tokens

    def due(self, now: float) -> float | None:
        """Seconds until it may be tried, 0 or less for now; None while it is in the rotation. A
        clock that was put back has no say in it."""
        if self.failed_at is None:
            return None
        passed = now - self.failed_at
        return self.pause - passed if passed >= 0 else 0.0


class Ticket:
    """One piece of work on one GPU. Say ``done`` or ``failed`` once; as a context manager it does,
    by whether its body raised. saved_tokens: what of it the GPU has already, as far as is known."""

    def __init__(
        self, balancer: Balancer, gpu: _Gpu, tokens: int, *, saved_tokens: int, kind: Kind
    ) -> None:
        self._balancer = balancer
        self._gpu = gpu
        self._left = tokens
        self._kind = kind
        self._begun = False
        self._open = True
        self.saved_tokens = saved_tokens

    @property
    def gpu(self) -> str:
        """The GPU that the work is for."""
        return self._gpu.name

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, DeviceUnavailable):
            self.failed()
        else:  # whatever else went wrong was not the GPU's fault
            self.done()

    def progress(self, tokens: int) -> None:
        """So many tokens more of it are done; from the first call on it counts as begun."""
        self._balancer._progress(self, tokens)

    def done(self) -> None:
        """It is done, or was given up for a reason that says nothing about the GPU."""
        self._balancer._end(self, "done")

    def failed(self) -> None:
        """The GPU failed."""
        self._balancer._end(self, "failed")


class Balancer:
    """Safe from any thread, and it starts none: ``Watch`` does, and calls ``read`` and ``trials``.
    Without one, call ``read`` now and then; ``choose`` never waits for a monitor."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        weights: Weights | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._monitor = monitor
        self._weights = weights or Weights()
        self._probed = False
        self._clock = clock
        self._gpus = [_Gpu(name, place, self._weights) for place, name in enumerate(monitor.gpus())]
        self._whereabouts = Whereabouts(len(self._gpus), self._weights.remembered)
        self._last: _Gpu | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def choose(
        self, tokens: int, *, prefix: Sequence[bytes] = (), avoid: str | None = None
    ) -> Ticket:
        """A GPU for work of about ``tokens`` tokens.

        prefix: names of the blocks that the work begins with, each of ``Weights.block_tokens`` and
        naming all before it too, as a chain of digests does. avoid: a GPU that is taken only if
        there is no other. Raises DeviceUnavailable if there is no GPU at all, ValueError for fewer
        than 0 tokens.
        """
        if tokens < 0:
            raise ValueError(f"tokens is {tokens}; it must be at least 0")
        if not self._gpus:
            raise DeviceUnavailable(DeviceTrouble.NO_DEVICE, "there is no GPU")
        with self._lock:
            gpu, saved, kind = self._pick(tokens, prefix, avoid, self._clock())
            gpu.in_flight += 1
            gpu.routed += 1
            gpu.saved_tokens += saved
            gpu.queued_tokens += tokens - saved
            gpu.on_trial = gpu.on_trial or kind == "trial"
            if prefix:
                self._whereabouts.note(prefix, gpu.place)
            elif kind == "work":
                self._last = gpu
            return Ticket(self, gpu, tokens - saved, saved_tokens=saved, kind=kind)

    def trials(self) -> list[Ticket]:
        """A ticket for each GPU whose pause is over and that nobody tries yet; ``done`` brings it
        back, ``failed`` doubles its pause. Who calls this once goes on to: from then on no work is
        risked on a GPU that has failed while another is in the rotation."""
        with self._lock:
            self._probed = True
            now = self._clock()
            tickets = []
            for gpu in self._gpus:
                due = gpu.due(now)
                if due is not None and due <= 0 and not gpu.on_trial:
                    gpu.on_trial = True
                    gpu.in_flight += 1
                    tickets.append(Ticket(self, gpu, 0, saved_tokens=0, kind="probe"))
            return tickets

    def leave(self, gpu: str) -> None:
        """Take a GPU out as if work on it had failed. Raises KeyError for one that is not there."""
        with self._lock:
            self._fail({each.name: each for each in self._gpus}[gpu])

    def snapshots(self) -> list[DeviceSnapshot]:
        """Every GPU now, as last read."""
        with self._lock:
            now = self._clock()
            return [self._snapshot(gpu, now) for gpu in self._gpus]

    def read(self) -> None:
        """A look at every GPU through the monitor; nothing if another thread is at it.

        A GPU that is lost leaves the rotation. One that cannot be read for another reason, or of
        which nonsense is read, has no reading: what it was given still counts.
        """
        if not self._reading.acquire(blocking=False):
            return
        try:
            for gpu in self._gpus:
                lost = False
                reading: Reading | None = None
                try:
                    reading = self._monitor.read(gpu.name)
                except DeviceUnavailable as error:
                    lost = error.reason is DeviceTrouble.LOST
                except ValueError:  # NaN, more than all memory: see Reading
                    pass
                with self._lock:
                    now = self._clock()
                    gpu.unread += reading is None
                    if reading is not None:
                        gpu.readings.add(reading, now)
                    elif lost and not gpu.on_trial:
                        due = gpu.due(now)
                        if due is None or due <= 0:  # who waits is not made to wait longer
                            self._fail(gpu)
        finally:
            self._reading.release()

    # ---- choosing, under the lock ---------------------------------------------------------------

    def _pick(
        self, tokens: int, prefix: Sequence[bytes], avoid: str | None, now: float
    ) -> tuple[_Gpu, int, Kind]:
        """The GPU, how many of the tokens it has, and whether the work tries it."""
        out = {gpu.place: due for gpu in self._gpus if (due := gpu.due(now)) is not None}
        well = [gpu for gpu in self._gpus if gpu.place not in out]
        if not well:
            first = min(
                self._gpus,
                key=lambda gpu: (gpu.name == avoid, gpu.in_flight, out[gpu.place]),
            )
            return first, 0, "trial"
        if not self._probed:
            for gpu in self._gpus:
                tried = gpu.on_trial or gpu.name == avoid
                if out.get(gpu.place, 1.0) <= 0 and not tried:
                    return gpu, 0, "trial"
        well = [gpu for gpu in well if gpu.name != avoid] or well
        saved = self._saved(tokens, prefix)
        costs = [self._cost(gpu, tokens, saved[gpu.place], now) for gpu in well]
        least = min(costs)
        best = well[costs.index(least)]
        # Of the work at hand, not of what waits: readings have noise, books have none.
        margin = self._weights.margin / (1 - self._weights.margin)
        most = least + margin * (tokens + 1) * self._dearer(best, now)
        good = [gpu for gpu, cost in zip(well, costs, strict=True) if cost <= most]
        if prefix:
            best = max(good, key=lambda gpu: (saved[gpu.place], _rank(prefix[0], gpu.name)))
        elif self._last is not None and self._last in good:
            best = self._last
        return best, saved[best.place], "work"

    def _saved(self, tokens: int, prefix: Sequence[bytes]) -> list[int]:
        """For each GPU, how many of the tokens it has already."""
        block = self._weights.block_tokens
        if not prefix:
            return [0] * len(self._gpus)
        return [min(tokens, depth * block) for depth in self._whereabouts.depths(prefix)]

    def _cost(self, gpu: _Gpu, tokens: int, saved: int, now: float) -> float:
        # At least one for each piece: work of no tokens must still tell a busy GPU from an idle one.
        ahead = gpu.tokens + gpu.in_flight
        work = max(ahead + tokens - self._weights.skew * saved, 0.0) + 1
        return work * self._dearer(gpu, now)

    def _dearer(self, gpu: _Gpu, now: float) -> float:
        weights = self._weights
        dearer = 1 + weights.busy * (gpu.readings.mean(now) or 0.0)
        reading = gpu.readings.latest(now)
        if reading is not None and reading.total_bytes > 0:
            share = reading.used_bytes / reading.total_bytes
            dearer += weights.full * max(share - weights.roomy, 0.0) / (1 - weights.roomy)
        return dearer

    def _snapshot(self, gpu: _Gpu, now: float) -> DeviceSnapshot:
        reading = gpu.readings.latest(now)
        return DeviceSnapshot(
            gpu=gpu.name,
            in_rotation=gpu.failed_at is None,
            utilization=gpu.readings.mean(now),
            used_bytes=reading.used_bytes if reading else None,
            total_bytes=reading.total_bytes if reading else None,
            temperature_celsius=reading.temperature_celsius if reading else None,
            power_watts=reading.power_watts if reading else None,
            in_flight=gpu.in_flight,
            in_flight_tokens=gpu.begun_tokens,
            queued_tokens=gpu.queued_tokens,
            routed=gpu.routed,
            saved_tokens=gpu.saved_tokens,
            failures=gpu.failures,
            unread=gpu.unread,
        )

    # ---- what tickets say -----------------------------------------------------------------------

    def _progress(self, ticket: Ticket, tokens: int) -> None:
        with self._lock:
            if not ticket._open:
                return
            gpu = ticket._gpu
            if not ticket._begun:
                ticket._begun = True
                gpu.queued_tokens -= ticket._left
                gpu.begun_tokens += ticket._left
            less = min(max(tokens, 0), ticket._left)
            ticket._left -= less
            gpu.begun_tokens -= less

    def _end(self, ticket: Ticket, how: Literal["done", "failed"]) -> None:
        with self._lock:
            if not ticket._open:
                return
            ticket._open = False
            gpu = ticket._gpu
            gpu.in_flight -= 1
            if ticket._begun:
                gpu.begun_tokens -= ticket._left
            else:
                gpu.queued_tokens -= ticket._left
            if ticket._kind != "work":
                gpu.on_trial = False
            if how == "failed":
                self._fail(gpu)
            elif ticket._kind != "work" or gpu.failed_at is None:
                # Work from before the failure proves nothing; the trial does. But only work shows
                # that work succeeds: who passes each probe and fails after it waits ever longer.
                gpu.failed_at = None
                if ticket._kind != "probe":
                    gpu.in_a_row = 0

    def _fail(self, gpu: _Gpu) -> None:
        weights = self._weights
        gpu.failures += 1
        gpu.pause = min(weights.first_pause * 2.0 ** min(gpu.in_a_row, 60), weights.longest_pause)
        gpu.in_a_row += 1
        if gpu.failed_at is None:
            self._whereabouts.forget(gpu.place)
        gpu.failed_at = self._clock()
        if self._last is gpu:
            self._last = None


def _rank(prefix: bytes, gpu: str) -> bytes:
    return hashlib.blake2b(prefix, digest_size=8, key=gpu.encode()[:64]).digest()
