"""Blocks on their way from host memory into an engine's paged cache, layer by layer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Self

import numpy as np
import numpy.typing as npt

from blatam_kv._core import DevicePiece, Mark
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Form
from blatam_kv.errors import CorruptBlob
from blatam_kv.tiers.control import Control
from blatam_kv.tiers.resident import Resident
from blatam_kv.tiers.sources import Arrival, Source


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
        source: Source,
        slots: npt.NDArray[np.int64],
        control: DevicePiece | None,
        stream: int,
        arrived: Callable[[bytes, Resident, int], None],
        bad: Callable[[bytes], None],
        counted: Callable[[], AbstractContextManager[None]],
        ended: Callable[[float, int, int, Exception | None], None],
    ) -> None:
        self.blocks = len(arrivals)
        self._bus, self._form, self._arrivals, self._slots = bus, form, arrivals, slots
        self._source, self._control, self._stream = source, control, stream
        self._arrived, self._bad, self._counted, self._told = arrived, bad, counted, ended
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
        began = time.perf_counter()
        try:
            with self._counted():
                self._load()
        except Exception as caught:  # whoever waits must hear of it, whatever it is
            error = caught
        tensors = 2 * len(self._marks)
        raw = self.blocks * tensors * self._form.tensor_bytes
        encoded = sum(int(each.cuts.sizes[:tensors].sum()) for each in self._arrivals)
        self._told(time.perf_counter() - began, raw, encoded, error)
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()

    def _load(self) -> None:
        control = self._control
        if control is None:
            return
        plan = Control(self._form, len(self._arrivals), self._slots.shape[1])
        base = control.address
        self._bus.up([(self._slots, control, 0)])
        for layer in range(self._layers):
            if self._stopped:
                return
            tensors = (2 * layer, 2 * layer + 1)
            blobs = self._source.layer(tensors)
            table = plan.table(blobs, tensors)
            self._bus.up([*blobs.parts, (table, control, plan.begin(layer))])
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
                    room=plan.room(blobs, group),
                    places=at,
                    pieces=[*blobs.pieces, control],
                )
            assert mark is not None
            with self._changed:
                self._marks.append(mark)
                self._changed.notify_all()
        for arrival in self._arrivals:
            if arrival.resident is None and arrival.piece is not None:
                resident = Resident.of(arrival.record, arrival.piece, arrival.cuts)
                self._arrived(arrival.record.key, resident, arrival.version)
        self._look(plan, control)

    def _look(self, plan: Control, control: DevicePiece) -> None:
        """Wait for the last kernel and read what all of them found."""
        report = np.zeros(control.bytes, np.uint8)
        self._bus.down(control, 0, report)
        for layer in range(self._layers):
            for block in map(int, np.flatnonzero(plan.faults(report, layer))):
                self._bad(self._arrivals[block].record.key)
                raise CorruptBlob(f"block {block} on the device is not what an encoder writes")
