"""Records on a device, over a tier of the host's: what comes back is what was put, or nothing.

The device is the host, in both of its orders: threads, and as late as events permit.
tests/test_cuda_tier_machine.py searches sequences of calls, tests/test_cuda_tier_gpu.py has a real device.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_blocks import LOST, OUT_OF_MEMORY, Block, DictTier, key_of, open_tier

from blatam_kv import cuda
from blatam_kv.cuda import probe
from blatam_kv.cuda.bus import Bus
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable, TierUnavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers.gpu import GpuTier


@pytest.fixture(params=[False, True], ids=["threads", "lazy"])
def lazy(request: pytest.FixtureRequest) -> Any:
    return request.param


def response(number: int, size: int = 3000, fill: int = 0) -> Record:
    payload = np.random.default_rng([number, size, fill]).bytes(size)
    return Record(key_of(number), Kind.RESPONSE, payload)


def payload_of(tier: Any, number: int) -> bytes | None:
    (record,) = tier.get_many([key_of(number)])
    return None if record is None else bytes(record.payload)


def test_what_leaves_the_device_is_below_as_it_was(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 16 << 10, lazy=lazy)
    records = [Block.of(number, "int4_kc", layers=1).record for number in range(6)]
    assert tier.put_many(records) == 6
    tier.flush()
    on_device = tier.stats().entries
    assert 0 < on_device < 6
    assert tier.stats().spilled == 6 - on_device
    assert sorted(below.records) == sorted(record.key for record in records[: 6 - on_device])
    for record in records:
        found = tier.get_many([record.key])[0]
        assert found is not None
        assert bytes(found.payload) == record.payload
        assert replace(found, payload=b"") == replace(record, payload=b"")
    tier.close()
    assert {key: record.payload for key, record in below.records.items()} == {
        record.key: record.payload for record in records
    }
    assert below.closed


def test_what_the_tier_below_has_already_is_not_written_again(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 8 << 10, lazy=lazy)
    below.put_many([response(number) for number in range(8)])
    for number in range(8):
        with tier.lend_many([key_of(number)]) as (blob,):
            assert blob is not None
    tier.close()
    assert tier.stats().promoted == 8
    assert tier.stats().spilled == 0


def test_a_put_replaces_the_older_record_wherever_it_is(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 8 << 10, lazy=lazy)
    for turn in range(4):
        tier.put_many([response(number, fill=turn) for number in range(5)])
        for number in range(5):
            assert payload_of(tier, number) == response(number, fill=turn).payload
    assert tier.delete_many([key_of(0), key_of(4), key_of(9)]) == 2
    assert tier.contains_many([key_of(number) for number in range(5)]) == [
        False,
        *[True] * 3,
        False,
    ]
    assert payload_of(tier, 0) is payload_of(tier, 4) is None
    tier.close()
    assert sorted(below.records) == [key_of(number) for number in (1, 2, 3)]


def test_what_is_pinned_stays_and_what_finds_no_room_goes_below(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 8 << 10, lazy=lazy)
    tier.put_many([response(0), response(1)])
    assert [tier.pin(key_of(number)) for number in (0, 1)] == [True, True]
    assert not tier.pin(key_of(7))
    assert tier.put_many([response(2), response(3, 100000)]) == 2
    assert tier.stats().passed == 2
    assert sorted(below.records) == [key_of(2), key_of(3)]
    assert [payload_of(tier, n) for n in (0, 1, 2)] == [response(n).payload for n in (0, 1, 2)]
    assert tier.unpin(key_of(0))
    tier.put_many([response(4)])
    tier.flush()
    assert key_of(0) in below.records
    assert key_of(4) not in below.records
    tier.close()


def test_a_lent_payload_stays_while_it_is_lent_even_if_it_is_deleted(lazy: bool) -> None:
    tier, _ = open_tier(DictTier(), 8 << 10, lazy=lazy)
    tier.put_many([response(0)])
    with tier.lend_many([key_of(0), key_of(1)]) as (blob, nothing):
        assert nothing is None
        assert blob is not None
        tier.delete_many([key_of(0)])
        tier.put_many([response(number) for number in range(1, 6)])
        lent = np.asarray(blob)
        assert lent.tobytes() == response(0).payload
        assert not lent.flags.writeable
        assert not hasattr(blob, "__cuda_array_interface__")
    assert payload_of(tier, 0) is None
    tier.close()


def test_bytes_that_change_on_the_device_are_a_miss_and_never_go_down(lazy: bool) -> None:
    below = DictTier()
    tier, bus = open_tier(below, 16 << 10, lazy=lazy)
    tier.put_many([response(0), response(1)])
    for number in (0, 1):
        resident = tier._memory.find(key_of(number))
        assert resident is not None
        bus.up([(b"\xff" * 8, resident.piece, 100)])
    assert payload_of(tier, 0) is None
    assert tier.contains_many([key_of(0)]) == [False]
    tier.close()
    assert tier.stats().damaged == 2
    assert below.records == {}


def test_a_block_that_is_damaged_does_not_go_up() -> None:
    tier, _ = open_tier(DictTier())
    record = Block.of(1, "int8").record
    for at in (0, 41, 70, len(record.payload) - 80):
        payload = bytearray(record.payload)
        payload[at] ^= 1
        assert tier.put_many([replace(record, payload=bytes(payload))]) == 0
    assert tier.put_many([replace(record, payload=record.payload[:-64])]) == 0
    assert tier.stats().damaged == 5
    assert tier.stats().entries == 0
    assert tier.put_many([record]) == 1
    tier.close()


def test_expired_records_are_misses() -> None:
    below, now = DictTier(), [1000.0]
    bus = Bus(1 << 16, device=-1, buffers=2, buffer_bytes=4096)
    tier = GpuTier(below, capacity_bytes=1 << 16, bus=bus, clock=lambda: now[0])
    tier.put_many([replace(response(0), expires_us=int(1010e6))])
    assert payload_of(tier, 0) == response(0).payload
    now[0] = 1010.0
    assert payload_of(tier, 0) is None
    assert tier.put_many([replace(response(1), expires_us=int(1010e6))]) == 0
    tier.close()


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_what_changes_while_it_comes_up_is_not_taken_for_what_it_was(change: str) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 8 << 10)
    below.put_many([response(0)])
    asked, answer = below.get_many, below.get_many([key_of(0)])

    def get_many(keys: Any) -> Any:
        below.get_many = asked  # type: ignore[method-assign]
        tier.delete_many([key_of(0)])
        if change == "replace":  # and sent below again
            tier.put_many([response(0, fill=1), response(1), response(2), response(3)])
            tier.flush()
        return answer

    below.get_many = get_many  # type: ignore[method-assign]
    with tier.lend_many([key_of(0)]):
        pass
    expected = response(0, fill=1).payload if change == "replace" else None
    assert payload_of(tier, 0) == expected
    tier.close()


def test_a_delete_waits_for_what_is_being_written_down() -> None:
    below = DictTier()
    tier, _ = open_tier(below, 4 << 10)
    writing, go_on, put_many = threading.Event(), threading.Event(), below.put_many

    def slow(records: Any, *, durable: bool = False) -> int:
        writing.set()
        go_on.wait()
        return put_many(records, durable=durable)

    below.put_many = slow  # type: ignore[method-assign]
    tier.put_many([response(0)])
    more = threading.Thread(target=tier.put_many, args=([response(1)],))
    more.start()
    writing.wait()
    gone = threading.Thread(target=tier.delete_many, args=([key_of(0)],))
    gone.start()
    gone.join(0.2)  # time for one that does not wait to be wrong
    go_on.set()
    for thread in (more, gone):
        thread.join()
    assert payload_of(tier, 0) is None
    tier.close()
    assert sorted(below.records) == [key_of(1)]


def test_durable_is_below_when_the_put_returns() -> None:
    below = DictTier()
    tier, _ = open_tier(below)
    assert tier.put_many([response(0)], durable=True) == 1
    assert below.records[key_of(0)].payload == response(0).payload
    assert tier.stats().entries == 1
    tier.close()
    assert tier.stats().spilled == 0


# ---- trouble ------------------------------------------------------------------------------------


def test_a_lost_device_is_a_miss_and_the_tier_below_goes_on(lazy: bool) -> None:
    below = DictTier()
    tier, bus = open_tier(below, 8 << 10, lazy=lazy)
    tier.put_many([response(number) for number in range(5)])
    tier.flush()
    gone = [number for number in range(5) if key_of(number) not in below.records]
    bus.fail_after(0, LOST, forever=True)
    for number in range(5):
        expected = None if number in gone else response(number).payload
        assert payload_of(tier, number) == expected
    assert tier.put_many([response(9)]) == 1
    assert payload_of(tier, 9) == response(9).payload
    assert below.records[key_of(9)].payload == response(9).payload
    assert "CUDA error 700" in str(tier.stats().lost)
    assert tier.stats().entries == 0
    with pytest.raises(DeviceUnavailable) as caught, tier.lend_many([key_of(9)]):
        pass
    assert caught.value.reason is DeviceTrouble.LOST
    tier.close()


def test_a_put_that_the_device_refuses_goes_below_and_the_older_one_is_gone(lazy: bool) -> None:
    below = DictTier()
    tier, bus = open_tier(below, lazy=lazy)
    tier.put_many([response(0)])
    bus.fail_after(0, OUT_OF_MEMORY, forever=False)
    assert tier.put_many([response(0, fill=1)]) == 1
    assert payload_of(tier, 0) == response(0, fill=1).payload
    assert tier.stats().failures == 1
    assert tier.stats().lost is None
    assert below.records[key_of(0)].payload == response(0, fill=1).payload
    tier.close()


def test_a_tier_below_that_fails_loses_what_leaves_and_says_so(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 8 << 10, lazy=lazy)
    tier.put_many([response(0), response(1)])
    below.failing = True
    with pytest.raises(TierUnavailable):
        tier.put_many([response(2)])
    tier.flush()
    below.failing = False
    assert payload_of(tier, 2) is None
    tier.close()
    assert tier.stats().dropped == 1


def test_a_tier_below_that_raises_anything_at_all_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(records: object, *, durable: bool = False) -> int:
        raise KeyError("a fault in it")

    below = DictTier()
    tier, _ = open_tier(below, 8 << 10)
    tier.put_many([response(0), response(1)])
    monkeypatch.setattr(below, "put_many", wrong)
    tier.put_many([response(2)])
    tier.flush()
    assert tier.stats().dropped == 1
    monkeypatch.undo()
    tier.put_many([response(3)])
    tier.flush()
    tier.close()
    assert len(below.records) == 3


def test_a_gpu_that_is_not_there_is_an_error_and_auto_says_what_is_missing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "there is no GPU today; everything runs on the CPU"
    absent = cuda.Status(True, ("80",), None, 0, DeviceTrouble.NO_DEVICE, reason)
    monkeypatch.setattr(probe, "status", lambda: absent)
    with pytest.raises(DeviceUnavailable, match="no GPU today") as caught:
        GpuTier(DictTier(), capacity_bytes=1 << 16, device=0)
    assert caught.value.reason is DeviceTrouble.NO_DEVICE
    with GpuTier(DictTier(), capacity_bytes=1 << 16) as tier:
        assert tier.device == -1
        assert tier.reason == reason
        assert reason in caplog.text
        tier.put_many([response(0)])
        assert payload_of(tier, 0) == response(0).payload


def test_options_that_do_not_fit_are_refused() -> None:
    for options, error in (
        ({"device": "cuda"}, ConfigError),
        ({"device": -2}, ConfigError),
        ({"device": True}, ConfigError),
        ({"capacity_bytes": 100}, ConfigError),
        ({"capacity_bytes": -1}, ConfigError),
        ({"capacity_bytes": "1GiB"}, TypeError),
        ({"buffers": 1}, ConfigError),
        ({"buffer_bytes": 100}, ConfigError),
        ({"policy": "best"}, ConfigError),
    ):
        given: dict[str, Any] = {"device": "host", "capacity_bytes": 1 << 16, **options}
        with pytest.raises(error):
            GpuTier(DictTier(), **given)
    bus = Bus(1 << 16, device=-1)
    bus.fail_after(0, OUT_OF_MEMORY, forever=True)
    with pytest.raises(DeviceUnavailable) as caught:
        bus.up([])
    assert caught.value.reason is DeviceTrouble.OUT_OF_MEMORY


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # 3.12's
def test_a_closed_tier_and_one_from_before_a_fork_say_so() -> None:
    tier, _ = open_tier(DictTier())
    if (child := os.fork()) == 0:
        try:
            tier.get_many([key_of(0)])
        except TierUnavailable:
            tier.close()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tier.close()
    tier.close()
    for call in (lambda: tier.get_many([]), lambda: tier.put_many([])):
        with pytest.raises(TierUnavailable, match="closed"):
            call()


def test_threads_see_only_what_was_put_under_their_keys() -> None:
    tier, _ = open_tier(DictTier(), 24 << 10)
    wrong: list[object] = []

    def work(which: int) -> None:
        random = np.random.default_rng(which)
        held: dict[int, bytes] = {}
        for _ in range(60):
            number = which + 4 * int(random.integers(4))
            action = random.integers(4)
            if action == 0:
                tier.delete_many([key_of(number)])
                held.pop(number, None)
            elif action == 1:
                if payload_of(tier, number) != held.get(number):
                    wrong.append(number)
            else:
                record = response(number, int(random.integers(1, 6000)), int(random.integers(99)))
                tier.put_many([record])
                held[number] = bytes(record.payload)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tier.close()
    assert not wrong
