"""Where the blobs of a block lie in its payload (docs/FORMAT.md), and whether they fit a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv import _core, codecs
from blatam_kv.cuda.arrangement import CODECS, ELEMENTS
from blatam_kv.cuda.layouts import Kind, PagedCache
from blatam_kv.errors import CorruptBlob, Unsupported
from blatam_kv.record import filled

_PAYLOAD_BYTES = slice(40, 48)  # of a blob's header, as docs/CODECS.md has it
_MOST_BLOBS = 1 << 16


@dataclass(frozen=True, slots=True)
class Cuts:
    """The blobs of one block: where each payload begins, its size, its header (64 bytes each)."""

    begins: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]
    headers: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, payload: Any) -> Cuts:
        """By the lengths in the headers; whether anything is damaged is not looked at.

        Raises CorruptBlob if these do not lead to the end.
        """
        view = memoryview(payload).cast("B")
        begins: list[int] = []
        sizes: list[int] = []
        headers: list[bytes] = []
        at = 0
        while at < len(view):
            begin = at + codecs.HEADER_BYTES
            header = bytes(view[at:begin])
            size = int.from_bytes(header[_PAYLOAD_BYTES], "little")
            at = filled(begin + size)
            if len(header) < codecs.HEADER_BYTES or at > len(view) or len(begins) == _MOST_BLOBS:
                raise CorruptBlob("the block is shorter than its blobs")
            begins.append(begin)
            sizes.append(size)
            headers.append(header)
        rows = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, codecs.HEADER_BYTES)
        return cls(np.array(begins, np.uint64), np.array(sizes, np.uint64), rows)

    def verify(self, payload: Any, tensors: Sequence[int]) -> None:
        """Check some blobs against their checksums. Raises CorruptBlob or Unsupported."""
        view = memoryview(payload).cast("B")
        for tensor in tensors:
            begin, size = int(self.begins[tensor]), int(self.sizes[tensor])
            _core.check_blob(view[begin - codecs.HEADER_BYTES : begin + size])

    def span(self, tensors: Sequence[int]) -> slice:
        """The bytes from the first of these blobs to the end of the last."""
        first, last = tensors[0], tensors[-1]
        end = filled(int(self.begins[last]) + int(self.sizes[last]))
        return slice(int(self.begins[first]) - codecs.HEADER_BYTES, end)


class Form:
    """What the blobs of a block must say of themselves to go into a cache.

    hosted: whether no kernel decodes them: the host does, and what goes up is raw. schemes: of the
    launches. Raises Unsupported for a codec that does not exist, or a block too large for a launch.
    """

    def __init__(self, cache: PagedCache, codec: str, *, tokens: int, seed: int = 0) -> None:
        if codec not in codecs.NAMES:
            raise Unsupported(f"no codec is called {codec!r}; these are: {', '.join(codecs.NAMES)}")
        self.cache, self.codec, self.tokens, self.seed = cache, codec, tokens, seed
        self.shape = (tokens, cache.kv_heads, cache.head_dim)
        fixed = self._fixed(codec) if codec in CODECS else None
        self.hosted = fixed is None
        if fixed is None and self._fixed("raw") is None:
            raise Unsupported(
                f"blocks of the shape {self.shape} are too large for a launch; use smaller ones"
            )
        self.schemes = self._schemes("raw" if fixed is None else codec)
        if fixed is None:  # what an encoder writes, and its decoder looks at
            fixed = [self._encoded_bytes(kind) for kind in cache.kinds]
            self.rooms = np.zeros(len(fixed), np.uint64)
        else:
            self.rooms = np.array(fixed, np.uint64)
        kinds = {
            kind: self._header(kind, size) for kind, size in zip(cache.kinds, fixed, strict=True)
        }
        self._headers = np.stack([kinds[kind] for kind in cache.kinds])

    @property
    def tensor_bytes(self) -> int:
        """Of keys or values of a layer, decoded."""
        return 2 * math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """What the blobs hold."""
        return "float16" if self.cache.element == "float16" else "bfloat16"

    def fits(self, cuts: Cuts) -> bool:
        """Whether these blobs are of this codec, shape, dtype and seed."""
        said = cuts.headers
        return said.shape[0] == len(self.schemes) and bool(
            (said[:, : self._headers.shape[1]] == self._headers).all()
            and (cuts.sizes >= self.rooms).all()
        )

    def _schemes(self, codec: str) -> tuple[int, ...]:
        return tuple(CODECS[codec][kind == "value"] for kind in self.cache.kinds)

    def _fixed(self, codec: str) -> list[int] | None:
        """The least bytes of each tensor's payload; None if a kernel does not take one of them."""
        element = ELEMENTS.index(self.cache.element)
        sizes = [
            _core.paged_sizes(scheme, element, self.shape)[0] for scheme in self._schemes(codec)
        ]
        return None if self.tokens > 0 and 0 in sizes else sizes

    def _encoded_bytes(self, kind: Kind) -> int:
        size = codecs.encoded_size(self.shape, codec=self.codec, kind=kind, dtype=self.dtype)
        return size - codecs.HEADER_BYTES

    def _header(self, kind: str, size: int) -> npt.NDArray[np.uint8]:
        blob = np.zeros(codecs.HEADER_BYTES + size, np.uint8)
        _core.seal_blob(
            blob, self.codec, kind == "key", self.dtype, self.tokens, self.cache.kv_heads,
            self.cache.head_dim, self.seed, True,
        )  # fmt: skip
        return blob[: _PAYLOAD_BYTES.start].copy()
