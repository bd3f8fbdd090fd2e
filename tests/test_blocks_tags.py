"""Blocks of another model, layout or tenant do not exist; a store without a model finds one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, BrokenTier, disk, load, prompt_of, save, tensors_of

import blatam_kv as kv
from blatam_kv import ConfigError, KVLayout
from blatam_kv.record import Kind
from blatam_kv.tensors import STORAGE

PROMPT = prompt_of([1, 2, 3, 4])
SAME: dict[str, Any] = {
    "model": "m", "tokenizer": "t", "lora": "l", "rope": {"theta": 1e4, "scale": 1}, "salt": b"s",
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "layers": 2, "kv_heads": 1, "head_dim": 3, "dtype": "float32", "block_tokens": SIZE,
}  # fmt: skip
# One thing differs from SAME and SHAPE; some move a text from one tag to its neighbour.
OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"model": "M"}, {}),
    ({"model": None}, {}),
    ({"model": "mt", "tokenizer": None}, {}),
    ({"tokenizer": "u"}, {}),
    ({"tokenizer": None}, {}),
    ({"tokenizer": "l", "lora": "t"}, {}),
    ({"lora": "k"}, {}),
    ({"lora": None}, {}),
    ({"rope": {"theta": 1e6, "scale": 1}}, {}),
    ({"rope": "yarn"}, {}),
    ({"rope": None}, {}),
    ({"salt": b"S"}, {}),
    ({"salt": b""}, {}),
    ({"salt": b"s\0"}, {}),
    ({"salt": b"\0"}, {}),
    ({}, {"layers": 3}),
    ({}, {"layers": 1, "kv_heads": 2}),
    ({}, {"kv_heads": 2}),
    ({}, {"kv_heads": 3, "head_dim": 1}),
    ({}, {"head_dim": 4}),
    ({}, {"dtype": "float16"}),
    ({}, {"dtype": "bfloat16"}),
    ({}, {"block_tokens": 32}),
]


def opened(
    tier: BrokenTier, tags: dict[str, Any], shape: dict[str, Any], **options: Any
) -> kv.KVStore:
    layout = KVLayout(**SHAPE | shape)
    return kv.KVStore(layout, capacity_bytes="1MiB", tier=tier, **SAME | tags | options)


@pytest.fixture
def shared() -> BrokenTier:
    """A tier that works, shared by stores that must not see one another."""
    tier = BrokenTier()
    tier.broken = False
    return tier


@pytest.mark.parametrize("other", OTHERS[1:], ids=str)
def test_a_store_with_another_tag_finds_nothing(
    shared: BrokenTier, other: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    with opened(shared, {}, {}) as mine:
        save(mine, PROMPT)
    with opened(shared, {}, {}) as again:
        assert load(again, PROMPT) == len(PROMPT)
    with opened(shared, *other) as theirs:
        assert theirs.match_prefix(PROMPT) == 0
        shape = theirs.layout.shape(len(PROMPT))
        keys, values = np.zeros((2, *shape), STORAGE[theirs.layout.dtype])
        assert theirs.load_prefix(PROMPT, out=(keys, values)) == 0
        assert not keys.any()
        assert not values.any()
        theirs.clear()
    with opened(shared, {}, {}) as again:
        assert load(again, PROMPT) == len(PROMPT)


def test_no_two_sets_of_tags_are_one() -> None:
    digests = [
        kv.KVStore(KVLayout(**SHAPE | shape), capacity_bytes="1MiB", **SAME | tags)._tags.digest
        for tags, shape in OTHERS
    ]
    for one, two in combinations(digests, 2):
        assert one != two


def test_the_order_of_rope_parameters_does_not_matter(shared: BrokenTier) -> None:
    with opened(shared, {}, {}) as store:
        save(store, PROMPT)
    with opened(shared, {"rope": {"scale": 1, "theta": 1e4}}, {}) as store:
        assert store.match_prefix(PROMPT) == len(PROMPT)


@pytest.mark.parametrize("field", ["tags", "tokens", "kind", "codec"])
def test_a_record_under_our_name_that_is_not_ours_is_a_miss(shared: BrokenTier, field: str) -> None:
    with opened(shared, {}, {}) as store:
        save(store, PROMPT)
        names = store._prompt(PROMPT).names(0, 4)
    record = shared.records[names[1]]
    wrong: dict[str, Any] = {
        "tags": bytes(32),
        "tokens": bytes(4 * SIZE),
        "kind": Kind.RESPONSE,
        "codec": "int8",
    }
    shared.records[names[1]] = replace(record, **{field: wrong[field]})
    with opened(shared, {}, {}) as store:
        assert load(store, PROMPT) == SIZE
        assert store.stats().foreign == 1
        assert save(store, PROMPT) == len(PROMPT)  # in place of the stranger
    with opened(shared, {}, {}) as store:
        assert load(store, PROMPT) == len(PROMPT)


# ---- codecs of one folder -----------------------------------------------------------------------


def test_codecs_that_lose_nothing_share_blocks_and_no_other_codec_does(shared: BrokenTier) -> None:
    for codec in ("raw", "int8", "int4", "q8_0"):
        with opened(shared, {}, {}, codec=codec) as store:
            assert store.match_prefix(PROMPT) == 0
            assert save(store, PROMPT) == len(PROMPT)
    assert len(shared.records) == 4 * 4
    for codec in ("exp4", "exp_huff", "raw"):
        with opened(shared, {}, {}, codec=codec) as store:
            assert load(store, PROMPT) == len(PROMPT)
            assert save(store, prompt_of([1, 2, 5])) == 3 * SIZE
    with opened(shared, {}, {}, codec="int8") as store:
        assert store.match_prefix(prompt_of([1, 2, 5])) == 2 * SIZE


# ---- binding ------------------------------------------------------------------------------------


def test_the_first_model_binds_a_store_and_the_folder_remembers(tmp_path: Path) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        assert store.model is None
        assert save(store, PROMPT) == len(PROMPT)
        assert load(store, PROMPT) == len(PROMPT)
        assert store.bind("weights 1")
        assert store.bind("weights 1")
        assert store.model == "weights 1"
        assert store.match_prefix(PROMPT) == 0  # saved before the binding
        save(store, PROMPT[:32])
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        assert store.model == "weights 1"
        assert load(store, PROMPT) == 32
        with pytest.warns(UserWarning, match="another model"):
            assert not store.bind("weights 2")
        assert load(store, PROMPT) == 32
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path, model="weights 2") as store:
        assert store.match_prefix(PROMPT) == 0
        assert store.bind("weights 2")
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        assert store.model == "weights 1"


def test_a_model_named_when_a_folder_is_new_stays_with_it(tmp_path: Path) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path, model="weights") as store:
        save(store, PROMPT)
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        assert store.model == "weights"
        assert load(store, PROMPT) == len(PROMPT)


def test_a_read_only_store_follows_the_binding(tmp_path: Path) -> None:
    now = 0.0
    with (
        kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as writer,
        kv.KVStore(
            LAYOUT, capacity_bytes="1MiB", path=tmp_path, read_only=True, clock=lambda: now
        ) as reader,
    ):
        writer.bind("weights")
        save(writer, PROMPT)
        writer.flush()
        reader.refresh()
        assert reader.model == "weights"
        assert load(reader, PROMPT) == len(PROMPT)


@pytest.mark.parametrize("model", ["", None, 7])
def test_a_model_is_a_fingerprint(model: Any) -> None:
    with pytest.raises(ConfigError, match="model must be a fingerprint"):
        kv.KVStore(LAYOUT, capacity_bytes="1MiB").bind(model)


# ---- tenants ------------------------------------------------------------------------------------


def test_tenants_of_one_folder_never_meet(tmp_path: Path) -> None:
    tier = disk(tmp_path)
    salts = [b"", b"a", b"b", bytes(64)]
    stores = [
        kv.KVStore(LAYOUT, capacity_bytes="1MiB", tier=tier, salt=salt, queue_bytes=0)
        for salt in salts
    ]
    for count, store in enumerate(stores):
        assert store.match_prefix(PROMPT) == 0
        assert store.save_prefix(PROMPT, *tensors_of(PROMPT)) == len(PROMPT)
        assert len(tier) == 4 * (count + 1)
    stores[1].clear()
    found = [store.match_prefix(PROMPT) for store in stores]
    assert found == [len(PROMPT), 0, len(PROMPT), len(PROMPT)]
    names = {name for store in stores for name in store._prompt(PROMPT).names(0, 4)}
    assert len(names) == 16
