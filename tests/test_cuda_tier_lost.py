"""A device that is lost at any call: nothing hangs, what is below is found, and what is said names the
way out. CUDA's sticky errors are such: after one no call of the process succeeds, to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device_blocks import LOST, TAGS, Block, DictTier, Engine, key_of, open_tier, some_slots

from blatam_kv.errors import DeviceTrouble, DeviceUnavailable

PATIENCE_SECONDS = 120.0
CODECS = ("int8", "k8v4", "exp_huff")  # one launch, two, and none but raw
BROKEN = 1000 + 1  # an error of CUDA after which others go on


def within_patience(work: Callable[[], None]) -> None:
    """Do it in a thread, which fails the test if it never ends."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "it hangs"
    if failures:
        raise failures[0]


def everything(
    tier: Any, below: DictTier, blocks: list[Block], engine: Engine, said: set[str]
) -> None:
    """Every call there is; what raises DeviceUnavailable is noted."""
    keys, slots = [block.record.key for block in blocks], some_slots(3)
    for tensor in engine.tensors:
        tensor[:] = 0

    def put() -> None:
        assert tier.put_many([blocks[0].record]) == 1

    def save() -> None:
        codec = blocks[0].record.codec
        tier.save_blocks([key_of(7)], engine.cache, slots[:1], codec=codec, tags=TAGS, tokens=[b""])

    def load() -> None:
        with tier.load_layers(keys, engine.cache, slots) as load:
            load.wait(0)
            load.finish()

    def lend() -> None:
        with tier.lend_many(keys):
            pass

    for call in (put, save, load, lend, lambda: tier.get_many(keys), tier.flush):
        try:
            call()
        except DeviceUnavailable as error:
            said.add(str(error))
    for block in blocks[1:]:  # the host's own are found in any case, and are whole
        (record,) = tier.get_many([block.record.key])
        assert record is not None
        assert bytes(record.payload) == block.record.payload


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lazy", [False, True], ids=["threads", "lazy"])
def test_a_device_lost_at_any_call_hangs_nothing_and_loses_nothing_below(
    lazy: bool, codec: str
) -> None:
    blocks = [Block.of(number, codec) for number in range(3)]
    said: set[str] = set()
    for calls in range(0, 300, 13):
        below = DictTier()
        below.put_many([block.record for block in blocks[1:]])
        tier, bus = open_tier(below, 128 << 10, lazy=lazy)
        bus.fail_after(calls, LOST, forever=True)
        engine = Engine()  # until the tier is closed: what was queued before the loss may go on
        within_patience(
            lambda t=tier, b=below, e=engine: everything(t, b, blocks, e, said)  # type: ignore[misc]
        )
        lost = tier.stats().lost
        within_patience(tier.close)
        assert below.closed
        assert set(below.records) >= {block.record.key for block in blocks[1:]}
        if lost is not None:
            assert tier.stats().entries == 0
    assert said
    assert all("restart it" in text for text in said), said


def test_a_bus_that_is_broken_is_left_alone_and_says_what_to_do() -> None:
    """Work that could not be marked: the device goes on, this tier's memory may not be used again."""
    broken = 0
    for calls in range(0, 60):
        below = DictTier()
        tier, bus = open_tier(below)
        bus.fail_after(calls, BROKEN, forever=False)
        record = Block.of(0, "int8").record
        tier.put_many([record])
        tier.get_many([record.key])
        if not bus.broken:
            tier.close()
            continue
        broken += 1
        with pytest.raises(DeviceUnavailable, match="close it and open another") as caught:
            tier.load_layers([record.key], Engine().cache, some_slots(1))
        assert caught.value.reason is DeviceTrouble.FAILED
        assert tier.stats().entries == 0
        assert tier.contains_many([record.key]) == below.contains_many([record.key])
        tier.put_many([record])  # which goes below
        (found,) = tier.get_many([record.key])
        assert found is not None
        assert np.array_equal(np.frombuffer(found.payload, np.uint8), list(record.payload))
        within_patience(tier.close)
    assert broken
