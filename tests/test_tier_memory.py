"""The memory tier beside a dict, and the Protocol beside all tiers."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tier_fakes import KEYS, after, contents, key_of, open_tier, record_of, script

from blatam_kv import ConfigError, TierUnavailable
from blatam_kv.errors import Unavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import MemoryTier, Tier
from blatam_kv.tiers.memory import RECORD_OVERHEAD_BYTES, memory_bytes


class DictTier:
    """The ten lines of the Protocol's docstring."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        return [self.records.get(key) for key in keys]

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        new = {record.key: record for record in records}
        self.records.update(new)
        return len(new)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        return sum(self.records.pop(key, None) is not None for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        return [key in self.records for key in keys]

    def close(self) -> None:
        self.records.clear()


def tiers(path: Path) -> list[Tier]:
    return [DictTier(), MemoryTier(capacity_bytes=1 << 20), open_tier(path)]


def test_all_tiers_answer_alike(tmp_path: Path) -> None:
    values: dict[bytes, bytes] = {}
    all_tiers = tiers(tmp_path)
    for step in script(60):
        before, values = values, after(values, step)
        for tier in all_tiers:
            if step[0] == "put":
                record = record_of(step[1], step[2])
                assert tier.put_many([record], durable=step[3]) == 1
            else:
                known = key_of(step[1]) in before
                assert tier.delete_many([key_of(step[1])]) == known
            assert tier.contains_many(KEYS) == [key in values for key in KEYS]
            found = tier.get_many(KEYS)
            assert [record and bytes(record.payload) for record in found] == [
                values.get(key) for key in KEYS
            ]
    for tier in all_tiers:
        tier.close()
        tier.close()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=60))
def test_memory_keeps_to_its_bound_and_never_answers_wrong(puts: list[tuple[int, int]]) -> None:
    left: list[Record] = []
    tier = MemoryTier(capacity_bytes=8000, on_evict=left.append)
    newest: dict[bytes, Record] = {}
    for number, size in puts:
        record = record_of(number, bytes([size % 256]) * size, created_us=len(newest))
        tier.put_many([record])
        newest[record.key] = record
        assert tier.stats().bytes <= 8000
        held = [found for found in tier.get_many(KEYS) if found is not None]
        assert all(newest[found.key] == found for found in held)
        assert tier.stats().bytes == sum(map(memory_bytes, held))
    assert len(left) == tier.stats().evictions["capacity"]


def test_what_leaves_for_room_goes_to_the_next_tier(tmp_path: Path) -> None:
    with open_tier(tmp_path) as disk:
        memory = MemoryTier(capacity_bytes=4000, on_evict=lambda record: disk.put_many([record]))
        for number in range(12):
            memory.put_many([record_of(number, bytes([number]) * 500)])
        held = {key for key, known in zip(KEYS, memory.contains_many(KEYS), strict=True) if known}
        assert held
        assert contents(disk, KEYS).keys() == set(KEYS) - held


def test_an_expired_record_is_a_miss() -> None:
    now = [1000.0]
    tier = MemoryTier(capacity_bytes=10_000, clock=lambda: now[0])
    tier.put_many([record_of(1, b"x", expires_us=1_001_000_000)])
    assert contents(tier, [key_of(1)]) == {key_of(1): b"x"}
    now[0] = 1001.0
    assert tier.get_many([key_of(1)]) == [None]
    assert tier.put_many([record_of(1, b"x", expires_us=1_001_000_000)]) == 0
    assert tier.stats().entries == 0


def test_a_record_too_large_takes_the_older_one_with_it() -> None:
    tier = MemoryTier(capacity_bytes=2000)
    tier.put_many([record_of(1, b"small")])
    assert tier.put_many([record_of(1, bytes(4000)), record_of(2, b"next")]) == 1
    assert tier.contains_many([key_of(1), key_of(2)]) == [False, True]
    assert tier.stats().refused == 1


def test_a_buffer_that_changes_later_changes_nothing() -> None:
    tier = MemoryTier(capacity_bytes=10_000)
    payload = bytearray(b"before")
    tier.put_many([Record(key_of(1), Kind.RESPONSE, payload)])
    payload[:] = b"after!"
    record = tier.get_many([key_of(1)])[0]
    assert record is not None
    assert record.payload == b"before"


def test_what_a_record_weighs_itself_is_counted() -> None:
    tier = MemoryTier(capacity_bytes=1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tier.put_many(record_of(n, b"%08d" % n, created_us=10**15 + n) for n in range(10_000))
        weight = (tracemalloc.get_traced_memory()[0] - before) / 10_000
    finally:
        tracemalloc.stop()
    native = tier._records._counters()["overhead_bytes"] / 10_000
    assert weight + native < RECORD_OVERHEAD_BYTES + sys.getsizeof(b"") + 8


@pytest.mark.parametrize("capacity", [0, -1, 2**63])
def test_a_bound_out_of_range_is_named(capacity: int) -> None:
    with pytest.raises(ConfigError, match="capacity_bytes"):
        MemoryTier(capacity_bytes=capacity)


def test_wrong_options_and_calls_are_named() -> None:
    with pytest.raises(TypeError, match="capacity_bytes"):
        MemoryTier(capacity_bytes="1GiB")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose one of"):
        MemoryTier(capacity_bytes=100, policy="magic")
    tier = MemoryTier(capacity_bytes=10_000)
    with pytest.raises(ConfigError, match="delete_many"):
        tier.put_many([Record(key_of(1), Kind.TOMBSTONE)])
    tier.close()
    with pytest.raises(TierUnavailable) as caught:
        tier.get_many([key_of(1)])
    assert caught.value.reason is Unavailable.CLOSED
