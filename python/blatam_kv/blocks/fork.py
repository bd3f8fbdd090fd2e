"""Branching: several continuations of one prefix, none of which copies it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from blatam_kv.blocks.arguments import checked_pair
from blatam_kv.blocks.block import Block
from blatam_kv.blocks.prompt import token_ids
from blatam_kv.blocks.residents import Residents
from blatam_kv.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    from blatam_kv.blocks.store import KVStore


class Fork:
    """A cached prefix, held in memory for whatever branches from it. Thread-safe.

    tokens: how many leading tokens are held, a multiple of ``block_tokens``; the continuations begin
    right behind them::

        with store.fork(prompt) as trunk:
            rest = prompt[trunk.tokens :]            # computed once, for all branches
            trunk.save(rest, keys, values)           # of ``rest`` alone
            for answer in answers:
                with trunk.fork(rest + answer) as branch:
                    ...

    Nothing is copied: blocks never change, and a fork is one more hold on the last of them, counted.
    It ends with ``release``, with the ``with`` block, or with the object. What ``clear`` forgets, or
    turns out damaged, is no longer held, and loading then gives less.
    """

    def __init__(self, store: KVStore, ids: npt.NDArray[np.uint32]) -> None:
        """Made by ``KVStore.fork``."""
        levels = store._levels
        blocks = levels.hold(store._prompt(ids))
        self.tokens = len(blocks) * store.layout.block_tokens
        self._store = store
        self._ids = ids[: self.tokens].copy()
        self._end = weakref.finalize(self, _let_go, levels.residents, blocks[-1:])
        self._end.atexit = False

    def fork(self, more: Any = ()) -> Fork:
        """Another one that goes on with ``more`` as far as that is cached, and at least as far as
        this one; it may outlive it. more: token ids, as ``KVStore.load_prefix`` takes them."""
        return self._store.fork(self._with(more))

    def load(self, more: Any = (), *, out: tuple[Any, Any]) -> int:
        """``KVStore.load_prefix`` of the held prefix and ``more``."""
        return self._store.load_prefix(self._with(more), out=out)

    def save(self, more: Any, keys: Any, values: Any) -> int:
        """Keep the whole blocks that ``more`` adds; returns how many leading tokens, with those of
        the fork, are cached now.

        keys, values: of ``more`` alone, ``[layers, len(more), kv_heads, head_dim]``.
        """
        store = self._store
        given, keys, values = checked_pair(store.layout, (keys, values), writable=False)
        ids = self._with(more)
        if given != len(ids) - self.tokens:
            raise InvalidRequest(
                f"keys and values have {given} tokens, more has {len(ids) - self.tokens}",
                field="keys",
            )
        return store._save(store._prompt(ids), keys, values, first_token=self.tokens)

    def release(self) -> None:
        """Let go. Doing it twice is harmless."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Fork of {self.tokens} tokens{'' if self._end.alive else ', released'}>"

    def _with(self, more: Any) -> npt.NDArray[np.uint32]:
        if not self._end.alive:
            raise InvalidRequest("this fork was released; ask the store for another one")
        return np.concatenate([self._ids, token_ids(more)])


def _let_go(residents: Residents, last: Sequence[Block]) -> None:
    for block in last:  # one, or none where nothing was cached
        residents.let_go(block)
