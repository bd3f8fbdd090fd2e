"""What is fetched and what is computed: against every way to split, and over a network that changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from block_fakes import LAYOUT, SIZE, BrokenTier, load, prompt_of, save
from hypothesis import given
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv.blocks.worth import PROBE_BYTES, PROBE_SECONDS, Plan, Worth
from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.record import Record, packed_bytes
from blatam_kv.tiers.rate import Rate


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- rates --------------------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_observation() -> None:
    rate = Rate(Clock())
    assert rate.seconds(5) is rate.per_second is None
    assert rate.age == math.inf
    assert not rate.settled
    for amount, seconds in ((0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, math.inf), (1, math.nan)):
        rate.note(amount, seconds)
    assert rate.per_second is None


@given(
    st.lists(
        st.tuples(st.floats(1, 1e9), st.floats(1e-6, 1e3), st.floats(0, 200)),
        min_size=1,
        max_size=30,
    )
)
def test_it_is_a_fading_mean_of_logarithms_with_bounded_surprises(
    notes: list[tuple[float, float, float]],
) -> None:
    clock = Clock()
    rate = Rate(clock)
    level: float | None = None  # the logarithm of the seconds for one
    before = 0  # where the last surprise was
    for amount, seconds, later in notes:
        clock.now += later
        rate.note(amount, seconds)
        seen = math.log(seconds / amount)
        if level is None:
            level = seen
        else:
            faded = max(1e-9, 2 ** (-later / 30))
            bound = math.log(4 / faded)
            off = seen - level
            side = 0 if abs(off) < bound else 1 if off > 0 else -1
            if side and side == before:
                level, before = seen, 0
            else:
                level += (1 - 0.75 * faded) * max(-bound, min(bound, off))
                before = side
        assert math.log(rate.seconds(1) or 0) == pytest.approx(level, abs=1e-6)
        assert rate.age == 0


def test_one_stall_changes_little_and_a_lasting_change_is_believed() -> None:
    rate = Rate(Clock())
    for _ in range(10):
        rate.note(1000, 1.0)
    rate.note(1000, 1000.0)
    assert not rate.settled
    assert rate.per_second == pytest.approx(1000 * 4**-0.25)
    rate.note(1000, 1000.0)
    assert rate.settled
    assert rate.per_second == pytest.approx(1)
    rate.note(1000, 1.0)  # a surprise on the other side is the first one again
    assert rate.per_second == pytest.approx(4**0.25)


def test_what_is_old_gives_way_to_what_is_new() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.note(1, 1.0)
    clock.now += 3600
    rate.note(1000, 1.0)
    assert rate.per_second == pytest.approx(1000)


# ---- the decision -------------------------------------------------------------------------------


def seconds_of_split(
    sizes: Sequence[int], count: int, *, trip: float, byte: float, block: float
) -> float:
    """What a prompt costs whose first so many blocks are fetched."""
    size = sum(sizes[:count])
    return (trip if size else 0.0) + size * byte + (len(sizes) - count) * block


@given(
    st.lists(st.integers(0, 50_000), max_size=24),
    st.floats(1e-5, 0.1),
    st.floats(1e3, 1e9),
    st.floats(1.0, 1e6),
)
def test_no_other_split_is_sooner_done(
    sizes: list[int], trip: float, bytes_per_second: float, tokens_per_second: float
) -> None:
    worth = Worth(Clock())
    worth.trips.note(1, trip)
    worth.bytes.note(bytes_per_second, 1.0)
    worth.tokens.note(tokens_per_second, 1.0)
    costs = [
        seconds_of_split(
            sizes, count, trip=trip, byte=1 / bytes_per_second, block=64 / tokens_per_second
        )
        for count in range(len(sizes) + 1)
    ]
    count = worth.blocks(sizes, 64)
    assert costs[count] <= min(costs) * (1 + 1e-9)
    # Who goes on from there goes no further, for the same reasons.
    plan = Plan(worth, 64, 5, sizes)
    assert plan.end(5) == 5 + count
    if any(sizes[:count]) or not any(sizes):
        rest = costs[count:]
        assert rest[plan.end(5 + count) - 5 - count] <= min(rest) * (1 + 1e-9) + trip


def test_large_blocks_behind_small_ones_are_computed() -> None:
    worth = Worth(Clock())
    worth.trips.note(1, 0.001)
    worth.bytes.note(1e6, 1.0)  # a microsecond a byte
    worth.tokens.note(64, 0.01)  # a block is worth 10,000 bytes
    assert worth.blocks([1000, 2000, 50_000, 40_000], 64) == 2
    assert worth.blocks([1000, 2000, 12_000, 1000], 64) == 4
    assert worth.blocks([0, 0, 50_000], 64) == 2  # what is near costs nothing
    assert worth.blocks([], 64) == 0


def test_before_both_speeds_are_measured_everything_is_fetched() -> None:
    for one, other in ((False, False), (True, False), (False, True)):
        worth = Worth(Clock())
        if one:
            worth.brought(1, 1000.0)
        if other:
            worth.computed(10**9, 1.0)
        assert worth.blocks([10**6] * 3, 64) == 3


def test_a_round_trip_is_not_taken_for_slow_bytes() -> None:
    worth = Worth(Clock())
    worth.asked(0.1)
    worth.brought(1_000_000, 0.2)
    assert worth.bytes.per_second == pytest.approx(1e7)
    assert worth.trips.seconds(1) == pytest.approx(0.1)


def test_now_and_then_a_little_is_fetched_to_see_whether_it_is_quick_again() -> None:
    clock = Clock()
    worth = Worth(clock)
    worth.computed(64, 0.01)
    sizes = [PROBE_BYTES // 2] * 5
    worth.brought(1000, 1.0)
    assert worth.blocks(sizes, 64) == 0
    clock.now += PROBE_SECONDS
    assert worth.blocks(sizes, 64) == 2
    assert worth.blocks(sizes, 64) == 0  # one at a time
    worth.brought(PROBE_BYTES, PROBE_BYTES / 1000)
    assert worth.blocks(sizes, 64) == 0  # as slow as ever
    clock.now += PROBE_SECONDS
    counts = []
    for _ in range(4):
        counts.append(worth.blocks(sizes, 64))
        worth.brought(PROBE_BYTES, PROBE_BYTES / 1e9)  # mended
    assert counts == [2, 2, 5, 5]


# ---- a store ------------------------------------------------------------------------------------


class Wire(BrokenTier):
    """A shared tier over a network of so many bytes a second, in the clock's time."""

    def __init__(self, clock: Clock, bytes_per_second: float = math.inf) -> None:
        super().__init__()
        self.broken = False
        self.clock, self.bytes_per_second = clock, bytes_per_second
        self.fetched: list[int] = []  # blocks of each call
        self.trips = 0

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        found = super().get_many(keys)
        size = sum(packed_bytes(record) for record in found if record)
        self.clock.now += 0.001 + size / self.bytes_per_second
        self.fetched.append(len(keys))
        return found

    def sizes_many(self, keys: Sequence[bytes]) -> list[int]:
        self._work()
        self.clock.now += 0.001
        self.trips += 1
        return [packed_bytes(self.records[key]) if key in self.records else 0 for key in keys]

    def delete_tagged(self, tags: bytes | None) -> int:
        self._work()
        gone = [key for key, record in self.records.items() if tags in (None, record.tags)]
        for key in gone:
            del self.records[key]
        return len(gone)


PROMPT = prompt_of(range(1, 41))


def store_over(wire: Wire, clock: Clock, **options: object) -> kv.KVStore:
    given = {"capacity_bytes": "1MiB", "model": "m", "shared": wire, "clock": clock} | options
    return kv.KVStore(LAYOUT, **given)  # type: ignore[arg-type]


def test_a_store_computes_what_a_slow_network_would_bring_later_and_counts_it() -> None:
    clock = Clock()
    wire = Wire(clock)
    with store_over(wire, clock) as one:
        save(one, PROMPT)
        one.flush()
        wire.bytes_per_second = 1000.0
        with store_over(wire, clock) as two:
            assert two.match_prefix(PROMPT) == len(PROMPT)
            assert load(two, PROMPT[: 2 * SIZE]) == 2 * SIZE  # nothing is measured yet
            two.observe(1000, 0.1)
            assert load(two, PROMPT) == 2 * SIZE  # from memory
            stats = two.stats()
            assert (stats.recomputed, stats.tokens_from_far) == (38, 2 * SIZE)
            assert wire.fetched == [2]
            assert save(two, PROMPT) == len(PROMPT)  # as the model does, and nobody brings it twice
            two.flush()
            far = two.stats().far
            assert far is not None
            assert far.written == 0
            assert far.bytes_per_second == pytest.approx(1000, rel=0.01)
            assert far.tokens_per_second == pytest.approx(10_000)
        with store_over(wire, clock) as three:
            three.observe(10, 10.0)  # a model so slow that the network is quick
            assert load(three, PROMPT) == load(three, PROMPT) == len(PROMPT)
            assert three.stats().recomputed == 0


def test_a_fetch_ends_where_the_network_turns_out_to_be_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    wire = Wire(clock)
    with store_over(wire, clock) as one:
        save(one, PROMPT)
        one.flush()
    wire.bytes_per_second = 1000.0
    with store_over(wire, clock) as two:
        two._levels._distant_portion = 10
        two.observe(1000, 0.1)
        assert load(two, PROMPT) == 10 * SIZE
        assert two.stats().recomputed == 30


def test_what_a_folder_has_is_not_asked_of_others(tmp_path: object) -> None:
    clock = Clock()
    wire = Wire(clock)
    with store_over(wire, clock, path=tmp_path) as one:
        save(one, PROMPT[: 10 * SIZE])
        one.flush()
    with store_over(wire, clock) as two:
        save(two, PROMPT)
        two.flush()
    with store_over(wire, clock, path=tmp_path) as three:
        assert load(three, PROMPT) == len(PROMPT)
        assert wire.fetched == [30]
        assert three.stats().tokens_from_far == 30 * SIZE
        assert three.stats().tokens_from_tier == 40 * SIZE


def test_a_shared_tier_that_fails_is_a_miss_and_a_counter() -> None:
    clock = Clock()
    wire = Wire(clock)
    wire.broken = True
    with store_over(wire, clock) as store:
        assert save(store, PROMPT) == len(PROMPT)
        store.flush()
        assert load(store, PROMPT) == len(PROMPT)
        assert load(store, prompt_of([77])) == 0
        far = store.stats().far
        assert far is not None
        assert far.failing
        assert far.dropped == 40
        assert far.failures >= 2
        assert store.stats().tier_failures == 0
        wire.broken = False
        save(store, PROMPT)  # what was dropped is offered again
        store.flush()
        assert len(wire.records) == 40
        far = store.stats().far
        assert far is not None
        assert not far.failing


def test_a_shared_tier_that_raises_anything_at_all_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(keys: Sequence[bytes]) -> list[int]:
        raise KeyError("a fault in it")

    clock = Clock()
    wire = Wire(clock)
    monkeypatch.setattr(wire, "sizes_many", wrong)
    with store_over(wire, clock) as store:
        save(store, PROMPT)
        store.flush()
        far = store.stats().far
        assert far is not None
        assert (far.dropped, far.written) == (40, 0)
        monkeypatch.undo()
        save(store, PROMPT)
        store.flush()
        assert len(wire.records) == 40


def test_without_a_model_nothing_is_shared() -> None:
    clock = Clock()
    wire = Wire(clock)
    with store_over(wire, clock, model=None) as store:
        save(store, PROMPT)
        store.flush()
        assert load(store, prompt_of([5])) == 0
        assert not wire.records
        assert wire.trips == 0
        assert store.bind("m")
        save(store, PROMPT)
        store.flush()
        assert len(wire.records) == 40


def test_a_full_queue_drops_and_holds_nobody_back() -> None:
    import threading

    class Stuck(Wire):
        gate = threading.Event()

        def sizes_many(self, keys: Sequence[bytes]) -> list[int]:
            assert self.gate.wait(30)
            raise TierUnavailable(Unavailable.TIMED_OUT, "stuck")

    clock = Clock()
    wire = Stuck(clock)
    with store_over(wire, clock, capacity_bytes="64KiB", path=None) as store:
        assert store._levels.below.far._most == 8 << 10
        save(store, PROMPT[: 20 * SIZE])  # returns, though nothing leaves
        far = store.stats().far
        assert far is not None
        assert 0 < far.queued_bytes <= 8 << 10
        assert far.dropped > 0
        wire.gate.set()
        store.flush()
        far = store.stats().far
        assert far is not None
        assert far.queued_bytes == 0
