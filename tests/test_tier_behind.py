"""Writing behind, beside a dict: what waits is seen, what is refused is not, and order is kept."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tier_fakes import KEYS, Values, contents, key_of, open_tier, record_of

from blatam_kv import ConfigError, InvalidRequest, TierUnavailable
from blatam_kv.errors import Unavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import WriteBehind


class SlowTier:
    """A dict whose puts wait while the gate is shut and fail while it is broken."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.order: list[bytes] = []
        self.durable: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken: Unavailable | None = None
        self.wrong: Exception | None = None  # raised by puts, deletions and looks alike
        self.closed = False

    def _work(self) -> None:
        assert self.gate.wait(30)
        if self.broken is not None:
            raise TierUnavailable(self.broken, "broken")
        if self.wrong is not None:
            raise self.wrong

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        return [self.records.get(key) for key in keys]

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        self._work()
        new = list(records)
        for record in new:
            self.records[record.key] = record
            self.order.append(bytes(record.payload))
            self.durable.append(durable)
        return len(new)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        self._work()
        return sum(self.records.pop(key, None) is not None for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        if self.wrong is not None:
            raise self.wrong
        return [key in self.records for key in keys]

    def close(self) -> None:
        self.closed = True


@contextmanager
def shut(tier: SlowTier) -> Iterator[None]:
    tier.gate.clear()
    try:
        yield
    finally:
        tier.gate.set()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "durable", "break", "mend", "flush"]),
        st.integers(0, 4),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(STEPS)
@example([("put", 0), ("break", 0), ("put", 0), ("delete", 0)])  # the newer value waits no more
@example([("put", 0), ("break", 0), ("put", 0), ("mend", 0)])  # nothing is written before the end
def test_answers_are_those_of_a_dict_whatever_the_tier_does(steps: list[tuple[str, int]]) -> None:
    below = SlowTier()
    model: dict[bytes, set[bytes | None]] = {key: {None} for key in KEYS}
    with WriteBehind(below, queue_bytes=2000) as tier:
        for at, (step, number) in enumerate(steps):
            key, value = key_of(number), f"{at}".encode()
            refused = {None} if below.broken else set()
            if step == "break":
                tier.flush()
                below.broken = Unavailable.NO_SPACE
            elif step == "mend":
                tier.flush()
                below.broken = None
            elif step == "flush":
                tier.flush()
            elif step == "put":
                assert tier.put_many([record_of(number, value)]) == 1
                model[key] = {value} | refused  # dropped: a miss, never the older value
            else:
                try:
                    if step == "delete":
                        tier.delete_many([key])
                        model[key] = {None}
                    else:
                        tier.put_many([record_of(number, value)], durable=True)
                        model[key] = {value}
                except TierUnavailable:
                    assert below.broken
                    model[key] = model[key] | {None} if step == "delete" else {None}
            with tier.borrow_many(KEYS) as lent:
                for name, *records in zip(KEYS, tier.get_many(KEYS), lent, strict=True):
                    for record in records:
                        answer = None if record is None else bytes(record.payload)
                        assert answer in model[name]
            known = tier.contains_many(KEYS)
            assert all(
                there or None in model[name] for name, there in zip(KEYS, known, strict=True)
            )
    if below.broken is None:
        held = {key: record.payload for key, record in below.records.items()}
        assert all(held.get(key) in model[key] for key in KEYS)
    assert below.closed


def test_a_put_returns_before_it_is_written_and_is_seen_at_once() -> None:
    below = SlowTier()
    with WriteBehind(below) as tier:
        with shut(below):
            tier.put_many([record_of(1, b"one"), record_of(2, b"two")])
            assert contents(tier, KEYS) == {key_of(1): b"one", key_of(2): b"two"}
            assert tier.contains_many([key_of(1), key_of(3)]) == [True, False]
            assert tier.stats().queued == 2
            assert not below.records
        tier.flush()
        assert below.order == [b"one", b"two"]
        stats = tier.stats()
        assert (stats.queued, stats.queued_bytes, stats.written) == (0, 0, 2)


def test_a_value_that_is_replaced_while_it_waits_is_never_written() -> None:
    below = SlowTier()
    with WriteBehind(below) as tier:
        with shut(below):
            tier.put_many([record_of(0, b"first")])  # the thread takes it and waits at the gate
            while tier._waiting:
                threading.Event().wait(0.001)
            for value in (b"a", b"b", b"c"):
                tier.put_many([record_of(1, value)])
        tier.flush()
        assert below.order == [b"first", b"c"]
        assert tier.stats().replaced == 2


def test_a_full_queue_holds_the_caller_back() -> None:
    below = SlowTier()
    done = threading.Event()
    with WriteBehind(below, queue_bytes=1000) as tier:

        def put() -> None:
            for number in range(20):
                tier.put_many([record_of(number, bytes(100))])
            done.set()

        with shut(below):
            thread = threading.Thread(target=put)
            thread.start()
            while not tier.stats().waits:
                threading.Event().wait(0.001)
            assert not done.is_set()
            assert tier.stats().queued_bytes <= 1000
        thread.join()
        tier.put_many([record_of(50, bytes(5000))])  # larger than the queue: alone
        tier.flush()
        assert len(below.records) == 21


def test_a_deletion_is_done_when_it_returns() -> None:
    below = SlowTier()
    with WriteBehind(below) as tier:
        tier.put_many([record_of(1, b"one")])
        tier.flush()
        tier.put_many([record_of(1, b"newer"), record_of(2, b"two")])
        assert tier.delete_many([key_of(1), key_of(2), key_of(3)]) == 2
        assert not below.records
        assert contents(tier, KEYS) == {}


@pytest.mark.parametrize("waits", ["flush", "put"])
def test_who_waits_for_what_is_deleted_instead_of_written_goes_on(
    monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    with monkeypatch.context() as patched:  # the thread that writes comes late
        patched.setattr(threading.Thread, "start", lambda thread: None)
        tier = WriteBehind(SlowTier(), queue_bytes=500)
    tier.put_many([record_of(1, bytes(300))])
    call = tier.flush if waits == "flush" else lambda: tier.put_many([record_of(2, bytes(300))])
    waiter = threading.Thread(target=call, daemon=True)
    waiter.start()
    while not tier._moved._waiters:  # type: ignore[attr-defined]  # of the standard library
        threading.Event().wait(0.001)
    tier.delete_many([key_of(1)])
    waiter.join(60)
    assert not waiter.is_alive()
    tier._thread.start()
    tier.close()


def test_durable_waits_for_the_tier_and_raises_what_it_raises() -> None:
    below = SlowTier()
    with WriteBehind(below) as tier:
        with shut(below):
            tier.put_many([record_of(1, b"older")])
        tier.put_many([record_of(1, b"newer")], durable=True)
        assert below.records[key_of(1)].payload == b"newer"
        assert below.durable[-1]
        below.broken = Unavailable.NO_SPACE
        with pytest.raises(TierUnavailable) as caught:
            tier.put_many([record_of(1, b"newest")], durable=True)
        assert caught.value.reason is Unavailable.NO_SPACE
        assert contents(tier, KEYS) == {}  # not the value before either
        below.broken = None


def test_what_a_full_disk_refuses_is_a_miss_until_it_has_room_again() -> None:
    below = SlowTier()
    with WriteBehind(below) as tier:
        tier.put_many([record_of(1, b"old"), record_of(2, b"kept")])
        tier.flush()
        below.broken = Unavailable.NO_SPACE
        tier.put_many([record_of(1, b"new")])
        tier.flush()
        assert contents(tier, KEYS) == {key_of(2): b"kept"}
        assert tier.contains_many([key_of(1)]) == [False]
        stats = tier.stats()
        assert (stats.dropped, stats.lost, stats.failing) == (1, 1, Unavailable.NO_SPACE)
        below.broken = None
        tier.put_many([record_of(3, b"after")])
        tier.flush()
        while tier.stats().lost:
            threading.Event().wait(0.001)
        assert key_of(1) not in below.records
        assert tier.stats().failing is None


@pytest.mark.parametrize("wrong", [OSError("cable"), ConfigError("no"), KeyError("a fault in it")])
def test_a_tier_that_raises_anything_at_all_holds_nobody_up(wrong: Exception) -> None:
    slow = SlowTier()
    with WriteBehind(slow) as tier:
        tier.put_many([record_of(0, b"1")], durable=True)
        slow.wrong = wrong
        tier.put_many([record_of(0, b"2"), record_of(1, b"2")])
        tier.flush()
        assert tier.stats().dropped == 2
        assert tier.get_many([key_of(0), key_of(1)]) == [None, None]  # not the older one
        slow.wrong = None
        tier.put_many([record_of(2, b"3")])
        tier.flush()
        assert tier.contains_many([key_of(0), key_of(1), key_of(2)]) == [False, False, True]
    assert set(slow.records) == {key_of(2)}  # what was lost has been buried


def test_a_payload_that_the_caller_changes_is_not_changed() -> None:
    below = SlowTier()
    payload = bytearray(b"before")
    with WriteBehind(below) as tier:
        with shut(below):
            tier.put_many([record_of(1, payload)])  # type: ignore[arg-type]
            payload[:] = b"after!"
        tier.flush()
        assert below.records[key_of(1)].payload == b"before"


def test_wrong_records_are_refused_at_the_put() -> None:
    with WriteBehind(SlowTier()) as tier:
        with pytest.raises(InvalidRequest, match="key"):
            tier.put_many([Record(b"short", Kind.RESPONSE)])
        with pytest.raises(ConfigError, match="delete_many"):
            tier.put_many([Record(key_of(1), Kind.TOMBSTONE)])
    tier.close()
    for call in (lambda: tier.get_many(KEYS), lambda: tier.put_many([]), tier.flush):
        with pytest.raises(TierUnavailable, match="closed"):
            call()
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="queue_bytes"):
            WriteBehind(SlowTier(), queue_bytes=wrong)
    with pytest.raises(TypeError, match="queue_bytes"):
        WriteBehind(SlowTier(), queue_bytes="1GiB")  # type: ignore[arg-type]


def test_threads_see_their_own_last_put(tmp_path: Path) -> None:
    wrong: list[Any] = []
    with WriteBehind(open_tier(tmp_path, segment_bytes=16 << 10), queue_bytes=5000) as tier:

        def work(seed: int) -> None:
            try:
                for at in range(400):
                    key, value = key_of(seed), f"{seed} {at} ".encode() * 20
                    tier.put_many([record_of(seed, value)], durable=at % 50 == 0)
                    if contents(tier, [key]) != {key: value}:
                        wrong.append((seed, at))
                    if at % 30 == 7 and tier.delete_many([key]) != 1:
                        wrong.append((seed, at, "delete"))
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last: Values = {key_of(n): f"{n} 399 ".encode() * 20 for n in range(4)}
        assert contents(tier, KEYS) == last
    assert not wrong
    with open_tier(tmp_path) as below:
        assert contents(below, KEYS) == last


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_tier_behind import SlowTier, WriteBehind, TierUnavailable, record_of
tier = WriteBehind(SlowTier())
if (child := os.fork()) == 0:
    try:
        tier.put_many([record_of(1, b"x")])
    except TierUnavailable as error:
        os._exit(0 if "forked" in str(error) else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
tier.put_many([record_of(1, b"x")])
tier.close()
"""


def test_a_forked_child_is_told_to_open_its_own() -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, here], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
