"""The disk tier beside plain file I/O of the same bytes, and beside diskcache: medians, spread, ratios.

Every round times each contender in turn: wall time for GB/s, and the CPU time of the thread, kernel
included, for a second ratio that other load on the machine disturbs less. The plain file is written by
``write`` and read by ``pread`` of the same sizes, without checksum, index or bound; both contenders hand
bytes to the page cache and fsync once at the end of each round's writing; "together" puts as many records
a call as take 2 MiB, as a store of blocks and the queue before a tier do. "borrowed" is a verified read
for whoever decodes at once, "owned" one whose bytes are copied for the caller. Answers are compared
before they are timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier, Tier, WriteBehind

SIZES = {"256 KiB": 256 << 10, "1 MiB": 1 << 20, "2 MiB": 2 << 20}
TARGET = 0.7
TOGETHER_BYTES = 2 << 20


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
    several = TOGETHER_BYTES // size
    writes: list[tuple[Time, Time]] = []
    together: list[tuple[Time, Time]] = []
    owned: list[tuple[Time, Time]] = []
    borrowed: list[tuple[Time, Time]] = []
    for at in range(rounds):
        path = folder / f"round{at}"
        path.mkdir()
        plain = os.open(path / "plain", os.O_RDWR | os.O_CREAT)
        tier = DiskTier(path / "tier", disk_bytes=4 * total + (1 << 30))

        def write_plain(name: str = "plain", path: Path = path) -> None:
            fd = os.open(path / name, os.O_WRONLY | os.O_CREAT)
            for number in numbers:
                os.write(fd, payloads[number % 8])
            os.fdatasync(fd)
            os.close(fd)

        def write_together(path: Path = path) -> None:
            with DiskTier(path / "together", disk_bytes=4 * total + (1 << 30)) as tier:
                for first in range(0, len(numbers), several):
                    some = numbers[first : first + several]
                    tier.put_many([Record(key_of(n), Kind.BLOCK, payloads[n % 8]) for n in some])
                tier.sync()

        def write_tier(tier: DiskTier = tier) -> None:
            for number in numbers:
                tier.put_many([Record(key_of(number), Kind.BLOCK, payloads[number % 8])])
            tier.sync()

        def read_plain(fd: int = plain) -> None:
            for number in numbers:
                os.pread(fd, size, number * size)

        def read_owned(tier: DiskTier = tier) -> None:
            for number in numbers:
                tier.get_many([key_of(number)])

        def read_borrowed(tier: DiskTier = tier) -> None:
            for number in numbers:
                with tier.borrow_many([key_of(number)]):
                    pass

        def pair(
            plainly: Callable[[], object], ours: Callable[[], object], first: int = at % 2
        ) -> tuple[Time, Time]:
            if first:
                mine = timed(ours)
                return mine, timed(plainly)
            floor = timed(plainly)
            return timed(ours), floor

        writes.append(pair(write_plain, write_tier))
        if several > 1:
            together.append(pair(partial(write_plain, "other"), write_together))
        for number in numbers:
            record = tier.get_many([key_of(number)])[0]
            if record is None or record.payload != payloads[number % 8]:
                raise AssertionError(f"record {number} came back different")
        owned.append(pair(read_plain, read_owned))
        borrowed.append(pair(read_plain, read_borrowed))
        tier.close()
        os.close(plain)
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()
    done = len(numbers) * size
    return [
        summary(f"{what} {name}", pairs, done)
        for what, pairs in (
            ("write", writes),
            ("write together", together),
            ("borrowed read", borrowed),
            ("owned read", owned),
        )
        if pairs
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
    """Small entries: seconds to reopen (warm page cache), bytes of index each, µs a call."""
    payload = bytes(64)
    path = folder / "index"
    records = [Record(key_of(number), Kind.RESPONSE, payload) for number in range(20_000)]
    with DiskTier(path, disk_bytes=8 << 30) as tier:
        put = per_call(partial(put_one, tier), records)
        for first in range(0, entries, 1000):
            last = min(first + 1000, entries)
            tier.put_many(
                Record(key_of(number), Kind.RESPONSE, payload) for number in range(first, last)
            )
        keys = [key_of(number * 7919 % entries) for number in range(20_000)]
        if None in tier.get_many(keys):
            raise AssertionError("an entry is missing")
        get = per_call(partial(get_one, tier), keys)
        weight = tier.stats().index_bytes / entries
    answers = {"entries": entries, "index_bytes_per_entry": weight, "put_us": put, "get_us": get}
    with WriteBehind(DiskTier(folder / "behind", disk_bytes=8 << 30)) as behind:
        answers["put_behind_us"] = per_call(partial(put_one, behind), records)
    for name, kept in (("checkpoint", True), ("headers", False)):
        if not kept:
            (path / "index").unlink()
        times = [reopened(path, entries) for _ in range(rounds)]
        answers[f"reopen_{name}_seconds"] = statistics.median(times)
    return answers


def put_one(tier: Tier, record: Record) -> None:
    tier.put_many([record])


def get_one(tier: Tier, key: bytes) -> None:
    tier.get_many([key])


def per_call(call: Callable[[Any], object], arguments: Sequence[object]) -> float:
    """Median over chunks of 500 of the thread's CPU µs a call."""
    chunks = []
    for first in range(0, len(arguments), 500):
        some = arguments[first : first + 500]
        started = time.thread_time()
        for argument in some:
            call(argument)
        chunks.append((time.thread_time() - started) / len(some))
    return statistics.median(chunks) * 1e6


def reopened(path: Path, entries: int) -> float:
    started = time.thread_time()
    with DiskTier(path, read_only=True) as tier:
        took = time.thread_time() - started
        if len(tier) != entries:
            raise AssertionError(f"{len(tier)} of {entries} entries came back")
    return took


def beside_diskcache(folder: Path, rounds: int) -> list[tuple[str, float, float, float]]:
    """(what, µs of ours, µs of diskcache, ratio): responses of 4 KiB, puts and gets by one thread."""
    diskcache = importlib.import_module("diskcache")  # it has no types

    keys = [key_of(number) for number in range(500)]
    payload = os.urandom(4096)
    records = [Record(key, Kind.RESPONSE, payload) for key in keys]
    rows: dict[str, list[tuple[float, float]]] = {"put": [], "get": []}
    for at in range(rounds):
        with (
            DiskTier(folder / f"ours{at}", disk_bytes=1 << 30) as tier,
            diskcache.Cache(str(folder / f"theirs{at}"), size_limit=1 << 30) as peer,
        ):
            rows["put"].append(
                (
                    per_call(partial(put_one, tier), records),
                    per_call(partial(peer.set, value=payload), keys),
                )
            )
            record, other = tier.get_many(keys[:1])[0], peer.get(keys[0])
            if record is None or not record.payload == other == payload:
                raise AssertionError("an answer differs")
            rows["get"].append(
                (
                    per_call(partial(get_one, tier), keys),
                    per_call(peer.get, keys),
                )
            )
    return [
        (
            what,
            statistics.median(ours for ours, _ in pairs),
            statistics.median(theirs for _, theirs in pairs),
            statistics.median(theirs / ours for ours, theirs in pairs),
        )
        for what, pairs in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=128, help="MiB written a round")
    parser.add_argument("--entries", type=int, default=1_000_000, help="small entries to reopen")
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
        peers = beside_diskcache(Path(name), options.rounds)
    if options.json:
        files = [asdict(result) for result in results]
        print(json.dumps({"files": files, "index": small, "diskcache": peers}))
        return
    print(f"{'what':24} {'ours':>7} {'plain':>7} {'ratio':>6} {'±':>5} {'CPU':>5}  target   (GB/s)")
    for row in results:
        print(
            f"{row.what:24} {row.ours:7.2f} {row.plain:7.2f} {row.ratio:6.2f} {row.spread:5.2f}"
            f" {row.cpu_ratio:5.2f}  {row.target}"
        )
    print(
        f"\n{small['entries']:,} entries of 192 bytes, CPU of the thread: reopened in"
        f" {small['reopen_checkpoint_seconds']:.2f} s, without the checkpoint in"
        f" {small['reopen_headers_seconds']:.2f} s (target 1 s);"
        f" {small['index_bytes_per_entry']:.0f} B of index each (target 64);"
        f" put {small['put_us']:.1f} µs, behind a queue {small['put_behind_us']:.1f} µs"
        f" (target 5), verified get {small['get_us']:.1f} µs"
    )
    targets = {"put": 5, "get": 2}
    for what, ours, theirs, ratio in peers:
        print(
            f"{what} of 4 KiB: {ours:.1f} µs, diskcache {theirs:.1f} µs:"
            f" {ratio:.1f} times as fast (target {targets[what]})"
        )


if __name__ == "__main__":
    main()
