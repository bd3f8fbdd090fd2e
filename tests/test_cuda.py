"""Paged caches to blobs and back: what ``store`` makes is what ``quantize`` makes of the same tokens.

All of this runs on the host, by the code that runs on a GPU. test_cuda_gpu.py does it on one,
test_cuda_routes.py by the host's codecs.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import codecs_golden
import numpy as np
import numpy.typing as npt
import pytest
from codecs_inputs import values, with_escapes
from hypothesis import given
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv import cuda
from blatam_kv.errors import CorruptBlob, InvalidRequest, Unsupported

Array = npt.NDArray[Any]
LANES = cuda.Route.LANES
ELEMENTS = ("bfloat16", "float16", "fp8_e4m3", "fp8_e5m2")
SIZES = {"kv": 2, "layer": 3, "block": 9, "token": 16, "slot": 144, "head": 2, "dim": 64}


def memory(size: int) -> npt.NDArray[np.uint8]:
    """Bytes that begin at a multiple of 64, as device memory does."""
    room = np.zeros(size + 64, np.uint8)
    return room[-room.ctypes.data % 64 :][:size]


def engine(
    layout: str, element: str, seed: int, sizes: dict[str, int] | None = None
) -> tuple[list[Array], cuda.PagedCache]:
    """Tensors of an engine of two layers (one, where a layout holds them all), any bits."""
    random = np.random.default_rng(seed)
    axes = cuda.LAYOUTS.get(layout, layout).split()
    sizes = {**SIZES, "run": 8, "part": 8, **(sizes or {})}
    shape = tuple(sizes[axis] for axis in axes)
    kind = np.uint8 if element.startswith("fp8") else np.uint16
    tensors = [
        random.integers(0, np.iinfo(kind).max + 1, shape, kind)
        for _ in range(1 if "layer" in axes else 2)
    ]
    which: cuda.Kind | None = None if "kv" in axes else "key"
    return tensors, cuda.PagedCache.of(tensors, layout, element=element, kind=which)


def tokens_of(tensor: Array, layout: str, slots: Array, layer: int, half: int) -> Array:
    """[tokens, heads, channels] in some slots, by numpy's own reordering."""
    axes = cuda.LAYOUTS.get(layout, layout).split()
    view = tensor
    for axis, at in (("layer", layer), ("kv", half)):
        if axis in axes:
            view = np.take(view, at, axis=axes.index(axis))
            axes = [other for other in axes if other != axis]
    if "head" not in axes:
        view, axes = view[..., None], [*axes, "head"]
    dims = ["dim"] if "dim" in axes else ["run", "part"]
    places = ["slot"] if "slot" in axes else ["block", "token"]
    view = view.transpose([axes.index(axis) for axis in (*places, "head", *dims)])
    flat = view.reshape(math.prod(view.shape[: len(places)]), view.shape[len(places)], -1)
    return np.ascontiguousarray(flat[slots])


# Bits of the exponent and of the mantissa, and the bias.
FP8 = {"fp8_e4m3": (4, 3, 7), "fp8_e5m2": (5, 2, 15)}


def as_bfloat16(x: Array, element: str) -> Array:
    """The bits of bfloat16 for those of fp8, by float64."""
    _, wide, bias = FP8[element]
    sign = np.where(x & 0x80, -1.0, 1.0)
    magnitude = (x & 0x7F).astype(int)
    exponent, mantissa = magnitude >> wide, (magnitude & ((1 << wide) - 1)).astype(float)
    step = 2.0 ** (np.maximum(exponent, 1) - bias - wide)
    number = sign * (mantissa + np.where(exponent > 0, 1 << wide, 0)) * step
    bits = (number.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    signs = (x & 0x80).astype(np.uint16) << 8
    if element == "fp8_e4m3":  # one NaN, no infinity
        return np.where(magnitude == 0x7F, 0x7FC0 | signs, bits).astype(np.uint16)
    special = 0x7F80 | signs | (x & 3).astype(np.uint16) << 5
    return np.where(magnitude >= 0x7C, special, bits).astype(np.uint16)


def nearest_fp8(x: Array, element: str) -> Array:
    """The fp8 nearest to finite bfloat16 numbers, ties to even, by looking at all of them."""
    codes = np.arange(0x7F if element == "fp8_e4m3" else 0x7C, dtype=np.uint8)
    numbers = values_of(as_bfloat16(codes, element))
    magnitudes = np.minimum(np.abs(values_of(x)), numbers[-1])
    distance = np.abs(magnitudes[:, None] - numbers[None])
    tied = distance == distance.min(axis=1)[:, None]
    even = np.where(tied, codes & 1, 2).argmin(axis=1)
    found: Array = (codes[even] | (x >> 8 & 0x80)).astype(np.uint8)
    return found


def values_of(x: Array) -> Array:
    """bfloat16 as float64."""
    numbers: Array = (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return numbers


@pytest.mark.parametrize("element", FP8)
def test_what_fp8_counts_as_and_what_becomes_of_it(element: str) -> None:
    patterns, cells = (
        np.frombuffer(table, kind)
        for table, kind in zip(
            kv._core.fp8_tables(ELEMENTS.index(element)), (np.uint16, np.uint8), strict=True
        )
    )
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(patterns, as_bfloat16(every, element))
    np.testing.assert_array_equal(cells[patterns], every)
    numbers = np.arange(65536, dtype=np.uint16)
    finite = (numbers & 0x7F80) != 0x7F80
    np.testing.assert_array_equal(cells[finite], nearest_fp8(numbers[finite], element))
    nan = (numbers & 0x7FFF) > 0x7F80
    greatest = 0x7F if element == "fp8_e4m3" else 0x7D
    assert ((cells[nan] & 0x7F) >= greatest).all()
    assert ((cells[nan] ^ (numbers[nan] >> 8)) & 0x80 == 0).all()
    infinite = np.array([0x7F80, 0xFF80])
    kept = [0x7E, 0xFE] if element == "fp8_e4m3" else [0x7C, 0xFC]
    assert cells[infinite].tolist() == kept


def stored(
    cache: cuda.PagedCache, slots: Array, codec: str, *, seed: int = 0, spare: int = 1 << 16
) -> tuple[cuda.Arrangement, Array, Array, list[list[Any]]]:
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=slots.shape[1], seed=seed, spare=spare)
    payloads, report = memory(plan.bytes_for(len(slots))), memory(plan.report_bytes(len(slots)))
    cuda.store(plan, slots, payloads=payloads, report=report, by=LANES)
    return plan, payloads, report, plan.seal(payloads, report, blocks=len(slots))


def expected_blob(x: Array, element: str, codec: str, kind: Any, seed: int) -> bytes:
    dtype = "float16" if element == "float16" else "bfloat16"
    x = as_bfloat16(x, element) if element in FP8 else x
    return kv.quantize(x, codec=codec, kind=kind, dtype=dtype, seed=seed).tobytes()


@pytest.mark.parametrize("codec", cuda.CODECS)
@pytest.mark.parametrize("layout", cuda.LAYOUTS)
def test_blobs_are_those_of_quantize_in_every_layout(layout: str, codec: str) -> None:
    for element in ELEMENTS:
        tensors, cache = engine(layout, element, 1)
        slots = np.random.default_rng(2).permutation(144)[:140].reshape(2, 70)
        _, _, _, blobs = stored(cache, slots, codec, seed=5)
        per_tensor = len(cache.bases) // len(tensors)
        halves = 2 if "kv" in cuda.LAYOUTS[layout].split() else 1
        for block, row in enumerate(blobs):
            for i, blob in enumerate(row):
                layer, half = divmod(i % per_tensor, halves)
                x = tokens_of(tensors[i // per_tensor], layout, slots[block], layer, half)
                kind = cache.kinds[i]
                assert blob.tobytes() == expected_blob(x, element, codec, kind, 5)


# The reference that wrote the file knows no lossless codec.
@pytest.mark.parametrize("codec", [codec for codec in cuda.CODECS if codec != "exp4"])
def test_golden_vectors(codec: str) -> None:
    vectors = np.load(codecs_golden.PATH)
    for dtype in ("bfloat16", "float16"):
        x = vectors[f"input/{dtype}"]
        for kind in ("key", "value"):
            name = f"blob/{codec}/{kind}/{dtype}"
            golden = vectors[name if name in vectors else f"blob/{codec}/key/{dtype}"]
            cache = cuda.PagedCache.of([x], "slot head dim", kind=kind, element=dtype)
            slots = np.arange(len(x))[None]
            _, _, _, ((blob,),) = stored(cache, slots, codec, seed=codecs_golden.SEED)
            same = blob.copy()
            same[7] = golden[7]  # kinds treated alike are in the file once
            same[60:64] = golden[60:64]
            assert same.tobytes() == golden.tobytes()


@pytest.mark.parametrize("codec", cuda.CODECS)
@given(
    heads=st.integers(1, 3),
    dim=st.integers(1, 140),
    block=st.integers(1, 40),
    tokens=st.integers(0, 70),
    blocks=st.integers(0, 3),
    element=st.sampled_from(["bfloat16", "float16"]),
    seed=st.integers(0, 2**32),
)
def test_what_was_stored_is_fetched_and_nothing_else_changes(
    codec: str, heads: int, dim: int, block: int, tokens: int, blocks: int, element: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (-(-(blocks * tokens + 1) // block), block, heads, dim)
    x = with_escapes(values("outliers", (shape[0] * block, heads, dim), element, seed), element,
                     2, seed).reshape(shape)  # fmt: skip
    cache = cuda.PagedCache.of([x], "sglang_paged", kind="key", element=element)
    slots = random.permutation(cache.slots)[: blocks * tokens].reshape(blocks, tokens)
    skipped = random.random(slots.shape) < 0.2
    slots[skipped] = -1
    plan, payloads, report, blobs = stored(cache, slots, codec, seed=seed)
    target = np.full_like(x, 0x1234)
    there = cuda.PagedCache.of([target], "sglang_paged", kind="key", element=element)
    plan = cuda.Arrangement.of(there, codec=codec, tokens=tokens, seed=seed, spare=1 << 16)
    plan.unseal(blobs, payloads, report)
    cuda.fetch(plan, slots, payloads=payloads, report=report, by=LANES)
    plan.check_fetched(report, blocks=blocks)
    flat, expected = target.reshape(-1, heads, dim), np.full_like(x, 0x1234).reshape(-1, heads, dim)
    for i, row in enumerate(slots):
        back = kv.dequantize(blobs[i][0]).view(np.uint16)
        expected[row[row >= 0]] = back[row >= 0]
    np.testing.assert_array_equal(flat, expected)


# ---- what goes wrong ----------------------------------------------------------------------------


def simple(codec: str = "int8", tokens: int = 4, **options: Any) -> SimpleNamespace:
    tensors, cache = engine("sglang_paged", "bfloat16", 1)
    tensors[0] &= 0xBFFF  # finite
    tensors[1] &= 0xBFFF
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=tokens, **options)
    return SimpleNamespace(
        tensors=tensors, cache=cache, plan=plan, slots=np.arange(2 * tokens).reshape(2, tokens),
        payloads=memory(plan.bytes_for(2)), report=memory(plan.report_bytes(2)),
    )  # fmt: skip


def run_store(s: SimpleNamespace) -> list[list[Any]]:
    cuda.store(s.plan, s.slots, payloads=s.payloads, report=s.report, by=LANES)
    blobs: list[list[Any]] = s.plan.seal(s.payloads, s.report, blocks=2)
    return blobs


@pytest.mark.parametrize("slot", [144, -2, 2**40, -(2**62)])
def test_a_slot_out_of_range_is_refused_and_never_read(slot: int) -> None:
    s = simple()
    s.slots[1, 2] = slot
    with pytest.raises(InvalidRequest, match="below 144"):
        run_store(s)
    s.slots[1, 2] = 0
    blobs = run_store(s)
    before = [tensor.copy() for tensor in s.tensors]
    s.plan.unseal(blobs, s.payloads, s.report)
    s.slots[1, 2] = slot
    cuda.fetch(s.plan, s.slots, payloads=s.payloads, report=s.report, by=LANES)
    with pytest.raises(InvalidRequest, match="below 144"):
        s.plan.check_fetched(s.report, blocks=2)
    for tensor, old in zip(s.tensors, before, strict=True):
        np.testing.assert_array_equal(tensor.reshape(144, -1)[8:], old.reshape(144, -1)[8:])


def test_escapes_beyond_the_spare_room_give_no_blob_and_the_others_stay_whole() -> None:
    s = simple(spare=64)
    s.tensors[1][0, 1] = 0x7FC0
    blobs = run_store(s)
    assert blobs[0][1] is None
    assert blobs[0][0].tobytes() == expected_blob(
        s.tensors[0].reshape(144, 2, 64)[:4], "bfloat16", "int8", "key", 0
    )
    assert blobs[1][1] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": np.zeros((2, 3), np.int64)}, "must be \\(blocks, 4\\)"),
        ({"slots": np.zeros((2, 4), np.int32)}, "must be int64"),
        ({"slots": np.zeros((4, 2), np.int64).T}, "contiguous"),
        ({"payloads": memory(100)}, "100 bytes"),
        ({"payloads": memory(1 << 16)[8:]}, "misaligned"),
        ({"report": memory(8)}, "8 bytes"),
        ({"report": memory(1 << 10)[4:]}, "misaligned"),
    ],
)
def test_memory_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    s = simple()
    for name, value in change.items():
        setattr(s, name, value)
    with pytest.raises(InvalidRequest, match=message):
        run_store(s)


def test_no_tokens_and_no_blocks_are_no_work() -> None:
    s = simple(tokens=0)
    s.slots = np.zeros((2, 0), np.int64)
    assert [len(blob) for row in run_store(s) for blob in row] == [64] * 4
    s.slots = np.zeros((0, 0), np.int64)
    cuda.store(s.plan, s.slots, payloads=s.payloads, report=s.report, by=LANES)
    assert s.plan.seal(s.payloads, s.report, blocks=0) == []


def test_sizes_beyond_what_an_index_holds_are_refused_by_name() -> None:
    _, cache = engine("sglang_paged", "bfloat16", 1)
    with pytest.raises(Unsupported, match="smaller blocks"):
        cuda.Arrangement.of(cache, codec="int8", tokens=2**30)
    with pytest.raises(InvalidRequest, match="tokens"):
        cuda.Arrangement.of(cache, codec="int8", tokens=2**31)
    with pytest.raises(InvalidRequest, match="spare"):
        cuda.Arrangement.of(cache, codec="int8", tokens=1, spare=-1)
    with pytest.raises(InvalidRequest, match="seed"):
        cuda.Arrangement.of(cache, codec="int8", tokens=1, seed=2**64)


def test_a_codec_that_does_not_exist_is_named_with_those_that_do() -> None:
    _, cache = engine("sglang_paged", "bfloat16", 1)
    with pytest.raises(Unsupported, match=r"no codec is called 'int5'; .*int8_kc"):
        cuda.Arrangement.of(cache, codec="int5", tokens=4)


@pytest.mark.parametrize("codec", cuda.CODECS)
def test_a_damaged_blob_is_never_fetched(codec: str) -> None:
    s = simple(codec)
    blobs = run_store(s)
    bad = blobs[1][0].copy()
    bad[70] ^= 1
    with pytest.raises(CorruptBlob):
        s.plan.unseal([blobs[0], [bad, blobs[1][1]]], s.payloads, s.report)


def test_a_blob_of_something_else_is_refused() -> None:
    s, other = simple("int8"), simple("int4")
    with pytest.raises(InvalidRequest, match="not \\('int8'"):
        s.plan.unseal(run_store(other), s.payloads, s.report)
    wide = kv.quantize(np.full((4, 2, 64), 0x7FC0, np.uint16), codec="int8", kind="key",
                       dtype="bfloat16")  # fmt: skip
    with pytest.raises(InvalidRequest, match="spare="):
        s.plan.unseal([[wide, wide]] * 2, s.payloads, s.report)
    with pytest.raises(InvalidRequest, match="1 blobs for 2 tensors"):
        s.plan.unseal([[wide]], s.payloads, s.report)


def sections(n: int, values_held: int) -> st.SearchStrategy[bytes]:
    index = st.integers(0, n + 2).map(lambda i: i.to_bytes(8, "little"))
    many = st.integers(0, 6).map(lambda i: i.to_bytes(8, "little"))
    return st.builds(
        lambda head, rows, tail: head + b"".join(rows) + tail,
        many, st.lists(index, max_size=5), st.binary(max_size=values_held),
    )  # fmt: skip


@pytest.mark.parametrize("codec", cuda.CODECS)
@given(data=st.data())
def test_a_section_of_escapes_is_read_as_the_cpu_reads_it(codec: str, data: st.DataObject) -> None:
    s = simple(codec, tokens=65, spare=2048)
    s.slots = s.slots[:1]
    cuda.store(s.plan, s.slots, payloads=s.payloads, report=s.report, by=LANES)
    (blobs,) = s.plan.seal(s.payloads, s.report, blocks=1)
    forged = np.frombuffer(blobs[0].tobytes() + data.draw(sections(130, 700)), np.uint8).copy()
    kv._core.seal_blob(forged, codec, True, "bfloat16", 65, 2, 64, 0, True)
    s.plan.unseal([[forged, blobs[1]]], s.payloads, s.report)
    cuda.fetch(s.plan, s.slots, payloads=s.payloads, report=s.report, by=LANES)
    try:
        expected = kv.dequantize(forged)
    except CorruptBlob:
        with pytest.raises(CorruptBlob):
            s.plan.check_fetched(s.report, blocks=1)
        return
    s.plan.check_fetched(s.report, blocks=1)
    np.testing.assert_array_equal(s.tensors[0].reshape(144, 2, 64)[:65], expected)


@given(data=st.data(), dtype=st.sampled_from(["bfloat16", "float16"]))
def test_a_changed_exp4_payload_is_read_as_the_cpu_reads_it(
    data: st.DataObject, dtype: str
) -> None:
    kind = data.draw(st.sampled_from(["normal", "bits", "zeros"]))
    x = values(kind, (20, 1, 72), dtype, data.draw(st.integers(0, 99)))
    blob = kv.quantize(x, codec="exp4", kind="key", dtype=dtype)
    changes = st.tuples(st.integers(64, len(blob) - 1), st.integers(0, 255))
    for at, byte in data.draw(st.lists(changes, max_size=3)):
        blob[64 + (at - 64) % min(len(blob) - 64, 1500)] = byte
    kv._core.seal_blob(blob, "exp4", True, dtype, 20, 1, 72, 0, True)
    target = np.zeros_like(x)
    cache = cuda.PagedCache.of([target], "slot head dim", kind="key", element=dtype)
    plan = cuda.Arrangement.of(cache, codec="exp4", tokens=20)
    payloads, report = memory(plan.bytes_for(1)), memory(plan.report_bytes(1))
    plan.unseal([[blob]], payloads, report)
    cuda.fetch(plan, np.arange(20)[None], payloads=payloads, report=report, by=LANES)
    try:
        expected = kv.dequantize(blob)
    except CorruptBlob:
        with pytest.raises(CorruptBlob):
            plan.check_fetched(report, blocks=1)
        return
    plan.check_fetched(report, blocks=1)
    np.testing.assert_array_equal(target, expected.view(np.uint16))
