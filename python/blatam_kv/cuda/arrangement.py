"""How the payloads of some tokens lie in one piece of memory, and how they become blobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blatam_kv import _core, codecs
from blatam_kv.cuda.layouts import Kind, PagedCache
from blatam_kv.errors import (
    CorruptBlob,
    DeviceTrouble,
    DeviceUnavailable,
    InvalidRequest,
    Unsupported,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

# The scheme of each codec for keys and for values, by its number in csrc/cuda/paged.h.
_RAW, _TOKEN8, _TOKEN4, _CHANNEL8, _CHANNEL4, _ROTATED4, _LEVELS4, _LEVELS3, _EXP4 = range(9)
CODECS: Mapping[str, tuple[int, int]] = {
    "raw": (_RAW, _RAW),
    "exp4": (_EXP4, _EXP4),
    "int8": (_TOKEN8, _TOKEN8),
    "int8_kc": (_CHANNEL8, _TOKEN8),
    "k8v4": (_TOKEN8, _TOKEN4),
    "int4": (_TOKEN4, _TOKEN4),
    "int4_kc": (_CHANNEL4, _TOKEN4),
    "int4_rot": (_ROTATED4, _ROTATED4),
    "tq4": (_LEVELS4, _LEVELS4),
    "tq3": (_LEVELS3, _LEVELS3),
    "k4v3": (_CHANNEL4, _LEVELS3),
}
ELEMENTS = ("bfloat16", "float16", "fp8_e4m3", "fp8_e5m2")

_ALIGN = 64
_MOST_TENSORS = 128  # of one launch
_MOST_VALUES = 2**29  # of one payload

# Bits of a fault, as csrc/cuda/paged.h has them.
SLOT, DAMAGE, ROOM = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Launch:
    """Tensors of one scheme: what one launch takes."""

    scheme: int | None  # None: no kernel has it, the host's codec does
    tensors: tuple[int, ...]  # indices into the cache's
    room: int  # bytes of each payload, escapes included


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where each tensor's blob begins in the memory of a block, and what a report says of it.

    A block's memory is ``block_bytes``, blobs one after the other, each with room for its header
    and for ``spare`` bytes of values that escape. A report is ``report_bytes`` of memory beside it:
    the size of each payload (uint64), then its faults (uint32), launch by launch, both by block and
    tensor.
    """

    cache: PagedCache
    codec: str
    tokens: int
    seed: int
    offsets: tuple[int, ...]  # of each tensor's blob in a block
    block_bytes: int
    launches: tuple[Launch, ...]

    @classmethod
    def of(
        cls, cache: PagedCache, *, codec: str, tokens: int, seed: int = 0, spare: int = 256
    ) -> Arrangement:
        """Lay blocks of ``tokens`` tokens out for a codec.

        codec: any of ``codecs.NAMES``; those of ``CODECS`` have kernels, and the others, like
        rotations of heads of more than 1,023 channels, are work for the host's codecs
        (``has_kernels`` says so). spare: bytes for escapes (NaN, infinities) in each payload; one
        that needs more comes back as a fault, never cut short. Raises Unsupported for another
        codec, InvalidRequest for impossible numbers.
        """
        if codec not in codecs.NAMES:
            raise Unsupported(f"no codec is called {codec!r}; these are: {', '.join(codecs.NAMES)}")
        codecs.check_seed(seed)
        for name, value in (("tokens", tokens), ("spare", spare)):
            if not 0 <= value < 2**31:
                raise InvalidRequest(f"{name} is {value}; it must be 0 to 2**31 - 1", field=name)
        offsets, at = [], 0
        alike: dict[tuple[int | None, Kind | None], list[int]] = {}
        rooms: dict[tuple[int | None, Kind | None], int] = {}
        for i, kind in enumerate(cache.kinds):
            scheme, most = _kernel(cache, codec, kind, tokens)
            group = (scheme, kind if scheme is None else None)
            rooms[group] = _up(most + spare, 16)
            offsets.append(at)
            at += _up(codecs.HEADER_BYTES + rooms[group], _ALIGN)
            alike.setdefault(group, []).append(i)
        launches = tuple(
            Launch(group[0], tuple(tensors[first : first + _MOST_TENSORS]), rooms[group])
            for group, tensors in alike.items()
            for first in range(0, len(tensors), _MOST_TENSORS)
        )
        return cls(cache, codec, tokens, seed, tuple(offsets), at, launches)

    @property
    def has_kernels(self) -> bool:
        """Whether a device can do all of it."""
        return all(launch.scheme is not None for launch in self.launches)

    @property
    def dtype(self) -> str:
        """What the blobs hold."""
        return "float16" if self.cache.element == "float16" else "bfloat16"

    def by_page(self, tensor: int) -> bool:
        """Whether a tensor's values are scaled by channel over pages of tokens."""
        keys, values = CODECS.get(self.codec, (_RAW, _RAW))
        scheme = keys if self.cache.kinds[tensor] == "key" else values
        return scheme in (_CHANNEL8, _CHANNEL4)

    def bytes_for(self, blocks: int) -> int:
        """Memory that the payloads of some blocks need."""
        return self.block_bytes * blocks

    def report_bytes(self, blocks: int) -> int:
        """Memory that a report on some blocks needs, a multiple of 8."""
        return sum(_report_part(len(launch.tensors) * blocks) for launch in self.launches)

    def seal(
        self, payloads: Any, report: Any, *, blocks: int, checksum: bool = True
    ) -> list[list[Bytes | None]]:
        """Blobs of payloads that ``store`` made and that have reached the host.

        payloads, report: writable host memory, what ``store`` was given, copied. Headers are
        written in place; the blobs are views of it, by block and tensor. None stands for a payload
        that its spare was too small for: encode these tokens on the CPU, or with more.

        Raises InvalidRequest if a slot was out of range: then the cache was described wrongly, and
        no payload can be believed.
        """
        memory, said = (
            _host(payloads, self.bytes_for(blocks)),
            _host(report, self.report_bytes(blocks)),
        )
        found: list[list[Bytes | None]] = [[None] * len(self.offsets) for _ in range(blocks)]
        for launch, sizes, faults in self.parts(said, blocks):
            self._complain_of_slots(faults)
            for block in range(blocks):
                for i, tensor in enumerate(launch.tensors):
                    if faults[block, i]:
                        continue
                    begin = block * self.block_bytes + self.offsets[tensor]
                    size = codecs.HEADER_BYTES + int(sizes[block, i])
                    blob = memory[begin : begin + size]
                    _core.seal_blob(
                        blob, self.codec, self.cache.kinds[tensor] == "key", self.dtype, self.tokens,
                        self.cache.kv_heads, self.cache.head_dim, self.seed, checksum,
                    )  # fmt: skip
                    found[block][tensor] = blob
        return found

    def unseal(self, blobs: Sequence[Sequence[Any]], payloads: Any, report: Any) -> None:
        """Check blobs and lay them out where ``fetch`` will take them from.

        blobs: by block and tensor, as ``seal`` gave them or ``quantize`` wrote them. payloads,
        report: writable host memory to fill; copy both to the device before ``fetch``.

        Raises CorruptBlob for damage, InvalidRequest for a blob of another codec, shape, dtype or
        seed, or one larger than its room. Nothing is fetched from a blob that was not checked.
        """
        blocks = len(blobs)
        memory, said = (
            _host(payloads, self.bytes_for(blocks)),
            _host(report, self.report_bytes(blocks)),
        )
        shape = (self.tokens, self.cache.kv_heads, self.cache.head_dim)
        for launch, sizes, faults in self.parts(said, blocks):
            faults[:] = 0
            for block, row in enumerate(blobs):
                if len(row) != len(self.offsets):
                    raise InvalidRequest(
                        f"block {block} has {len(row)} blobs for {len(self.offsets)} tensors",
                        field="blobs",
                    )
                for i, tensor in enumerate(launch.tensors):
                    blob = codecs.contiguous_bytes(row[tensor], "blob", writable=False)
                    info = codecs.BlobInfo(**_core.check_blob(blob))
                    kind: Kind = self.cache.kinds[tensor]
                    wanted = (self.codec, kind, self.dtype, shape)
                    held = (info.codec, info.kind, info.dtype, info.shape)
                    if held != wanted or info.seed != self.seed:
                        raise InvalidRequest(
                            f"blob {tensor} of block {block} is {held} with seed {info.seed}, not "
                            f"{wanted} with seed {self.seed}",
                            field="blobs",
                        )
                    size = blob.size - codecs.HEADER_BYTES
                    if size > launch.room:
                        raise InvalidRequest(
                            f"blob {tensor} of block {block} has {size} bytes, its room "
                            f"{launch.room}; arrange with spare={size} or decode it on the CPU",
                            field="blobs",
                        )
                    begin = block * self.block_bytes + self.offsets[tensor]
                    memory[begin : begin + blob.size] = blob
                    sizes[block, i] = size

    def check_fetched(self, report: Any, *, blocks: int) -> None:
        """Look at the report of a ``fetch`` that is done.

        Raises CorruptBlob if a payload was not what an encoder writes, InvalidRequest if a slot was
        out of range; the tokens of that call must then not be used.
        """
        for _, _, faults in self.parts(_host(report, self.report_bytes(blocks)), blocks):
            self._complain_of_slots(faults)
            if (faults & DAMAGE).any():
                raise CorruptBlob("a payload on the device is not what an encoder writes")

    def _complain_of_slots(self, faults: Any) -> None:
        if (faults & SLOT).any():
            raise InvalidRequest(
                f"a slot is neither -1 nor below {self.cache.slots}", field="slots"
            )

    def parts(self, report: Bytes, blocks: int) -> list[tuple[Launch, Any, Any]]:
        """A report taken apart: sizes and faults by block and tensor, launch by launch."""
        import numpy as np

        parts, at = [], 0
        for launch in self.launches:
            count = len(launch.tensors) * blocks
            shape = (blocks, len(launch.tensors))
            sizes = report[at : at + 8 * count].view(np.uint64).reshape(shape)
            faults = report[at + 8 * count : at + 12 * count].view(np.uint32).reshape(shape)
            parts.append((launch, sizes, faults))
            at += _report_part(count)
        return parts


def _report_part(count: int) -> int:
    return _up(12 * count, 8)


def _up(size: int, to: int) -> int:
    return (size + to - 1) // to * to


def _kernel(cache: PagedCache, codec: str, kind: Kind, tokens: int) -> tuple[int | None, int]:
    """The scheme that does it, None for the host's codec; and the most bytes without escapes."""
    shape = (tokens, cache.kv_heads, cache.head_dim)
    if max(shape) >= 2**31:
        raise InvalidRequest(f"blocks of the shape {shape} are too large", field="tokens")
    if math.prod(shape) >= _MOST_VALUES:
        raise Unsupported(
            f"blocks of {tokens} tokens, {cache.kv_heads} heads of {cache.head_dim} are too large "
            "for one payload; lay out smaller blocks"
        )
    if codec in CODECS:
        scheme = CODECS[codec][kind == "value"]
        most: int = _core.paged_sizes(scheme, ELEMENTS.index(cache.element), shape)[1]
        if most > 0 or tokens == 0:
            return scheme, most
    dtype = "float16" if cache.element == "float16" else "bfloat16"
    size = codecs.encoded_size(shape, codec=codec, kind=kind, dtype=dtype)
    return None, size - codecs.HEADER_BYTES


def _host(memory: Any, size: int) -> Bytes:
    found = codecs.contiguous_bytes(memory, "memory", writable=True)
    if found.size < size:
        raise InvalidRequest(f"{found.size} bytes were given, {size} are needed", field="memory")
    return found


def device_error(code: int, text: str) -> Exception:
    """The exception for a code of ours: an argument is at fault."""
    if code == 5:
        return Unsupported(text)
    if code in (1, 2, 3, 4, 6, 7):
        return InvalidRequest(text, field="cache")
    return DeviceUnavailable(DeviceTrouble.FAILED, text)
