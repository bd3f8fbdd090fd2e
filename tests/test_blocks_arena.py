"""Where payloads lie: what the store takes of the machine is what it says, whatever came and went."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, BrokenTier, check, load, prompt_of, resident, save
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import blatam_kv as kv
from blatam_kv import _core, tensors
from blatam_kv._core import Arena

PAGE = 4096
WIDE = kv.KVLayout(layers=1, kv_heads=8, head_dim=128, block_tokens=64)  # 256 KiB a block


def arena_of(store: kv.KVStore) -> Arena:
    return store._levels.packing._arena


def taken(store: kv.KVStore) -> int:
    """What the payloads in memory take, counted one by one."""
    return sum(Arena.rounded(block.payload.nbytes) for block in resident(store))


class Shelf(BrokenTier):
    """A tier that keeps copies, as a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def put_many(self, records: Any, *, durable: bool = False) -> int:
        return super().put_many([record.owned() for record in records], durable=durable)


class Store(RuleBasedStateMachine):
    """Nothing is lost and nothing is kept, whatever is called: pieces are those of the blocks."""

    codec = "exp_huff"

    def __init__(self) -> None:
        super().__init__()
        self.tier = Shelf()
        self.store = kv.KVStore(
            LAYOUT, capacity_bytes=8 * WEIGHT, codec=self.codec, tier=self.tier, queue_bytes=0
        )

    blocks = st.lists(st.integers(0, 2), min_size=1, max_size=5)

    @rule(blocks=blocks)
    def save(self, blocks: list[int]) -> None:
        save(self.store, prompt_of(blocks))

    @rule(blocks=blocks)
    def load(self, blocks: list[int]) -> None:
        load(self.store, prompt_of(blocks))

    @rule(blocks=blocks)
    def fork(self, blocks: list[int]) -> None:
        self.store.fork(prompt_of(blocks)).release()

    @rule()
    def clear(self) -> None:
        self.store.clear()

    @rule(broken=st.booleans())
    def break_or_mend(self, broken: bool) -> None:
        self.tier.broken = broken
        self.tier.records.clear()

    @invariant()
    def what_is_taken_is_what_is_there(self) -> None:
        assert arena_of(self.store).taken_bytes == taken(self.store)
        assert arena_of(self.store).taken_bytes <= self.store.stats().bytes
        check(self.store)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("codec", ["raw", "exp_huff", "auto"])
def test_after_blocks_of_all_sizes_memory_is_the_bound_and_the_spare(codec: str) -> None:
    capacity = 8 << 20
    random = np.random.default_rng(5)
    tokens = 6 * 64
    with kv.KVStore(WIDE, capacity_bytes=capacity, codec=codec) as store:
        arena = arena_of(store)
        for number in range(40):
            wide = random.standard_normal((2, *WIDE.shape(tokens)), np.float32)
            wide[:, :, : 32 * (number % 12)] = 0  # some blocks need less than others
            x = tensors.narrowed(wide, "bfloat16")
            ids = np.arange(tokens) + 1000 * int(random.integers(30))
            store.save_prefix(ids, x[0], x[1])
            assert arena.taken_bytes == taken(store) <= capacity
            assert arena.warm_bytes <= capacity // 16
        sizes = {block.payload.nbytes for block in resident(store)}
        assert codec != "exp_huff" or len(sizes) > 3
        for block in resident(store):
            assert np.frombuffer(block.payload, np.uint8).ctypes.data % PAGE == 0
        del block
    gc.collect()
    assert arena.taken_bytes == 0


def test_memory_that_is_looked_at_outlives_its_block() -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes="1MiB")
    save(store, prompt_of([1]))
    payload = resident(store)[0].payload
    before = bytes(payload)
    store.clear()
    save(store, prompt_of([2, 3, 4]))
    assert bytes(payload) == before
    store.close()
    del store
    gc.collect()
    assert bytes(payload) == before


def test_where_no_memory_is_to_be_had_less_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as fits is saved and loaded; nothing is raised, nothing wrong is served."""
    small = Arena(4096, 0)  # three payloads of a kilobyte, and what is on its way
    monkeypatch.setattr("blatam_kv.blocks.store.arena_for", lambda _: small)
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", tier=Shelf(), queue_bytes=0) as store:
        assert save(store, prompt_of([1, 2, 3, 4])) == 4 * SIZE
        assert save(store, prompt_of([5])) == 0
        assert store.stats().refused > 0
        check(store)  # what found no memory has no place either
        store._levels.residents.clear()
        assert save(store, prompt_of([5, 6])) == 2 * SIZE
        assert load(store, prompt_of([1, 2, 3, 4])) == 4 * SIZE
        check(store)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: Arena(0, 0), MemoryError),
        (lambda: Arena(1 << 62, 0), MemoryError),
        (lambda: Arena(1 << 20, 0).take(2 << 20), MemoryError),
        (lambda: Arena(1 << 20, 0).take(100).shrink(101), ValueError),
        (lambda: Arena(-1, 0), TypeError),
    ],
)
def test_what_cannot_be_had_is_an_error(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_a_piece_is_a_writable_buffer() -> None:
    arena = _core.Arena(1 << 20, 0)
    piece = arena.take(100)
    view = memoryview(piece)
    assert (view.format, view.nbytes, view.readonly) == ("B", 100, False)
    view[:] = bytes(range(100))
    del arena
    piece.shrink(10)
    assert bytes(memoryview(piece)) == bytes(range(10))
    assert Arena.rounded(1) == Arena.rounded(64) == 64
    assert Arena.rounded(40_000) == 40_960
