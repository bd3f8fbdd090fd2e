"""The quantising codecs: kernels beside a copy, the API beside its kernels, both beside torch.

The kernels are timed by build/release/kernel_bench (made by ``./run bench``), repetitions at random;
what they are divided by is best_copy, the faster of the C library's copy and one around the caches,
timed in the same process. The API and its peers take turns in this process, thread CPU time, medians.
Speeds are of bfloat16: two bytes a value, whatever type a peer reads.

Peers: FBGEMM's row-wise 8 and 4 bit, inside torch, from float32 rows of 64; the affine quantiser as
one writes it in torch, eager and compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import blatam_kv as kv
from blatam_kv import _core, codecs, tensors

BINARY = Path(__file__).resolve().parent.parent / "build" / "release" / "kernel_bench"
SHAPE = (32 << 10, 8, 128)
VALUES = SHAPE[0] * SHAPE[1] * SHAPE[2]

# Share of best_copy wanted of a bfloat16 kernel, by instruction set.
AVX512 = {
    "quantise int8": 0.9, "quantise int4": 0.9, "dequantise int8": 1.2, "dequantise int4": 1.5,
    "quantise int4_kc": 0.75, "dequantise int4_kc": 0.9, "quantise int4_rot": 0.5,
}  # fmt: skip
AVX2 = {"quantise int8": 0.8, "quantise int4": 0.8}
TARGETS: Mapping[str, Mapping[str, float]] = {"avx512": AVX512, "avx2": AVX2}

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured. ``target``: of ``ratio``, whose denominator ``over`` names."""

    what: str
    who: str
    speed: float  # GB/s, median
    spread: float  # half the inter-quartile range
    ratio: float | None = None
    over: str = ""
    target: float | None = None


def middle(values: list[float]) -> tuple[float, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return median, (high - low) / 2


# ---- kernels ------------------------------------------------------------------------------------


def kernels(pattern: str, repetitions: int) -> list[Row]:
    done = subprocess.run(
        [
            BINARY,
            f"--benchmark_filter=copy|{pattern}",
            f"--benchmark_repetitions={repetitions}",
            "--benchmark_enable_random_interleaving=true",
            "--benchmark_min_time=0.05",
            "--benchmark_format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    speeds: dict[str, list[float]] = {}
    for run in json.loads(done.stdout)["benchmarks"]:
        if run.get("error_occurred"):
            raise RuntimeError(f"{run['name']}: {run['error_message']}")
        if run["run_type"] == "iteration":
            speeds.setdefault(run["run_name"], []).append(run["bytes_per_second"] / 1e9)
    copies = {name: middle(of) for name, of in speeds.items() if name.startswith("copy")}
    best = max(median for median, _ in copies.values())
    rows = [Row("copy", name.partition("/")[2], *found) for name, found in copies.items()]
    for name, of in speeds.items():
        what, _, isa = name.partition("/")
        if what == "copy":
            continue
        median, spread = middle(of)
        target = TARGETS.get(isa, {}).get(what.removesuffix(" bf16")) if "bf16" in what else None
        rows.append(
            Row(what.removesuffix(" bf16"), isa, median, spread, median / best, "best_copy", target)
        )
    return sorted(rows, key=lambda row: (row.what != "copy", row.who, row.what))


# ---- the API and its peers ----------------------------------------------------------------------


def cpu(work: Work) -> float:
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / 1e9


def in_turn(field: Mapping[str, Work], rounds: int) -> dict[str, tuple[float, float]]:
    """GB/s of bfloat16 of each, after one call to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in field}
    for work in field.values():
        work()
    for _ in range(rounds):
        for name, work in field.items():
            speeds[name].append(2 * VALUES / cpu(work) / 1e9)
    return {name: middle(of) for name, of in speeds.items()}


def ours(x: Any, codec: str, *, checksum: bool = True) -> tuple[Work, Work]:
    room = tensors.aligned_bytes(kv.encoded_size(x, codec=codec, kind="key", dtype="bfloat16"))
    back = tensors.empty(SHAPE, "bfloat16")
    options: dict[str, Any] = {"codec": codec, "kind": "key", "dtype": "bfloat16"}
    blob = kv.quantize(x, out=room, checksum=checksum, **options)
    return (
        lambda: kv.quantize(x, out=room, checksum=checksum, **options),
        lambda: kv.dequantize(blob, out=back),
    )


def api(x: Any, rounds: int) -> list[Row]:
    """Every codec with its checksum, and without: the difference is what it costs."""
    rows = []
    for codec in codecs.NAMES:
        there, back = ours(x, codec)
        plain, plain_back = ours(x, codec, checksum=False)
        found = in_turn(
            {"in": there, "in, no checksum": plain, "out": back, "out, no checksum": plain_back},
            rounds,
        )
        for way in ("in", "out"):
            median, spread = found[way]
            share = median / found[f"{way}, no checksum"][0]
            rows.append(Row(f"{codec} {way}", "API", median, spread, share, "no checksum", 0.8))
    return rows


def peers(x: Any, rounds: int, *, compiled: bool) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    native = torch.from_numpy(x).view(torch.bfloat16)
    rows64 = native.float().reshape(-1, 64)
    prepack = torch.ops.quantized
    packed8 = prepack.embedding_bag_byte_prepack(rows64)
    packed4 = prepack.embedding_bag_4bit_prepack(rows64)

    def affine(bits: int) -> Callable[[], object]:
        top = 2**bits - 1

        def quantise(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            groups = values.reshape(-1, 64).float()
            low, high = groups.aminmax(dim=1, keepdim=True)
            scale = (high - low) / top
            codes = torch.round((groups - low) / scale).to(torch.uint8)
            if bits == 4:
                codes = codes[:, :32] | codes[:, 32:] << 4
            return codes, scale.bfloat16(), low.bfloat16()

        chosen = torch.compile(quantise) if compiled else quantise
        return lambda: chosen(native)

    kind = "torch.compile" if compiled else "torch eager"
    int8, int4 = ours(x, "int8"), ours(x, "int4")
    field: dict[str, tuple[Work, str, float]] = {
        f"{kind}, int8": (affine(8), "int8 in", 6 if compiled else 30),
        f"{kind}, int4": (affine(4), "int4 in", 6 if compiled else 30),
    }
    if not compiled:
        field |= {
            "FBGEMM 8 bit in": (
                lambda: prepack.embedding_bag_byte_prepack(rows64), "int8 in", 2,
            ),
            "FBGEMM 4 bit in": (
                lambda: prepack.embedding_bag_4bit_prepack(rows64), "int4 in", 3,
            ),
            "FBGEMM 8 bit out": (
                lambda: prepack.embedding_bag_byte_unpack(packed8), "int8 out", 0,
            ),
            "FBGEMM 4 bit out": (
                lambda: prepack.embedding_bag_4bit_unpack(packed4), "int4 out", 0,
            ),
        }  # fmt: skip
    mine = {"int8 in": int8[0], "int8 out": int8[1], "int4 in": int4[0], "int4 out": int4[1]}
    found = in_turn({**mine, **{name: work for name, (work, *_) in field.items()}}, rounds)
    rows = [Row(name, "API", *found[name]) for name in mine] if not compiled else []
    for name, (_, against, target) in field.items():
        faster = found[against][0] / found[name][0]
        rows.append(Row(name, "peer", *found[name], faster, f"ours, {against}", target or None))
    return rows


def two_threads(x: Any, rounds: int) -> list[Row]:
    """Wall clock, because that is what a second thread is for; worth little on a busy machine."""
    room = tensors.aligned_bytes(kv.encoded_size(x, codec="int4", dtype="bfloat16"))
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, of in speeds.items():
            start = time.perf_counter()
            kv.quantize(x, codec="int4", dtype="bfloat16", out=room, threads=threads)
            of.append(x.nbytes / (time.perf_counter() - start) / 1e9)
    one, two = middle(speeds[1]), middle(speeds[2])
    copies = {threads: middle(copied(x, threads, rounds)) for threads in (1, 2)}
    return [
        Row("int4 in, one thread", "API, wall", *one),
        Row("int4 in, two threads", "API, wall", *two, two[0] / one[0], "one thread", 1.8),
        Row("copy, two threads", "numpy, wall", *copies[2], copies[2][0] / copies[1][0], "one"),
    ]


def copied(x: Any, threads: int, rounds: int) -> list[float]:
    """What a second thread does for a copy: the floor."""
    to = tensors.empty(SHAPE, "bfloat16")
    parts = list(zip(np.array_split(to, threads), np.array_split(x, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: np.copyto(*pair), parts))
        speeds = []
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), parts))
            speeds.append(x.nbytes / (time.perf_counter() - start) / 1e9)
    return speeds


# ---- the table ----------------------------------------------------------------------------------


def report(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    print(f"{'':30}{'':16}{'GB/s':>8}{'±':>7}{'ratio':>8}{'target':>8}  of")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        target = "" if row.target is None else f">={row.target:g}"
        print(
            f"{row.what:30}{row.who:16}{row.speed:8.2f}{row.spread:7.2f}"
            f"{ratio:>8}{target:>8}  {row.over}".rstrip()
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds, no torch.compile")
    parser.add_argument(
        "--kernels", default="bf16/avx", metavar="REGEX", help="which of kernel_bench; .* for all"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not BINARY.exists():
        print("build/release/kernel_bench is not built; run: ./run bench", file=sys.stderr)
        return 1
    rounds = 3 if options.quick else options.rounds
    random = np.random.default_rng(0)
    x = tensors.empty(SHAPE, "bfloat16")
    x[:] = tensors.narrowed(random.standard_normal(SHAPE, np.float32), "bfloat16")
    tables = {"kernels": kernels(options.kernels, rounds), "API": api(x, rounds)}
    try:
        tables["peers"] = peers(x, rounds, compiled=False)
        if not options.quick:
            tables["peers"] += peers(x, rounds, compiled=True)
    except ImportError:
        print("torch is not installed: no peers", file=sys.stderr)
    tables["threads"] = two_threads(x, rounds)
    if options.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in tables.items()}))
        return 0
    print(f"{VALUES * 2 >> 20} MiB of bfloat16 [tokens, 8, 128], {_core.isa()}, {rounds} rounds")
    for name, rows in tables.items():
        report(name, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
