"""A record on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from blatam_kv._core import DevicePiece, crc32c
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Cuts
from blatam_kv.record import Record


@dataclass(slots=True, eq=False)
class Resident:
    """What is on the device, and what of it stays on the host: all but the payload.

    head: the record without its payload. cuts: of a block, where its blobs lie. checksum: CRC-32C of
    the payload. clean: whether the tier below has the same.
    """

    head: Record
    piece: DevicePiece
    cuts: Cuts | None
    checksum: int
    clean: bool = False

    @classmethod
    def of(cls, record: Record, piece: DevicePiece, cuts: Cuts | None) -> Resident:
        """For a record whose payload is on its way into the piece."""
        head = replace(record, payload=b"", tokens=bytes(record.tokens))
        return cls(head, piece, cuts, crc32c(record.payload))

    @property
    def weight(self) -> int:
        """Bytes of the device."""
        return Bus.rounded(self.piece.bytes)

    def come_down(self, bus: Bus) -> Record | None:
        """The record in host memory, None if it is not what went up. Raises DeviceUnavailable."""
        payload = bytearray(self.piece.bytes)
        bus.down(self.piece, 0, payload)
        if crc32c(payload) != self.checksum:
            return None
        return replace(self.head, payload=memoryview(payload).toreadonly())


@dataclass(frozen=True, slots=True)
class DeviceBlob:
    """A record's payload on a device, lent: to torch, CuPy and Numba by ``__cuda_array_interface__``,
    to numpy, where the device is the host, by ``__array_interface__``. Not to be written to.

    head: the record without it. address, size: where it lies. device: -1 for the host.
    """

    head: Record
    address: int
    size: int
    device: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.device < 0:
            raise AttributeError("it lies on the host")
        # The stream that it was lent to waits already.
        return self._described(version=3) | {"stream": None}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self.device >= 0:
            raise AttributeError("it lies on a GPU")
        return self._described(version=3)

    def _described(self, version: int) -> dict[str, Any]:
        return {
            "shape": (self.size,),
            "typestr": "|u1",
            "data": (self.address, True),
            "version": version,
        }
