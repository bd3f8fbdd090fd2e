"""Prompts and the keys and values they lead to, small, and what must hold in every store."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tier_fakes import FastFiles

from blatam_kv import KVLayout, KVStore, TierUnavailable
from blatam_kv.blocks.block import Block, block_weight
from blatam_kv.errors import Unavailable
from blatam_kv.record import Record
from blatam_kv.tiers import DiskTier

Array = npt.NDArray[Any]

SIZE = 16  # tokens of a block
LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=3, dtype="float32", block_tokens=SIZE)
# Two layers of keys and values: a header and 16 * 3 floats each, filled up to 64.
WEIGHT = block_weight(4 * 256, 4 * SIZE)


def prompt_of(blocks: Sequence[int], rest: int = 0) -> list[int]:
    """A prompt of whole blocks by number and some tokens that fill none."""
    whole = [1000 * number + at for number in blocks for at in range(SIZE)]
    return whole + list(range(rest))


def tensors_of(tokens: Sequence[int], layout: KVLayout = LAYOUT) -> tuple[Array, Array]:
    """Keys and values that depend on every token before, as a model's do."""
    states = [b""]
    for token in tokens:
        states.append(blake2b(states[-1] + token.to_bytes(8, "little"), digest_size=8).digest())
    seeds = np.frombuffer(b"".join(states[1:]), np.uint64)
    values = layout.layers * layout.kv_heads * layout.head_dim
    numbers = (seeds[:, None] >> np.arange(0, 2 * values, dtype=np.uint64) % 48) % 1021
    x = numbers.astype(np.float32).reshape(
        len(tokens), 2, *layout.shape(0)[:1], *layout.shape(0)[2:]
    )
    both = np.ascontiguousarray(x.transpose(1, 2, 0, 3, 4))
    return both[0], both[1]


def save(store: KVStore, tokens: Sequence[int]) -> int:
    return store.save_prefix(list(tokens), *tensors_of(tokens, store.layout))


def load(store: KVStore, tokens: Sequence[int]) -> int:
    """Load and compare every value that came."""
    expected = tensors_of(tokens, store.layout)
    out = np.full_like(expected[0], np.nan), np.full_like(expected[1], np.nan)
    count = store.load_prefix(list(tokens), out=out)
    for got, wanted in zip(out, expected, strict=True):
        np.testing.assert_array_equal(got[:, :count], wanted[:, :count])
        if not store.stats().damaged:  # of what was damaged anything may be left behind
            assert np.isnan(got[:, count:]).all()
    return count


def resident(store: KVStore) -> list[Block]:
    return store._levels.residents.all()


def check(store: KVStore) -> None:
    """What holds between any two calls: no orphan, honest bytes, the bound."""
    blocks = {block.name: block for block in resident(store)}
    for block in blocks.values():
        assert not block.position or blocks[block.parent].position == block.position - 1
    stats = store.stats()
    assert stats.blocks == len(blocks)
    assert stats.bytes == sum(block.weight for block in blocks.values()) <= stats.capacity_bytes
    parents = {block.parent for block in blocks.values() if block.position}
    residents = store._levels.residents
    assert residents.stats().held == len(parents | residents._pins.keys() | residents._held.keys())


def disk(path: Path, kind: type[DiskTier] = DiskTier, **options: Any) -> DiskTier:
    """A folder without waiting for the disk, with many segments."""
    defaults: dict[str, Any] = {
        "disk_bytes": 2 << 20,
        "segment_bytes": 8 << 10,
        "files": FastFiles(),
    }
    return kind(path, **defaults | options)


def image_of(segment: bytes | bytearray) -> int:
    """Where the record begins in which a store says what its memory knew; the last of a segment."""
    return segment.rindex(b"image\0") - 40


class BrokenTier:
    """Fails whenever it is told to."""

    def __init__(self) -> None:
        self.broken = True
        self.records: dict[bytes, Record] = {}

    def _work(self) -> None:
        if self.broken:
            raise TierUnavailable(Unavailable.IO_ERROR, "broken")

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        self._work()
        return [self.records.get(key) for key in keys]

    def put_many(self, records: Any, *, durable: bool = False) -> int:
        self._work()
        new = {record.key: record for record in records}
        self.records.update(new)
        return len(new)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        self._work()
        return sum(self.records.pop(key, None) is not None for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        self._work()
        return [key in self.records for key in keys]

    def close(self) -> None:
        pass
