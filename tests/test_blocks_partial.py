"""The beginning of a block: prompts that part, or end, in the middle of one."""

from __future__ import annotations

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, check, load, prompt_of, resident, save, tensors_of
from hypothesis import given, settings
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv.blocks.residents import _NEAREST_OF


@pytest.fixture
def store() -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes="1MiB")


def load_partly(store: kv.KVStore, tokens: list[int], room: int | None = None) -> int:
    """Load with ``partial`` and compare every value that came and every place after it."""
    expected = tensors_of(tokens, store.layout)
    shape = store.layout.shape(len(tokens) if room is None else room)
    out = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    count = store.load_prefix(tokens, out=out, partial=True)
    for got, wanted in zip(out, expected, strict=True):
        np.testing.assert_array_equal(got[:, :count], wanted[:, :count])
        assert np.isnan(got[:, count:]).all()
    return count


BASE = [number * 7919 % 1000 for number in range(4 * SIZE)]
# Prompts that follow one text for a while and then go their own way.
TOKENS = st.builds(
    lambda kept, rest: BASE[:kept] + rest,
    st.integers(0, len(BASE)),
    st.lists(st.integers(0, 1), max_size=SIZE + 3),
)


@given(saved=st.lists(TOKENS, max_size=4), asked=TOKENS, room=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_a_prefix_is_as_long_as_the_longest_that_was_saved(
    saved: list[list[int]], asked: list[int], room: int
) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB") as store:
        longest = 0
        for tokens in saved:
            save(store, tokens)
            whole = tokens[: len(tokens) // SIZE * SIZE]
            pairs = zip(whole, asked, strict=False)
            common = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
            longest = max(longest, min(len(whole), len(asked)) if common is None else common)
        assert store.match_prefix(asked, partial=True) == longest
        assert store.match_prefix(asked) == longest // SIZE * SIZE
        assert load_partly(store, asked) == longest
        assert load_partly(store, asked, min(room, len(asked))) == min(longest, room, len(asked))


def test_a_prompt_that_ends_inside_a_block_uses_its_beginning(store: kv.KVStore) -> None:
    save(store, prompt_of([1, 2, 3]))
    shorter = prompt_of([1, 2, 3])[: 2 * SIZE + 5]
    assert load(store, shorter) == 2 * SIZE
    assert load_partly(store, shorter) == 2 * SIZE + 5
    assert store.stats().tokens_from_memory == 4 * SIZE + 5


def test_of_many_that_go_on_differently_the_newest_are_looked_at(store: kv.KVStore) -> None:
    wanted = prompt_of([1])
    for number in range(_NEAREST_OF + 1):
        save(store, wanted[:10] + [9000 + number] * 6)
    assert load_partly(store, wanted) == 10
    save(store, wanted[:12] + [8000] * 4)
    assert load_partly(store, wanted) == 12
    save(store, prompt_of(range(2, _NEAREST_OF + 2)))  # one more that begins otherwise
    assert load_partly(store, wanted) == 12


def test_a_block_that_left_is_no_longer_begun_with() -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes=2 * WEIGHT)
    save(store, prompt_of([1, 2]))
    asked = prompt_of([1]) + prompt_of([2])[:5] + [7] * 20
    assert load_partly(store, asked) == SIZE + 5
    save(store, prompt_of([3]))
    assert load_partly(store, asked) == SIZE
    store.clear()
    assert load_partly(store, asked) == 0
    check(store)


def test_a_damaged_block_is_not_begun_with_either(store: kv.KVStore) -> None:
    save(store, prompt_of([1]))
    (block,) = resident(store)
    payload = bytearray(block.payload)
    payload[100] ^= 1
    block.payload = memoryview(payload)
    out = np.empty((2, *LAYOUT.shape(5)), np.float32)
    assert store.load_prefix(prompt_of([1])[:5], out=(out[0], out[1]), partial=True) == 0
    assert store.stats().damaged == 1
    assert store.stats().blocks == 0


def test_torch_tensors_of_bfloat16_are_filled_partly_too() -> None:
    import torch

    layout = kv.KVLayout(layers=2, kv_heads=3, head_dim=8, block_tokens=16)
    both = torch.randn(2, 2, 48, 3, 8).to(torch.bfloat16)
    with kv.KVStore(layout, capacity_bytes="1MiB") as store:
        store.save_prefix(torch.arange(48), both[0], both[1])
        out = torch.zeros(2, 2, 3, 40, 8, dtype=torch.bfloat16).transpose(2, 3)
        assert store.load_prefix(torch.arange(40), out=(out[0], out[1]), partial=True) == 40
        assert torch.equal(out, both[:, :, :40])
