"""Tenants of one store: names, memory, clearing and timing of one never depend on another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, BrokenTier, check, disk, load, prompt_of, save

import blatam_kv as kv
from blatam_kv import ConfigError, TierUnavailable

PROMPT = prompt_of([1, 2, 3, 4])
QUOTA = 3 * WEIGHT


def opened(**options: Any) -> kv.KVStore:
    return kv.KVStore(LAYOUT, **{"capacity_bytes": 12 * WEIGHT} | options)


def test_a_tenant_finds_its_own_blocks_and_nobody_elses() -> None:
    store = opened()
    save(store, PROMPT)
    ana, ben = store.tenant(b"ana"), store.tenant(b"ben")
    assert ana.match_prefix(PROMPT) == load(ben, PROMPT) == 0
    assert save(ana, PROMPT) == len(PROMPT)
    assert load(store.tenant(b"ana"), PROMPT) == len(PROMPT)
    assert ben.match_prefix(PROMPT) == ben.match_prefix(PROMPT, partial=True) == 0
    check(store)


def test_a_tenant_is_who_has_the_salt(tmp_path: Path) -> None:
    tier = disk(tmp_path)
    store = opened(tier=tier)
    save(store.tenant(b"ana"), PROMPT)
    store.flush()
    # A store of that salt, and the same tenant after a restart, are the same.
    assert load(opened(tier=tier, salt=b"ana"), PROMPT) == len(PROMPT)
    assert load(opened(tier=tier).tenant(b"ana"), PROMPT) == len(PROMPT)
    assert opened(tier=tier).match_prefix(PROMPT) == 0


def test_clearing_one_tenant_leaves_the_others(tmp_path: Path) -> None:
    store = opened(tier=disk(tmp_path))
    everyone = [store, *(store.tenant(salt) for salt in (b"ana", b"ben", b"cid"))]
    everyone[3] = store.tenant(b"cid", quota_bytes=QUOTA)
    for each in everyone:
        save(each, PROMPT)
    store.clear(tenant=b"ben")
    assert [each.match_prefix(PROMPT) for each in everyone] == [64, 64, 0, 64]
    store.clear(tenant=b"cid")
    assert [each.match_prefix(PROMPT) for each in everyone] == [64, 64, 0, 0]
    everyone[1].clear()
    assert [each.match_prefix(PROMPT) for each in everyone] == [64, 0, 0, 0]
    store.clear()
    assert not any(each.match_prefix(PROMPT) for each in everyone)
    store.clear(tenant=b"nobody yet")


def test_everyone_can_be_cleared_at_once_also_who_has_not_asked_yet(tmp_path: Path) -> None:
    with disk(tmp_path) as tier:
        store = opened(tier=tier)
        for salt in (b"ana", b"ben"):
            save(store.tenant(salt), PROMPT)
        again = opened(tier=tier)
        save(again, PROMPT)
        save(again.tenant(b"cid", quota_bytes=QUOTA), PROMPT)
        again.clear(everyone=True)
        assert tier.keys() == []
        for each in (again, *(again.tenant(salt) for salt in (b"ana", b"ben", b"cid"))):
            assert load(each, PROMPT) == 0


def test_a_quota_bounds_its_tenant_and_is_no_other_tenants_to_take() -> None:
    store = opened()
    ana, ben = store.tenant(b"ana", quota_bytes=QUOTA), store.tenant(b"ben")
    assert save(ana, PROMPT) == 3 * SIZE  # as far as its quota goes
    assert ana.stats().capacity_bytes == QUOTA
    assert store.stats().capacity_bytes == 12 * WEIGHT - QUOTA
    for number in range(30):
        save(ben, prompt_of([number, 1, 2]))
        save(store, prompt_of([number, 1, 2]))
    assert load(ana, PROMPT) == 3 * SIZE
    for each in (store, ana):
        check(each)


def test_a_quota_can_be_changed_and_takes_along_what_is_there(tmp_path: Path) -> None:
    tier = disk(tmp_path)
    store = opened(tier=tier, write="evict")
    ana = store.tenant(b"ana")
    save(ana, PROMPT)
    store.tenant(b"ana", quota_bytes=QUOTA)
    assert ana.stats().blocks == 3
    assert store.stats().blocks == 0
    assert load(ana, PROMPT) == len(PROMPT)  # one of them went below
    store.tenant(b"ana", quota_bytes=2 * WEIGHT)
    assert ana.stats().blocks == 2
    store.tenant(b"ana", quota_bytes=6 * WEIGHT)
    assert store.stats().capacity_bytes + ana.stats().capacity_bytes == 12 * WEIGHT
    assert load(ana, PROMPT) == len(PROMPT)
    assert ana.stats().blocks == 4
    save(store, prompt_of([7]))
    assert store.stats().evicted == 0
    store.close()
    assert len(tier) == 5
    check(ana)


@pytest.mark.parametrize("pinned", [False, True])
def test_pins_of_a_tenant_hold_in_its_own_memory(pinned: bool) -> None:
    store = opened()
    ana = store.tenant(b"ana", quota_bytes=QUOTA)
    save(ana, prompt_of([1, 2]))
    if pinned:
        ana.pin_prefix(prompt_of([1, 2]))
    save(ana, prompt_of([3, 4, 5]))
    assert ana.match_prefix(prompt_of([1, 2])) == (2 * SIZE if pinned else 0)
    assert store.stats().pinned == 0


class Watched(BrokenTier):
    """A tier that works, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.calls: Counter[str] = Counter()

    def get_many(self, keys: Any) -> Any:
        self.calls["get"] += len(keys)
        return super().get_many(keys)

    def contains_many(self, keys: Any) -> Any:
        self.calls["contains"] += len(keys)
        return super().contains_many(keys)


@pytest.mark.parametrize("quota", [None, QUOTA])
def test_what_a_tenant_asks_costs_the_same_whatever_others_have(
    monkeypatch: pytest.MonkeyPatch, quota: int | None
) -> None:
    """Time is not asserted on. What takes time is counted: look-ups, reads, comparisons, decodes."""

    def work(others_have_it: bool) -> Counter[str]:
        tier = Watched()
        store = opened(tier=tier, capacity_bytes=20 * WEIGHT, queue_bytes=0)
        if others_have_it:
            save(store, PROMPT)
            save(store.tenant(b"ben"), PROMPT)
            save(store.tenant(b"cid", quota_bytes=QUOTA), PROMPT)
        ana = store.tenant(b"ana", quota_bytes=quota)
        tier.calls.clear()
        counted = tier.calls
        residents = type(ana._levels.residents)
        for name in ("walk", "nearest", "add"):
            method = getattr(residents, name)

            def counting(*arguments: Any, method: Any = method, name: str = name) -> Any:
                answer = method(*arguments)
                counted[name] += 1
                counted[f"{name} found"] += (
                    len(answer) if isinstance(answer, list) else answer[0] or 0
                )
                return answer

            if name != "nearest":
                monkeypatch.setattr(residents, name, counting)
        packing = type(ana._levels.packing)
        decode = packing.decode
        monkeypatch.setattr(
            packing, "decode", lambda *a: (counted.update(["decode"]), decode(*a))[1]
        )
        assert ana.match_prefix(PROMPT) == 0
        assert load(ana, PROMPT) == 0
        assert save(ana, PROMPT) == len(PROMPT)
        assert load(ana, PROMPT) == len(PROMPT)
        monkeypatch.undo()
        return counted

    assert work(others_have_it=True) == work(others_have_it=False)


def test_a_tenant_binds_with_the_store() -> None:
    store = opened()
    ana = store.tenant(b"ana")
    save(ana, PROMPT)
    assert ana.bind("weights")
    assert store.model == ana.model == store.tenant(b"ben").model == "weights"
    assert ana.match_prefix(PROMPT) == 0  # saved before the binding
    assert save(ana, PROMPT) == len(PROMPT)
    assert load(ana, PROMPT) == len(PROMPT)
    with pytest.warns(UserWarning, match="another model"):
        assert not store.tenant(b"ben").bind("others")


def test_counters_of_tenants_are_their_own_and_the_stores_are_everybodys() -> None:
    store = opened()
    ana = store.tenant(b"ana")
    save(ana, PROMPT)
    load(ana, PROMPT)
    assert ana.stats().tokens_from_memory == len(PROMPT)
    ben = store.tenant(b"ben")
    save(ben, PROMPT)
    assert ben.stats().lookups == 0
    assert (store.stats().saved, store.stats().lookups) == (2 * ana.stats().saved, 1)


def test_tenants_that_nobody_holds_are_forgotten_but_not_their_blocks_or_quotas() -> None:
    store = opened()
    save(store.tenant(b"ana"), PROMPT)
    save(store.tenant(b"ben", quota_bytes=4 * WEIGHT), PROMPT)
    for number in range(100):
        store.tenant(bytes([number, 1])).match_prefix(PROMPT)
    assert len(store._tenants._known) == 1
    assert load(store.tenant(b"ana"), PROMPT) == load(store.tenant(b"ben"), PROMPT) == len(PROMPT)
    assert store.tenant(b"ben").stats().capacity_bytes == 4 * WEIGHT


def test_closing_a_tenant_closes_nothing_and_the_store_closes_all() -> None:
    store = opened()
    with store.tenant(b"ana") as ana:
        save(ana, PROMPT)
    assert load(ana, PROMPT) == len(PROMPT)
    store.close()
    for call in (lambda: ana.match_prefix(PROMPT), ana.clear, lambda: store.tenant(b"ana")):
        with pytest.raises(TierUnavailable, match="closed"):
            call()


@pytest.mark.parametrize(
    ("salt", "options", "error", "message"),
    [
        ("ana", {}, TypeError, "salt must be bytes"),
        (b"", {}, ConfigError, "must not be empty"),
        (bytes(65), {}, ConfigError, "at most 64 bytes"),
        (b"own", {}, ConfigError, "the store's own"),
        (b"ana", {"quota_bytes": WEIGHT - 1}, ConfigError, "one block, to the tenant"),
        (b"ana", {"quota_bytes": 12 * WEIGHT}, ConfigError, "leaves 0"),
        (b"ana", {"quota_bytes": "some"}, ConfigError, "cannot read 'some'"),
        (b"ana", {"quota_bytes": 0}, ConfigError, "quota_bytes"),
    ],
)
def test_tenants_are_checked(
    salt: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    store = opened(salt=b"own")
    with pytest.raises(error, match=message):
        store.tenant(salt, **options)
    with pytest.raises(ConfigError, match="has no tenants"):
        store.tenant(b"ben").tenant(b"cid")
    assert store.stats().capacity_bytes == 12 * WEIGHT
