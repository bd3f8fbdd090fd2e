"""Digests and checksums beside hashlib and zlib: medians, spread, ratios and targets.

Every round times each contender in turn, in thread CPU time; answers are compared first. A chain is
what names the blocks of a prompt: one digest per block, each over the one before, in one call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from blatam_kv import _core

SALT = bytes(range(32))
NO_PARENT = bytes(32)
ISAS = ("baseline", "avx2", "avx512")
SIZES = {"64 B": 64, "1 KiB": 1 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20}
# CPU time that one timing of a row should last at least.
TIMING_NS = 4_000_000

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured. ``units``: how many of ``unit`` one call does."""

    what: str
    unit: str  # ns or µs: a time per unit; GB/s: units are bytes
    units: int
    contenders: dict[str, Work]  # the first is ours
    target: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    what: str
    unit: str
    who: str
    median: float
    spread: float  # half the inter-quartile range
    ours_over: float | None  # how many times faster ours is
    target: str


def chained(tokens: npt.NDArray[Any], block_tokens: int, hash_of: Callable[[bytes], Any]) -> bytes:
    """The chain as one writes it in Python."""
    words = tokens.astype("<u4").tobytes()
    parent, out = NO_PARENT, []
    for start in range(0, len(words), 4 * block_tokens):
        parent = hash_of(parent + words[start : start + 4 * block_tokens]).digest()
        out.append(parent)
    return b"".join(out)


def keyed(data: bytes) -> Any:
    return hashlib.blake2b(data, digest_size=32, key=SALT)


def plain_blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def chain_row(what: str, unit: str, tokens: Any, block_tokens: int, units: int, aim: str) -> Row:
    def ours() -> bytes:
        return _core.chain_digests(tokens, block_tokens=block_tokens, parent=NO_PARENT, key=SALT)

    if ours() != chained(tokens, block_tokens, keyed):
        raise AssertionError(f"{what}: differs from hashlib")
    peers: dict[str, Work] = {
        "hashlib.blake2b": lambda: chained(tokens, block_tokens, keyed),
        "hashlib.sha256": lambda: chained(tokens, block_tokens, hashlib.sha256),
    }
    return Row(what, unit, units, {"blatam_kv": ours, **peers}, aim)


def rows() -> Iterator[Row]:
    """What is measured; every answer has been checked when its row appears."""
    prompt = np.random.default_rng(0).integers(0, 151_936, 128 << 10, np.int32)
    short, long = prompt[: 16 * 1024], prompt[: 64 * 1024]
    wide = short.astype(np.int64)
    yield chain_row("chain, 16-token block, int32", "ns", short, 16, 1024, "<=140")
    yield chain_row("chain, 16-token block, int64", "ns", wide, 16, 1024, "")
    yield chain_row("chain, 64-token block, int32", "ns", long, 64, 1024, "")
    yield chain_row("128k tokens by 16, one call", "µs", prompt, 16, 1, "")
    yield chain_row("128k tokens by 64, one call", "µs", prompt, 64, 1, "")
    data = np.random.default_rng(1).bytes(1 << 20)
    for name, size in SIZES.items():
        message = data[:size]
        if _core.blake2b(message) != plain_blake2b(message):
            raise AssertionError(f"digest of {name}: differs from hashlib")
        yield Row(
            f"digest of {name}",
            "GB/s",
            size,
            {
                "blatam_kv": partial(_core.blake2b, message),
                "hashlib.blake2b": partial(plain_blake2b, message),
                "hashlib.sha256": partial(sha256, message),
            },
        )
    if _core.crc32c(b"123456789") != 0xE3069283:  # the check value of CRC-32C
        raise AssertionError("crc32c: wrong check value")
    for name, size in SIZES.items():
        message = data[:size]
        source = np.frombuffer(message, np.uint8)
        target = np.empty_like(source)
        yield Row(
            f"CRC-32C of {name}",
            "GB/s",
            size,
            {
                "blatam_kv": partial(_core.crc32c, message),
                "zlib.crc32": partial(zlib.crc32, message),
                "copy (floor)": partial(np.copyto, target, source),
            },
        )


def cpu_ns(work: Work, calls: int) -> float:
    start = time.thread_time_ns()
    for _ in range(calls):
        work()
    return (time.thread_time_ns() - start) / calls


def measure(row: Row, rounds: int) -> Iterator[Result]:
    calls = {
        who: max(1, round(TIMING_NS / max(1.0, cpu_ns(work, 3))))
        for who, work in row.contenders.items()
    }
    times: dict[str, list[float]] = {who: [] for who in row.contenders}
    for _ in range(rounds):
        for who, work in row.contenders.items():
            times[who].append(cpu_ns(work, calls[who]))
    ours = statistics.median(times["blatam_kv"])
    for who, values in times.items():
        shown = [in_unit(ns, row) for ns in values]
        low, middle, high = statistics.quantiles(shown, n=4)
        yield Result(
            row.what,
            row.unit,
            who,
            middle,
            (high - low) / 2,
            None if who == "blatam_kv" else statistics.median(values) / ours,
            row.target if who == "blatam_kv" else "",
        )


def in_unit(ns: float, row: Row) -> float:
    if row.unit == "GB/s":
        return row.units / ns
    return ns / row.units / (1000 if row.unit == "µs" else 1)


def report(isa: str, results: list[Result], rounds: int) -> None:
    print(f"digests and checksums, instruction set {isa}, median of {rounds} rounds")
    print(f"{'':32}{'':16}{'median':>10}{'±':>8} {'unit':6}{'ours is':>9}{'target':>8}")
    for result in results:
        what = result.what if result.ours_over is None else ""
        ratio = "" if result.ours_over is None else f"{result.ours_over:.2f}x"
        print(
            f"{what:32}{result.who:16}{result.median:10.2f}{result.spread:8.2f}"
            f" {result.unit:6}{ratio:>9}{result.target:>8}"
        )


def under(isa: str, rounds: int) -> dict[str, Any]:
    """The results of this script in a process of its own, with ``isa`` forced."""
    done = subprocess.run(
        [sys.executable, __file__, "--json", "--rounds", str(rounds)],
        env={**os.environ, "BLATAM_KV_ISA": isa},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"BLATAM_KV_ISA={isa} failed, see above")
    return cast("dict[str, Any]", json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--isa",
        action="append",
        choices=ISAS,
        help="force an instruction set; may be given several times (default: the best one)",
    )
    options = parser.parse_args()
    rounds = 3 if options.quick else max(2, options.rounds)
    if options.isa:
        runs = [under(isa, rounds) for isa in options.isa]
        if options.json:
            print(json.dumps(runs, indent=2))
        else:
            for run in runs:
                report(run["isa"], [Result(**result) for result in run["results"]], rounds)
        return 0
    results = [result for row in rows() for result in measure(row, rounds)]
    if options.json:
        run = {"isa": _core.isa(), "rounds": rounds, "results": [asdict(r) for r in results]}
        print(json.dumps(run, indent=2))
    else:
        report(_core.isa(), results, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
