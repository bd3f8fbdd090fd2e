"""``./run gpu``: everything that only a GPU can show, once, with what one needs to believe it.

Builds the kernels for the GPUs that are here, compares device with host, measures, and runs the
kernels under compute-sanitizer; each step in a process of its own with a limit of its own, so one
that fails, hangs or loses the device keeps no other from running or from being told. What was said
lands in one folder, few files and flat: ``summary.txt`` and ``machine.json`` to begin with.

    ./run gpu [--out DIR] [--seconds N] [--only STEP ...]

Needs no network: Python with torch 2.10 or newer, pytest, hypothesis, numpy, and nvcc. Exits with 1 if
a step failed; what could not run here at all is said and is no failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of a log its beginning and its end are kept: the first fault and the last word.
MOST_LOG_BYTES = 8 << 20
BENCH, OFFLOAD = ROOT / "build" / "cuda" / "cuda_bench", ROOT / "build" / "cuda" / "offload_bench"
# Warnings of libraries that CI does not have are no faults of ours; a test that hangs shows where.
_PYTEST = (
    *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"),
    *("-o", "faulthandler_timeout=60", "--durations=10"),
)
_FEW = "golden or digests or fetches or (every_layout and (vllm_nhd or paged_attention))"


@dataclass(frozen=True, slots=True)
class Step:
    """What runs by itself. log: the file it writes into, with others. seconds: most that it may take.
    needs: what must be there, or it is left out. judge: of what it said, why it counts as failed, or
    as left out ("-" before it), though it ended well or badly; None leaves it to its status."""

    name: str
    command: Sequence[str]
    log: str
    seconds: float
    needs: str | None = None
    judge: Callable[[str], str | None] = lambda said: None
    environment: tuple[tuple[str, str], ...] = ()


def steps(python: str, sanitizer: str | None) -> list[Step]:
    """All of them, what is worth most first."""
    host = [path.name for path in sorted((ROOT / "tests").glob("test_cuda*.py"))]
    host = [f"tests/{name}" for name in host if not name.endswith("_gpu.py")]
    found = [
        Step("build", ("sh", str(ROOT / "run"), "gpu-build"), "build.log", 260),
        Step(
            "device, kernels",
            (python, *_PYTEST, "tests/test_cuda_gpu.py"),
            "tests.log", 200, judge=skipped,
        ),
        Step(
            "device, tier",
            (python, *_PYTEST, "tests/test_cuda_tier_gpu.py"),
            "tests.log", 90, judge=skipped,
        ),
        Step("speed of kernels", (str(BENCH), "--json"), "kernels.json", 90),
        Step("offload", (str(OFFLOAD),), "offload.txt", 60),
    ]  # fmt: skip
    for tool in ("memcheck", "racecheck", "synccheck"):
        checked = (sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
        found.append(
            Step(
                tool, (*checked, str(BENCH), "--check"), "sanitizer.log", 60,
                needs=sanitizer, judge=unsupported,
            )
        )  # fmt: skip
    found += [
        Step("host's tests", (python, *_PYTEST, *host), "tests.log", 240),
        Step(
            "memcheck, tests",
            (*(sanitizer or "compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1"),
             python, *_PYTEST, "tests/test_cuda_gpu.py", "-k", _FEW),
            "sanitizer.log", 180, needs=sanitizer, judge=unsupported,
            # torch may not keep freed memory, or what lies behind a tensor would be its own.
            environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),
        ),
    ]  # fmt: skip
    return found


def skipped(said: str) -> str | None:
    """Where there is a GPU a test for one that skips has tested nothing."""
    counts = re.findall(r"\b(\d+) skipped\b[^\n]* in [\d.]+s", said)
    return f"{counts[-1]} tests skipped" if counts else None


def unsupported(said: str) -> str | None:
    """Some virtual machines do not let a sanitizer at their device."""
    return "-the sanitizer refuses this device" if "Device not supported" in said else None


def run(
    all_steps: Sequence[Step],
    out: Path,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, object]]:
    """Run steps until the time is used up; returns what became of each, as summary.json has it."""
    out.mkdir(parents=True, exist_ok=True)
    began, told = clock(), []
    for step in all_steps:
        start = clock()
        print(f"==== {step.name}", flush=True)
        left = min(step.seconds, seconds - (start - began))
        if step.needs is None and step.command[0] == "compute-sanitizer":
            result = "left out: compute-sanitizer is not here"
        elif left < 5:
            result = "left out: no time is left"
        else:
            result = _ran(step, out / step.log, left)
        told.append({"step": step.name, "result": result, "seconds": round(clock() - start, 1)})
        print(f"     {result}, {told[-1]['seconds']} s", flush=True)
    return told


def _ran(step: Step, log: Path, seconds: float) -> str:
    plain = log.suffix in (".json", ".txt")  # what programs read holds nothing but the answer
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **dict(step.environment)}
    with log.open("ab") as file:
        if not plain:
            file.write(f"\n==== {step.name}: {' '.join(map(str, step.command))}\n".encode())
            file.flush()
        first = file.tell()
        try:
            process = subprocess.Popen(
                step.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.PIPE if plain else subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"FAILED: {error}"
        complaint = b""
        try:
            _, stderr = process.communicate(timeout=seconds)
            complaint = stderr or b""
            status = f"ended with {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            status = f"stopped after {seconds:.0f} s"
    with log.open("rb") as file:
        file.seek(first)
        said = file.read().decode(errors="replace")
    _shorten(log)
    judged = step.judge(said)
    if judged is not None and judged.startswith("-"):
        return f"left out: {judged[1:]}"
    status = status or judged
    if status is None:
        return "ok"
    lines = complaint.decode(errors="replace").strip().splitlines()
    return f"FAILED: {status}" + (f", {lines[-1]}" if lines else "")


def _shorten(log: Path) -> None:
    size = log.stat().st_size
    if size <= MOST_LOG_BYTES:
        return
    half = MOST_LOG_BYTES // 2
    with log.open("rb") as file:
        head = file.read(half)
        file.seek(size - half)
        tail = file.read()
    log.write_bytes(head + f"\n[{size - 2 * half} bytes are left out]\n".encode() + tail)


# ---- what was measured on, and what -------------------------------------------------------------


def machine() -> dict[str, object]:
    """Device, driver, toolkit, commit: without these a figure says nothing."""
    asked = "name,driver_version,memory.total,compute_cap,pcie.link.gen.current,"
    asked += "pcie.link.width.current,clocks.max.sm,clocks.max.memory,ecc.mode.current"
    found: dict[str, object] = {
        "gpus": _said("nvidia-smi", f"--query-gpu={asked}", "--format=csv"),
        "nvcc": _said(os.environ.get("CUDACXX") or "nvcc", "--version"),
        "compiler": _said("c++", "--version"),
        "cmake": _said("cmake", "--version"),
        "python": sys.version,
        "kernel": platform.platform(),
        "cores": os.cpu_count(),
        "commit": os.environ.get("BLATAM_KV_COMMIT")
        or _said("git", "describe", "--always", "--dirty"),
        "sources_sha256": _sources(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    try:
        import torch

        found["torch"] = torch.__version__
        found["devices"] = [
            str(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())
        ]
    except Exception as error:  # whatever is wrong with it is part of the machine
        found["torch"] = repr(error)
    return found


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known: {error}"
    return done.stdout.strip() or f"not known: {done.stderr.strip()}"


def _sources() -> str:
    """A digest of what was built, also where there is no repository."""
    digest = hashlib.sha256()
    for folder in ("csrc", "python", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu", ".py"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def table(kernels: Path) -> list[str]:
    """What was measured of the kernels, for people."""
    try:
        found = json.loads(kernels.read_text())
    except (OSError, ValueError):
        return ["kernels: not measured"]
    lines = [f"{found['device']}, GB/s, beside a copy on the device"]
    lines.append(
        f"{'':14} {'copy':>7} {'store':>7} {'ratio':>6} {'fetch':>7} {'ratio':>6} {'target':>6}"
    )
    for row in found["kernels"]:
        lines.append(
            f"{row['codec']:14} {row['copy'] / 1e9:7.0f} {row['store'] / 1e9:7.0f} "
            f"{row['store_ratio']:6.2f} {row['fetch'] / 1e9:7.0f} {row['fetch_ratio']:6.2f} "
            f"{row['target']:6.2f}{'' if row['reached'] else '  missed'}"
        )
    for row in found["digests"]:
        lines.append(
            f"digests, {row['sequences']} sequences: {row['blocks_per_second']:.0f} blocks a second, "
            f"a thread of the host {row['host_blocks_per_second']:.0f}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./run gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "gpu", help="where results go (build/gpu)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=560,
        help="for all of it (560: a machine lent for 10 minutes)",
    )
    parser.add_argument("--only", action="append", metavar="STEP", help="one step; may be repeated")
    given = parser.parse_args(arguments)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.environ.get("BLATAM_KV_CUDA_BIN", "")
    )
    wanted = steps(sys.executable, sanitizer)
    names = [step.name for step in wanted]
    if unknown := set(given.only or ()) - set(names):
        parser.error(f"no step is called {sorted(unknown)[0]!r}; these are: {', '.join(names)}")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in {step.log for step in wanted}:
        (out / name).unlink(missing_ok=True)
    (out / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    told = run(
        [step for step in wanted if not given.only or step.name in given.only],
        out,
        seconds=given.seconds,
    )
    lines = [f"{row['step']:20} {row['seconds']:7.1f} s  {row['result']}" for row in told]
    lines += ["", *table(out / "kernels.json")]
    offload = out / "offload.txt"
    lines += ["", offload.read_text().strip() if offload.exists() else "offload: not measured"]
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    print("\n" + (out / "summary.txt").read_text() + f"\nall of it is in {out}")
    return int(any(str(row["result"]).startswith("FAILED") for row in told))


if __name__ == "__main__":
    sys.exit(main())
