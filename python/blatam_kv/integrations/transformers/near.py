"""Beginnings of prompts in the memory of the device that a model runs on, above a ``KVStore``.

A block comes up, encoded as the store has it, when a prompt begins with it again. From then on it is
decoded on the device, into the cache that the model reads, and does not cross the bus again. The
store still has it: nothing is ever written down from here, so what leaves for lack of room is found
below, and a device that is lost takes nothing with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from blatam_kv.blocks import KVStore
from blatam_kv.blocks.lending import names_of, records_of
from blatam_kv.cuda import PagedCache
from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.integrations.transformers.cache import KVCache
from blatam_kv.integrations.transformers.layers import GrowingLayer
from blatam_kv.integrations.transformers.prefix import Ids
from blatam_kv.metrics import TierSnapshot
from blatam_kv.record import Record
from blatam_kv.tiers import Tier
from blatam_kv.tiers.gpu import GpuTier


class Near:
    """Copies of a store's blocks in a device's memory. Thread-safe.

    open_tier: the tier over one that is handed to it. device: where the model's tensors lie, as torch
    names it.
    """

    def __init__(self, open_tier: Callable[[Tier], GpuTier], device: str) -> None:
        self._lent = _Lent()
        self._tier = open_tier(self._lent)
        self._device = device

    def restore(self, cache: KVCache, store: KVStore, tokens: Ids, *, reserve: int = 0) -> int:
        """Fill an empty cache of one row with the longest beginning that device and store have in
        whole blocks; returns its tokens, 0 if the cache was left empty.

        It is left empty, too, where the device has no room for all of them at once. The last token is
        never filled: its logits are wanted. store: one, or a tenant of one; names
        that nobody can tell keep tenants apart here too. Raises what ``GpuTier.load_layers`` does, and
        CorruptBlob; the cache is then empty.
        """
        layout, layers = store.layout, cache.keeping
        size = layout.block_tokens
        if len(layers) != layout.layers or not all(
            isinstance(layer, GrowingLayer) for layer in layers
        ):
            return 0
        begin = tokens[: max(0, len(tokens) - 1) // size * size]
        names = names_of(store, begin)
        here = self._tier.leading(names)
        more = [] if here == len(names) else records_of(store, begin, first=here)
        wanted = here + len(more)
        if not wanted:
            return 0
        shape = (layout.layers, 1, layout.kv_heads, max(len(tokens), reserve), layout.head_dim)
        with torch.inference_mode(False):
            slab = torch.empty((2, *shape), dtype=getattr(torch, layout.dtype), device=self._device)
        keys = PagedCache.of(list(slab[0]), "block head token dim", kind="key")
        values = PagedCache.of(list(slab[1]), "block head token dim", kind="value")
        slots = np.arange(wanted * size).reshape(wanted, size)
        with (
            self._lent.these(more),
            self._tier.load_layers(names[:wanted], PagedCache.paired(keys, values), slots) as load,
        ):
            if load.blocks < wanted:
                return 0  # by way of the host all of them come
            filled = load.finish() * size
        for layer, its_keys, its_values in zip(layers, slab[0], slab[1], strict=True):
            layer.adopt(its_keys, its_values, filled)
        cache.reused = (filled,)
        return filled

    def snapshot(self) -> TierSnapshot:
        """For metrics."""
        return self._tier.snapshot()

    def close(self) -> None:
        """Let go of the device's memory."""
        self._tier.close()


class _Lent:
    """The tier below the device's: what the calling thread has of the store at hand, and no more."""

    def __init__(self) -> None:
        self._mine = threading.local()

    @contextmanager
    def these(self, records: Iterable[Record]) -> Iterator[None]:
        """They can be found in the body of the ``with``, by this thread."""
        self._mine.records = {record.key: record for record in records}
        try:
            yield
        finally:
            self._mine.records = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        records: dict[bytes, Record] = getattr(self._mine, "records", {})
        return [records.get(key) for key in keys]

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        raise TierUnavailable(Unavailable.READ_ONLY, "blocks are saved in the store itself")

    def delete_many(self, keys: Sequence[bytes]) -> int:
        return 0  # the store finds out about damage when it decodes

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        return [record is not None for record in self.get_many(keys)]

    def close(self) -> None:
        pass
