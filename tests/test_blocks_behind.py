"""Blocks on their way to the disk: served at once, bounded, written in the end, and read without a copy."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, BrokenTier, check, disk, load, prompt_of, save
from hypothesis import given, settings
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv import ConfigError
from blatam_kv._core import Arena, Piece
from blatam_kv.record import Record
from blatam_kv.tiers import DiskTier

PROMPTS = [prompt_of(blocks) for blocks in ([1, 2, 3], [1, 2, 4, 5], [6], [1, 7, 8, 9, 10])]


class Gated(BrokenTier):
    """A tier that works, whose puts wait while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.gate = threading.Event()
        self.closed = False

    def put_many(self, records: Any, *, durable: bool = False) -> int:
        assert self.gate.wait(30)
        return super().put_many(records, durable=durable)

    def close(self) -> None:
        self.closed = True


def test_a_save_returns_before_it_is_written_and_is_found_at_once() -> None:
    tier = Gated()
    with kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=tier, queue_bytes="1MiB") as store:
        for prompt in PROMPTS:
            assert save(store, prompt) == len(prompt)
        assert not tier.records
        # Memory holds three blocks: the rest comes from what waits.
        for prompt in PROMPTS:
            assert store.match_prefix(prompt) == load(store, prompt) == len(prompt)
            check(store)
        assert store.stats().tokens_from_tier > 0
        assert store.stats().queued_bytes > 0
        tier.gate.set()
        store.flush()
        assert store.stats().queued_bytes == 0
        assert len(tier.records) == 10
    assert tier.closed


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        for prompt in PROMPTS:
            save(store, prompt)
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", path=tmp_path) as store:
        assert [load(store, prompt) for prompt in PROMPTS] == [len(prompt) for prompt in PROMPTS]


def test_a_full_queue_holds_the_caller_back() -> None:
    tier = Gated()
    store = kv.KVStore(LAYOUT, capacity_bytes="1MiB", tier=tier, queue_bytes=3000)
    done = threading.Event()

    def work() -> None:
        save(store, PROMPTS[0])
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.05)
    assert store.stats().queued_bytes <= 3000
    tier.gate.set()
    thread.join(30)
    assert done.is_set()
    store.close()
    assert len(tier.records) == 3


def test_what_is_refused_later_is_counted_and_stored_by_the_next_save() -> None:
    tier = Gated()
    tier.gate.set()
    tier.broken = True
    with kv.KVStore(LAYOUT, capacity_bytes=2 * WEIGHT, tier=tier) as store:
        save(store, PROMPTS[0])
        store.flush()
        assert store.stats().tier_failures >= 3
        tier.broken = False
        assert load(store, PROMPTS[0]) == 2 * SIZE
        assert save(store, PROMPTS[0]) == len(PROMPTS[0])
        store.flush()
        assert load(store, PROMPTS[0]) == len(PROMPTS[0])


def test_what_is_cleared_while_it_waits_is_gone() -> None:
    tier = Gated()
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", tier=tier) as store:
        save(store, PROMPTS[0])
        threading.Timer(0.05, tier.gate.set).start()
        store.clear()
        assert store.match_prefix(PROMPTS[0]) == 0
    assert not tier.records


STEPS = st.lists(
    st.tuples(st.sampled_from(["save", "load", "flush", "clear"]), st.integers(0, 3)), max_size=25
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_a_queue_changes_no_answer(steps: list[tuple[str, int]]) -> None:
    tiers = BrokenTier(), BrokenTier()
    for tier in tiers:
        tier.broken = False
    stores = [
        kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=tier, queue_bytes=size)
        for tier, size in zip(tiers, (0, 5000), strict=True)
    ]
    for step, number in steps:
        prompt = PROMPTS[number]
        if step in ("save", "load"):
            work = save if step == "save" else load
            assert work(stores[0], prompt) == work(stores[1], prompt)
        else:
            for store in stores:
                getattr(store, step)()
        for each in PROMPTS:
            assert stores[0].match_prefix(each) == stores[1].match_prefix(each)
    for store in stores:
        store.close()
    assert tiers[0].records.keys() == tiers[1].records.keys()


@pytest.mark.parametrize("size", [-1, True, "much", 2**63])
def test_a_queue_has_a_sensible_size(size: Any) -> None:
    with pytest.raises((ConfigError, TypeError), match=r"queue_bytes|cannot read"):
        kv.KVStore(LAYOUT, capacity_bytes="1MiB", tier=BrokenTier(), queue_bytes=size)


# ---- reading what lies below --------------------------------------------------------------------


class Lending(DiskTier):
    """A folder that counts how it is read."""

    calls: Counter[str]

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        self.calls["copied"] += len(keys)
        return super().get_many(keys)

    @contextmanager
    def borrow_many(self, keys: Sequence[bytes]) -> Iterator[list[Record | None]]:
        self.calls["lent"] += len(keys)
        with super().borrow_many(keys) as records:
            yield records


class Counting:
    """An arena that counts what is taken of it."""

    def __init__(self, arena: Arena, count: Counter[str]) -> None:
        self._arena, self._count = arena, count

    def take(self, size: int) -> Piece:
        self._count["pieces"] += 1
        return self._arena.take(size)


@pytest.mark.parametrize("queue_bytes", [0, None])
@pytest.mark.parametrize(("codec", "lent"), [("raw", 40), ("auto", 40)])
def test_what_memory_does_not_keep_is_decoded_from_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, lent: int, queue_bytes: int | None
) -> None:
    monkeypatch.setattr("blatam_kv.blocks.levels.PORTION_BYTES", 10 * 1024)
    long = prompt_of(range(40))
    tier = disk(tmp_path, kind=Lending)
    assert isinstance(tier, Lending)
    tier.calls = Counter()
    options: dict[str, Any] = {"codec": codec, "queue_bytes": queue_bytes}
    with kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=tier, **options) as store:
        assert save(store, long) == len(long)
        store.flush()
    tier = disk(tmp_path, kind=Lending)
    assert isinstance(tier, Lending)
    tier.calls = Counter()
    with kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=tier, **options) as store:
        arena = store._levels.packing._arena
        take = Counter[str]()
        monkeypatch.setattr(store._levels.packing, "_arena", Counting(arena, take))
        assert load(store, long) == len(long)
        assert take["pieces"] == 10  # the first portion's, after which memory had no room
        assert store.stats().blocks > 0
        check(store)
        assert tier.calls["lent"] >= lent
        assert tier.calls["copied"] == 1  # the image of what memory knew


def test_what_was_lent_is_not_kept(tmp_path: Path) -> None:
    """Memory of the store's own, or a dropped segment would keep its bytes on disk."""
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", codec="auto", tier=disk(tmp_path)) as store:
        save(store, PROMPTS[3])
    with kv.KVStore(LAYOUT, capacity_bytes="1MiB", codec="auto", tier=disk(tmp_path)) as store:
        assert load(store, PROMPTS[3]) == len(PROMPTS[3])
        payloads = [np.asarray(block.payload) for block in store._levels.residents.all()]
        for segment in (tmp_path / "entries").iterdir():
            with segment.open("r+b") as file:
                file.write(bytes(segment.stat().st_size))
        assert all(payload.any() for payload in payloads)
        assert load(store, PROMPTS[3]) == len(PROMPTS[3])
