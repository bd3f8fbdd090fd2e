"""The work of the kernels by the host's codecs: for caches of the host, and for what no kernel does.

Everything goes through the same payloads and report as on a device, with the same bits. Tokens are
taken and put by numpy in memory of the host, and by torch, the only framework that writes into its
own device memory for us, in that of a device. A portion of blocks at a time, so that what lies
between cache and codec stays small.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from blatam_kv import _core, codecs
from blatam_kv.cuda.arrangement import DAMAGE, ELEMENTS, ROOM, SLOT, Arrangement, Launch
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.cuda.memory import HOST
from blatam_kv.errors import CorruptBlob

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Slots = npt.NDArray[np.int64]

_PAGE = 64  # tokens of which keys by channel make a page
_PORTION_BYTES = 16 << 20


class Tokens(Protocol):
    """One tensor of a cache, token by token: cells as integers of 8 or 16 bits."""

    def take(self, slots: Slots) -> npt.NDArray[Any]:
        """The cells of some slots, [slots, heads, channels]."""
        ...

    def put(self, slots: Slots, cells: npt.NDArray[Any]) -> None:
        """Write them."""
        ...


def store(arrangement: Arrangement, slots: Slots, payloads: Bytes, report: Bytes) -> None:
    """``cuda.store`` with slots, payloads and report in memory of the host."""
    blocks = len(slots)
    for launch, sizes, faults in arrangement.parts(report, blocks):
        for i, tensor in enumerate(launch.tensors):
            tokens = _tokens(arrangement.cache, tensor)
            for first, last in _portions(arrangement, blocks):
                values, wrong = _gathered(arrangement, tensor, tokens, slots[first:last])
                for block in range(first, last):
                    size, fault = _encoded(
                        arrangement, launch, tensor, values[block - first], payloads, block
                    )
                    sizes[block, i] = size
                    faults[block, i] = SLOT if wrong[block - first] else fault


def fetch(arrangement: Arrangement, slots: Slots, payloads: Bytes, report: Bytes) -> None:
    """``cuda.fetch`` with slots, payloads and report in memory of the host."""
    import numpy as np

    blocks, cache = len(slots), arrangement.cache
    there = (slots >= 0) & (slots < cache.slots)
    wrong = (~there & (slots != -1)).any(axis=1)
    for launch, sizes, faults in arrangement.parts(report, blocks):
        faults[:] = 0
        for i, tensor in enumerate(launch.tensors):
            tokens = _tokens(cache, tensor)
            for first, last in _portions(arrangement, blocks):
                shape = (last - first, arrangement.tokens, cache.kv_heads, cache.head_dim)
                values = np.empty(shape, np.uint16)
                put = there[first:last].copy()
                for block in range(first, last):
                    size = int(sizes[block, i])
                    at = block - first
                    good = _decoded(arrangement, launch, tensor, payloads, block, size, values[at])
                    put[at] &= good
                    faults[block, i] = SLOT * wrong[block] | DAMAGE * (not good)
                _scatter(cache, tokens, slots[first:last], put, values)


def _portions(arrangement: Arrangement, blocks: int) -> Iterator[tuple[int, int]]:
    cache = arrangement.cache
    each = max(1, 2 * arrangement.tokens * cache.kv_heads * cache.head_dim)
    step = max(1, _PORTION_BYTES // each)
    for first in range(0, blocks, step):
        yield first, min(first + step, blocks)


def _gathered(
    arrangement: Arrangement, tensor: int, tokens: Tokens, slots: Slots
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """16-bit values [blocks, tokens, heads, channels], and which blocks have an impossible slot."""
    import numpy as np

    cache = arrangement.cache
    outside = np.logical_or(slots < -1, slots >= cache.slots)
    source = np.where(outside, -1, slots)
    if arrangement.by_page(tensor):
        fill_pages(source)
    there = source >= 0
    shape = (*slots.shape, cache.kv_heads, cache.head_dim)
    whole = bool(there.all())
    cells = tokens.take(source.reshape(-1) if whole else source[there])
    if cells.dtype == np.uint8:
        cells = _fp8(cache.element)[0][cells]
    if whole:
        values = cells.reshape(shape)
    else:
        values = np.zeros(shape, np.uint16)
        values[there] = cells
    return values, np.logical_or.reduce(outside, axis=1)


def fill_pages(slots: Slots) -> None:
    """Skipped tokens of whole pages become copies of the page's first that is there."""
    import numpy as np

    whole = slots.shape[1] // _PAGE * _PAGE
    pages = slots[:, :whole].reshape(len(slots), -1, _PAGE)
    first = np.take_along_axis(pages, (pages >= 0).argmax(axis=2)[..., None], axis=2)
    slots[:, :whole] = np.where(pages < 0, first, pages).reshape(len(slots), whole)


def _encoded(
    arrangement: Arrangement, launch: Launch, tensor: int, values: Any, payloads: Bytes, block: int
) -> tuple[int, int]:
    """Bytes of the payload, and its fault."""
    begin = block * arrangement.block_bytes + arrangement.offsets[tensor]
    out = payloads[begin : begin + codecs.HEADER_BYTES + launch.room]
    size = _core.encode_blob(
        values, out, arrangement.codec, arrangement.cache.kinds[tensor] == "key",
        arrangement.dtype, arrangement.seed, 1, False,
    )  # fmt: skip
    return size - codecs.HEADER_BYTES, ROOM if size > len(out) else 0


def _decoded(
    arrangement: Arrangement, launch: Launch, tensor: int, payloads: Bytes, block: int, size: int,
    values: npt.NDArray[np.uint16],
) -> bool:  # fmt: skip
    """Fill ``values`` from a payload; False where it is damaged."""
    if size > launch.room:
        return False
    cache = arrangement.cache
    begin = block * arrangement.block_bytes + arrangement.offsets[tensor]
    # What stands in the header's place is not believed: a kernel leaves it as it was.
    blob = payloads[begin : begin + codecs.HEADER_BYTES + size].copy()
    try:
        _core.seal_blob(
            blob, arrangement.codec, cache.kinds[tensor] == "key", arrangement.dtype,
            arrangement.tokens, cache.kv_heads, cache.head_dim, arrangement.seed, False,
        )  # fmt: skip
        _core.decode_blob(blob, values, arrangement.dtype, 1)
    except CorruptBlob:
        return False
    return True


def _scatter(
    cache: PagedCache,
    tokens: Tokens,
    slots: Slots,
    there: npt.NDArray[np.bool_],
    values: npt.NDArray[np.uint16],
) -> None:
    whole = bool(there.all())
    cells: npt.NDArray[Any] = values.reshape(-1, *values.shape[2:]) if whole else values[there]
    if cache.element.startswith("fp8"):
        cells = _fp8(cache.element)[1][cells]
    tokens.put(slots.reshape(-1) if whole else slots[there], cells)


@functools.cache
def _fp8(element: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """What each byte of an fp8 cache counts as, and the byte that each bfloat16 becomes."""
    import numpy as np

    if not element.startswith("fp8"):
        return np.empty(0, np.uint16), np.empty(0, np.uint8)
    patterns, cells = _core.fp8_tables(ELEMENTS.index(element))
    return np.frombuffer(patterns, np.uint16), np.frombuffer(cells, np.uint8)


# ---- where tokens lie ---------------------------------------------------------------------------


def _tokens(cache: PagedCache, tensor: int) -> Tokens:
    return _HostTokens(cache, tensor) if cache.device == HOST else _TorchTokens(cache, tensor)


def _shape(cache: PagedCache) -> tuple[int, ...]:
    run = min(cache.run, cache.head_dim)
    blocks = cache.slots // cache.block_tokens
    return blocks, cache.block_tokens, cache.kv_heads, cache.head_dim // run, run


def _strides(cache: PagedCache, cell: int) -> tuple[int, ...]:
    """In bytes, of ``_shape``."""
    return cache.block_bytes, cache.token_bytes, cache.head_bytes, cache.run_bytes, cell


class _At:
    """Memory of the host, as numpy asks for it."""

    def __init__(
        self, address: int, kind: np.dtype[Any], shape: tuple[int, ...], strides: Any
    ) -> None:
        self.__array_interface__ = {
            "version": 3, "data": (address, False), "typestr": kind.str, "shape": shape,
            "strides": strides,
        }  # fmt: skip


def array_at(address: int, dtype: str, shape: tuple[int, ...], strides: Any = None) -> Any:
    """An array over memory of the host, which the caller keeps alive."""
    import numpy as np

    kind = np.dtype(dtype)
    if 0 in shape:
        return np.empty(shape, kind)
    return np.asarray(_At(address, kind, shape, strides))


class _HostTokens:
    def __init__(self, cache: PagedCache, tensor: int) -> None:
        fp8 = cache.element.startswith("fp8")
        strides = _strides(cache, 1 if fp8 else 2)
        dtype = "uint8" if fp8 else "uint16"
        self._cells = array_at(cache.bases[tensor], dtype, _shape(cache), strides)
        self._block_tokens = cache.block_tokens

    def take(self, slots: Slots) -> npt.NDArray[Any]:
        cells = self._cells[slots // self._block_tokens, slots % self._block_tokens]
        found: npt.NDArray[Any] = cells.reshape(*cells.shape[:2], -1 if len(slots) else 1)
        return found

    def put(self, slots: Slots, cells: npt.NDArray[Any]) -> None:
        place = slots // self._block_tokens, slots % self._block_tokens
        self._cells[place] = cells.reshape(len(slots), *self._cells.shape[2:])


class _TorchTokens:
    def __init__(self, cache: PagedCache, tensor: int) -> None:
        import torch

        self._torch = torch
        kind = torch.uint8 if cache.element.startswith("fp8") else torch.int16
        base, cell = cache.bases[tensor], kind.itemsize
        # Several tensors may lie in one owner, and owners in any order.
        owner, begin = next(
            (owner, begin)
            for owner in cache.owners
            if (begin := owner.untyped_storage().data_ptr()) <= base
            and base < begin + owner.untyped_storage().nbytes()
        )
        strides = [stride // cell for stride in _strides(cache, cell)]
        cells = owner.detach().view(kind)
        self._cells = torch.as_strided(cells, _shape(cache), strides, (base - begin) // cell)
        self._block_tokens = cache.block_tokens

    def _place(self, slots: Slots) -> tuple[Any, Any]:
        there = self._torch.from_numpy(slots).to(self._cells.device)
        return there // self._block_tokens, there % self._block_tokens

    def take(self, slots: Slots) -> npt.NDArray[Any]:
        import numpy as np

        cells = self._cells[self._place(slots)].flatten(2).cpu().numpy()
        return cells.view(np.uint16) if cells.dtype == np.int16 else cells

    def put(self, slots: Slots, cells: npt.NDArray[Any]) -> None:
        import numpy as np

        if cells.dtype == np.uint16:
            cells = cells.view(np.int16)
        shape = (len(slots), *self._cells.shape[2:])
        values = self._torch.from_numpy(np.ascontiguousarray(cells)).reshape(shape)
        self._cells[self._place(slots)] = values.to(self._cells.device)


# ---- memory of a device, through torch ----------------------------------------------------------


def is_torch(*tensors: Any) -> bool:
    """Whether all of them are torch's; no other framework is asked to copy."""
    torch = sys.modules.get("torch")
    return torch is not None and all(isinstance(tensor, torch.Tensor) for tensor in tensors)


@contextlib.contextmanager
def on_stream(stream: int | None, like: Any) -> Iterator[None]:
    """torch's copies go to a stream; None leaves it to torch, as memory of the host does."""
    import torch

    if stream is None or not like.is_cuda:
        yield
        return
    external: Any = torch.cuda.ExternalStream  # which torch leaves untyped
    with torch.cuda.stream(external(stream, device=like.device)):
        yield


def copied(tensor: Any, size: int | None = None) -> npt.NDArray[Any]:
    """A copy in memory of the host; of a contiguous tensor its first ``size`` bytes."""
    import torch

    if size is not None:
        tensor = tensor.reshape(-1).view(torch.uint8)[:size]
    found: npt.NDArray[Any] = tensor.cpu().numpy().copy()
    return found


def copy_back(values: npt.NDArray[Any], tensor: Any) -> None:
    """Over the first bytes of a contiguous tensor."""
    import numpy as np
    import torch

    flat = values.reshape(-1).view(np.uint8)
    tensor.reshape(-1).view(torch.uint8)[: flat.size].copy_(torch.from_numpy(flat))
