"""What is said where there is no GPU: not built, no driver, a driver too old, no device; and that
the module is there in the build that must have it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import cuda_report
import numpy as np
import pytest

from blatam_kv import _core, codecs, cuda
from blatam_kv.cuda import probe
from blatam_kv.errors import (
    DeviceTrouble,
    DeviceUnavailable,
    InvalidRequest,
    Unsupported,
)

ROOT = Path(__file__).resolve().parent.parent
ERROR = 1000


def fake(code: int = 0, devices: int = 1, driver: int = 13000, run: Any = None) -> ModuleType:
    """What stands for the native module of a machine."""
    return cast(
        ModuleType,
        SimpleNamespace(
            CUDA_ERROR=ERROR,
            architectures="80 90-real",
            versions=lambda: (0, driver, 13000),
            device_count=lambda: (code, devices),
            text=lambda number: f"text of {number}",
            run=run,
        ),
    )


@pytest.mark.parametrize(
    ("machine", "trouble", "words"),
    [
        (fake(), None, ""),
        (fake(driver=12080), DeviceTrouble.DRIVER_TOO_OLD, "serves CUDA 12.8 .* CUDA 13.0"),
        (fake(driver=13020, devices=8), None, ""),
        (fake(ERROR + 35, 0, 0), DeviceTrouble.NO_DRIVER, "libcuda"),
        (fake(ERROR + 35, 0), DeviceTrouble.DRIVER_TOO_OLD, "update the driver"),
        (fake(ERROR + 100, 0), DeviceTrouble.NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
        (fake(0, 0), DeviceTrouble.NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
        (fake(ERROR + 3, 0), DeviceTrouble.FAILED, "text of 1003"),
    ],
)
def test_each_trouble_has_a_sentence_of_its_own(
    machine: ModuleType, trouble: DeviceTrouble | None, words: str
) -> None:
    found = probe.examine(machine)
    assert found.built
    assert found.architectures == ("80", "90-real")
    assert found.trouble is trouble
    if trouble is None:
        assert found.reason is None
        found.require()
    else:
        with pytest.raises(DeviceUnavailable, match=words) as caught:
            found.require()
        assert caught.value.reason is trouble
        assert trouble is DeviceTrouble.FAILED or "on the CPU" in str(caught.value)


def test_a_build_without_cuda_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['blatam_kv._cuda'] = None\n"
        "from blatam_kv import cuda\n"
        "found = cuda.status()\n"
        "print(found.built, found.trouble, found.reason)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("False built without CUDA ")
    assert "cuda-build" in said
    assert "BLATAM_CUDA=ON" in said


def test_the_build_that_must_have_the_module_has_it() -> None:
    """./run test sets BLATAM_KV_CUDA_BUILT in its CUDA room: there, absence is a failure."""
    if os.environ.get("BLATAM_KV_CUDA_BUILT") != "1":
        assert cuda.status() == cuda.status()
        return
    native = importlib.import_module("blatam_kv._cuda")
    assert native.architectures.split() == ["80", "90-real", "100-real", "120-real"]
    found = cuda.status()
    assert found.built
    assert found.reason is None or "on the CPU" in found.reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (2, DeviceTrouble.OUT_OF_MEMORY),
        (700, DeviceTrouble.LOST),
        (719, DeviceTrouble.LOST),
        (1, DeviceTrouble.FAILED),
        (400, DeviceTrouble.FAILED),
    ],
)
def test_an_error_of_cuda_has_a_reason_and_its_number(number: int, reason: DeviceTrouble) -> None:
    error = probe.error_of(fake(), ERROR + number)
    assert error.reason is reason
    lost = ". CUDA serves this process no more: restart it"
    remedy = lost if reason is DeviceTrouble.LOST else ""
    assert str(error) == f"CUDA error {number}: text of {ERROR + number}{remedy}"


# ---- a device that is not there -----------------------------------------------------------------


class OnDevice:
    """A tensor of device memory as DLPack shows it: nobody may read the address."""

    def __init__(self, array: Any, device: int = 0) -> None:
        self.array, self.device = array, device


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """One GPU that keeps what it is asked, and answers with the codes it is given."""
    asked: list[tuple[Any, ...]] = []
    codes = iter([0, 0, ERROR + 2, ERROR + 700, 7, 3])

    def run(*arguments: Any) -> int:
        asked.append(arguments)
        return next(codes)

    machine = fake(run=run)
    monkeypatch.setattr(probe, "module", lambda: machine)
    monkeypatch.setattr(probe, "status", lambda: probe.examine(machine))
    described = _core.describe_memory

    def describe_memory(x: Any) -> Any:
        if not isinstance(x, OnDevice):
            return described(x)
        address, _, dtype, shape, strides, read_only = described(x.array)
        return address, x.device, dtype, shape, strides, read_only

    monkeypatch.setattr(_core, "describe_memory", describe_memory)
    return asked


class Stream:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 77


def test_work_for_a_device_is_queued_on_the_callers_stream_and_its_errors_are_typed(
    device: list[tuple[Any, ...]],
) -> None:
    tensor = OnDevice(np.zeros((4, 16, 2, 64), np.uint16))
    cache = cuda.PagedCache.of([tensor], "sglang_paged", kind="key", element="bfloat16")
    plan = cuda.Arrangement.of(cache, codec="int8", tokens=4)
    memory: dict[str, Any] = {
        "payloads": OnDevice(np.zeros(plan.bytes_for(2), np.uint8)),
        "report": OnDevice(np.zeros(plan.report_bytes(2), np.uint8)),
    }
    slots = OnDevice(np.zeros((2, 4), np.int64))
    cuda.store(plan, slots, **memory, stream=Stream())
    cuda.fetch(plan, slots, **memory, stream=12)
    assert [call[:3] for call in device] == [(True, 0, 77), (False, 0, 12)]
    for reason in (DeviceTrouble.OUT_OF_MEMORY, DeviceTrouble.LOST):
        with pytest.raises(DeviceUnavailable) as caught:
            cuda.store(plan, slots, **memory, stream=0)
        assert caught.value.reason is reason
    for words in ("text of 7", "text of 3"):
        with pytest.raises(InvalidRequest, match=words):
            cuda.store(plan, slots, **memory, stream=0)
    with pytest.raises(InvalidRequest, match="slots lie on device 1, the cache on device 0"):
        cuda.store(plan, OnDevice(slots.array, 1), **memory, stream=0)
    with pytest.raises(InvalidRequest, match="report lie on the host, the cache on device 0"):
        cuda.store(
            plan, slots, payloads=memory["payloads"], report=memory["report"].array, stream=0
        )
    with pytest.raises(InvalidRequest, match="pass an integer"):
        cuda.store(plan, slots, **memory, stream="default")
    for stream in (-1, 2**64, True):
        with pytest.raises(InvalidRequest, match="2 for the thread's own"):
            cuda.store(plan, slots, **memory, stream=stream)
    assert len(device) == 6


# ---- describing a cache -------------------------------------------------------------------------


def test_tensors_that_are_not_alike_are_refused() -> None:
    x, y = np.zeros((4, 16, 2, 64), np.uint16), np.zeros((4, 16, 2, 32), np.uint16)
    for tensors, layout, options, words in (
        ([x, y], "sglang_paged", {"kind": "key"}, "tensor 1 has the shape"),
        (
            [x, x.view(np.float16)],
            "sglang_paged",
            {"kind": "key"},
            "hold float16, but element= says",
        ),
        ([], "sglang_paged", {"kind": "key"}, "at least one"),
        ([x], "sglang_paged", {}, "say with kind="),
        ([x], "sglang_paged", {"kind": "both"}, "kind is 'both'"),
        ([x], "vllm_nhd", {}, "4 dimensions, the layout 5"),
        ([x], "block kv token dim", {}, "16 parts"),
        ([x], "block token head", {"kind": "key"}, "layout is"),
        ([x], "block block token dim", {"kind": "key"}, "layout is"),
        ([x[:0]], "sglang_paged", {"kind": "key"}, "holds nothing"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            cuda.PagedCache.of(tensors, layout, element="bfloat16", **options)  # type: ignore[arg-type]


def test_types_that_no_cache_holds_are_refused_and_bits_ask_what_they_are() -> None:
    for dtype, element, words in (
        (np.float32, None, "tensors of float32"),
        (np.uint16, None, "say with element="),
        (np.uint16, "fp8_e4m3", "tensors of uint16"),
        (np.uint16, "float32", "element is 'float32'"),
    ):
        with pytest.raises(Unsupported, match=words):
            cuda.PagedCache.of(
                [np.zeros((4, 16, 2, 64), dtype)], "sglang_paged", kind="key", element=element
            )
    with pytest.raises(Unsupported, match="neither DLPack"):
        cuda.PagedCache.of([b"bytes"], "sglang_paged", kind="key")


def test_torch_tensors_come_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    for dtype, element in (
        (torch.bfloat16, "bfloat16"), (torch.float16, "float16"),
        (torch.float8_e4m3fn, "fp8_e4m3"),
    ):  # fmt: skip
        tensor = torch.zeros((2, 4, 16, 2, 64), dtype=dtype)
        cache = cuda.PagedCache.of([tensor.transpose(0, 1)], "vllm_flashinfer_nhd")
        assert cache.element == element
        assert cache.device == -1
        assert cache.kinds == ("key", "value")
        assert cache.bases == (tensor[0].data_ptr(), tensor[1].data_ptr())
        assert cache.slots == 64


# ---- docs/CUDA.md -------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "CUDA.md").read_text()


def test_the_pages_example_runs() -> None:
    example = re.search(r"```python\n(import numpy.*?)```", PAGE, re.DOTALL)
    assert example
    names: dict[str, Any] = {}
    exec(example[1], names)
    assert names["keys"].shape == (64, 8, 128)
    assert len(names["blobs"]) == 2
    assert len(names["blobs"][0]) == 8
    chains = re.search(r"```python\n(ids = .*?)```", PAGE, re.DOTALL)
    assert chains
    exec(chains[1], names)
    assert names["counts"].tolist() == [7, 5]


def test_the_page_says_what_has_no_kernel() -> None:
    without = sorted(set(codecs.NAMES) - set(cuda.CODECS))
    said = PAGE.partition("Without a kernel: ")[2].partition("rotated")[0]
    assert sorted(re.findall(r"`(\w+)`", said)) == without


def test_the_page_lists_every_codec_and_layout() -> None:
    assert f"`{' '.join(cuda.CODECS)}`" in PAGE
    for name, dimensions in cuda.LAYOUTS.items():
        assert f"`{name}`" in PAGE
        assert dimensions in PAGE


# ---- the tests that need a GPU ------------------------------------------------------------------


def test_without_a_gpu_every_test_for_one_skips_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda_gpu.py"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    summary = re.search(r"(\d+) skipped, 0 without a mark", done.stdout)
    assert summary, done.stdout
    assert int(summary[1]) > 100
    assert "passed" not in done.stdout
    assert "no GPU" in done.stdout


# ---- the report of the compiler -----------------------------------------------------------------

REPORT = """\
ptxas info    : Compiling entry function '_Z1a' for 'sm_80'
ptxas info    : Function properties for _Z1a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 2788 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1b' for 'sm_90'
ptxas info    : Function properties for _Z1b
    8 bytes stack frame, {} bytes spill stores, 8 bytes spill loads
ptxas info    : Used 62 registers, used 0 barriers, 2788 bytes cmem[0]
"""


def test_a_kernel_that_spills_fails_the_build(tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "log").write_text(REPORT.format(4))
    assert cuda_report.main(tmp_path / "log") == 1
    assert "_Z1b for sm_90 spills 12 bytes" in capsys.readouterr().out
    (tmp_path / "log").write_text(REPORT.format(0).replace(" 8 bytes spill", " 0 bytes spill"))
    assert cuda_report.main(tmp_path / "log") == 0
    assert "2 kernels for sm_80 sm_90, at most 62 registers" in capsys.readouterr().out
    (tmp_path / "log").write_text("nothing was built")
    assert cuda_report.main(tmp_path / "log") == 1
