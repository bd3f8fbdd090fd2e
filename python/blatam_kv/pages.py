"""A tensor of keys or values that grows token by token and is compressed as it grows.

Every 64 tokens become a page, a blob that nothing changes afterwards; tokens that fill no page stay
as they are. So appending costs what the new tokens cost, however long the sequence is, and a fork
shares every page with its origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blatam_kv import _core, codecs
from blatam_kv.errors import InvalidRequest

if TYPE_CHECKING:
    from blatam_kv.tensors import Array

PAGE = 64


class Pages:
    """One layer's keys, or its values, of one sequence.

    kv_heads, head_dim, dtype ("bfloat16", "float16" or "float32"): of every token. codec, kind,
    seed, checksum: as for ``quantize``. sink: the first so many tokens, a multiple of 64, are kept
    bit for bit; attention leans on them. residual: the last so many tokens, at least, are kept
    bit for bit, as the most recent matter most.

    Not safe for use from several threads at once.
    """

    __slots__ = (
        "_begin", "_checksum", "_codec", "_dtype", "_end", "_key", "_pages", "_residual", "_seed",
        "_shape", "_sink", "_tail",
    )  # fmt: skip

    def __init__(
        self,
        *,
        kv_heads: int,
        head_dim: int,
        dtype: str,
        codec: str,
        kind: codecs.Kind = "value",
        sink: int = 0,
        residual: int = 0,
        seed: int = 0,
        checksum: bool = True,
    ) -> None:
        from blatam_kv import tensors

        codecs.encoded_size((PAGE, kv_heads, head_dim), codec=codec, kind=kind, dtype=dtype)
        codecs.check_seed(seed)
        if sink < 0 or sink % PAGE:
            raise InvalidRequest(f"sink is {sink}; it must be a multiple of {PAGE}", field="sink")
        if residual < 0:
            raise InvalidRequest(f"residual is {residual}; it must be at least 0", field="residual")
        self._codec, self._key = codec, kind == "key"
        self._dtype, self._shape = dtype, (kv_heads, head_dim)
        self._sink, self._residual = sink, residual
        self._seed, self._checksum = seed, checksum
        self._pages: list[bytes] = []
        # Tokens [_begin, _end) of the tail are those that no page holds. It has room for as many
        # again, so that moving them to its front is paid for by the appends in between.
        self._tail = tensors.empty((2 * (residual + PAGE), kv_heads, head_dim), dtype)
        self._begin = self._end = 0

    def __len__(self) -> int:
        """Tokens in all."""
        return self.sealed + self._end - self._begin

    @property
    def shape(self) -> tuple[int, int]:
        """(kv_heads, head_dim) of every token."""
        return self._shape

    @property
    def sealed(self) -> int:
        """Tokens in pages."""
        return PAGE * len(self._pages)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """The pages, oldest first; each decodes on its own."""
        return tuple(self._pages)

    @property
    def nbytes(self) -> int:
        """Bytes held: pages, and the tail with its spare room."""
        return sum(map(len, self._pages)) + self._tail.nbytes

    def append(self, x: Any, *, dtype: str | None = None) -> int:
        """Add tokens at the end and return how many there are now.

        x: [tokens, kv_heads, head_dim] of the same dtype, as for ``quantize``. Raises InvalidRequest
        for another shape or dtype; nothing was added then.
        """
        from blatam_kv import tensors

        x, declared = tensors.exported(x, dtype)
        if declared is None and isinstance(x, type(self._tail)) and x.dtype == self._tail.dtype:
            declared = self._dtype  # our own uint16 are the bits that we keep
        found, (tokens, *rest) = _core.describe_tensor(x, declared)
        if (found, *rest) != (self._dtype, *self._shape):
            raise InvalidRequest(
                f"x holds {found} {rest}; these pages hold {self._dtype} {list(self._shape)}",
                field="x",
            )
        done = 0
        while done < tokens:
            self._make_room()
            count = min(tokens - done, len(self._tail) - self._end)
            into = self._tail[self._end : self._end + count]
            _core.copy_tensor(x, declared, done, into, self._dtype)
            self._end += count
            done += count
            self._seal()
        return len(self)

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        out: Any = None,
        threads: int = 1,
        dtype: str | None = None,
    ) -> Any:
        """Decode tokens [start, stop) into ``out``, or into a new numpy array, and return it.

        out: [stop - start, kv_heads, head_dim], as for ``dequantize``. Raises InvalidRequest for a
        range that is not there, CorruptBlob if a page was damaged in memory.
        """
        from blatam_kv import tensors

        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise InvalidRequest(
                f"tokens {start} to {stop} were asked for; there are {len(self)}", field="stop"
            )
        if out is None:
            out = tensors.empty((stop - start, *self._shape), self._dtype)
        target, declared = tensors.exported(out, dtype or self._dtype)
        found, shape = _core.describe_tensor(target, declared)
        if (found, shape) != (self._dtype, (stop - start, *self._shape)):
            raise InvalidRequest(
                f"out is {found} {shape}; it must be {self._dtype} {(stop - start, *self._shape)}",
                field="out",
            )
        at = start
        while at < stop:
            page, skip = divmod(at, PAGE)
            if page >= len(self._pages):
                held = self._tail[self._begin + at - self.sealed : self._begin + stop - self.sealed]
                _core.copy_tensor(held, self._dtype, 0, target[at - start :], declared)
                break
            end = min(stop, (page + 1) * PAGE)
            part = target[at - start : end - start]
            if end - at == PAGE:
                _core.decode_blob(self._pages[page], part, declared, threads)
            else:
                whole = self._decoded(page)
                _core.copy_tensor(whole, self._dtype, skip, part, declared)
            at = end
        return out

    def fork(self) -> Pages:
        """A copy that grows on its own; the pages are shared, the tail is copied."""
        other = object.__new__(Pages)
        for name in Pages.__slots__:
            setattr(other, name, getattr(self, name))
        other._pages = self._pages.copy()
        other._tail = self._tail.copy()
        return other

    def crop(self, tokens: int) -> None:
        """Keep the first ``tokens``, at most as many as there are.

        Where that ends within a page, the rest of it comes back as decoded tokens.
        """
        if not 0 <= tokens <= len(self):
            raise InvalidRequest(
                f"cannot keep {tokens} tokens; there are {len(self)}", field="tokens"
            )
        if tokens >= self.sealed:
            self._end = self._begin + tokens - self.sealed
            return
        page, rest = divmod(tokens, PAGE)
        if rest:
            self._tail[:rest] = self._decoded(page)[:rest]
        del self._pages[page:]
        self._begin, self._end = 0, rest

    def _decoded(self, page: int) -> Array:
        from blatam_kv import tensors

        whole = tensors.empty((PAGE, *self._shape), self._dtype)
        _core.decode_blob(self._pages[page], whole, self._dtype, 1)
        return whole

    def _make_room(self) -> None:
        if self._end == len(self._tail):
            held = self._end - self._begin
            self._tail[:held] = self._tail[self._begin : self._end]
            self._begin, self._end = 0, held

    def _seal(self) -> None:
        """Turn the oldest tokens into pages while enough recent ones stay behind."""
        while self._end - self._begin >= self._residual + PAGE:
            tokens = self._tail[self._begin : self._begin + PAGE]
            blob = codecs.quantize(
                tokens,
                codec="raw" if self.sealed < self._sink else self._codec,
                kind="key" if self._key else "value",
                checksum=self._checksum,
                seed=self._seed,
                dtype=self._dtype,
            )
            self._pages.append(blob.tobytes())
            self._begin += PAGE
