"""The disk tier beside plain file I/O of the same bytes, in one run: medians, spread, ratios.

Every round times each contender in turn: wall time for GB/s, and the CPU time of the thread, kernel
included, for a second ratio that other load on the machine disturbs less. The plain file is written by ``write`` and read by ``pread`` of
the same sizes, without checksum, index or bound; both contenders hand bytes to the page cache and
fsync once at the end of each round's writing. Answers are compared before they are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier

SIZES = {"256 KiB": 256 << 10, "1 MiB": 1 << 20, "2 MiB": 2 << 20}
TARGET = 0.7


@dataclass(frozen=True, slots=True)
class Result:
    """GB/s of both, and how ours compares; spread is half the inter-quartile range of the ratio.
    cpu_ratio is the same of CPU times."""

    what: str
    ours: float
    plain: float
    ratio: float
    spread: float
    cpu_ratio: float
    target: str


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


Time = tuple[float, float]  # wall, CPU


def timed(work: Callable[[], object]) -> Time:
    start, start_cpu = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - start, time.thread_time() - start_cpu


def compare(name: str, size: int, folder: Path, total: int, rounds: int) -> list[Result]:
    """Write and read ``total`` bytes in records of ``size``, plainly and through the tier."""
    payloads = [os.urandom(size) for _ in range(8)]
    numbers = range(total // size)
    writes: list[tuple[Time, Time]] = []
    reads: list[tuple[Time, Time]] = []
    for at in range(rounds):
        path = folder / f"round{at}"
        path.mkdir()
        plain = os.open(path / "plain", os.O_RDWR | os.O_CREAT)
        tier = DiskTier(path / "tier", disk_bytes=4 * total + (1 << 30))

        def write_plain(fd: int = plain) -> None:
            for number in numbers:
                os.write(fd, payloads[number % 8])
            os.fdatasync(fd)

        def write_tier(tier: DiskTier = tier) -> None:
            for number in numbers:
                tier.put_many([Record(key_of(number), Kind.BLOCK, payloads[number % 8])])
            tier.sync()

        def read_plain(fd: int = plain) -> None:
            for number in numbers:
                os.pread(fd, size, number * size)

        def read_tier(tier: DiskTier = tier) -> None:
            for number in numbers:
                tier.get_many([key_of(number)])

        def pair(
            plainly: Callable[[], object], ours: Callable[[], object], first: int = at % 2
        ) -> tuple[Time, Time]:
            if first:
                mine = timed(ours)
                return mine, timed(plainly)
            floor = timed(plainly)
            return timed(ours), floor

        writes.append(pair(write_plain, write_tier))
        for number in numbers:
            record = tier.get_many([key_of(number)])[0]
            if record is None or record.payload != payloads[number % 8]:
                raise AssertionError(f"record {number} came back different")
        reads.append(pair(read_plain, read_tier))
        tier.close()
        os.close(plain)
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()
    done = len(numbers) * size
    return [
        summary(f"{what} {name}", pairs, done)
        for what, pairs in (("write", writes), ("verified read", reads))
    ]


def summary(what: str, pairs: list[tuple[Time, Time]], done: int) -> Result:
    ratios = [plain[0] / ours[0] for ours, plain in pairs]
    quartiles = statistics.quantiles(ratios, n=4)
    return Result(
        what,
        done / statistics.median(ours[0] for ours, _ in pairs) / 1e9,
        done / statistics.median(plain[0] for _, plain in pairs) / 1e9,
        statistics.median(ratios),
        (quartiles[2] - quartiles[0]) / 2,
        statistics.median(plain[1] / ours[1] for ours, plain in pairs),
        f">={TARGET}",
    )


def index(folder: Path, entries: int, rounds: int) -> dict[str, float]:
    """Small entries: seconds to reopen (warm page cache), bytes of memory each, µs a call."""
    payload = bytes(64)
    path = folder / "index"
    with DiskTier(path, disk_bytes=8 << 30) as tier:
        started = time.thread_time()
        for number in range(entries):
            tier.put_many([Record(key_of(number), Kind.RESPONSE, payload)])
        put = (time.thread_time() - started) / entries
        keys = [key_of(number * 7919 % entries) for number in range(min(entries, 20_000))]
        started = time.thread_time()
        for key in keys:
            if tier.get_many([key]) == [None]:
                raise AssertionError("an entry is missing")
        get = (time.thread_time() - started) / len(keys)
    times, cpu = [], []
    for _ in range(rounds):
        started, started_cpu = time.perf_counter(), time.thread_time()
        with DiskTier(path, read_only=True) as tier:
            times.append(time.perf_counter() - started)
            cpu.append(time.thread_time() - started_cpu)
            if len(tier) != entries:
                raise AssertionError(f"{len(tier)} of {entries} entries came back")
    tracemalloc.start()
    with DiskTier(path, read_only=True):
        weight = tracemalloc.get_traced_memory()[0] / entries
    tracemalloc.stop()
    return {
        "entries": entries,
        "reopen_seconds": statistics.median(times),
        "reopen_cpu_seconds": statistics.median(cpu),
        "bytes_per_entry": weight,
        "put_us": put * 1e6,
        "get_us": get * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=128, help="MiB written a round")
    parser.add_argument("--entries", type=int, default=100_000, help="small entries to reopen")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        results = [
            result
            for label, size in SIZES.items()
            for result in compare(label, size, Path(name), options.mib << 20, options.rounds)
        ]
        small = index(Path(name), options.entries, options.rounds)
    if options.json:
        print(json.dumps({"files": [asdict(result) for result in results], "index": small}))
        return
    print(f"{'what':24} {'ours':>7} {'plain':>7} {'ratio':>6} {'±':>5} {'CPU':>5}  target   (GB/s)")
    for row in results:
        print(
            f"{row.what:24} {row.ours:7.2f} {row.plain:7.2f} {row.ratio:6.2f} {row.spread:5.2f}"
            f" {row.cpu_ratio:5.2f}  {row.target}"
        )
    print(
        f"\n{small['entries']:,} entries of 192 bytes: reopened in {small['reopen_seconds']:.2f} s "
        f"({small['reopen_cpu_seconds']:.2f} s CPU), {small['bytes_per_entry']:.0f} B of memory "
        f"each; put {small['put_us']:.1f} µs, verified get {small['get_us']:.1f} µs (CPU)"
    )


if __name__ == "__main__":
    main()
