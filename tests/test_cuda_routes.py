"""Who does the work: kernels, the same code lane by lane, or the host's codecs; all give the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codecs_inputs import values, with_escapes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda import ELEMENTS, FP8, SIZES, Array, as_bfloat16, engine, memory

import blatam_kv as kv
from blatam_kv import _core, codecs, cuda
from blatam_kv.cuda import Route, probe
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, InvalidRequest, Unsupported

BY_HOST_ONLY = tuple(codec for codec in codecs.NAMES if codec not in cuda.CODECS)


def faults_and_sizes(
    plan: cuda.Arrangement, report: Array, blocks: int
) -> list[tuple[Array, Array]]:
    return [(faults.copy(), sizes.copy()) for _, sizes, faults in plan.parts(report, blocks)]


def stored(plan: cuda.Arrangement, slots: Array, by: Route) -> tuple[Array, Array]:
    payloads, report = memory(plan.bytes_for(len(slots))), memory(plan.report_bytes(len(slots)))
    cuda.store(plan, slots, payloads=payloads, report=report, by=by)
    return payloads, report


@pytest.mark.parametrize("codec", cuda.CODECS)
@settings(max_examples=40)
@given(
    layout=st.sampled_from(sorted(cuda.LAYOUTS)),
    element=st.sampled_from(ELEMENTS),
    heads=st.integers(1, 3),
    runs=st.integers(1, 17),
    tokens=st.integers(0, 140),
    blocks=st.integers(0, 3),
    spare=st.sampled_from([0, 64, 1 << 16]),
    wild=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_codecs_and_lanes_store_and_fetch_the_same(
    codec: str, layout: str, element: str, heads: int, runs: int, tokens: int, blocks: int,
    spare: int, wild: bool, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    sizes = {"block": 27, "slot": 432, "head": heads, "dim": 8 * runs, "run": runs, "layer": 2}
    tensors, cache = engine(layout, element, seed, sizes)
    if not wild:  # ordinary numbers, and an escape now and then
        for tensor in tensors:
            tensor &= 0xBF if element in FP8 else 0xBFFF
            if element not in FP8 and random.random() < 0.5:
                tensor.reshape(-1)[random.integers(tensor.size)] = 0x7F80
    slots = random.permutation(cache.slots)[: blocks * tokens].reshape(blocks, tokens)
    slots[random.random(slots.shape) < 0.2] = -1
    outside = slots.copy()
    if slots.size:
        outside.reshape(-1)[random.integers(slots.size)] = random.choice([-2, cache.slots, 2**40])
    if random.random() < 0.2:
        slots = outside
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=tokens, seed=seed, spare=spare)
    found = {by: stored(plan, slots, by) for by in (Route.LANES, Route.CODECS)}
    reports = {by: faults_and_sizes(plan, report, blocks) for by, (_, report) in found.items()}
    for launch, lanes, codec_said in zip(
        plan.launches, reports[Route.LANES], reports[Route.CODECS], strict=True
    ):
        np.testing.assert_array_equal(lanes[0], codec_said[0])
        good = lanes[0] == 0
        np.testing.assert_array_equal(lanes[1][good], codec_said[1][good])
        for block, i in zip(*np.nonzero(good), strict=True):
            begin = block * plan.block_bytes + plan.offsets[launch.tensors[i]] + 64
            size = int(lanes[1][block, i])
            one, other = (payloads[begin : begin + size] for payloads, _ in found.values())
            assert one.tobytes() == other.tobytes()
    if any(faults.any() for faults, _ in reports[Route.LANES]):
        return  # nothing that may be believed
    if random.random() < 0.2:
        slots = outside
    after = []
    for by, (payloads, report) in found.items():
        for tensor in tensors:
            tensor[:] = 0x35
        for _, _, faults in plan.parts(report, blocks):
            faults[:] = 7  # what an earlier call left
        cuda.fetch(plan, slots, payloads=payloads, report=report, by=by)
        after.append(([t.tobytes() for t in tensors], [f.tolist() for f, _ in
                      faults_and_sizes(plan, report, blocks)]))  # fmt: skip
    assert after[0] == after[1]


@pytest.mark.parametrize("codec", BY_HOST_ONLY)
@pytest.mark.parametrize("element", ELEMENTS)
def test_a_codec_without_a_kernel_is_the_hosts(codec: str, element: str) -> None:
    tensors, cache = engine("vllm_nhd", element, 3)
    for tensor in tensors:
        tensor &= 0xBF if element in FP8 else 0xBFFF
    slots = np.random.default_rng(4).permutation(144)[:140].reshape(2, 70)
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=70, seed=5)
    assert not plan.has_kernels
    assert cuda.route(plan) is Route.CODECS
    payloads, report = memory(plan.bytes_for(2)), memory(plan.report_bytes(2))
    cuda.store(plan, slots, payloads=payloads, report=report)
    blobs = plan.seal(payloads, report, blocks=2)
    dtype = "float16" if element == "float16" else "bfloat16"
    for block, row in enumerate(blobs):
        for i, blob in enumerate(row):
            x = tensors[i // 2][i % 2].reshape(144, 2, 64)[slots[block]]
            x = as_bfloat16(x, element) if element in FP8 else x
            expected = kv.quantize(x, codec=codec, kind=cache.kinds[i], dtype=dtype, seed=5)
            assert blob is not None
            assert blob.tobytes() == expected.tobytes()
    with pytest.raises(InvalidRequest, match="by='lanes' cannot be chosen"):
        cuda.store(plan, slots, payloads=payloads, report=report, by=Route.LANES)
    plan.unseal(blobs, payloads, report)
    cuda.fetch(plan, slots, payloads=payloads, report=report)
    plan.check_fetched(report, blocks=2)
    if element == "bfloat16":
        x = tensors[0][0].reshape(144, 2, 64)[slots[1]]
        assert blobs[1][0] is not None
        np.testing.assert_array_equal(x, kv.dequantize(blobs[1][0]).view(np.uint16))


def test_rotated_heads_too_wide_for_a_warp_are_the_hosts() -> None:
    tensors, cache = engine("sglang_paged", "bfloat16", 1, {"block": 1, "token": 4, "dim": 1024})
    tensors[0] &= 0xBFFF
    tensors[1] &= 0xBFFF
    plan = cuda.Arrangement.of(cache, codec="int4_rot", tokens=4)
    assert not plan.has_kernels
    payloads, report = memory(plan.bytes_for(1)), memory(plan.report_bytes(1))
    cuda.store(plan, np.arange(4)[None], payloads=payloads, report=report)
    ((blob, _),) = plan.seal(payloads, report, blocks=1)
    assert blob is not None
    expected = kv.quantize(tensors[0][0], codec="int4_rot", kind="key", dtype="bfloat16")
    assert blob.tobytes() == expected.tobytes()


def test_damage_that_the_codecs_find_is_a_fault() -> None:
    tensors, cache = engine("sglang_paged", "bfloat16", 1)
    plan = cuda.Arrangement.of(cache, codec="exp4", tokens=8)
    payloads, report = memory(plan.bytes_for(1)), memory(plan.report_bytes(1))
    slots = np.arange(8)[None]
    cuda.store(plan, slots, payloads=payloads, report=report)
    payloads[64] = 1  # of tails, which 16-bit types have not
    before = tensors[0].copy()
    cuda.fetch(plan, slots, payloads=payloads, report=report)
    with pytest.raises(kv.errors.CorruptBlob):
        plan.check_fetched(report, blocks=1)
    np.testing.assert_array_equal(tensors[0], before)


def test_a_million_values_have_the_same_bits_by_lanes_and_by_codecs() -> None:
    """A smaller form of the hundred million that test_cuda_gpu.py compares on a GPU."""
    x = with_escapes(values("outliers", (2048, 8, 64), "bfloat16", 1), "bfloat16", 20, 2)
    cache = cuda.PagedCache.of([x], "sglang", kind="key", element="bfloat16")
    slots = np.random.default_rng(3).permutation(2048).reshape(32, 64)
    for codec in cuda.CODECS:
        plan = cuda.Arrangement.of(cache, codec=codec, tokens=64, spare=1 << 14)
        blobs = [
            plan.seal(*stored(plan, slots, by), blocks=32) for by in (Route.LANES, Route.CODECS)
        ]
        for rows in zip(*blobs, strict=True):
            one, other = (row[0] for row in rows)
            assert one is not None
            assert other is not None
            assert one.tobytes() == other.tobytes()


def test_every_codec_that_was_asked_for_has_kernels_for_every_element() -> None:
    asked = "raw exp4 int8 int8_kc k8v4 int4 int4_kc int4_rot tq4 tq3".split()
    for element in ELEMENTS:
        for dim in (64, 80, 96, 112, 120, 128, 192, 256, 512, 576):
            _, cache = engine("vllm_nhd", element, 1, {"block": 1, "dim": dim})
            for codec in asked:
                assert cuda.Arrangement.of(cache, codec=codec, tokens=64).has_kernels


def test_many_layers_are_one_launch() -> None:
    layers = [np.zeros((4, 16, 2, 64), np.uint16) for _ in range(150)]
    cache = cuda.PagedCache.of(layers, "sglang_paged", kind="key", element="bfloat16")
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=16)
    assert [len(launch.tensors) for launch in plan.launches] == [128, 22]
    halves = [np.zeros((2, 4, 16, 2, 64), np.uint16) for _ in range(64)]
    cache = cuda.PagedCache.of(halves, "vllm_nhd", element="bfloat16")
    for codec, launches in (("int8", 1), ("int4_kc", 2)):  # keys and values by two schemes
        plan = cuda.Arrangement.of(cache, codec=codec, tokens=16)
        assert len(plan.launches) == launches
        assert sum(len(launch.tensors) for launch in plan.launches) == 128


# ---- who does it --------------------------------------------------------------------------------

GOOD = cuda.Status(True, ("80",), "13.0", 1, None, None)
TROUBLES = [
    DeviceTrouble.NOT_BUILT,
    DeviceTrouble.NO_DRIVER,
    DeviceTrouble.DRIVER_TOO_OLD,
    DeviceTrouble.NO_DEVICE,
    DeviceTrouble.FAILED,
]


def status_of(trouble: DeviceTrouble | None) -> cuda.Status:
    if trouble is None:
        return GOOD
    return cuda.Status(False, (), None, 0, trouble, f"what is wrong: {trouble}")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Says of the tensors in it that they lie on device 0."""
    there: list[Any] = []
    described = _core.describe_memory

    def describe_memory(x: Any) -> Any:
        address, where, *rest = described(x)
        return address, 0 if any(x is tensor for tensor in there) else where, *rest

    monkeypatch.setattr(_core, "describe_memory", describe_memory)
    return there


def tensors_of(framework: str) -> list[Any]:
    arrays = [np.zeros((4, 16, 2, 64), np.uint16) for _ in range(2)]
    if framework == "numpy":
        return arrays
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) for x in arrays]


@pytest.mark.parametrize("trouble", [None, *TROUBLES])
@pytest.mark.parametrize("codec", ["int8", "q8_0"])
@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("where", ["host", "device"])
def test_the_table_of_routes(
    where: str, framework: str, codec: str, trouble: DeviceTrouble | None, device: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """docs/CUDA.md, "Who does the work"."""
    monkeypatch.setattr(probe, "status", lambda: status_of(trouble))
    tensors = tensors_of(framework)
    device += tensors if where == "device" else []
    element = "bfloat16" if framework == "numpy" else None
    cache = cuda.PagedCache.of(tensors, "sglang_paged", kind="key", element=element)
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=4)
    if where == "host":
        assert cuda.route(plan) is Route.CODECS
    elif codec == "int8" and trouble is None:
        assert cuda.route(plan) is Route.KERNELS
    elif framework == "torch":
        assert cuda.route(plan) is Route.CODECS
    elif codec == "q8_0":
        with pytest.raises(
            Unsupported, match=r"'q8_0' has no kernel.*only torch's tensors.*int8_kc"
        ):
            cuda.route(plan)
    else:
        with pytest.raises(DeviceUnavailable, match="what is wrong") as caught:
            cuda.route(plan)
        assert caught.value.reason is trouble


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("layout", sorted(cuda.LAYOUTS))
@pytest.mark.parametrize("codec", ["int4_kc", "exp_huff"])
def test_torchs_tensors_on_a_device_go_by_copies(
    codec: str, layout: str, element: str, device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(probe, "status", lambda: status_of(DeviceTrouble.NOT_BUILT))
    arrays, host = engine(layout, element, 9, {**SIZES, "run": 8})
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16,
             "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[element]  # fmt: skip
    tensors = [torch.from_numpy(x.copy().view(f"i{x.itemsize}")).view(dtype) for x in arrays]
    slots = torch.from_numpy(np.random.default_rng(2).permutation(144)[:140].reshape(2, 70))
    slots[1, 5] = -1
    device += [*tensors, slots]
    which: cuda.Kind | None = None if "kv" in cuda.LAYOUTS[layout].split() else "key"
    cache = cuda.PagedCache.of(tensors, layout, kind=which)
    assert cache.device == 0
    cache = replace(cache, owners=cache.owners[::-1])  # they may stand in any order
    found = []
    for where, tokens in ((host, slots.numpy()), (cache, slots)):
        plan = cuda.Arrangement.of(where, codec=codec, tokens=70, spare=1 << 16)
        payloads, report = memory(plan.bytes_for(2)), memory(plan.report_bytes(2))
        given: list[Any] = [payloads, report]
        if where is cache:
            given = [torch.from_numpy(x) for x in given]
            device += given
        cuda.store(plan, tokens, payloads=given[0], report=given[1])
        found.append([blob for row in plan.seal(payloads, report, blocks=2) for blob in row])
        for tensor in tensors if where is cache else arrays:
            raw = tensor.view(torch.uint8).numpy() if where is cache else tensor.view(np.uint8)
            raw[:] = 0x35
        cuda.fetch(plan, tokens, payloads=given[0], report=given[1])
        plan.check_fetched(report, blocks=2)
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert one.tobytes() == other.tobytes()
    for array, tensor in zip(arrays, tensors, strict=True):
        assert array.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def test_copies_need_all_of_the_memory_to_be_torchs(
    device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "status", lambda: status_of(DeviceTrouble.NO_DRIVER))
    tensors = tensors_of("torch")
    device += tensors
    plan = cuda.Arrangement.of(
        cuda.PagedCache.of(tensors, "sglang_paged", kind="key"), codec="int8", tokens=4
    )
    given = [np.zeros((1, 4), np.int64), memory(plan.bytes_for(1)), memory(plan.report_bytes(1))]
    device += given
    with pytest.raises(InvalidRequest, match="must be torch's tensors"):
        cuda.store(plan, given[0], payloads=given[1], report=given[2])


def test_a_read_only_cache_is_stored_and_never_fetched_into() -> None:
    x = np.zeros((16, 2, 64), np.uint16)
    x.flags.writeable = False
    cache = cuda.PagedCache.of([x], "sglang", kind="key", element="bfloat16")
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=4)
    payloads, report = memory(plan.bytes_for(1)), memory(plan.report_bytes(1))
    cuda.store(plan, np.arange(4)[None], payloads=payloads, report=report)
    for by in (Route.LANES, Route.CODECS):
        with pytest.raises(InvalidRequest, match="read-only"):
            cuda.fetch(plan, np.arange(4)[None], payloads=payloads, report=report, by=by)


# ---- sizes that 32 bits do not hold --------------------------------------------------------------


@pytest.mark.parametrize("by", [Route.LANES, Route.CODECS])
@pytest.mark.parametrize("codec", ["raw", "int8", "int4_kc", "int4_rot", "exp4"])
def test_addresses_have_64_bits(codec: str, by: Route, tmp_path: Path) -> None:
    """A cache of 12 GiB in a file of holes: only the pages that are touched exist."""
    shape = (3, 2**31 // (8 * 128 * 2), 2, 8, 128)
    x: Array = np.memmap(tmp_path / "cache", np.uint16, "w+", shape=shape)
    cache = cuda.PagedCache.of([x[0], x[2]], "block token head dim", kind="key", element="bfloat16")
    random = np.random.default_rng(1)
    slots = random.permutation(np.arange(cache.slots - 64, cache.slots))[None]
    for tensor in (x[0], x[2]):
        flat = tensor.reshape(-1, 8, 128)
        flat[-64:] = random.integers(0x3F00, 0x4000, (64, 8, 128), np.uint16)
    kept = [tensor.reshape(-1, 8, 128)[slots[0]].copy() for tensor in (x[0], x[2])]
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=64)
    payloads, report = stored(plan, slots, by)
    ((*blobs,),) = plan.seal(payloads, report, blocks=1)
    for blob, tensor in zip(blobs, kept, strict=True):
        assert blob is not None
        expected = kv.quantize(tensor, codec=codec, kind="key", dtype="bfloat16")
        assert blob.tobytes() == expected.tobytes()
    x[0].reshape(-1, 8, 128)[-64:] = 0
    cuda.fetch(plan, slots, payloads=payloads, report=report, by=by)
    plan.check_fetched(report, blocks=1)
    found = x[0].reshape(-1, 8, 128)[slots[0]]
    assert blobs[0] is not None
    np.testing.assert_array_equal(found, kv.dequantize(blobs[0]).view(np.uint16))
    assert not x[0].reshape(-1, 8, 128)[:64].any()
