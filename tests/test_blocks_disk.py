"""Blocks on disk: after a restart, after kill -9, after flipped bits, and when the disk fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import (
    LAYOUT,
    SIZE,
    WEIGHT,
    BrokenTier,
    check,
    disk,
    image_of,
    load,
    prompt_of,
    resident,
    save,
)

import blatam_kv as kv
from blatam_kv import TierUnavailable

HERE = Path(__file__).parent
PROMPTS = [prompt_of([1, 2, 3]), prompt_of([1, 2, 4, 5]), prompt_of([6])]


def opened(path: Path, **options: Any) -> kv.KVStore:
    defaults: dict[str, Any] = {"capacity_bytes": "1MiB", "path": path}
    return kv.KVStore(LAYOUT, **defaults | options)


def elsewhere(program: str, path: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Run a program in another process, with a store of that folder as ``store``."""
    start = (
        "import sys; from block_fakes import *; import blatam_kv as kv\n"
        f"store = kv.KVStore(LAYOUT, capacity_bytes='1MiB', path={str(path)!r}, **{options!r})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + program],
        env=os.environ | {"PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("write", ["save", "evict"])
def test_another_process_finds_what_was_saved(tmp_path: Path, write: Any) -> None:
    with opened(tmp_path, write=write) as store:
        for prompt in PROMPTS:
            save(store, prompt)
    program = f"for p in {PROMPTS!r}: print(load(store, p))\nstore.close()"
    out, _ = elsewhere(program, tmp_path).communicate(timeout=60)
    assert [int(line) for line in out.split()] == [len(prompt) for prompt in PROMPTS]
    with opened(tmp_path) as store:
        assert load(store, PROMPTS[1]) == len(PROMPTS[1])
        assert store.stats().tokens_from_tier == len(PROMPTS[1])
        assert load(store, PROMPTS[1]) == len(PROMPTS[1])
        assert store.stats().tokens_from_memory == len(PROMPTS[1])


@pytest.mark.parametrize(
    ("options", "then"), [({"queue_bytes": 0}, ""), ({"durable": True}, ""), ({}, "store.flush();")]
)
def test_a_killed_writer_blocks_nobody_and_loses_nothing_it_has_written(
    tmp_path: Path, options: dict[str, Any], then: str
) -> None:
    process = elsewhere(
        f"save(store, {PROMPTS[0]!r}); {then} print('saved', flush=True); sys.stdin.read()",
        tmp_path,
        **options,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"saved\n"
        with pytest.raises(TierUnavailable, match=f"being written by process {process.pid}"):
            opened(tmp_path)
        with opened(tmp_path, read_only=True) as reader:
            assert load(reader, PROMPTS[0]) == len(PROMPTS[0])
        process.send_signal(signal.SIGKILL)
    with opened(tmp_path) as store:
        assert load(store, PROMPTS[0]) == len(PROMPTS[0])


def test_a_store_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPTS[0])
        with pytest.raises(TierUnavailable, match="read_only=True"):
            opened(tmp_path)
        assert load(store, PROMPTS[0]) == len(PROMPTS[0])
    with pytest.raises(TierUnavailable):
        opened(tmp_path / "missing", read_only=True)


def test_a_reader_sees_what_the_writer_saves_and_leaves_the_folder_alone(tmp_path: Path) -> None:
    now = 0.0
    with (
        opened(tmp_path, model="m", queue_bytes=0) as writer,
        opened(tmp_path, model="m", read_only=True, clock=lambda: now) as reader,
    ):
        save(writer, PROMPTS[0])
        assert reader.match_prefix(PROMPTS[0]) == 0
        now = 1.0  # it looks again once a second, and when asked to
        assert load(reader, PROMPTS[0]) == len(PROMPTS[0])
        save(writer, PROMPTS[2])
        reader.refresh()
        assert load(reader, PROMPTS[2]) == len(PROMPTS[2])

        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert save(reader, PROMPTS[1]) == len(PROMPTS[1])  # in its own memory
        assert load(reader, PROMPTS[1]) == len(PROMPTS[1])
        reader.flush(durable=True)
        with pytest.raises(TierUnavailable, match="read-only"):
            reader.clear()
        assert writer.match_prefix(PROMPTS[1]) == 2 * SIZE
        for file, content in before.items():
            if file.name != "lock":
                assert file.read_bytes() == content


def test_cleared_blocks_do_not_come_back(tmp_path: Path) -> None:
    with opened(tmp_path, salt=b"other") as other:
        save(other, PROMPTS[0])
    with opened(tmp_path) as store:
        save(store, PROMPTS[0])
    with opened(tmp_path) as store:
        save(store, PROMPTS[2])
        store.clear()
        assert not any(map(store.match_prefix, PROMPTS))
    with opened(tmp_path) as store:
        assert not any(map(store.match_prefix, PROMPTS))
    with opened(tmp_path, salt=b"other") as other:
        assert load(other, PROMPTS[0]) == len(PROMPTS[0])


def test_what_memory_cannot_hold_is_read_from_disk(tmp_path: Path) -> None:
    long = prompt_of(range(40))
    with kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=disk(tmp_path)) as store:
        assert save(store, long) == len(long)
        assert load(store, long) == len(long)
        assert store.stats().blocks == 3
        assert save(store, prompt_of([50, 51, 52])) == 3 * SIZE
        assert load(store, long) == len(long)
        check(store)


def test_blocks_spill_once_and_ends_before_beginnings(tmp_path: Path) -> None:
    tier = disk(tmp_path)
    options: dict[str, Any] = {"write": "evict", "queue_bytes": 0}
    with kv.KVStore(LAYOUT, capacity_bytes=4 * WEIGHT, tier=tier, **options) as store:
        save(store, prompt_of([1, 2, 3]))
        assert len(tier) == 0
        save(store, prompt_of([4, 5, 6]))
        assert [store.stats().evicted, store.stats().spilled, len(tier)] == [2, 2, 2]
        names = store._prompt(prompt_of([1, 2, 3])).names(0, 3)
        assert tier.contains_many(names) == [False, True, True]
        load(store, prompt_of([1, 2, 3]))
        load(store, prompt_of([4, 5, 6]))
        puts = tier.stats().puts
        load(store, prompt_of([1, 2, 3]))
        assert tier.stats().puts == puts
        store.flush()
        assert len(tier) == 6
        store.flush(durable=True)
        assert tier.stats().puts == 6


def test_durable_saves_wait_for_the_disk(tmp_path: Path) -> None:
    with opened(tmp_path, durable=True) as store:
        before = store.stats().tier
        save(store, PROMPTS[0])
        after = store.stats().tier
        assert before is not None
        assert after is not None
        assert after.syncs > before.syncs


def test_the_folder_stays_within_its_bound(tmp_path: Path) -> None:
    with opened(tmp_path, disk_bytes=1 << 20, capacity_bytes=20 * WEIGHT) as store:
        for number in range(300):
            save(store, prompt_of([number, 1, 2, 3]))
            used = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
            assert used <= 1 << 20
        assert load(store, prompt_of([299, 1, 2, 3])) == 4 * SIZE
        tier = store.stats().tier
        assert tier is not None
        assert tier.evicted > 0


def test_segments_suit_large_blocks(tmp_path: Path) -> None:
    layout = kv.KVLayout(layers=8, kv_heads=8, head_dim=128, dtype="float32", block_tokens=64)
    x = np.random.default_rng(1).standard_normal(layout.shape(64), np.float32)
    with kv.KVStore(layout, capacity_bytes="6MiB", path=tmp_path, disk_bytes="24MiB") as store:
        assert store.save_prefix(range(64), x, x) == 64
    with kv.KVStore(layout, capacity_bytes="6MiB", path=tmp_path, disk_bytes="24MiB") as store:
        assert store.match_prefix(range(64)) == 64


# ---- damage -------------------------------------------------------------------------------------


def test_no_flipped_bit_on_disk_is_ever_served(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for prompt in PROMPTS:
            save(store, prompt)
    (segment,) = (tmp_path / "entries").iterdir()
    good = segment.read_bytes()
    bits = np.random.default_rng(5).choice(8 * image_of(good), 300, replace=False)
    lost = 0
    for bit in map(int, bits):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(flipped)
        with opened(tmp_path, read_only=True, model="") as store:
            # `load` compares every value that comes.
            counts = [load(store, prompt) for prompt in PROMPTS]
            lost += counts != [len(prompt) for prompt in PROMPTS]
            check(store)
    assert lost > 200  # most bits carry something


def test_a_damaged_block_is_thrown_away_and_saved_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPTS[1])
    (segment,) = (tmp_path / "entries").iterdir()
    good = bytearray(segment.read_bytes())
    # In the body of the last block's record, the first of the prompt.
    good[image_of(good) - 700] ^= 4
    segment.write_bytes(good)
    with opened(tmp_path) as store:
        assert store.match_prefix(PROMPTS[1]) == len(PROMPTS[1])  # not read yet
        assert load(store, PROMPTS[1]) == 0
        assert store.match_prefix(PROMPTS[1]) == 0
        assert save(store, PROMPTS[1]) == len(PROMPTS[1])
    with opened(tmp_path) as store:
        assert load(store, PROMPTS[1]) == len(PROMPTS[1])


@pytest.mark.parametrize("place", [0, 40, 47, 63, 64, 300, -1, -2])
def test_a_bit_that_flips_in_memory_is_a_miss(place: int) -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes="1MiB")
    save(store, PROMPTS[1])
    save(store, PROMPTS[2])
    block = next(block for block in resident(store) if block.position == 1)
    payload = bytearray(block.payload)
    if place == -1:
        payload = payload[:-64]
    elif place == -2:
        payload += bytes(64)
    else:
        payload[place] ^= 1
    block.payload = memoryview(payload)
    assert load(store, PROMPTS[1]) == SIZE
    assert store.stats().damaged == 1
    assert {block.position for block in resident(store)} == {0}  # what continued it left with it
    assert save(store, PROMPTS[1]) == len(PROMPTS[1])
    assert load(store, PROMPTS[1]) == len(PROMPTS[1])


def test_damage_in_memory_is_mended_from_below(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPTS[1])
        block = next(block for block in resident(store) if block.position == 1)
        payload = bytearray(block.payload)
        payload[200] ^= 1
        block.payload = memoryview(payload)
        assert load(store, PROMPTS[1]) == len(PROMPTS[1])
        stats = store.stats()
        assert (stats.damaged, stats.tokens_from_memory) == (1, SIZE)


def test_a_broken_tier_is_a_miss_and_a_counter() -> None:
    tier = BrokenTier()
    with kv.KVStore(LAYOUT, capacity_bytes=3 * WEIGHT, tier=tier, queue_bytes=0) as store:
        assert save(store, PROMPTS[0]) == 3 * SIZE
        assert load(store, PROMPTS[0]) == 3 * SIZE
        assert save(store, PROMPTS[1]) == 3 * SIZE
        assert load(store, PROMPTS[1]) == 3 * SIZE
        assert store.pin_prefix(PROMPTS[1]) == 3 * SIZE
        assert store.unpin_prefix(PROMPTS[1]) == 3 * SIZE
        store.flush()
        assert store.match_prefix(PROMPTS[2]) == 0
        failures = store.stats().tier_failures
        assert failures > 0
        tier.broken = False
        assert save(store, PROMPTS[1]) == len(PROMPTS[1])
        assert store.stats().tier_failures == failures
        store.clear()
        assert len(tier.records) == 1  # of what no memory held it cannot know the name
        tier.broken = True


def test_a_disk_that_fills_up_costs_only_what_it_cannot_take(tmp_path: Path) -> None:
    import errno

    from tier_fakes import FastFiles

    class Full(FastFiles):
        full = False

        def write(self, fd: int, pieces: Any, offset: int) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "full")
            return super().write(fd, pieces, offset)

    files = Full()
    with kv.KVStore(LAYOUT, capacity_bytes=4 * WEIGHT, tier=disk(tmp_path, files=files)) as store:
        save(store, PROMPTS[0])
        files.full = True
        assert save(store, PROMPTS[1]) == len(PROMPTS[1])
        assert load(store, PROMPTS[1]) == len(PROMPTS[1])
        files.full = False
        assert save(store, PROMPTS[2]) == len(PROMPTS[2])
        assert load(store, PROMPTS[0]) == len(PROMPTS[0])
        assert store.stats().tier_failures > 0
