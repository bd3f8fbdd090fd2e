"""A restart is warm: pins, how blocks were used, and what the policy learned outlive the process."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
from array import array
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, check, image_of, load, prompt_of, resident, save
from test_blocks_trace import DATA
from test_blocks_trace import LAYOUT as SMALL
from test_blocks_trace import WEIGHT as SMALL_WEIGHT

import blatam_kv as kv
from blatam_kv import _core
from blatam_kv._core import PrefixIndex, crc32c
from blatam_kv.blocks import image
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier

HERE = Path(__file__).parent
PROMPT = prompt_of([1, 2, 3])
HELD = len(PROMPT)


class Clock:
    """A clock for both: it goes on while nothing is open."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


def opened(path: Path, blocks: int = 8, **options: Any) -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes=blocks * WEIGHT, path=path, **options)


def crowd(store: kv.KVStore) -> None:
    for number in range(100, 110):
        save(store, prompt_of([number, 1, 2]))


def in_memory(store: kv.KVStore, prompt: list[int]) -> int:
    names = store._prompt(prompt).names(0, len(prompt) // SIZE)
    here = {block.name for block in resident(store)}
    return sum(name in here for name in names)


# ---- pins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["raw", "auto"])
def test_a_pin_holds_in_the_next_process(tmp_path: Path, codec: str) -> None:
    with opened(tmp_path, codec=codec) as store:
        save(store, PROMPT)
        assert store.pin_prefix(PROMPT) == HELD
    with opened(tmp_path, codec=codec) as store:
        assert store.stats().pinned == 1
        assert in_memory(store, PROMPT) == 3
        crowd(store)
        assert in_memory(store, PROMPT) == 3
        check(store)
        assert store.unpin_prefix(PROMPT) == HELD
    with opened(tmp_path) as store:
        assert store.stats().pinned == 0
        assert load(store, PROMPT) == HELD


def test_the_time_of_a_pin_goes_on_while_nothing_is_open(tmp_path: Path) -> None:
    clock = Clock()
    clocks: dict[str, Any] = {"clock": clock, "wall_clock": clock}
    with opened(tmp_path, **clocks) as store:
        save(store, PROMPT)
        save(store, prompt_of([7]))
        store.pin_prefix(PROMPT, ttl=10)
        store.pin_prefix(prompt_of([7]), ttl=100)
    clock.now += 9
    with opened(tmp_path, **clocks) as store:
        assert store.stats().pinned == 2
        clock.now += 2
        assert store.stats().pinned == 1
    with opened(tmp_path, **clocks) as store:
        assert store.stats().pinned == 1
        assert in_memory(store, prompt_of([7])) == 1
    clock.now += 100
    with opened(tmp_path, **clocks) as store:
        assert (store.stats().pinned, store.stats().blocks) == (0, 0)


def test_a_killed_process_leaves_its_pins(tmp_path: Path) -> None:
    program = (
        "import sys; from block_fakes import *; import blatam_kv as kv\n"
        f"store = kv.KVStore(LAYOUT, capacity_bytes='1MiB', path={str(tmp_path)!r}, queue_bytes=0)\n"
        f"save(store, {PROMPT!r}); store.pin_prefix({PROMPT!r})\n"
        "print('pinned', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pinned\n"
        process.send_signal(signal.SIGKILL)
    with opened(tmp_path) as store:
        assert (store.stats().pinned, in_memory(store, PROMPT)) == (1, 3)


def test_a_reader_pins_what_the_writer_has_pinned_and_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        store.pin_prefix(PROMPT)
        store.flush()
        with opened(tmp_path, read_only=True) as reader:
            assert reader.stats().pinned == 1
            assert reader.unpin_prefix(PROMPT) == HELD
        with opened(tmp_path, read_only=True) as reader:
            assert reader.stats().pinned == 1


def test_tenants_find_their_pins_in_the_memory_that_is_theirs(tmp_path: Path) -> None:
    quota = 4 * WEIGHT
    with opened(tmp_path, blocks=20) as store:
        for salt in (b"ana", b"ben"):
            tenant = store.tenant(salt)
            save(tenant, PROMPT)
            tenant.pin_prefix(PROMPT)
        ana = store.tenant(b"ana", quota_bytes=quota)  # takes its pin along
        assert (ana.stats().pinned, store.stats().pinned) == (1, 1)
        check(store)
    with opened(tmp_path, blocks=20) as store:
        assert store.stats().pinned == 1
        ana = store.tenant(b"ana", quota_bytes=quota)
        assert ana.stats().pinned == 1
        assert in_memory(ana, PROMPT) == in_memory(store.tenant(b"ben"), PROMPT) == 3
        assert store.tenant(b"cid").unpin_prefix(PROMPT) == 0


def test_of_a_pin_what_the_disk_lost_is_no_longer_pinned(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        store.pin_prefix(PROMPT)
        last = store._prompt(PROMPT).names(2, 3)
        store._levels.below.forget(last)
        store._levels.flush = lambda: None  # type: ignore[method-assign]  # nor is it written again
    with opened(tmp_path) as store:
        assert store.stats().pinned == 1
        assert store.unpin_prefix(PROMPT) == 2 * SIZE


def test_what_is_cleared_is_not_pinned_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        store.pin_prefix(PROMPT)
        store.clear()
    with opened(tmp_path) as store:
        assert (store.stats().pinned, store.stats().blocks) == (0, 0)


# ---- damage -------------------------------------------------------------------------------------


def test_no_flipped_bit_of_an_image_is_believed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        store.pin_prefix(PROMPT)
        key = image._key(store._tags.digest)
    (segment,) = (tmp_path / "entries").iterdir()
    good = segment.read_bytes()
    assert key in good[image_of(good) :]
    at = image_of(good)
    random = np.random.default_rng(3)
    for bit in map(int, random.choice(8 * (len(good) - at), 60, replace=False)):
        flipped = bytearray(good)
        flipped[at + bit // 8] ^= 1 << bit % 8
        segment.write_bytes(flipped)
        with opened(tmp_path, read_only=True) as store:
            assert store.stats().pinned in (0, 1)
            assert load(store, PROMPT) == HELD
            check(store)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\2\0\0\0" + bytes(12), b"\1\0\0\0\1\0\0\0" + bytes(8), b"\1\0\0\0" + bytes(12) + b"x"],
)
def test_an_image_that_is_none_is_counted_and_ignored(tmp_path: Path, payload: bytes) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        tags = store._tags.digest
    with DiskTier(tmp_path, disk_bytes=8 << 20) as tier:
        tier.put_many([Record(image._key(tags), Kind.RESPONSE, payload, tags=tags, codec="image")])
    with opened(tmp_path) as store:
        assert store.stats().foreign == 1
        assert load(store, PROMPT) == HELD


def names(*numbers: int) -> list[bytes]:
    return [bytes([number, *range(31)]) for number in numbers]


def filled(policy: str = "adaptive") -> PrefixIndex:
    index = PrefixIndex(100, policy)
    for number in range(1, 60):
        (name,) = names(number)
        index.add(name, bytes(32), True, name, array("Q", [1]))
        index.use(names(1)[0], names(1)[0])
    return index


@pytest.mark.parametrize("policy", _core.policies())
def test_an_index_believes_only_what_is_whole(policy: str) -> None:
    saved = filled(policy).save(1000)
    fresh = PrefixIndex(100, policy)
    for cut in (0, 3, 39, 43, len(saved) - 1):
        assert fresh.restore(saved[:cut])
    assert fresh.restore(saved + b"\0") == "its length is wrong: it was cut or added to"
    for at in range(0, len(saved), 7):
        flipped = bytearray(saved)
        flipped[at] ^= 16
        assert fresh.restore(flipped)
    assert fresh.restore(saved) is None
    assert fresh.entries == 0
    assert filled(policy).restore(saved) == "something has been in this index"


def test_of_an_index_the_blocks_used_last_are_remembered() -> None:
    few = filled().save(10)
    assert int.from_bytes(few[32:36], "little") == 10
    assert names(1)[0][:8] in few
    assert names(2)[0][:8] not in few
    assert len(PrefixIndex(100, "lru").save(10)) == 44
    for policy in ("lru", "arc"):  # what one policy learned is nothing to another
        assert PrefixIndex(100, policy).restore(few) is None


def test_what_no_index_can_weigh_is_refused() -> None:
    saved = bytearray(filled().save(10))
    saved[24:32] = bytes(8)
    saved[-4:] = crc32c(bytes(saved[:-4])).to_bytes(4, "little")
    assert PrefixIndex(100, "adaptive").restore(saved) == "its blocks weigh nothing"


# ---- frequencies --------------------------------------------------------------------------------


def test_what_was_used_often_stays_when_it_is_back(tmp_path: Path) -> None:
    often = prompt_of([1, 2])
    options: dict[str, Any] = {"policy": "lfu", "blocks": 4}
    with opened(tmp_path, **options) as store:
        for _ in range(6):
            save(store, often)
            load(store, often)
        for number in (50, 51):
            save(store, prompt_of([number]))
    with opened(tmp_path, **options) as store:
        load(store, often)
        for number in range(60, 70):
            save(store, prompt_of([number]))
            load(store, prompt_of([number]))
        assert in_memory(store, often) == 2


@pytest.mark.parametrize("policy", ["adaptive", "lfu", "arc", "s3fifo"])
def test_a_trace_goes_on_better_than_from_a_cold_start(tmp_path: Path, policy: str) -> None:
    with lzma.open(DATA / "mooncake_conversation.jsonl.xz", "rt") as lines:
        trace = [json.loads(line)["hash_ids"] for line in islice(lines, 3000)]
    capacity = len({block for ids in trace for block in ids}) // 20 * SMALL_WEIGHT

    def hits(store: kv.KVStore, part: list[list[int]]) -> int:
        longest = max(map(len, trace)) * SMALL.block_tokens
        x = np.zeros(SMALL.shape(longest), np.float16)
        out = np.empty_like(x), np.empty_like(x)
        for ids in part:
            tokens = np.repeat(np.array(ids, np.uint32), SMALL.block_tokens)
            store.load_prefix(tokens, out=out)
            store.save_prefix(tokens, x[:, : len(tokens)], x[:, : len(tokens)])
        return store.stats().tokens_from_memory

    def opened(**options: Any) -> kv.KVStore:
        return kv.KVStore(SMALL, capacity_bytes=capacity, policy=policy, **options)

    def known() -> bytes:
        with opened() as store:
            hits(store, trace[:2000])
            return store._levels.residents.save(50_000)

    saved = known()
    found = []
    for warm in (True, False):
        with opened() as store:
            if warm:
                assert store._levels.residents.restore(saved) is None
            found.append(hits(store, trace[2000:]))
            check(store)
    assert found[0] > found[1]
