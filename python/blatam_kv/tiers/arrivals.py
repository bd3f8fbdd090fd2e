"""Blocks on their way from host memory into an engine's paged cache, layer by layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from blatam_kv._core import DevicePiece, Mark
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Cuts, Form
from blatam_kv.errors import CorruptBlob, Error
from blatam_kv.record import Record
from blatam_kv.tiers.resident import Resident

_DAMAGE = 2  # of a fault, as csrc/cuda/paged.h has it


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that is to be decoded. resident: if it is on the device already; else record is still
    on the host, its place is free, and version says of when it is."""

    record: Record
    cuts: Cuts
    piece: DevicePiece
    version: int
    resident: Resident | None


class DeviceLoad:
    """Blocks on their way into an engine's paged cache, by a thread of its own: while one layer is decoded the next is copied.

    blocks: how many of the first ones come; it may be none. The slots are the loader's until ``finish`` has returned
    or the load is closed::

        with tier.load_layers(keys, cache, slots) as load:
            for layer in range(layers):
                load.wait(layer)        # the stream waits, not this thread
                compute(layer)          # on that stream
            load.finish()               # now it is known that all of it was right

    Each layer's blobs are checked on the host before they are copied. What only the device can see,
    payloads that no encoder writes, is known at the end: until ``finish`` has returned nobody may
    believe what was computed.
    """

    def __init__(
        self,
        bus: Bus,
        form: Form,
        arrivals: Sequence[Arrival],
        slots: npt.NDArray[np.int64],
        control: DevicePiece | None,
        stream: int,
        arrived: Callable[[bytes, Resident, int], None],
        bad: Callable[[bytes], None],
        counted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.blocks = len(arrivals)
        self._bus, self._form, self._arrivals, self._slots = bus, form, arrivals, slots
        self._control, self._stream = control, stream
        self._arrived, self._bad, self._counted = arrived, bad, counted
        self._layers = len(form.schemes) // 2
        self._changed = threading.Condition()
        self._marks: list[Mark] = []  # a layer each
        self._error: Exception | None = None
        self._stopped = self._ended = False
        self._thread = threading.Thread(target=self._run, name="kv-device-layers", daemon=True)
        self._thread.start()

    def wait(self, layer: int, timeout: float | None = None, *, stream: int | None = None) -> int:
        """Let the stream wait for this layer's keys and values; returns ``blocks``.

        stream: another one than the load began with. On the host the calling thread waits. timeout: most
        seconds until the layer is on its way. Raises CorruptBlob if a block is damaged,
        DeviceUnavailable, TimeoutError, and IndexError for a layer that the cache does not have or of a
        load that was closed.
        """
        if not 0 <= layer < self._layers:
            raise IndexError(f"layers go from 0 to {self._layers - 1}, not {layer}")
        if not self.blocks:
            return 0
        with self._changed:
            there = self._changed.wait_for(lambda: len(self._marks) > layer or self._over, timeout)
            if len(self._marks) <= layer:
                if self._error is not None:
                    raise self._error
                if not there:
                    raise TimeoutError(f"layer {layer} is not there after {timeout} seconds")
                raise IndexError(f"the load was closed before layer {layer}")
            mark = self._marks[layer]
        with self._counted():
            self._bus.hold(mark, self._stream if stream is None else stream)
        return self.blocks

    def finish(self, timeout: float | None = None) -> int:
        """Wait until all is decoded and was looked at; returns ``blocks``. Raises as ``wait``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise TimeoutError(f"the load is not done after {timeout} seconds")
            if self._error is not None:
                raise self._error
            if self.blocks and len(self._marks) < self._layers:
                raise IndexError("the load was closed before its last layer")
        return self.blocks

    def close(self) -> None:
        """Stop after the layer at hand; behind what the stream has waited for the slots are the
        caller's again. Raises DeviceUnavailable if the stream cannot wait: then they are when the tier is
        closed."""
        with self._changed:
            self._stopped = True
        self._thread.join()
        if self._control is not None:
            with self._counted():
                # Every launch has it, also those of a layer that failed in the middle.
                self._bus.lend([self._control], self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _over(self) -> bool:
        return self._error is not None or self._stopped or self._ended

    def _run(self) -> None:
        error: Exception | None = None
        try:
            with self._counted():
                self._load()
        except Exception as caught:  # whoever waits must hear of it, whatever it is
            error = caught
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()

    def _load(self) -> None:
        control = self._control
        if control is None:
            return
        plan = Control(self._form, len(self._arrivals), self._slots.shape[1])
        pieces = [*(arrival.piece for arrival in self._arrivals), control]
        coming = [arrival for arrival in self._arrivals if arrival.resident is None]
        base = control.address
        self._bus.up([(self._slots, control, 0)])
        for layer in range(self._layers):
            if self._stopped:
                return
            tensors = (2 * layer, 2 * layer + 1)
            parts = [self._checked(arrival, tensors) for arrival in coming]
            table = plan.table(self._arrivals, tensors)
            self._bus.up([*parts, (table, control, plan.begin(layer))])
            mark = None
            for group in plan.groups(tensors):
                at = base + plan.begin(layer) + 8 * plan.words(tensors[0], group[0])
                count = len(group) * len(self._arrivals)
                mark = self._bus.run(
                    self._form.cache,
                    store=False,
                    scheme=self._form.schemes[group[0]],
                    tokens=self._form.tokens,
                    seed=self._form.seed,
                    blocks=len(self._arrivals),
                    tensors=np.array([[self._form.cache.bases[i], 0] for i in group], np.uint64),
                    slots=base,
                    payloads=self._bus.address,
                    sizes=at + 8 * count,
                    faults=at + 16 * count,
                    stride=0,
                    room=plan.room(self._arrivals, group),
                    places=at,
                    pieces=pieces,
                )
            assert mark is not None
            with self._changed:
                self._marks.append(mark)
                self._changed.notify_all()
        for arrival in coming:
            resident = Resident.of(arrival.record, arrival.piece, arrival.cuts)
            self._arrived(arrival.record.key, resident, arrival.version)
        self._look(plan, control)

    def _checked(
        self, arrival: Arrival, tensors: Sequence[int]
    ) -> tuple[memoryview, DevicePiece, int]:
        payload = memoryview(arrival.record.payload).cast("B")
        try:
            arrival.cuts.verify(payload, tensors)
        except Error as error:
            self._bad(arrival.record.key)
            raise CorruptBlob(f"a block on its way to the device: {error}") from error
        span = arrival.cuts.span(tensors)
        return payload[span], arrival.piece, span.start

    def _look(self, plan: Control, control: DevicePiece) -> None:
        """Wait for the last kernel and read what all of them found."""
        report = np.zeros(control.bytes, np.uint8)
        self._bus.down(control, 0, report)
        for layer in range(self._layers):
            for block in map(int, np.flatnonzero(plan.faults(report, layer))):
                self._bad(self._arrivals[block].record.key)
                raise CorruptBlob(f"block {block} on the device is not what an encoder writes")


class Control:
    """What the kernels of a load are told, in one piece of the device's memory: slots; then for each
    layer and launch where payloads begin, their sizes (uint64 both) and their faults (uint32), by block
    and tensor."""

    def __init__(self, form: Form, blocks: int, tokens: int) -> None:
        self._form, self._blocks = form, blocks
        self._slots_bytes = 8 * blocks * tokens
        # One launch for both or one for each: as many words, but for what fills up faults.
        self._layer_words = 2 * self._group_words(1)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return self._slots_bytes + 8 * self._layer_words * (len(self._form.schemes) // 2)

    def begin(self, layer: int) -> int:
        """Where a layer's begin."""
        return self._slots_bytes + 8 * self._layer_words * layer

    def groups(self, tensors: Sequence[int]) -> list[Sequence[int]]:
        """The tensors of each launch: those of one scheme."""
        schemes = self._form.schemes
        if schemes[tensors[0]] == schemes[tensors[1]]:
            return [tensors]
        return [[tensor] for tensor in tensors]

    def words(self, first: int, tensor: int) -> int:
        """How many words of the layer come before the launch that begins with a tensor."""
        return self._group_words(tensor - first)

    def room(self, arrivals: Sequence[Arrival], group: Sequence[int]) -> int:
        """The largest payload of a launch."""
        return max(int(arrival.cuts.sizes[list(group)].max()) for arrival in arrivals)

    def table(self, arrivals: Sequence[Arrival], tensors: Sequence[int]) -> npt.NDArray[np.uint64]:
        """A layer's words."""
        words = np.zeros(self._layer_words, np.uint64)
        for group in self.groups(tensors):
            at, count, which = (
                self.words(tensors[0], group[0]),
                len(group) * len(arrivals),
                list(group),
            )
            places = [
                arrival.cuts.begins[which] + np.uint64(arrival.piece.at) for arrival in arrivals
            ]
            words[at : at + count] = np.concatenate(places)
            sizes = [arrival.cuts.sizes[which] for arrival in arrivals]
            words[at + count : at + 2 * count] = np.concatenate(sizes)
        return words

    def faults(self, report: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint32]:
        """Of each block the faults that a layer had."""
        begin = self.begin(layer)
        words = report[begin : begin + 8 * self._layer_words].view(np.uint64)
        found = np.zeros(self._blocks, np.uint32)
        tensors = (2 * layer, 2 * layer + 1)
        for group in self.groups(tensors):
            count = len(group) * self._blocks
            at = self.words(tensors[0], group[0]) + 2 * count
            faults = words[at:].view(np.uint32)[:count].reshape(self._blocks, len(group))
            found |= np.bitwise_or.reduce(faults, axis=1)
        return found

    def _group_words(self, tensors: int) -> int:
        count = tensors * self._blocks
        return 2 * count + (count + 1) // 2
