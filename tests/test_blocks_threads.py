"""One store, many threads: whatever happens at once, what is loaded is what was saved."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

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
)

import blatam_kv as kv
from blatam_kv.blocks import BlockEvent


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads take turns as often as Python allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*works: Callable[[], object]) -> None:
    """Run all of them together; what one of them raises is raised."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(run, work) for work in works]:
            future.result()


@pytest.mark.parametrize("below", [False, True])
def test_saves_loads_pins_and_evictions_at_once(tmp_path: Path, below: bool) -> None:
    tier = disk(tmp_path) if below else None
    store = kv.KVStore(LAYOUT, capacity_bytes=6 * WEIGHT, tier=tier, write="evict")
    known: set[bytes] = set()

    def listener(event: BlockEvent) -> None:
        if event.kind == "stored":
            assert event.name not in known
            known.add(event.name)
        else:
            known.remove(event.name)

    store.subscribe(listener)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            blocks = [chance.randrange(3) for _ in range(chance.randrange(1, 6))]
            prompt = prompt_of(blocks, chance.randrange(SIZE))
            act = chance.random()
            if act < 0.4:
                assert save(store, prompt) <= SIZE * len(blocks)
            elif act < 0.8:
                load(store, prompt)
            elif act < 0.9:
                store.pin_prefix(prompt)
                store.unpin_prefix(prompt)
            elif act < 0.98:
                store.match_prefix(prompt)
            else:
                store.clear()

    at_once(*(partial(work, seed) for seed in range(4)))
    for blocks in ([a, b, c] for a in range(3) for b in range(3) for c in range(3)):
        while store.unpin_prefix(prompt_of(blocks)):
            pass
    check(store)
    assert store.stats().listener_failures == 0
    assert known == {block.name for block in resident(store)}
    store.close()


def test_those_who_save_the_same_at_once_encode_it_once() -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes="1MiB")
    prompt = prompt_of(range(20))
    stored: list[int] = []
    at_once(*[lambda: stored.append(save(store, prompt))] * 6)
    assert stored == [20 * SIZE] * 6
    assert store.stats().saved == 20
    check(store)


def test_closing_while_others_work_ends_them_with_a_typed_error(tmp_path: Path) -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes=6 * WEIGHT, tier=disk(tmp_path))

    def work() -> None:
        for number in count():
            save(store, prompt_of([number % 7, number % 5]))
            load(store, prompt_of([number % 5, number % 7]))

    def close() -> None:
        while store.stats().saved < 10:
            pass
        store.close()

    def end() -> None:
        with pytest.raises(kv.TierUnavailable, match="closed"):
            work()

    at_once(end, end, close)
