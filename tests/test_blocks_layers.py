"""Layer by layer: what ``wait`` returned for is there, while what is above is still to come."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, check, disk, prompt_of, resident, save, tensors_of

import blatam_kv as kv
from blatam_kv import CorruptBlob, InvalidRequest
from blatam_kv.blocks.payload import Packing

PROMPT = prompt_of([1, 2, 3], 5)


@pytest.fixture
def store() -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes="1MiB")


def room(tokens: int) -> tuple[Any, Any]:
    both = np.full((2, *LAYOUT.shape(tokens)), np.nan, np.float32)
    return both[0], both[1]


def test_layers_come_in_order_and_hold_what_a_whole_load_gives(store: kv.KVStore) -> None:
    save(store, PROMPT)
    expected = tensors_of(PROMPT)
    out = room(len(PROMPT))
    with store.load_layers(PROMPT, out=out) as load:
        assert load.tokens == 3 * SIZE
        for layer in range(LAYOUT.layers):
            assert load.wait(layer) == load.tokens
            for got, wanted in zip(out, expected, strict=True):
                np.testing.assert_array_equal(got[layer, : load.tokens], wanted[layer, : 3 * SIZE])
                assert np.isnan(got[layer, load.tokens :]).all()
    assert store.stats().tokens_from_memory == 3 * SIZE


def test_a_load_by_layers_is_work_of_the_codec_as_a_whole_one_is(store: kv.KVStore) -> None:
    save(store, PROMPT)
    work = store.codec_work["decode"]
    store.load_prefix(PROMPT, out=room(len(PROMPT)))
    whole = work.raw_bytes, work.encoded_bytes, work.took.snapshot()[0][-1]
    with store.load_layers(PROMPT, out=room(len(PROMPT))) as load:
        load.wait(LAYOUT.layers - 1)
    assert (work.raw_bytes, work.encoded_bytes, work.took.snapshot()[0][-1]) == tuple(
        2 * n for n in whole
    )
    assert whole[2] == 3


def held_from(first: int, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Layers from this one on are not decoded before what is returned is set."""
    go_on = threading.Event()
    decode_layer = Packing.decode_layer

    def held(self: Packing, payload: Any, at: int, layer: int, *rest: Any) -> int:
        if layer >= first:
            assert go_on.wait(60)
        return decode_layer(self, payload, at, layer, *rest)

    monkeypatch.setattr(Packing, "decode_layer", held)
    return go_on


def test_a_load_that_was_closed_before_its_end_is_not_counted(
    store: kv.KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, PROMPT)
    went = held_from(LAYOUT.layers - 1, monkeypatch)
    load = store.load_layers(PROMPT, out=room(len(PROMPT)))
    load._stopped = True
    went.set()
    load.close()
    assert store.codec_work["decode"].took.snapshot()[0][-1] == 0


def test_the_first_layer_is_there_before_the_last_is_decoded(
    store: kv.KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, PROMPT)
    go_on = held_from(1, monkeypatch)
    out = room(len(PROMPT))
    with store.load_layers(PROMPT, out=out) as load:
        load.wait(0)
        np.testing.assert_array_equal(out[0][0, : 3 * SIZE], tensors_of(PROMPT)[0][0, : 3 * SIZE])
        assert np.isnan(out[0][1]).all()
        with pytest.raises(TimeoutError, match="layer 1"):
            load.wait(1, timeout=0.001)
        go_on.set()
        load.wait(1)


def test_what_is_on_disk_is_read_first(tmp_path: Path) -> None:
    tier = disk(tmp_path)
    with kv.KVStore(LAYOUT, capacity_bytes=2 * WEIGHT, tier=tier) as store:
        save(store, PROMPT)
        out = room(len(PROMPT))
        with store.load_layers(PROMPT, out=out) as load:
            assert load.tokens == 3 * SIZE
            load.wait(LAYOUT.layers - 1)
        np.testing.assert_array_equal(out[1][:, : 3 * SIZE], tensors_of(PROMPT)[1][:, : 3 * SIZE])
        stats = store.stats()
        assert (stats.tokens_from_memory, stats.tokens_from_tier) == (2 * SIZE, SIZE)
        check(store)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_damaged_layer_is_never_said_to_be_there(store: kv.KVStore, layer: int) -> None:
    save(store, PROMPT)
    block = next(block for block in resident(store) if block.position == 1)
    payload = bytearray(block.payload)
    payload[layer * len(payload) // 2 + 100] ^= 1
    block.payload = memoryview(payload)
    with store.load_layers(PROMPT, out=room(len(PROMPT))) as load:
        for below in range(layer):
            load.wait(below)
        with pytest.raises(CorruptBlob, match="block 1 of the prefix"):
            load.wait(layer)
        with pytest.raises(CorruptBlob):
            load.wait(LAYOUT.layers - 1)
    assert store.stats().damaged == 1
    assert store.match_prefix(PROMPT) == SIZE  # thrown away, with what continued it
    check(store)


def test_a_load_that_is_closed_says_so_and_leaves_the_tensors(store: kv.KVStore) -> None:
    save(store, PROMPT)
    load = store.load_layers(PROMPT, out=room(len(PROMPT)))
    load.close()
    load.close()
    if load._done < LAYOUT.layers:
        with pytest.raises(IndexError, match="closed before layer"):
            load.wait(LAYOUT.layers - 1)
    for layer in (-1, LAYOUT.layers):
        with pytest.raises(IndexError, match="layers go from 0 to 1"):
            load.wait(layer)


def test_nothing_cached_is_nothing_to_wait_for(store: kv.KVStore) -> None:
    with store.load_layers(PROMPT, out=room(len(PROMPT))) as load:
        assert load.tokens == load.wait(0) == load.wait(1) == 0
    with pytest.raises(InvalidRequest, match="two tensors"):
        store.load_layers(PROMPT, out=room(1)[:1])  # type: ignore[arg-type]
