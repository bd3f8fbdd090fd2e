"""What is wrong gets its typed error before anything is queued: one table for arguments, one for CUDA.

The checks of csrc/cuda/plan.cc are asked through the native call too, with plans that no Python
object would give.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cuda import engine, memory

import blatam_kv as kv
from blatam_kv import _core, cuda
from blatam_kv.cuda import probe
from blatam_kv.errors import CorruptBlob, DeviceTrouble, InvalidRequest, Unsupported

ROOT = Path(__file__).resolve().parent.parent
TOKENS, BLOCKS = 4, 2


def job(**change: Any) -> int:
    """The code of a job that would be well but for the change."""
    given: dict[str, Any] = {
        "store": True, "scheme": 1, "element": 0, "shape": (TOKENS, 2, 64), "cache": (16, 64, 64),
        "strides": (4096, 256, 128, 0), "seed": 0, "blocks": BLOCKS, "tensors": None,
        "memory": None, "block_stride": 4096, "payload_room": 4096,
    } | change  # fmt: skip
    cache = memory(64 * 256)
    held = [memory(8 * TOKENS * BLOCKS), memory(4096 * BLOCKS), memory(8 * BLOCKS),
            memory(4 * BLOCKS)]  # fmt: skip
    base, payload, off = given.pop("base", 0), given.pop("payload", 0), given.pop("off", (0,) * 4)
    if given["tensors"] is None:
        given["tensors"] = np.array([[cache.ctypes.data + base, payload]], np.uint64)
    given["memory"] = tuple(x.ctypes.data + at for x, at in zip(held, off, strict=True))
    return _core.run_paged(*given.values())


OK, SHAPE, TOO_LARGE, MISALIGNED, ROOM, UNSUPPORTED, OVERLAP = range(7)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, OK),
        ({"blocks": 0}, OK),
        ({"shape": (0, 2, 64)}, OK),
        ({"tensors": np.zeros((0, 2), np.uint64)}, OK),
        # sizes
        ({"shape": (TOKENS, 0, 64)}, SHAPE),
        ({"shape": (TOKENS, 2, 0)}, SHAPE),
        ({"cache": (0, 64, 64)}, SHAPE),
        ({"cache": (16, 0, 64)}, SHAPE),
        ({"shape": (2**31, 2, 64)}, TOO_LARGE),
        ({"shape": (2**32 - 1, 2**32 - 1, 2**32 - 1)}, TOO_LARGE),
        ({"shape": (1, 2**31, 1)}, TOO_LARGE),
        ({"cache": (16, 64, 2**31 + 1)}, TOO_LARGE),
        ({"blocks": 2**32 - 1, "block_stride": 2**40}, TOO_LARGE),
        ({"tensors": np.zeros((129, 2), np.uint64)}, TOO_LARGE),
        # pointers
        ({"base": 1}, MISALIGNED),
        ({"payload": 8}, MISALIGNED),
        ({"off": (4, 0, 0, 0)}, MISALIGNED),
        ({"off": (0, 8, 0, 0)}, MISALIGNED),
        ({"off": (0, 0, 4, 0)}, MISALIGNED),
        ({"off": (0, 0, 0, 2)}, MISALIGNED),
        ({"block_stride": 4104}, MISALIGNED),
        ({"strides": (4095, 256, 128, 0)}, MISALIGNED),
        ({"strides": (4096, 255, 128, 0)}, MISALIGNED),
        ({"strides": (4096, 256, 127, 0)}, MISALIGNED),
        ({"strides": (4096, 256, 128, 1)}, MISALIGNED),
        # payloads
        ({"payload_room": 100}, ROOM),
        ({"payload_room": 0}, ROOM),
        ({"block_stride": 1024}, OVERLAP),
        ({"payload": 2**63}, OVERLAP),
        ({"payload": 2**64 - 16}, OVERLAP),
        ({"payload": 2**64 - 16, "blocks": 1}, OVERLAP),
        ({"tensors": np.array([[0, 0], [0, 64]], np.uint64)}, OVERLAP),
        # kinds
        ({"scheme": 9}, UNSUPPORTED),
        ({"element": 4}, UNSUPPORTED),
        ({"scheme": 5, "shape": (TOKENS, 2, 1024)}, UNSUPPORTED),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_run_has_a_code_and_the_code_a_sentence(
    change: dict[str, Any], code: int
) -> None:
    assert job(**change) == code
    assert _core.paged_text(code) not in ("an unknown code", "")


@pytest.mark.parametrize("code", [SHAPE, TOO_LARGE, MISALIGNED, ROOM, UNSUPPORTED, OVERLAP, 7])
def test_every_code_of_ours_is_the_callers_error(code: int) -> None:
    error = cuda.arrangement.device_error(code, _core.paged_text(code))
    assert isinstance(error, Unsupported if code == UNSUPPORTED else InvalidRequest)
    assert _core.paged_text(code) in str(error)


# CUDA's numbers of errors, as its driver and runtime references give them, and what a caller must
# know: memory for a moment, a device for good, or something else.
FOR_GOOD = {
    46: "devices unavailable", 214: "ECC uncorrectable", 219: "contained", 700: "illegal address",
    702: "launch timeout", 709: "context destroyed", 710: "assert", 714: "hardware stack",
    715: "illegal instruction", 716: "misaligned address", 717: "invalid address space",
    718: "invalid program counter", 719: "launch failure", 720: "cooperative launch too large",
    721: "tensor memory leak", 999: "unknown",
}  # fmt: skip


# What queues kernels.
KERNEL_FILES = ("device.cu", "device_chains.cu", "device_grid.cu", "on_device.h")


class Numbers:
    CUDA_ERROR = 1000
    text = staticmethod(lambda code: f"text of {code}")


def test_every_error_of_cuda_is_device_unavailable_with_a_reason() -> None:
    native: Any = Numbers
    for number in range(1, 1000):
        error = probe.error_of(native, 1000 + number)
        expected = DeviceTrouble.LOST if number in FOR_GOOD else DeviceTrouble.FAILED
        assert error.reason is (DeviceTrouble.OUT_OF_MEMORY if number == 2 else expected)
        remedy = ". CUDA serves this process no more: restart it" if number in FOR_GOOD else ""
        assert str(error) == f"CUDA error {number}: text of {1000 + number}{remedy}"


def test_no_answer_of_the_runtime_is_dropped() -> None:
    """A statement that is a call of the runtime and nothing else says (void)."""
    dropped = []
    for path in (ROOT / "csrc" / "cuda" / name for name in KERNEL_FILES):
        code = re.sub(r"//.*", "", path.read_text())
        for statement in re.split(r"[;{}]", code):
            if re.match(r"\s*(if \([^()]*\)\s*)?cuda[A-Z]\w*\(", statement):
                dropped.append(f"{path.name}: {statement.strip()}")
        if "<<<" in code and "cudaGetLastError()" not in code:
            dropped.append(f"{path.name}: a launch")
    assert not dropped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": np.zeros((2, 3), np.int64)}, "must be \\(blocks, 4\\)"),
        ({"slots": np.zeros(8, np.int64)}, "must be \\(blocks, 4\\)"),
        ({"slots": np.zeros((2, 4), np.int32)}, "slots are int32; they must be int64"),
        ({"slots": np.zeros((2, 4), np.uint64)}, "slots are uint64; they must be int64"),
        ({"slots": np.zeros((4, 2), np.int64).T}, "slots must be contiguous"),
        ({"payloads": memory(100)}, "payloads have 100 bytes"),
        ({"payloads": memory(1 << 16)[8:]}, "payloads are misaligned"),
        ({"payloads": memory(1 << 17)[::2]}, "payloads must be contiguous"),
        ({"report": memory(8)}, "report have 8 bytes"),
        ({"report": memory(1 << 10)[4:]}, "report are misaligned"),
        ({"payloads": np.frombuffer(bytes(1 << 16), np.uint8)}, "payloads are read-only"),
    ],
)
@pytest.mark.parametrize("by", [cuda.Route.LANES, cuda.Route.CODECS])
def test_memory_that_does_not_fit_is_refused_whoever_does_the_work(
    change: dict[str, Any], message: str, by: cuda.Route
) -> None:
    _, cache = engine("sglang_paged", "bfloat16", 1)
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=TOKENS)
    given: dict[str, Any] = {
        "slots": np.arange(8).reshape(2, 4), "payloads": memory(plan.bytes_for(2)),
        "report": memory(plan.report_bytes(2)),
    } | change  # fmt: skip
    for work in (cuda.store, cuda.fetch):
        with pytest.raises(InvalidRequest, match=message):
            work(plan, given["slots"], payloads=given["payloads"], report=given["report"], by=by)


@pytest.mark.parametrize("by", [cuda.Route.LANES, cuda.Route.CODECS])
@pytest.mark.parametrize("codec", ["int8", "exp4"])
@pytest.mark.parametrize("size", [0, 1, "less", "more", 2**63, 2**64 - 1])
def test_a_size_that_no_payload_has_is_damage(size: int | str, codec: str, by: cuda.Route) -> None:
    tensors, cache = engine("sglang_paged", "bfloat16", 1)
    for tensor in tensors:
        tensor &= 0xBFFF
    plan = cuda.Arrangement.of(cache, codec=codec, tokens=TOKENS)
    slots = np.arange(4)[None]
    payloads, report = memory(plan.bytes_for(1)), memory(plan.report_bytes(1))
    cuda.store(plan, slots, payloads=payloads, report=report, by=by)
    ((launch, sizes, _),) = plan.parts(report, 1)
    real = int(sizes[0, 1])
    sizes[0, 1] = {"less": real - 1, "more": launch.room + 1}.get(str(size), size)
    cuda.fetch(plan, slots, payloads=payloads, report=report, by=by)
    assert plan.parts(report, 1)[0][2].tolist() == [[0, 2]]
    with pytest.raises(CorruptBlob):
        plan.check_fetched(report, blocks=1)


@pytest.mark.parametrize("by", [cuda.Route.LANES, cuda.Route.CODECS])
def test_a_payload_that_reaches_beyond_its_room_is_damage_even_if_it_is_whole(
    by: cuda.Route,
) -> None:
    x = np.zeros((8, 2, 64), np.uint16)
    x[0, 0, 0] = 0x7FC0
    cache = cuda.PagedCache.of([x], "slot head dim", kind="value", element="bfloat16")
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=TOKENS, spare=0)
    payloads, report = memory(plan.bytes_for(2)), memory(plan.report_bytes(2))
    blob = kv.quantize(x[:4], codec="int8", dtype="bfloat16")
    payloads[: len(blob)] = blob
    ((_, sizes, faults),) = plan.parts(report, 2)
    sizes[0, 0] = len(blob) - 64
    cuda.fetch(plan, np.arange(8).reshape(2, 4), payloads=payloads, report=report, by=by)
    assert faults[0, 0] == 2


def test_a_tensor_that_cannot_show_its_memory_is_refused_with_its_reason() -> None:
    rows = np.ndarray((2, 8), np.int32, bytes(100), strides=(34, 4))
    with pytest.raises(InvalidRequest, match="does not show its memory: BufferError"):
        cuda.PagedCache.of([rows], "slot dim", kind="key", element="bfloat16")
    torch = pytest.importorskip("torch")
    sparse = torch.zeros((2, 2)).to_sparse()
    with pytest.raises(InvalidRequest, match="does not show its memory"):
        cuda.PagedCache.of([sparse], "slot dim", kind="key")
