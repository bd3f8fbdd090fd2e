"""Forks: a prefix that stays for as long as anything branches from it, and is never copied."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import (
    LAYOUT,
    SIZE,
    WEIGHT,
    check,
    load,
    prompt_of,
    resident,
    save,
    tensors_of,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import blatam_kv as kv
from blatam_kv import InvalidRequest, TierUnavailable

PROMPT = prompt_of([1, 2, 3], rest=5)
HELD = 3 * SIZE


def opened(blocks: int = 6, **options: Any) -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes=blocks * WEIGHT, **options)


def crowd(store: kv.KVStore) -> None:
    """Prompts enough to drive out all that may leave."""
    for number in range(100, 110):
        save(store, prompt_of([number, 1, 2]))


def branch(fork: kv.Fork, more: list[int]) -> int:
    """Save what follows the fork, with its tensors alone."""
    keys, values = tensors_of([*fork_ids(fork), *more])
    return fork.save(more, keys[:, fork.tokens :], values[:, fork.tokens :])


def fork_ids(fork: kv.Fork) -> list[int]:
    return [int(token) for token in fork._ids]


def test_what_is_forked_stays_and_what_is_released_may_leave() -> None:
    store = opened()
    save(store, PROMPT)
    with store.fork(PROMPT) as trunk:
        assert trunk.tokens == HELD
        assert store.stats().holds == 1
        crowd(store)
        assert load(store, PROMPT) == HELD
        check(store)
    assert store.stats().holds == 0
    assert store._levels.residents.stats().held == len(
        {b.parent for b in resident(store)} & {b.name for b in resident(store)}
    )
    crowd(store)
    assert store.match_prefix(PROMPT) == 0


def test_samples_share_the_prefix_and_bring_only_what_is_theirs() -> None:
    store = opened(blocks=20)
    save(store, PROMPT)
    with store.fork(PROMPT) as trunk:
        before = store.stats()
        rest = PROMPT[trunk.tokens :]
        for sample in range(3):
            more = [*rest, *range(1000 * sample, 1000 * sample + 2 * SIZE)]
            assert branch(trunk, more) == HELD + 2 * SIZE
            assert load(store, fork_ids(trunk) + more) == HELD + 2 * SIZE
        assert store.stats().blocks == before.blocks + 6
        check(store)


def test_nothing_is_copied() -> None:
    store = opened()
    save(store, PROMPT)
    payloads = {block.name: block.payload for block in resident(store)}
    with store.fork(PROMPT) as trunk, trunk.fork() as twin, twin.fork([1, 2]) as third:
        assert trunk.tokens == twin.tokens == third.tokens == HELD
        assert store.stats().holds == 3
        assert {block.name: block.payload for block in resident(store)} == payloads
        assert all(block.payload is payloads[block.name] for block in resident(store))
        assert store.stats().bytes == 3 * WEIGHT


def test_a_branch_outlives_its_trunk() -> None:
    store = opened()
    save(store, PROMPT)
    trunk = store.fork(PROMPT)
    branch(trunk, prompt_of([4]))
    beam = trunk.fork(prompt_of([4, 5]))
    trunk.release()
    trunk.release()
    assert beam.tokens == HELD + SIZE
    crowd(store)
    out = tensors_of(fork_ids(beam))
    got = np.zeros_like(out[0]), np.zeros_like(out[1])
    assert beam.load(out=got) == beam.tokens
    np.testing.assert_array_equal(got, out)
    beam.release()
    crowd(store)
    assert store.match_prefix(PROMPT) == 0


def test_a_fork_that_nobody_holds_ends() -> None:
    store = opened()
    save(store, PROMPT)
    fork = store.fork(PROMPT)
    ring: list[Any] = [fork]
    ring.append(ring)  # only the collector ends this
    del fork, ring
    gc.collect()
    assert store.stats().holds == 0


def test_a_release_within_a_call_of_the_store_waits_for_nobody() -> None:
    """The garbage collector may come at any moment, also while this very thread has the lock."""
    store = opened()
    save(store, PROMPT)
    fork = store.fork(PROMPT)
    with store._levels.residents._lock:
        fork.release()
    assert store.stats().holds == 0


def test_pins_and_forks_are_counted_apart() -> None:
    store = opened()
    save(store, PROMPT)
    store.pin_prefix(PROMPT)
    forks = [store.fork(PROMPT) for _ in range(3)]
    assert (store.stats().pinned, store.stats().holds) == (1, 3)
    for fork in forks[:2]:
        fork.release()
    assert store.unpin_prefix(PROMPT) == HELD
    assert store.unpin_prefix(PROMPT) == 0
    crowd(store)
    assert load(store, PROMPT) == HELD
    store.pin_prefix(PROMPT)
    forks[2].release()
    crowd(store)
    assert load(store, PROMPT) == HELD


def test_a_fork_reads_from_disk_what_memory_lost(tmp_path: Path) -> None:
    with opened(path=tmp_path) as store:
        save(store, PROMPT)
    with opened(path=tmp_path) as store, store.fork(PROMPT) as fork:
        assert fork.tokens == HELD
        crowd(store)
        assert load(store, PROMPT) == HELD
        assert store.stats().tokens_from_tier == 0


def test_of_what_is_not_cached_nothing_is_held() -> None:
    store = opened()
    with store.fork(PROMPT) as fork:
        assert fork.tokens == 0
        assert store.stats().holds == 0
        assert branch(fork, PROMPT) == HELD
        with fork.fork(PROMPT) as deeper:
            assert deeper.tokens == HELD
    save(store, prompt_of([1, 2]))
    with store.fork(PROMPT) as fork:
        assert repr(fork) == f"<Fork of {HELD} tokens>"
    assert repr(fork) == f"<Fork of {HELD} tokens, released>"


def test_what_is_cleared_is_no_longer_held_and_a_new_block_is_not_let_go_for_it() -> None:
    store = opened()
    save(store, PROMPT)
    stale = store.fork(PROMPT)
    store.clear()
    assert store.stats().holds == 0
    out = tensors_of(PROMPT[:HELD])
    assert stale.load(out=out) == 0
    assert branch(stale, prompt_of([4])) == 0  # its beginning is gone
    check(store)
    save(store, PROMPT)
    fork = store.fork(PROMPT)
    stale.release()
    assert store.stats().holds == 1
    crowd(store)
    assert load(store, PROMPT) == HELD
    fork.release()


def test_a_tenant_forks_its_own() -> None:
    store = opened(blocks=30)
    tenant = store.tenant(b"salt")
    save(store, PROMPT)
    with tenant.fork(PROMPT) as fork:
        assert fork.tokens == 0
    save(tenant, PROMPT)
    with tenant.fork(PROMPT) as fork:
        assert fork.tokens == HELD


@pytest.mark.parametrize(
    ("more", "tokens", "message"),
    [([1, 2], 3, "have 3 tokens, more has 2"), ([-1], 1, "from 0 to"), ("no", 1, "list of ints")],
)
def test_wrong_arguments_say_what_is_wrong(more: Any, tokens: int, message: str) -> None:
    store = opened()
    keys, values = tensors_of(range(tokens))
    with (
        store.fork(PROMPT) as fork,
        pytest.raises(InvalidRequest, match=message),
    ):
        fork.save(more, keys, values)


def test_what_was_released_or_closed_says_so() -> None:
    store = opened()
    save(store, PROMPT)
    fork, later = store.fork(PROMPT), store.fork(PROMPT)
    fork.release()
    with pytest.raises(InvalidRequest, match="this fork was released"):
        fork.fork()
    store.close()
    with pytest.raises(TierUnavailable, match="closed"):
        later.fork()
    later.release()


def test_threads_fork_and_release_while_blocks_come_and_go() -> None:
    store = opened(blocks=12)
    prompts = [prompt_of([number, 1, 2]) for number in range(6)]
    wrong: list[str] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            prompt = prompts[random.integers(len(prompts))]
            save(store, prompt)
            with store.fork(prompt) as fork:
                save(store, prompts[random.integers(len(prompts))])
                if load(store, prompt) < fork.tokens:
                    wrong.append("what was held has left")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.stats().holds == 0
    check(store)


class Forks(RuleBasedStateMachine):
    """Random calls beside a list of what is held: none of it ever leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.store = opened(blocks=8)
        self.forks: list[tuple[kv.Fork, list[int]]] = []

    @rule(blocks=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def save(self, blocks: list[int]) -> None:
        save(self.store, prompt_of(blocks))

    @rule(blocks=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def fork(self, blocks: list[int]) -> None:
        prompt = prompt_of(blocks)
        fork = self.store.fork(prompt)
        assert fork.tokens == self.store.match_prefix(prompt)
        self.forks.append((fork, prompt[: fork.tokens]))

    @precondition(lambda self: self.forks)
    @rule(data=st.data(), block=st.integers(0, 2))
    def branch(self, data: st.DataObject, block: int) -> None:
        fork, ids = data.draw(st.sampled_from(self.forks))
        more = prompt_of([block])
        branch(fork, more)
        deeper = fork.fork(more)
        assert deeper.tokens == self.store.match_prefix(ids + more) >= fork.tokens
        self.forks.append((deeper, (ids + more)[: deeper.tokens]))

    @precondition(lambda self: self.forks)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        fork, _ = self.forks.pop(data.draw(st.integers(0, len(self.forks) - 1)))
        fork.release()

    @invariant()
    def what_is_held_is_there(self) -> None:
        assert self.store.stats().holds == sum(fork.tokens > 0 for fork, _ in self.forks)
        for fork, ids in self.forks:
            assert self.store.match_prefix(ids) == fork.tokens == len(ids)
        check(self.store)


TestForks = Forks.TestCase
TestForks.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
