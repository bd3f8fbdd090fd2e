"""A prompt as a store sees it: token ids, cut into blocks, each named by all that came before."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv._core import chain_digests
from blatam_kv.errors import InvalidRequest
from blatam_kv.record import DIGEST_BYTES

MOST_TOKEN = 2**32 - 1
# Names are computed a portion at a time: whose first blocks are not cached pays for no others.
_FIRST_PORTION, _LARGEST_PORTION = 32, 1024


def token_ids(tokens: Any) -> npt.NDArray[np.uint32]:
    """Token ids as contiguous little-endian uint32, whatever they came in.

    tokens: a list of ints, or a 1-D integer array or CPU tensor. Raises InvalidRequest for anything
    else and for ids outside 0 ... 2**32 - 1.
    """
    try:
        ids = np.asarray(tokens)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidRequest(
            f"tokens must be a list of ints or a 1-D integer array: {error}", field="tokens"
        ) from error
    if ids.ndim == 1 and not len(ids):
        return np.empty(0, "<u4")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InvalidRequest(
            "tokens must be a list of ints or a 1-D integer array, not "
            f"{ids.ndim}-D of {ids.dtype.name}",
            field="tokens",
        )
    for extreme in (ids.min(), ids.max()):
        if not 0 <= extreme <= MOST_TOKEN:
            raise InvalidRequest(
                f"token ids go from 0 to {MOST_TOKEN}, and one is {extreme}", field="tokens"
            )
    return np.ascontiguousarray(ids, "<u4")


def common_tokens(one: bytes, two: bytes) -> int:
    """How many leading ids two sequences of little-endian uint32 have in common."""
    size = min(len(one), len(two)) // 4
    same = np.frombuffer(one, "<u4", size) == np.frombuffer(two, "<u4", size)
    return size if same.all() else int(same.argmin())


class Prompt:
    """The whole blocks of a prompt. Owned by one thread.

    ids: as ``token_ids`` gives them. root: the name that the first block continues. salt: the key
    of the digests.
    """

    __slots__ = ("_bytes", "_digests", "_ids", "_salt", "block_tokens", "blocks", "root", "tokens")

    def __init__(
        self, ids: npt.NDArray[np.uint32], block_tokens: int, *, root: bytes, salt: bytes
    ) -> None:
        self.tokens = len(ids)
        self.blocks = len(ids) // block_tokens
        self.block_tokens = block_tokens
        self.root = root
        self._ids = ids
        self._bytes = ids.tobytes()
        self._salt = salt
        self._digests = bytearray()

    def digests(self, first: int, last: int) -> bytes:
        """The names of blocks [first, last), at most as many as there are, one behind the other."""
        known = self._digests
        while (count := len(known) // DIGEST_BYTES) < min(last, self.blocks):
            more = min(max(_FIRST_PORTION, count), _LARGEST_PORTION)
            ids = self._ids[count * self.block_tokens :][: more * self.block_tokens]
            whole = ids[: len(ids) // self.block_tokens * self.block_tokens]
            parent = bytes(known[-DIGEST_BYTES:]) if count else self.root
            known += chain_digests(
                whole, block_tokens=self.block_tokens, parent=parent, key=self._salt
            )
        return bytes(known[first * DIGEST_BYTES : last * DIGEST_BYTES])

    def names(self, first: int, last: int) -> list[bytes]:
        """The same as a list."""
        digests = self.digests(first, last)
        return list(struct.unpack(f"{DIGEST_BYTES}s" * (len(digests) // DIGEST_BYTES), digests))

    @property
    def last(self) -> bytes:
        """The name of the last whole block, which stands for the prompt."""
        return self.digests(self.blocks - 1, self.blocks) if self.blocks else self.root

    def parent(self, block: int) -> bytes:
        """The name of the block before."""
        return self.names(block - 1, block)[0] if block else self.root

    def block(self, first: int, last: int | None = None) -> bytes:
        """The ids of one block, or of blocks [first, last), as little-endian uint32."""
        size = 4 * self.block_tokens
        return self._bytes[first * size : (first + 1 if last is None else last) * size]

    def rest(self, first: int) -> bytes:
        """The ids from block ``first`` on, at most a block of them."""
        size = 4 * self.block_tokens
        return self._bytes[first * size : (first + 1) * size]

    def portions(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Blocks [first, last) as ranges, small ones first."""
        size = _FIRST_PORTION
        while first < last:
            end = min(first + size, last)
            yield first, end
            first = end
            size = min(2 * size, _LARGEST_PORTION)
