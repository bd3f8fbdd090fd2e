"""Where the kernels of a load take a layer from: the blobs themselves, or what the host made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from blatam_kv import _core
from blatam_kv._core import DevicePiece
from blatam_kv.codecs import HEADER_BYTES
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Cuts, Form
from blatam_kv.errors import CorruptBlob, Error
from blatam_kv.record import Record
from blatam_kv.tiers.resident import Resident

# Where a kernel's payload may begin.
_ALIGN = 16


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that is to be decoded. resident: if it is on the device already; else record is still
    on the host and version says of when it is. piece: where its blobs are or will be, None if they do
    not go up."""

    record: Record
    cuts: Cuts
    piece: DevicePiece | None
    version: int
    resident: Resident | None


@dataclass(frozen=True, slots=True)
class Layer:
    """Keys and values of one layer of some blocks. parts: bytes to be copied into pieces. pieces: where
    the payloads are then. places, sizes: [blocks, 2], where in the pool each begins, and its bytes."""

    parts: Sequence[tuple[Any, DevicePiece, int]]
    pieces: Sequence[DevicePiece]
    places: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]


class Source(Protocol):
    """The layers of some blocks, in order, each asked for once."""

    def layer(self, tensors: Sequence[int]) -> Layer:
        """The next one, whose keys and values these tensors are. Raises CorruptBlob, DeviceUnavailable."""
        ...


class Encoded:
    """For codecs that kernels decode: payloads go up as they are and stay there.

    bad: told of a block that is damaged.
    """

    def __init__(self, arrivals: Sequence[Arrival], bad: Callable[[bytes], None]) -> None:
        self._arrivals, self._bad = arrivals, bad
        self._pieces = [_piece(arrival) for arrival in arrivals]

    def layer(self, tensors: Sequence[int]) -> Layer:
        """See ``Source``; what comes from the host is verified."""
        parts, which = [], list(tensors)
        for arrival, piece in zip(self._arrivals, self._pieces, strict=True):
            if arrival.resident is None:
                payload = memoryview(arrival.record.payload).cast("B")
                try:
                    arrival.cuts.verify(payload, tensors)
                except Error as error:
                    self._bad(arrival.record.key)
                    raise CorruptBlob(f"a block on its way to the device: {error}") from error
                span = arrival.cuts.span(tensors)
                parts.append((payload[span], piece, span.start))
        places = [
            arrival.cuts.begins[which] + np.uint64(piece.at)
            for arrival, piece in zip(self._arrivals, self._pieces, strict=True)
        ]
        sizes = [arrival.cuts.sizes[which] for arrival in self._arrivals]
        return Layer(parts, self._pieces, np.stack(places), np.stack(sizes))


class Decoded:
    """For codecs without a kernel: the host decodes a layer and it goes up raw, while the one before
    is being put into the cache from the other of two pieces.

    pieces: two, each of ``piece_bytes``.
    """

    def __init__(
        self,
        bus: Bus,
        form: Form,
        arrivals: Sequence[Arrival],
        pieces: Sequence[DevicePiece],
        bad: Callable[[bytes], None],
    ) -> None:
        self._bus, self._form, self._arrivals, self._bad = bus, form, arrivals, bad
        self._pieces, self._turn = pieces, 0
        self._stride = _stride(form)

    @staticmethod
    def piece_bytes(form: Form, blocks: int) -> int:
        """Bytes of a layer of so many blocks."""
        return 2 * blocks * _stride(form)

    def layer(self, tensors: Sequence[int]) -> Layer:
        """See ``Source``; every blob is verified."""
        form, blocks, stride = self._form, len(self._arrivals), self._stride
        piece = self._pieces[self._turn % 2]
        self._turn += 1
        rows = np.zeros((blocks, 2, stride), np.uint8)
        for arrival, row in zip(self._arrivals, rows, strict=True):
            for tensor, out in zip(tensors, row, strict=True):
                values = out[: form.tensor_bytes].view(np.uint16).reshape(form.shape)
                try:
                    _core.decode_blob(self._blob(arrival, tensor), values, form.dtype, 1)
                except Error as error:
                    self._bad(arrival.record.key)
                    raise CorruptBlob(f"a block on its way to the device: {error}") from error
        first = np.arange(2 * blocks, dtype=np.uint64).reshape(blocks, 2) * np.uint64(stride)
        sizes = np.full((blocks, 2), form.tensor_bytes, np.uint64)
        return Layer([(rows, piece, 0)], [piece], first + np.uint64(piece.at), sizes)

    def _blob(self, arrival: Arrival, tensor: int) -> memoryview:
        cuts = arrival.cuts
        begin, size = int(cuts.begins[tensor]) - HEADER_BYTES, int(cuts.sizes[tensor])
        if arrival.resident is None:
            payload = memoryview(arrival.record.payload).cast("B")
            return payload[begin : begin + HEADER_BYTES + size]
        blob = bytearray(HEADER_BYTES + size)
        self._bus.down(arrival.resident.piece, begin, blob)
        return memoryview(blob)


def _piece(arrival: Arrival) -> DevicePiece:
    assert arrival.piece is not None
    return arrival.piece


def _stride(form: Form) -> int:
    return -(-form.tensor_bytes // _ALIGN) * _ALIGN
