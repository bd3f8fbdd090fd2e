"""``codec="auto"``: raw where blocks are hot, exp4 where they are cold, and never another bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from block_fakes import BrokenTier

import blatam_kv as kv
from blatam_kv import tensors
from blatam_kv.blocks.block import Block, block_weight
from blatam_kv.record import Record
from blatam_kv.tiers import MemoryTier

LAYOUT = kv.KVLayout(layers=2, kv_heads=2, head_dim=64, block_tokens=64)
TOKENS = np.arange(4 * 64)
RAW = block_weight(2 * 2 * (64 + 64 * 2 * 64 * 2), 4 * 64)


class Kept(BrokenTier):
    """A tier that works and has these records."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.broken = False
        self.put_many(records)


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """Keys and values of a model: bfloat16 numbers around zero."""
    x = np.random.default_rng(3).standard_normal((2, *LAYOUT.shape(len(TOKENS))), np.float32)
    bits = tensors.narrowed(x, "bfloat16")
    return bits[0], bits[1]


def loaded(store: kv.KVStore, pair: tuple[Any, Any]) -> int:
    out = np.zeros_like(pair[0]), np.zeros_like(pair[1])
    count = store.load_prefix(TOKENS, out=out)
    for got, wanted in zip(out, pair, strict=True):
        assert got[:, :count].tobytes() == wanted[:, :count].tobytes()
    return count


def held(store: kv.KVStore) -> list[Block]:
    return store._levels.residents.all()


@pytest.mark.parametrize("write", ["save", "evict"])
def test_memory_is_raw_and_what_is_below_is_smaller(
    pair: tuple[Any, Any], write: Literal["save", "evict"]
) -> None:
    tier = MemoryTier(capacity_bytes=8 << 20)
    with kv.KVStore(LAYOUT, capacity_bytes=3 * RAW, codec="auto", tier=tier, write=write) as store:
        assert store.codec == "auto"
        assert store.save_prefix(TOKENS, *pair) == 256
        assert {block.codec for block in held(store)} == {"raw"}
        store.flush()
        names = store._prompt(TOKENS).names(0, 4)
        records = [record for record in tier.get_many(names) if record is not None]
        assert len(records) == 4
        assert {record.codec for record in records} == {"exp4"}
        assert all(len(record.payload) < 0.8 * held(store)[0].payload.nbytes for record in records)
        assert loaded(store, pair) == 256
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", codec="auto", tier=Kept(records)) as store:
        assert loaded(store, pair) == 256
        assert store.stats().promoted == 4
        assert {block.codec for block in held(store)} == {"raw"}


def test_blocks_are_shared_with_every_codec_that_loses_nothing(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    for codec in ("auto", "raw", "exp_huff", "auto"):
        options: dict[str, Any] = {"codec": codec, "path": tmp_path, "capacity_bytes": "1MiB"}
        with kv.KVStore(LAYOUT, **options) as store:
            assert store.save_prefix(TOKENS, *pair) == 256
            assert loaded(store, pair) == 256
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", codec="int8", path=tmp_path) as store:
        assert store.match_prefix(TOKENS) == 0


def test_pinned_blocks_stay_as_they_were_read(pair: tuple[Any, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"codec": "auto", "path": tmp_path, "capacity_bytes": "1MiB"}
    with kv.KVStore(LAYOUT, **options) as store:
        store.save_prefix(TOKENS, *pair)
    with kv.KVStore(LAYOUT, **options) as store:
        assert store.pin_prefix(TOKENS) == 256
        assert {block.codec for block in held(store)} == {"exp4"}
        assert loaded(store, pair) == 256


def test_damage_in_memory_is_not_written_below(pair: tuple[Any, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"codec": "auto", "path": tmp_path, "capacity_bytes": "1MiB"}
    with kv.KVStore(LAYOUT, write="evict", **options) as store:
        store.save_prefix(TOKENS, *pair)
        block = next(block for block in held(store) if block.position == 2)
        payload = bytearray(block.payload)
        payload[1000] ^= 1
        block.payload = memoryview(payload)
        store.flush()
        assert store.stats().damaged == 1
    with kv.KVStore(LAYOUT, **options) as store:
        assert loaded(store, pair) == 128
