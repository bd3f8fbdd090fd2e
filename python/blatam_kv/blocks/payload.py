"""A block as bytes: the blobs of its layers, keys before values. Specified in docs/FORMAT.md.

Blobs say themselves what codec they are in and carry checksums, so a block is verified whenever it
is decoded, wherever it came from.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from blatam_kv import _core, codecs
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.errors import ConfigError, CorruptBlob, InvalidRequest
from blatam_kv.metrics.codecs import CodecWork
from blatam_kv.record import Bytes, filled
from blatam_kv.tensors import STORAGE

if TYPE_CHECKING:
    import numpy.typing as npt

# Where a blob's header says how many bytes follow it (docs/CODECS.md).
_PAYLOAD_BYTES = slice(40, 48)
# Of what was let go as much stays warm, for the next portion.
SPARE_BYTES = 16 << 20
# Addresses for each byte of memory, so that a block finds its place in one piece, and for what is
# on its way. The most that are asked for.
_ADDRESSES, _ON_THE_WAY, _MOST_ADDRESSES = 4, 1 << 30, 1 << 44
# What codecs that quantise keys along a channel need of them at least.
_PAGE = 64


def arena_for(capacity_bytes: int) -> _core.Arena:
    """The memory of a store of so many bytes. Raises MemoryError."""
    spare = min(SPARE_BYTES, capacity_bytes // 16)
    size = min(_ADDRESSES * capacity_bytes + _ON_THE_WAY, _MOST_ADDRESSES)
    while True:
        try:
            return _core.Arena(size, spare)
        except MemoryError:  # a limit on addresses
            size //= 2
            if size < min(capacity_bytes, _ON_THE_WAY):
                raise


class Packing:
    """How the blocks of one store are made into bytes and back. Nothing in it changes but
    what it expects of the next one, and ``work``, which says what that took.

    arena: where the bytes lie. Raises ConfigError for a codec that is unknown or does not fit the
    layout.
    """

    def __init__(
        self, layout: KVLayout, codec: str, arena: _core.Arena, *, threads: int = 1
    ) -> None:
        if codec not in codecs.NAMES:
            raise ConfigError(f"codec must be one of {', '.join(codecs.NAMES)}, not {codec!r}")
        if not 1 <= threads <= codecs.MOST_THREADS:
            raise ConfigError(f"threads must be from 1 to {codecs.MOST_THREADS}, not {threads}")
        self.layout, self.codec, self.threads = layout, codec, threads
        self._arena = arena
        self._last_bytes = 0
        self.work = {"encode": CodecWork(), "decode": CodecWork()}
        self.lossless = is_lossless(codec)
        self._sizes = tuple(self._blob_bytes(codec, key=key) for key in (True, False))
        if layout.block_tokens % _PAGE and self._keys_need_pages():
            raise ConfigError(
                f"codec {codec!r} quantises keys over pages of {_PAGE} tokens; use block_tokens "
                f"of {_PAGE}, 128 or 256, or another codec"
            )

    @property
    def most_bytes(self) -> int:
        """Bytes of a block whose values are finite; where it depends on them, the most."""
        return self.layout.layers * sum(map(filled, self._sizes))

    @property
    def likely_bytes(self) -> int:
        """Bytes of the next block, as far as can be told: those of the last one."""
        return self._last_bytes or self.most_bytes

    def accepts(self, codec: str) -> bool:
        """Whether blocks in that codec may be served: one's own, or both lose nothing."""
        return codec == self.codec or (
            self.lossless and codec in codecs.NAMES and is_lossless(codec)
        )

    def encode(self, keys: Any, values: Any, first: int) -> memoryview:
        """The block of tokens [first, first + block_tokens) of two tensors as bytes.

        keys, values: ``[layers, tokens, kv_heads, head_dim]`` in the layout's dtype, checked. Raises
        MemoryError.
        """
        began = perf_counter()
        layout = self.layout
        last = first + layout.block_tokens
        piece = self._arena.take(self.most_bytes)
        room = np.frombuffer(memoryview(piece), np.uint8)
        at = 0
        for layer in range(layout.layers):
            for x, key in ((keys, True), (values, False)):
                part = x[layer, first:last]
                size = self._encode(part, key, room[at:])
                if at + size > len(room):  # NaN or infinities take more
                    piece = self._arena.take(at + size + self.most_bytes)
                    more = np.frombuffer(memoryview(piece), np.uint8)
                    more[:at] = room[:at]
                    room = more
                    size = self._encode(part, key, room[at:])
                end = at + size
                at = filled(end)
                room[end:at] = 0
        piece.shrink(at)
        self._last_bytes = at
        self.work["encode"].did(perf_counter() - began, raw=layout.block_bytes, encoded=at)
        return memoryview(piece)

    def own(self, payload: Bytes) -> memoryview:
        """A block's bytes in memory of its own. Raises MemoryError."""
        piece = self._arena.take(len(payload))
        view = memoryview(piece)
        view[:] = payload
        return view

    def decode(self, payload: Bytes, keys: Any, values: Any, first: int) -> None:
        """Verify a block and put it into two tensors, from token ``first`` on.

        Raises CorruptBlob, Unsupported or InvalidRequest for bytes that are no block of this
        layout; the place of the block in the tensors is then unspecified.
        """
        began, at = perf_counter(), 0
        for layer in range(self.layout.layers):
            at = self.decode_layer(payload, at, layer, keys, values, first)
        self.work["decode"].did(perf_counter() - began, raw=self.layout.block_bytes, encoded=at)

    def decode_layer(
        self, payload: Bytes, at: int, layer: int, keys: Any, values: Any, first: int
    ) -> int:
        """One layer of ``decode``, whose blobs begin at byte ``at``; returns where they end.

        Layers come in order, the first one at 0.
        """
        last = first + self.layout.block_tokens
        view = memoryview(payload)
        for out in (keys, values):
            blob = at + codecs.HEADER_BYTES
            end = blob + int.from_bytes(view[at:blob][_PAYLOAD_BYTES], "little")
            if end > len(view):
                raise CorruptBlob("the block is shorter than its blobs")
            self._decode(view[at:end], out[layer, first:last])
            at = filled(end)
        if layer == self.layout.layers - 1 and at != len(view):
            raise CorruptBlob("bytes follow the block's last blob")
        return at

    def repacked(self, payload: Bytes) -> memoryview:
        """A block in any codec as this one writes it. Raises as ``decode``."""
        layout = self.layout
        shape = (2, *layout.shape(layout.block_tokens))
        keys, values = np.empty(shape, STORAGE[layout.dtype])
        self.decode(payload, keys, values, 0)
        return self.encode(keys, values, 0)

    def _encode(self, x: Any, key: bool, out: npt.NDArray[np.uint8]) -> int:
        return _core.encode_blob(x, out, self.codec, key, self.layout.dtype, 0, self.threads, True)

    def _decode(self, blob: memoryview, out: Any) -> None:
        layout = self.layout
        try:
            _core.decode_blob(blob, out, layout.dtype, self.threads)
        except InvalidRequest as error:  # either is to blame
            found = codecs.describe(blob)
            shape = layout.block_tokens, layout.kv_heads, layout.head_dim
            if (found.shape, found.dtype) == (shape, layout.dtype):
                raise
            raise CorruptBlob("it holds a block of another layout") from error

    def _blob_bytes(self, codec: str, *, key: bool) -> int:
        layout = self.layout
        return _core.blob_bytes(
            codec, key, layout.dtype, layout.block_tokens, layout.kv_heads, layout.head_dim
        )

    def _keys_need_pages(self) -> bool:
        """Whether this codec keeps keys as they are where there is no whole page of them."""
        raw, small = (
            _core.blob_bytes(name, True, "float32", 16, 1, 64) for name in ("raw", self.codec)
        )
        return not self.lossless and small >= raw


@cache
def is_lossless(codec: str) -> bool:
    """Whether this codec keeps every bit. codec: one of ``codecs.NAMES``."""
    sample = np.zeros((1, 1, 1), np.float32)
    return codecs.describe(codecs.quantize(sample, codec=codec)).lossless
