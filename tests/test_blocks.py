"""``KVStore`` beside a set of prefixes: what was saved is found, exact, and nothing else ever is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from block_fakes import (
    LAYOUT,
    SIZE,
    WEIGHT,
    check,
    disk,
    load,
    prompt_of,
    resident,
    save,
    tensors_of,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import blatam_kv as kv
from blatam_kv import _core, codecs
from blatam_kv.blocks import BlockEvent
from blatam_kv.blocks.payload import is_lossless

BLOCKS = st.lists(st.integers(0, 2), max_size=6)
RESTS = st.integers(0, SIZE - 1)


class StoreMachine(RuleBasedStateMachine):
    """Random calls. Where nothing may get lost the store and the set of prefixes agree; where memory
    is short the store knows a part of them. Nothing is ever wrong, too large or without its parent.
    """

    @initialize(kind=st.sampled_from(["roomy", "tight", "disk", "disk on eviction"]))
    def start(self, kind: str) -> None:
        self.kind = kind
        self.folder = TemporaryDirectory()
        self.now = 0.0
        self.saved: set[tuple[int, ...]] = set()
        self.pinned: dict[tuple[int, ...], float] = {}
        self.store = self.opened()

    def opened(self) -> kv.KVStore:
        options: dict[str, Any] = {}
        if self.kind.startswith("disk"):
            options["tier"] = disk(Path(self.folder.name))
            options["write"] = "evict" if self.kind == "disk on eviction" else "save"
        capacity = 100 * WEIGHT if self.kind == "roomy" else 5 * WEIGHT + 7
        return kv.KVStore(LAYOUT, capacity_bytes=capacity, clock=lambda: self.now, **options)

    def longest(self, blocks: Sequence[int]) -> int:
        """Tokens of the longest prefix that was saved."""
        lengths = [n for n in range(len(blocks) + 1) if not n or tuple(blocks[:n]) in self.saved]
        return SIZE * next(n for n in range(len(blocks) + 1) if n + 1 not in lengths)

    @rule(blocks=BLOCKS, rest=RESTS)
    def save(self, blocks: list[int], rest: int) -> None:
        stored = save(self.store, prompt_of(blocks, rest))
        if self.kind == "tight":
            assert stored <= SIZE * len(blocks)
        else:
            assert stored == SIZE * len(blocks)
        assert self.store.match_prefix(prompt_of(blocks)) == stored
        self.saved |= {tuple(blocks[: n + 1]) for n in range(stored // SIZE)}

    @rule(blocks=BLOCKS, rest=RESTS)
    def load(self, blocks: list[int], rest: int) -> None:
        found = self.store.match_prefix(prompt_of(blocks, rest))
        assert load(self.store, prompt_of(blocks, rest)) == found
        if self.kind == "tight":
            assert found <= self.longest(blocks)
        else:
            assert found == self.longest(blocks)

    @rule(blocks=BLOCKS, ttl=st.none() | st.integers(1, 4))
    def pin(self, blocks: list[int], ttl: int | None) -> None:
        count = self.store.pin_prefix(prompt_of(blocks), ttl=ttl) // SIZE
        if count:
            key = tuple(blocks[:count])
            end = float("inf") if ttl is None else self.now + ttl
            self.pinned[key] = max(end, self.pinned.get(key, end))

    @rule(blocks=BLOCKS)
    def unpin(self, blocks: list[int]) -> None:
        lengths = (n for n in range(len(blocks), 0, -1) if tuple(blocks[:n]) in self.pinned)
        expected = next(lengths, 0)
        assert self.store.unpin_prefix(prompt_of(blocks)) == SIZE * expected
        self.pinned.pop(tuple(blocks[:expected]), None)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.pinned = {key: end for key, end in self.pinned.items() if end > self.now}

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.saved.clear()
        self.pinned.clear()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.opened()
        self.pinned.clear()
        if not self.kind.startswith("disk"):
            self.saved.clear()

    @invariant()
    def nothing_is_amiss(self) -> None:
        if hasattr(self, "store"):
            assert self.store.stats().pinned == len(self.pinned)  # ends those whose time is over
            check(self.store)
            here = {block.name for block in resident(self.store)}
            for blocks in self.pinned:
                prompt = self.store._prompt(prompt_of(blocks))
                assert here.issuperset(prompt.names(0, len(blocks)))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.fixture
def store() -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes="1MiB")


# ---- names --------------------------------------------------------------------------------------


def test_a_block_is_named_by_its_tags_and_all_tokens_before(store: kv.KVStore) -> None:
    tokens = prompt_of([1, 2, 3])
    save(store, tokens)
    fields = [b"2", b"1", b"3", b"16", b"float32", b"lossless", b"", b"", b"", b""]
    root = _core.framed_digest(fields, person=b"blatamkv-tags-v1")
    ids = np.array(tokens, np.uint32)
    digests = _core.chain_digests(ids, block_tokens=SIZE, parent=root)
    names = [digests[at : at + 32] for at in range(0, len(digests), 32)]
    blocks = sorted(resident(store), key=lambda block: block.position)
    assert [block.name for block in blocks] == names
    assert [block.parent for block in blocks] == [root, *names[:-1]]


@pytest.mark.parametrize("first", [0, 1, 31, 32, 33, 64, 2047, 2999])
def test_names_do_not_depend_on_how_they_are_asked_for(store: kv.KVStore, first: int) -> None:
    ids = np.arange(3000 * SIZE + 5) % 977
    prompt = store._prompt(ids)
    names = prompt.names(first, 4000)
    whole = _core.chain_digests(
        ids[: 3000 * SIZE].astype(np.uint32), block_tokens=SIZE, parent=prompt.root
    )
    assert b"".join(names) == whole[32 * first :] == prompt.digests(first, 3000)
    assert prompt.parent(first) == (whole[32 * first - 32 : 32 * first] or prompt.root)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32, np.uint64, np.uint16, np.int16])
def test_tokens_are_the_same_in_any_integer_type(store: kv.KVStore, kind: type) -> None:
    tokens = prompt_of([1, 2], 5)
    save(store, tokens)
    assert store.match_prefix(np.array(tokens, kind)) == 2 * SIZE
    spread = np.zeros(2 * len(tokens), np.dtype(kind))
    spread[::2] = tokens
    assert store.match_prefix(spread[::2]) == 2 * SIZE
    assert store.match_prefix(tuple(tokens)) == 2 * SIZE


def test_tokens_may_be_a_tensor_and_as_large_as_32_bits_allow(store: kv.KVStore) -> None:
    import torch

    tokens = [2**32 - 1 - at for at in range(SIZE)]
    save(store, tokens)
    assert store.match_prefix(torch.tensor(tokens)) == SIZE
    assert store.match_prefix([token - 2**31 for token in tokens]) == 0


def test_a_digest_alone_is_not_believed(store: kv.KVStore) -> None:
    tokens = prompt_of([1, 2, 3])
    save(store, tokens)
    second = next(block for block in resident(store) if block.position == 1)
    second.tokens = bytes(reversed(second.tokens))
    assert store.match_prefix(tokens) == SIZE
    assert load(store, tokens) == SIZE


# ---- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_block_size_and_dtype_comes_back_bit_for_bit(size: int, dtype: str) -> None:
    layout = kv.KVLayout(layers=3, kv_heads=2, head_dim=8, dtype=dtype, block_tokens=size)
    bits = np.random.default_rng(size).integers(0, 256, 4 * 3 * 600 * 16, np.uint8)
    kind = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}[dtype]
    count = bits.nbytes // np.dtype(kind).itemsize // 48
    both = bits.view(kind).reshape(3, count, 2, 8)[:, :600]
    keys, values = both[:, :300], both[:, 300:]
    with kv.KVStore(layout, capacity_bytes="8MiB") as store:
        tokens = np.arange(300)
        assert store.save_prefix(tokens, keys, values) == 300 // size * size
        out = np.zeros((3, 310, 2, 8), kind), np.zeros((3, 310, 2, 8), kind)
        loaded = store.load_prefix(tokens, out=out)
        assert loaded == 300 // size * size
        for got, wanted in zip(out, (keys, values), strict=True):
            assert got[:, :loaded].tobytes() == wanted[:, :loaded].tobytes()
            assert not got[:, loaded:].any()


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_every_codec_gives_what_it_gives_alone(codec: str) -> None:
    layout = kv.KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float32", block_tokens=64)
    keys, values = np.random.default_rng(7).standard_normal((2, *layout.shape(200)), np.float32)
    with kv.KVStore(layout, capacity_bytes="8MiB", codec=codec) as store:
        assert store.save_prefix(range(200), keys, values) == 192
        out = np.empty(layout.shape(192), np.float32), np.empty(layout.shape(192), np.float32)
        assert store.load_prefix(range(200), out=out) == 192
        kinds: tuple[codecs.Kind, codecs.Kind] = ("key", "value")
        for got, x, kind in zip(out, (keys, values), kinds, strict=True):
            for layer in range(2):
                for at in range(0, 192, 64):
                    part = x[layer, at : at + 64]
                    blob = kv.quantize(part, codec=codec, kind=kind)
                    np.testing.assert_array_equal(got[layer, at : at + 64], kv.dequantize(blob))
        assert is_lossless(codec) == np.array_equal(out[0], keys[:, :192])


def test_values_that_no_codec_carries_come_back_all_the_same() -> None:
    layout = kv.KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float32", block_tokens=64)
    keys = np.full(layout.shape(64), np.inf, np.float32)
    values = np.full(layout.shape(64), np.nan, np.float32)
    with kv.KVStore(layout, capacity_bytes="8MiB", codec="int4_kc") as store:
        assert store.save_prefix(range(64), keys, values) == 64
        out = np.empty_like(keys), np.empty_like(values)
        assert store.load_prefix(range(64), out=out) == 64
        np.testing.assert_array_equal(out, (keys, values))


def test_torch_tensors_go_in_and_out_with_any_outer_strides() -> None:
    import torch

    layout = kv.KVLayout(layers=2, kv_heads=3, head_dim=8, block_tokens=16)
    both = torch.randn(2, 2, 3, 40, 8).to(torch.bfloat16).transpose(2, 3)  # heads before tokens
    with kv.KVStore(layout, capacity_bytes="1MiB") as store:
        assert store.save_prefix(torch.arange(40), both[0], both[1]) == 32
        out = torch.zeros(2, 2, 3, 50, 8, dtype=torch.bfloat16).transpose(2, 3)
        assert store.load_prefix(torch.arange(40), out=(out[0], out[1])) == 32
        assert torch.equal(out[:, :, :32], both[:, :, :32])
        assert not out[:, :, 32:].any()


def test_no_more_is_filled_than_out_has_whole_blocks_for(store: kv.KVStore) -> None:
    tokens = prompt_of([1, 2, 3])
    save(store, tokens)
    for room in range(3 * SIZE + 3):
        out = np.full(LAYOUT.shape(room), 9, np.float32), np.full(LAYOUT.shape(room), 9, np.float32)
        count = store.load_prefix(tokens, out=out)
        assert count == room // SIZE * SIZE
        np.testing.assert_array_equal(out[0][:, :count], tensors_of(tokens)[0][:, :count])
        assert (out[0][:, count:] == 9).all()


def test_prompts_that_begin_alike_share_blocks(store: kv.KVStore) -> None:
    save(store, prompt_of([1, 2, 3]))
    save(store, prompt_of([1, 2, 4, 5]))
    assert store.stats().blocks == 5
    assert store.stats().saved == 5
    assert load(store, prompt_of([1, 2, 4, 5, 6])) == 4 * SIZE


def test_the_same_tokens_after_others_are_another_block(store: kv.KVStore) -> None:
    save(store, prompt_of([1, 2]))
    assert store.match_prefix(prompt_of([2])) == 0
    assert store.match_prefix(prompt_of([2, 2])) == 0


# ---- eviction and pins --------------------------------------------------------------------------


def tight(blocks: int, **options: Any) -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes=blocks * WEIGHT, **options)


def test_the_end_of_the_least_recent_prompt_leaves_first() -> None:
    store = tight(5)
    save(store, prompt_of([1, 2, 3]))
    save(store, prompt_of([4, 5]))
    load(store, prompt_of([1]))
    save(store, prompt_of([6]))
    assert [store.match_prefix(prompt_of(b)) // SIZE for b in ([1, 2, 3], [4, 5], [6])] == [2, 2, 1]
    save(store, prompt_of([7, 8]))
    assert [store.match_prefix(prompt_of(b)) // SIZE for b in ([1, 2, 3], [4, 5], [6])] == [1, 1, 1]
    check(store)


def test_a_prompt_that_is_too_long_keeps_its_beginning() -> None:
    store = tight(3)
    assert save(store, prompt_of([1, 2, 3, 4, 5])) == 3 * SIZE
    assert load(store, prompt_of([1, 2, 3, 4, 5])) == 3 * SIZE
    assert store.stats().refused == 2


@pytest.mark.parametrize("policy", _core.policies())
def test_no_policy_leaves_an_orphan(policy: str) -> None:
    store = tight(7, policy=policy)
    numbers = np.random.default_rng(3)
    for _ in range(60):
        blocks = [int(n) for n in numbers.integers(0, 3, numbers.integers(1, 6))]
        save(store, prompt_of(blocks))
        check(store)
        assert load(store, prompt_of(blocks)) == store.match_prefix(prompt_of(blocks))


def test_room_is_found_where_only_the_end_of_a_chain_is_free() -> None:
    layout = kv.KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="float32", block_tokens=64)
    nan = np.full(layout.shape(64), np.nan, np.float32)  # takes much more room than usual
    usual = np.random.default_rng(1).standard_normal(layout.shape(512), np.float32)
    # lru, since a policy that weighs sizes is right to refuse so large a block.
    with kv.KVStore(layout, capacity_bytes=64 << 10, codec="int4", policy="lru") as store:
        assert store.save_prefix(range(512), usual, usual) == 512
        store.save_prefix(range(1000, 1064), nan, nan)
        store.save_prefix(range(2000, 2064), nan, nan)
        check(store)
        assert store.match_prefix(range(2000, 2064)) == 64
        assert store.match_prefix(range(512)) < 512


def test_a_pinned_prefix_outlives_what_comes_after() -> None:
    store = tight(4)
    save(store, prompt_of([1, 2]))
    assert store.pin_prefix(prompt_of([1, 2, 3])) == 2 * SIZE
    for number in range(5, 20):
        save(store, prompt_of([number, number]))
    assert load(store, prompt_of([1, 2])) == 2 * SIZE
    assert store.unpin_prefix(prompt_of([1, 2, 3])) == 2 * SIZE
    assert store.unpin_prefix(prompt_of([1, 2, 3])) == 0
    for number in range(5, 20):
        save(store, prompt_of([number, number]))
    assert store.match_prefix(prompt_of([1, 2])) == 0


def test_a_pin_ends_when_its_time_is_over() -> None:
    now = 0.0
    store = tight(4, clock=lambda: now)
    save(store, prompt_of([1, 2]))
    assert store.pin_prefix(prompt_of([1, 2]), ttl=10) == 2 * SIZE
    assert store.pin_prefix(prompt_of([1, 2]), ttl=5) == 2 * SIZE  # never shorter
    now = 9.9
    save(store, prompt_of([3, 4, 5, 6]))
    assert store.match_prefix(prompt_of([1, 2])) == 2 * SIZE
    assert store.stats().pinned == 1
    now = 10.0
    assert store.stats().pinned == 0
    save(store, prompt_of([3, 4, 5, 6]))
    assert store.match_prefix(prompt_of([1, 2])) == 0


def test_where_all_is_pinned_nothing_more_is_stored_and_nothing_fails() -> None:
    store = tight(2)
    save(store, prompt_of([1, 2]))
    store.pin_prefix(prompt_of([1, 2]))
    assert save(store, prompt_of([3])) == 0
    assert save(store, prompt_of([1, 2, 3])) == 2 * SIZE
    assert store.stats().refused == 2
    store.clear()
    assert save(store, prompt_of([3])) == SIZE


def test_what_is_cleared_is_no_longer_pinned() -> None:
    store = tight(3)
    save(store, prompt_of([1, 2]))
    store.pin_prefix(prompt_of([1, 2]))
    store.clear()
    assert store.stats().pinned == 0
    assert store.unpin_prefix(prompt_of([1, 2])) == 0
    save(store, prompt_of([1, 2]))
    save(store, prompt_of([3, 4, 5]))
    assert store.match_prefix(prompt_of([1, 2])) == 0
    check(store)


# ---- events -------------------------------------------------------------------------------------


def test_events_tell_what_is_in_memory() -> None:
    store = tight(3)
    known: dict[bytes, BlockEvent] = {}

    def listener(event: BlockEvent) -> None:
        if event.kind == "stored":
            assert event.name not in known
            assert not event.position or event.parent in known
            known[event.name] = event
        else:
            assert known.pop(event.name).tokens == event.tokens

    end = store.subscribe(listener)
    for blocks in ([1, 2], [1, 3], [4, 5, 6], [1], [7, 8, 9, 9]):
        save(store, prompt_of(blocks))
        assert known.keys() == {block.name for block in resident(store)}
    store.clear()
    assert not known
    end()
    save(store, prompt_of([1]))
    assert not known


def test_a_listener_may_use_the_store_and_may_fail(store: kv.KVStore) -> None:
    seen = []

    def listener(event: BlockEvent) -> None:
        seen.append((event.kind, event.position))
        if len(seen) < 3:
            save(store, prompt_of([5, 6, 7]))
        raise RuntimeError("no")

    store.subscribe(listener)
    save(store, prompt_of([1]))
    assert seen == [("stored", 0), ("stored", 0), ("stored", 1), ("stored", 2)]
    assert store.stats().listener_failures == 4


# ---- counters -----------------------------------------------------------------------------------


def test_counters_say_where_tokens_came_from(store: kv.KVStore) -> None:
    save(store, prompt_of([1, 2]))
    load(store, prompt_of([1, 2, 3], 5))
    load(store, prompt_of([4], 3))
    stats = store.stats()
    assert (stats.lookups, stats.tokens_asked, stats.tokens_from_memory) == (2, 64, 32)
    assert stats.hit_ratio == 0.5
    assert stats.tokens_from_tier == stats.tier_failures == stats.damaged == 0
    assert stats.tier is None
    assert repr(store) == f"<KVStore 2 blocks, {2 * WEIGHT} of 1048576 bytes>"
