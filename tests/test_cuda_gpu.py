"""The kernels on a GPU: the same blobs as on the host, for every codec, layout and element.

``./run gpu`` runs this where there is a GPU and torch 2.10 or newer; elsewhere every test skips,
which test_cuda_status.py looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import codecs_golden
import numpy as np
import numpy.typing as npt
import pytest
from codecs_inputs import HEAD_DIMS, ODD_HEAD_DIMS

from blatam_kv import cuda
from blatam_kv.errors import InvalidRequest

pytestmark = pytest.mark.gpu
Array = npt.NDArray[Any]
ELEMENTS = ("bfloat16", "float16", "fp8_e4m3", "fp8_e5m2")
SIZES = {"kv": 2, "layer": 3, "block": 9, "token": 16, "slot": 144, "head": 2, "dim": 128,
         "run": 16, "part": 8}  # fmt: skip


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    cuda.status().require()
    return torch


def blobs_of(
    cache: cuda.PagedCache,
    slots: Any,
    codec: str,
    new: Any,
    seed: int,
    by: cuda.Route | None = None,
) -> list[bytes]:
    """What ``store`` makes; ``new`` makes memory where the cache is, and brings it to numpy."""
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=slots.shape[1], seed=seed, spare=1 << 16)
    blocks = slots.shape[0]
    payloads, report = new(plan.bytes_for(blocks)), new(plan.report_bytes(blocks))
    cuda.store(plan, slots, payloads=payloads, report=report, by=by)
    rows = plan.seal(new.back(payloads), new.back(report), blocks=blocks)
    return [blob.tobytes() for row in rows for blob in row if blob is not None]


class OnHost:
    def __call__(self, size: int) -> Array:
        room = np.zeros(size + 64, np.uint8)
        return room[-room.ctypes.data % 64 :][:size]

    def back(self, memory: Array) -> Array:
        return memory


class OnGpu:
    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def __call__(self, size: int) -> Any:
        return self.torch.zeros(size, dtype=self.torch.uint8, device="cuda")

    def back(self, memory: Any) -> Any:
        return memory.cpu().numpy()


def twins(torch: Any, layout: str, element: str, sizes: dict[str, int], seed: int) -> Any:
    """The same cache on the GPU and on the host, with any bits."""
    axes = cuda.LAYOUTS[layout].split()
    shape = [{**SIZES, **sizes}[axis] for axis in axes]
    kind = np.uint8 if element.startswith("fp8") else np.uint16
    random = np.random.default_rng(seed)
    host = [random.integers(0, np.iinfo(kind).max + 1, shape, kind) for _ in range(2)]
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16,
             "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[element]  # fmt: skip
    there = [torch.from_numpy(x.view(x.dtype.str.replace("u", "i"))).cuda().view(dtype)
             for x in host]  # fmt: skip
    which: cuda.Kind | None = None if "kv" in axes else "key"
    return (
        there, cuda.PagedCache.of(there, layout, kind=which),
        host, cuda.PagedCache.of(host, layout, kind=which, element=element),
    )  # fmt: skip


@pytest.mark.parametrize("codec", cuda.CODECS)
@pytest.mark.parametrize("layout", cuda.LAYOUTS)
def test_blobs_are_the_hosts_in_every_layout(torch: Any, layout: str, codec: str) -> None:
    for element in ELEMENTS:
        _, device, _, host = twins(torch, layout, element, {}, 1)
        slots = np.random.default_rng(2).permutation(144)[:140].reshape(2, 70)
        slots[1, 3] = -1
        found = blobs_of(device, torch.from_numpy(slots).cuda(), codec, OnGpu(torch), 5)
        assert found == blobs_of(host, slots, codec, OnHost(), 5)


@pytest.mark.parametrize("codec", cuda.CODECS)
@pytest.mark.parametrize("dim", [*HEAD_DIMS, *ODD_HEAD_DIMS])
def test_blobs_are_the_hosts_for_every_head_size(torch: Any, dim: int, codec: str) -> None:
    _, device, _, host = twins(torch, "vllm_hnd", "bfloat16", {"dim": dim}, dim)
    slots = np.random.default_rng(3).permutation(144)[:66].reshape(1, 66)
    found = blobs_of(device, torch.from_numpy(slots).cuda(), codec, OnGpu(torch), 6)
    assert found == blobs_of(host, slots, codec, OnHost(), 6)


@pytest.mark.parametrize("codec", [codec for codec in cuda.CODECS if codec != "exp4"])
def test_golden_vectors(torch: Any, codec: str) -> None:
    vectors = np.load(codecs_golden.PATH)
    for dtype in ("bfloat16", "float16"):
        x = torch.from_numpy(vectors[f"input/{dtype}"].view(np.int16)).cuda()
        cache = cuda.PagedCache.of([x.view(getattr(torch, dtype))], "sglang", kind="key")
        slots = torch.arange(len(x), device="cuda")[None]
        (blob,) = blobs_of(cache, slots, codec, OnGpu(torch), codecs_golden.SEED)
        golden = vectors[f"blob/{codec}/key/{dtype}"].tobytes()
        assert blob[64:] == golden[64:]


@pytest.mark.parametrize("codec", cuda.CODECS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_what_is_fetched_is_what_the_host_fetches(torch: Any, element: str, codec: str) -> None:
    there, device, here, host = twins(torch, "vllm_nhd", element, {}, 4)
    slots = np.random.default_rng(5).permutation(144)[:140].reshape(2, 70)
    slots[0, 9] = -1
    plan = cuda.Arrangement.of(host, codec=codec, tokens=70, spare=1 << 16)
    payloads, report = OnHost()(plan.bytes_for(2)), OnHost()(plan.report_bytes(2))
    cuda.store(plan, slots, payloads=payloads, report=report)
    plan.seal(payloads, report, blocks=2)
    on_gpu = cuda.Arrangement.of(device, codec=codec, tokens=70, spare=1 << 16)
    moved = [torch.from_numpy(x.copy()).cuda() for x in (payloads, report)]
    for tensor in (*there, *here):
        tensor.view(torch.uint8).zero_() if tensor in there else tensor.fill(0)
    cuda.fetch(plan, slots, payloads=payloads, report=report)
    cuda.fetch(on_gpu, torch.from_numpy(slots).cuda(), payloads=moved[0], report=moved[1])
    on_gpu.check_fetched(moved[1].cpu().numpy(), blocks=2)
    for a, b in zip(there, here, strict=True):
        np.testing.assert_array_equal(
            a.view(torch.uint8).cpu().numpy().ravel(), b.view(np.uint8).ravel()
        )


def test_work_is_ordered_by_the_stream_it_is_given(torch: Any) -> None:
    x = torch.zeros((64, 64, 8, 128), dtype=torch.bfloat16, device="cuda")
    cache = cuda.PagedCache.of([x], "sglang_paged", kind="value")
    plan = cuda.Arrangement.of(cache, codec="raw", tokens=64)
    slots = torch.arange(4096, device="cuda").reshape(64, 64)
    payloads = torch.zeros(plan.bytes_for(64), dtype=torch.uint8, device="cuda")
    report = torch.zeros(plan.report_bytes(64), dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(20):
            x.fill_(i)
            cuda.store(plan, slots, payloads=payloads, report=report)
            held = payloads[64:66].view(torch.bfloat16).clone()
    stream.synchronize()
    assert held.item() == 19
    cuda.store(plan, slots, payloads=payloads, report=report, stream=stream.cuda_stream)


def test_a_slot_out_of_range_and_memory_elsewhere_are_refused(torch: Any) -> None:
    x = torch.zeros((4, 16, 2, 64), dtype=torch.bfloat16, device="cuda")
    cache = cuda.PagedCache.of([x], "sglang_paged", kind="value")
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=4)
    new = OnGpu(torch)
    payloads, report = new(plan.bytes_for(1)), new(plan.report_bytes(1))
    slots = torch.tensor([[0, 1, 64, 3]], device="cuda")
    cuda.store(plan, slots, payloads=payloads, report=report)
    with pytest.raises(InvalidRequest, match="below 64"):
        plan.seal(new.back(payloads), new.back(report), blocks=1)
    with pytest.raises(InvalidRequest, match="the host"):
        cuda.store(plan, slots.cpu(), payloads=payloads, report=report)


# ---- at length ----------------------------------------------------------------------------------

MANY = 100_000_000  # values; test_cuda_routes.py compares fewer, without a GPU


@pytest.mark.parametrize("codec", cuda.CODECS)
def test_a_hundred_million_values_have_the_bits_of_the_hosts_codecs(torch: Any, codec: str) -> None:
    """Ordinary values, outliers, and a NaN or infinity now and then."""
    heads, dim, tokens = 8, 128, 64
    blocks = -(-MANY // (tokens * heads * dim))
    random = torch.Generator(device="cuda").manual_seed(7)
    x = torch.randn((blocks * tokens, heads, dim), generator=random, device="cuda")
    x *= torch.rand((1, heads, dim), generator=random, device="cuda") * 20
    x.view(-1)[::1_000_003] = torch.inf
    there = x.to(torch.bfloat16)
    here = there.view(torch.int16).cpu().numpy().view(np.uint16)
    device = cuda.PagedCache.of([there], "sglang", kind="key")
    host = cuda.PagedCache.of([here], "sglang", kind="key", element="bfloat16")
    slots = np.random.default_rng(8).permutation(blocks * tokens).reshape(blocks, tokens)
    found = blobs_of(device, torch.from_numpy(slots).cuda(), codec, OnGpu(torch), 9)
    assert found == blobs_of(host, slots, codec, OnHost(), 9, cuda.Route.CODECS)


# ---- digests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("block_tokens", [1, 16, 24, 25, 64, 300])
def test_digests_are_the_hosts(torch: Any, dtype: str, block_tokens: int) -> None:
    random = np.random.default_rng(block_tokens)
    lengths = random.integers(0, 2000, 100)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(0, 2**31, begins[-1]).astype(dtype)
    parents = random.integers(0, 256, (100, 32), np.uint8)
    found = []
    moves: list[Callable[[Any], Any]] = [lambda x: x, lambda x: torch.from_numpy(x).cuda()]
    for move in moves:
        digests = move(np.zeros((100, 2000 // block_tokens, 32), np.uint8))
        counts = move(np.zeros(100, np.int64))
        cuda.chain_digests(
            move(ids), block_tokens=block_tokens, parents=move(parents), digests=digests,
            counts=counts, begins=move(begins), key=b"salt",
        )  # fmt: skip
        found.append(
            [x if isinstance(x, np.ndarray) else x.cpu().numpy() for x in (digests, counts)]
        )
    cuda.check_chained(found[1][1])
    for host, device in zip(*found, strict=True):
        np.testing.assert_array_equal(device, host)


def test_a_bad_id_and_a_bad_bound_on_the_device_are_named(torch: Any) -> None:
    ids = torch.arange(64, device="cuda")
    ids[20] = -1
    digests = torch.zeros((3, 2, 32), dtype=torch.uint8, device="cuda")
    counts = torch.zeros(3, dtype=torch.int64, device="cuda")
    begins = torch.tensor([0, 32, 64, 96], dtype=torch.int32, device="cuda")
    cuda.chain_digests(
        ids, block_tokens=16, parents=bytes(32), digests=digests, counts=counts, begins=begins
    )
    assert counts.tolist() == [-21, 2, -(2**63)]
    with pytest.raises(InvalidRequest, match="token 20 of sequence 0"):
        cuda.check_chained(counts.cpu())


# ---- without kernels ----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["q8_0", "exp_huff", "int4_kc"])
def test_the_hosts_codecs_serve_a_device_by_copies(torch: Any, codec: str) -> None:
    there, device, _, host = twins(torch, "vllm_nhd", "bfloat16", {}, 6)
    slots = np.random.default_rng(7).permutation(144)[:140].reshape(2, 70)
    new, by = OnGpu(torch), cuda.Route.CODECS
    moved = torch.from_numpy(slots).cuda()
    found = blobs_of(device, moved, codec, new, 5, by)
    assert found == blobs_of(host, slots, codec, OnHost(), 5)
    plan = cuda.Arrangement.of(device, codec=codec, tokens=70, seed=5, spare=1 << 16)
    payloads, report = new(plan.bytes_for(2)), new(plan.report_bytes(2))
    cuda.store(plan, moved, payloads=payloads, report=report, by=by)
    before = [x.clone() for x in there]
    cuda.fetch(plan, moved, payloads=payloads, report=report, by=by)
    plan.check_fetched(new.back(report), blocks=2)
    if codec == "exp_huff":
        assert all(torch.equal(a.view(torch.int16), b.view(torch.int16))
                   for a, b in zip(there, before, strict=True))  # fmt: skip
