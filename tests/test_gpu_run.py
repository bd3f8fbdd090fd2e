"""``./run gpu`` on a machine where things go wrong: each step is told of, and none keeps the others."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench" / "_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def says(gpu: ModuleType, name: str, program: str, **options: Any) -> Any:
    options = {"log": "tests.log", "seconds": 60.0, **options}
    return gpu.Step(name, (sys.executable, "-c", program), **options)


def test_what_fails_hangs_or_is_not_there_keeps_no_other_step_from_running(
    gpu: ModuleType, tmp_path: Path
) -> None:
    told = gpu.run(
        [
            says(gpu, "good", "print('one')"),
            says(gpu, "bad", "print('two'); raise SystemExit(3)"),
            says(gpu, "hangs", "print('three', flush=True); import time; time.sleep(600)", seconds=5.5),
            gpu.Step("absent", ("/no/such/program",), "build.log", 60.0),
            gpu.Step("memcheck", ("compute-sanitizer", "x"), "sanitizer.log", 60.0),
            says(gpu, "answer", "import sys; print('{}'); print('why', file=sys.stderr); sys.exit(1)",
                 log="kernels.json"),
            says(gpu, "last", "print('four')"),
        ],
        tmp_path / "new" / "out",
        seconds=600.0,
    )  # fmt: skip
    results = {row["step"]: row["result"] for row in told}
    assert results.pop("absent").startswith("FAILED: [Errno 2]")
    assert results == {
        "good": "ok",
        "bad": "FAILED: ended with 3",
        "hangs": "FAILED: stopped after 6 s",
        "memcheck": "left out: compute-sanitizer is not here",
        "answer": "FAILED: ended with 1, why",
        "last": "ok",
    }
    log = (tmp_path / "new" / "out" / "tests.log").read_text()
    assert re.findall(r"^(?:==== (\w+)|(\w+)$)", log, re.MULTILINE) == [
        ("good", ""), ("", "one"), ("bad", ""), ("", "two"), ("hangs", ""), ("", "three"),
        ("last", ""), ("", "four"),
    ]  # fmt: skip
    assert json.loads((tmp_path / "new" / "out" / "kernels.json").read_text()) == {}


def test_a_step_that_gets_no_time_is_left_out_and_said(gpu: ModuleType, tmp_path: Path) -> None:
    now = iter(range(0, 1000, 100))
    told = gpu.run(
        [says(gpu, name, "pass") for name in ("first", "second")],
        tmp_path,
        seconds=250.0,
        clock=lambda: float(next(now)),
    )
    assert [row["result"] for row in told] == ["ok", "left out: no time is left"]


def test_a_log_keeps_its_beginning_and_its_end(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MOST_LOG_BYTES", 1000)
    gpu.run([says(gpu, "long", "print('begin' + 'x' * 9000 + 'end')")], tmp_path, seconds=100.0)
    log = (tmp_path / "tests.log").read_text()
    assert len(log) < 1100
    assert "begin" in log
    assert log.endswith("end\n")
    assert "bytes are left out" in log


def test_a_device_test_that_skips_is_no_success(gpu: ModuleType) -> None:
    assert gpu.skipped("....\n12 passed in 3.21s\n") is None
    assert gpu.skipped("0 skipped, 0 without a mark\n12 passed in 3.21s\n") is None
    assert gpu.skipped("s\n18 skipped in 0.50s\n") == "18 tests skipped"
    assert gpu.skipped("10 passed, 2 skipped, 1 warning in 0.50s\n") == "2 tests skipped"
    assert gpu.unsupported("fine") is None
    assert gpu.unsupported("Error: Device not supported").startswith("-")


def test_the_results_are_few_flat_files_and_every_step_has_its_place(gpu: ModuleType) -> None:
    for sanitizer in (None, "/usr/bin/compute-sanitizer"):
        steps = gpu.steps("python3", sanitizer)
        files = {step.log for step in steps} | {"machine.json", "summary.txt"}
        assert len(files) <= 8
        assert all(re.fullmatch(r"[a-z]+\.(log|json|txt)", name) for name in files)
        names = [step.name for step in steps]
        assert len(names) == len(set(names))
        # What only a device shows comes before what takes long.
        assert names.index("offload") < names.index("memcheck") < names.index("host's tests")
    (host,) = (step for step in steps if step.name == "host's tests")
    tests = {path.name for path in (ROOT / "tests").glob("test_cuda*.py")}
    others = {"test_cuda_gpu.py", "test_cuda_tier_gpu.py"}
    assert {Path(word).name for word in host.command if word.startswith("tests/")} == tests - others


def test_the_machine_and_the_sources_are_named(gpu: ModuleType) -> None:
    found = gpu.machine()
    assert {"gpus", "nvcc", "commit", "torch", "kernel", "when"} <= found.keys()
    assert re.fullmatch("[0-9a-f]{64}", found["sources_sha256"])
    assert json.loads(json.dumps(found)) == found


def test_an_unknown_step_is_refused(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--only", "speed"])
    assert caught.value.code == 2
    assert "speed of kernels" in capsys.readouterr().err


def test_what_was_measured_becomes_a_table(gpu: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    assert gpu.table(path) == ["kernels: not measured"]
    row = {"codec": "int8", "copy": 3e12, "store": 2e12, "store_ratio": 0.667, "fetch": 2.7e12,
           "fetch_ratio": 0.9, "target": 0.75, "reached": False}  # fmt: skip
    chain = {"sequences": 32, "blocks_per_second": 5.0, "host_blocks_per_second": 6.0}
    path.write_text(json.dumps({"device": "X", "kernels": [row], "digests": [chain]}))
    lines = gpu.table(path)
    assert lines[2].split() == ["int8", "3000", "2000", "0.67", "2700", "0.90", "0.75", "missed"]
    assert lines[3] == "digests, 32 sequences: 5 blocks a second, a thread of the host 6"
