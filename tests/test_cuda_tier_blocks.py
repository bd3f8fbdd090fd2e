"""Blocks between a GPU tier and an engine's paged cache: what the CPU decodes, layer by layer."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from device_blocks import (
    DIM,
    HEADS,
    LAYERS,
    LOST,
    TAGS,
    TOKENS,
    Block,
    DictTier,
    Engine,
    key_of,
    open_tier,
    some_slots,
)

import blatam_kv as kv
from blatam_kv import codecs, cuda
from blatam_kv.cuda.cuts import Cuts
from blatam_kv.errors import (
    CorruptBlob,
    DeviceTrouble,
    DeviceUnavailable,
    InvalidRequest,
    NoRoom,
    Unsupported,
)
from blatam_kv.record import Kind, Record

Array = npt.NDArray[Any]


# Without a kernel; the name of the last one is too long for a record (docs/FORMAT.md).
HOSTED = sorted(set(codecs.NAMES) - set(cuda.CODECS) - {"int8_per_token_head"})


@pytest.fixture(params=[False, True], ids=["threads", "lazy"])
def lazy(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("codec", [*cuda.CODECS, *HOSTED])
def test_an_engine_gets_what_the_cpu_decodes_from_the_device_and_from_below(
    lazy: bool, codec: str
) -> None:
    below = DictTier()
    tier, _ = open_tier(below, lazy=lazy)
    blocks = [Block.of(number, codec) for number in range(4)]
    tier.put_many([block.record for block in blocks[:2]])
    below.put_many([block.record for block in blocks[2:]])
    keys, slots = [block.record.key for block in blocks], some_slots(4)
    for turn in range(2):
        engine = Engine()
        with tier.load_layers(keys, engine.cache, slots) as load:
            assert load.blocks == 4
            for layer in range(LAYERS):
                assert load.wait(layer) == 4
                for block, row in zip(blocks, slots, strict=True):
                    expected = block.decoded()[2 * layer : 2 * layer + 2]
                    np.testing.assert_array_equal(engine.layer(layer, row), expected)
            assert load.finish() == 4
        untouched = np.setdiff1d(np.arange(8 * TOKENS), slots)
        assert (engine.tokens(untouched) == 0x7FC1).all()
        # What the host decodes need not come up.
        promoted = 2 if codec in cuda.CODECS else 0
        assert tier.stats().promoted == promoted
        assert tier.stats().entries == 2 + promoted, turn
    tier.close()
    assert tier.stats().spilled == 2


@pytest.mark.parametrize("codec", ["raw", "int8", "int4_kc", "exp4", *HOSTED])
def test_what_is_encoded_on_the_device_is_what_the_cpu_encodes(lazy: bool, codec: str) -> None:
    below = DictTier()
    tier, _ = open_tier(below, 96 << 10, lazy=lazy)
    engine, slots, blocks = (
        Engine(),
        some_slots(5),
        [Block.of(number, codec) for number in range(5)],
    )
    for layer in range(LAYERS):
        for half, part in enumerate(("keys", "values")):
            flat = engine.tensors[layer][half].reshape(-1, HEADS, DIM)
            for block, row in zip(blocks, slots, strict=True):
                flat[row] = getattr(block, part)[layer]
    stored = tier.save_blocks(
        [block.record.key for block in blocks], engine.cache, slots, codec=codec, tags=TAGS,
        tokens=[bytes(block.record.tokens) for block in blocks],
    )  # fmt: skip
    assert stored == 5
    for tensor in engine.tensors:
        tensor[:] = 0  # it is the engine's again
    for block in blocks:
        (record,) = tier.get_many([block.record.key])
        assert record is not None
        assert bytes(record.payload) == block.record.payload
        assert replace(record, payload=b"", created_us=0) == replace(block.record, payload=b"")
    tier.close()
    assert len(below.records) == 5


@pytest.mark.parametrize("codec", ["k4v3", "int4_rot", "tq3", "exp_huff"])
def test_heads_that_no_kernel_turns_are_the_hosts_blobs_and_come_back(
    lazy: bool, codec: str
) -> None:
    """With tokens left out: keys by page take the page's first token for them."""
    random = np.random.default_rng(3)
    layers = [random.standard_normal((2, 3, 64, 1, 1040)).astype(np.float16) for _ in range(2)]
    cache = cuda.PagedCache.of(layers, "vllm_nhd")
    slots = random.permutation(3 * 64)[:140].reshape(2, 70)
    slots[0, :5] = slots[1, 66] = slots[1, 30] = -1
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=70, seed=9)
    assert not plan.has_kernels
    payloads = np.zeros(plan.bytes_for(2) + 64, np.uint8)
    payloads = payloads[-payloads.ctypes.data % 64 :][: plan.bytes_for(2)]
    report = np.zeros(plan.report_bytes(2) // 8, np.uint64)
    cuda.store(plan, slots, payloads=payloads, report=report)
    blobs = plan.seal(payloads, report, blocks=2)
    tier, _ = open_tier(DictTier(), 8 << 20, lazy=lazy)
    keys = [key_of(0), key_of(1)]
    assert (
        tier.save_blocks(keys, cache, slots, codec=codec, tags=TAGS, tokens=[b"", b""], seed=9) == 2
    )
    for record, row in zip(tier.get_many(keys), blobs, strict=True):
        assert record is not None
        cuts = Cuts.of(record.payload)
        view = memoryview(record.payload)
        for begin, size, blob in zip(cuts.begins, cuts.sizes, row, strict=True):
            assert blob is not None
            assert bytes(view[int(begin) - 64 : int(begin + size)]) == blob.tobytes()
    expected = [layer.copy() for layer in layers]
    cuda.fetch(plan, slots, payloads=payloads, report=report)  # the host's own way back
    for layer, before in zip(layers, expected, strict=True):
        before[:], layer[:] = layer.copy(), before
    with tier.load_layers(keys, cache, slots, seed=9) as load:
        assert load.finish() == 2
    for layer, wanted in zip(layers, expected, strict=True):
        np.testing.assert_array_equal(layer, wanted)
    tier.close()


def test_nan_and_infinities_are_never_too_many_for_a_codec_without_a_kernel(lazy: bool) -> None:
    tier, _ = open_tier(DictTier(), lazy=lazy)
    engine, slots = Engine(), some_slots(1)  # full of NaN
    for codec, stored in (("int8", 0), ("exp_huff", 1), ("q8_0", 1)):
        assert stored == tier.save_blocks(
            [key_of(0)], engine.cache, slots, codec=codec, tags=TAGS, tokens=[b""]
        )
        if stored:
            (record,) = tier.get_many([key_of(0)])
            assert record is not None
            wanted = kv.quantize(
                np.full((TOKENS, HEADS, DIM), 0x7FC1, np.uint16), codec=codec, dtype="bfloat16"
            ).tobytes()
            assert bytes(record.payload)[: len(wanted)][64:] == wanted[64:]
    tier.close()


def test_damage_of_a_codec_without_a_kernel_is_found_wherever_it_is(lazy: bool) -> None:
    below = DictTier()
    tier, bus = open_tier(below, lazy=lazy)
    on_device, under = (Block.of(number, "exp_huff").record for number in range(2))
    tier.put_many([on_device])
    payload = bytearray(under.payload)
    payload[int(Cuts.of(payload).begins[3]) + 100] ^= 1
    below.put_many([replace(under, payload=bytes(payload))])
    with (
        tier.load_layers([key_of(0), key_of(1)], Engine().cache, some_slots(2)) as load,
        pytest.raises(CorruptBlob),
    ):
        load.finish()
    assert tier.contains_many([key_of(0), key_of(1)]) == [True, False]
    resident = tier._memory.find(key_of(0))
    assert resident is not None
    bus.up([(b"\xff" * 8, resident.piece, 200)])
    with (
        tier.load_layers([key_of(0)], Engine().cache, some_slots(1)) as load,
        pytest.raises(CorruptBlob),
    ):
        load.finish()
    assert tier.contains_many([key_of(0)]) == [False]
    assert tier.stats().damaged == 2
    tier.close()


def test_as_many_blocks_come_as_follow_one_another(lazy: bool) -> None:
    below = DictTier()
    tier, _ = open_tier(below, lazy=lazy)
    blocks = [Block.of(number, "int8") for number in range(6)]
    below.put_many([block.record for block in blocks if block.record.key != key_of(3)])
    keys = [block.record.key for block in blocks]
    for given, expected in ((keys, 3), (keys[3:], 0), ([], 0), (keys[4:], 2)):
        engine, slots = Engine(), some_slots(len(given))
        with tier.load_layers(given, engine.cache, slots) as load:
            assert load.blocks == expected
            assert load.finish() == expected
        for block, row in zip(blocks[4:] if given == keys[4:] else blocks, slots[:expected]):  # noqa: B905
            np.testing.assert_array_equal(engine.tokens(row), block.decoded())
        assert (engine.tokens(slots[expected:].ravel()) == 0x7FC1).all()
    tier.close()


def test_blocks_of_something_else_do_not_come() -> None:
    below = DictTier()
    tier, _ = open_tier(below)
    good = Block.of(0, "int8")
    below.put_many([good.record])
    for number, record in enumerate(
        (
            Block.of(1, "int4").record,
            Block.of(1, "int8", layers=2).record,
            Block.of(1, "int8", tokens=32).record,
            Record(key_of(1), Kind.RESPONSE, good.record.payload),
            Record(key_of(1), Kind.BLOCK, good.record.payload, codec="int4"),
        ),
        1,
    ):
        below.records[key_of(1)] = replace(record, key=key_of(1))
        with tier.load_layers([key_of(0), key_of(1)], Engine().cache, some_slots(2)) as load:
            assert load.finish() == 1
        assert tier.stats().foreign == number
    tier.close()


def test_a_block_that_was_damaged_below_is_found_before_its_layer_is_believed(lazy: bool) -> None:
    for layer in range(LAYERS):
        below = DictTier()
        tier, _ = open_tier(below, lazy=lazy)
        blocks = [Block.of(number, "int8") for number in range(2)]
        payload = bytearray(blocks[1].record.payload)
        payload[len(payload) // LAYERS * layer + 200] ^= 4
        below.put_many([blocks[0].record, replace(blocks[1].record, payload=bytes(payload))])
        keys, slots, engine = [key_of(0), key_of(1)], some_slots(2), Engine()
        with tier.load_layers(keys, engine.cache, slots) as load:
            with pytest.raises(CorruptBlob):
                load.finish()
            for sound in range(layer):
                load.wait(sound)
                for block, row in zip(blocks, slots, strict=True):
                    expected = block.decoded()[2 * sound : 2 * sound + 2]
                    np.testing.assert_array_equal(engine.layer(sound, row), expected)
            with pytest.raises(CorruptBlob):
                load.wait(layer)
        assert (engine.layer(layer, slots[1]) == 0x7FC1).all()
        assert sorted(below.records) == [key_of(0)]
        assert tier.contains_many(keys) == [True, False]
        assert tier.stats().damaged == 1
        tier.close()


def test_damage_that_only_the_kernel_can_see_fails_the_load(lazy: bool) -> None:
    tier, bus = open_tier(DictTier(), lazy=lazy)
    block = Block.of(0, "exp4")
    tier.put_many([block.record])
    resident = tier._memory.find(key_of(0))
    assert resident is not None
    bus.up([(b"\xff", resident.piece, 64)])  # no encoder begins a payload like this
    with (
        tier.load_layers([key_of(0)], Engine().cache, some_slots(1)) as load,
        pytest.raises(CorruptBlob, match="block 0"),
    ):
        load.finish()
    assert tier.contains_many([key_of(0)]) == [False]
    tier.close()


def test_slots_that_do_not_fit_are_refused_before_anything_is_queued() -> None:
    tier, _ = open_tier(DictTier())
    tier.put_many([Block.of(0, "int8").record])
    engine, good = Engine(), some_slots(1)
    last = 8 * TOKENS
    for slots, words in (
        (np.where(good == good[0, 3], last, good), f"below {last}"),
        (np.where(good == good[0, 3], -2, good), f"below {last}"),
        (np.where(good == good[0, 3], 2**40, good), f"below {last}"),
        (np.where(good == good[0, 3], good[0, 4], good), "named twice"),
        (good[0], "shape"),
        (np.vstack([good, good]), "shape"),
        (good.astype(np.float32), "float32"),
        (["slots"], "shape"),
    ):
        with pytest.raises(InvalidRequest, match=words) as caught:
            tier.load_layers([key_of(0)], engine.cache, slots)
        assert caught.value.field == "slots"
    assert all((tensor == 0x7FC1).all() for tensor in engine.tensors)
    skipped = np.where(np.arange(TOKENS) % 3 == 0, -1, good[0])[None]
    with tier.load_layers([key_of(0)], engine.cache, skipped) as load:
        load.finish()
    np.testing.assert_array_equal(
        engine.tokens(good[0]),
        np.where(skipped[0][None, :, None, None] < 0, 0x7FC1, Block.of(0, "int8").decoded()),
    )
    tier.close()


def test_a_cache_that_does_not_fit_is_refused() -> None:
    tier, _ = open_tier(DictTier())
    tier.put_many([Block.of(0, "int8").record])
    engine, slots = Engine(), some_slots(1)
    elsewhere = replace(engine.cache, device=1)
    with pytest.raises(InvalidRequest, match="on device 1"):
        tier.load_layers([key_of(0)], elsewhere, slots)
    kinds: tuple[cuda.Kind, cuda.Kind] = ("key", "value")
    halves = [
        cuda.PagedCache.of(
            [tensor[half] for tensor in engine.tensors], "sglang_paged", kind=kind,
            element="bfloat16",
        )
        for half, kind in enumerate(kinds)
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match="paired"):
        tier.load_layers([key_of(0)], halves[0], slots)
    with pytest.raises(InvalidRequest, match="the first must hold keys"):
        cuda.PagedCache.paired(*reversed(halves))
    with pytest.raises(InvalidRequest, match="pass like with like"):
        cuda.PagedCache.paired(halves[0], replace(halves[1], slots=7))
    with pytest.raises(InvalidRequest, match="pass like with like"):
        cuda.PagedCache.paired(halves[0], replace(halves[1], bases=halves[1].bases[:2]))
    assert cuda.PagedCache.paired(*halves).bases == engine.cache.bases
    with pytest.raises(InvalidRequest, match="0 blocks of tokens for 1 keys"):
        tier.save_blocks([key_of(1)], engine.cache, slots, codec="int8", tags=TAGS, tokens=[])
    with pytest.raises(Unsupported, match=r"zip.*exp_huff"):
        tier.save_blocks([key_of(1)], engine.cache, slots, codec="zip", tags=TAGS, tokens=[b""])
    assert tier.stats().puts == 1
    tier.close()


def test_a_layer_that_is_not_there_is_an_index_error() -> None:
    tier, _ = open_tier(DictTier())
    tier.put_many([Block.of(0, "raw").record])
    load = tier.load_layers([key_of(0)], Engine().cache, some_slots(1))
    load.finish()
    for layer in (-1, LAYERS):
        with pytest.raises(IndexError, match="layers go from 0 to 2"):
            load.wait(layer)
    load.close()
    assert load.wait(LAYERS - 1) == 1
    tier.close()


def test_pins_that_leave_no_room_are_said(lazy: bool) -> None:
    below = DictTier()
    size = len(Block.of(0, "raw").record.payload)
    tier, _ = open_tier(below, 2 * (size + 256), lazy=lazy)
    tier.put_many([Block.of(number, "raw").record for number in range(2)])
    below.put_many([Block.of(2, "raw").record])
    for number in range(2):
        assert tier.pin(key_of(number))
    keys = [key_of(number) for number in (0, 2)]
    with pytest.raises(NoRoom, match="unpin"):
        tier.load_layers([*keys, *keys], Engine().cache, some_slots(4))
    tier.close()


@pytest.mark.parametrize("forever", [False, True])
def test_a_device_that_fails_in_the_middle_is_an_error_and_never_a_wrong_block(
    lazy: bool, forever: bool
) -> None:
    blocks = [Block.of(number, "int8") for number in range(3)]
    finished, reasons = 0, set()
    for calls in range(0, 300, 7):
        below = DictTier()
        tier, bus = open_tier(below, lazy=lazy)
        below.put_many([block.record for block in blocks])
        keys, slots, engine = [block.record.key for block in blocks], some_slots(3), Engine()
        bus.fail_after(calls, LOST, forever=forever)
        try:
            with tier.load_layers(keys, engine.cache, slots) as load:
                for layer in range(LAYERS):
                    load.wait(layer)
                    for block, row in zip(blocks, slots, strict=True):
                        expected = block.decoded()[2 * layer : 2 * layer + 2]
                        np.testing.assert_array_equal(engine.layer(layer, row), expected)
                load.finish()
                finished += 1
        except DeviceUnavailable as error:
            reasons.add(error.reason)
            assert tier.stats().failures > 0
        for block in blocks:  # the host's own are as they were
            (record,) = tier.get_many([block.record.key])
            assert record is not None
            assert bytes(record.payload) == block.record.payload
        tier.close()
    assert 0 < finished < 43
    assert reasons == {DeviceTrouble.LOST}


def test_what_was_queued_of_a_layer_that_failed_is_waited_for_as_well() -> None:
    """Keys and values are a launch each here; the second may fail when the first is under way."""
    blocks = [Block.of(number, "k8v4") for number in range(3)]
    keys, slots = [block.record.key for block in blocks], some_slots(3)
    looked = 0
    for calls in range(300):
        below = DictTier()
        tier, bus = open_tier(below, lazy=True)
        below.put_many([block.record for block in blocks])
        engine = Engine()
        bus.fail_after(calls, LOST, forever=False)
        try:
            load = tier.load_layers(keys, engine.cache, slots)
            with suppress(DeviceUnavailable):
                load.finish()
            load.close()
        except DeviceUnavailable:
            tier.close()
            continue
        looked += 1
        before = [tensor.copy() for tensor in engine.tensors]
        tier.close()  # whatever is still queued is done now
        for tensor, was in zip(engine.tensors, before, strict=True):
            np.testing.assert_array_equal(tensor, was)
    assert looked > 50


def test_the_pages_example_runs() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "CUDA.md").read_text()
    example = re.search(r"```python\n([^`]*GpuTier[^`]*)```", page)
    assert example
    names: dict[str, Any] = {}
    exec(example[1], names)
    assert names["tier"].stats().puts == 3
    assert names["load"].blocks == 3
