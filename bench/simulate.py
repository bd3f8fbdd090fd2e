"""``kv.simulate`` beside a loop over OrderedDict: requests a second, ratios, the target.

Each policy replays a stream of Zipf-like requests, or the trace given, with capacities of 1 and 10 % of
its objects, one at a time and as one of eight in a single pass; numbering the objects is timed apart.
Every round times each of them in turn, in thread CPU time. Hits are compared first.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from blatam_kv._core import Replay, Trace, policies
from blatam_kv.simulation import OPTIMUM
from blatam_kv.traces import PIECE

REQUESTS, OBJECTS = 2_000_000, 200_000
TARGET = 20.0  # million requests a second and core, for lru
SHARES = (0.01, 0.10)
PEER = "OrderedDict lru"
PEER_REQUESTS = 200_000  # a timing of the peer, from the start


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    millions: float  # of requests a second: the median
    spread: float  # half the inter-quartile range
    times_peer: float | None
    target: float | None


def ordered_dict(ids: list[int], capacity: int) -> int:
    """The replay that everyone writes by hand; returns the hits."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in ids:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
        else:
            if len(cache) >= capacity:
                cache.popitem(last=False)
            cache[key] = None
    return hits


def replay(trace: Trace, contestants: list[tuple[str, int]]) -> list[tuple[int, int, int, int]]:
    run = Replay(trace, contestants, decay=1.0, window=-1.0, interval=0.1, shadows=1 << 14)
    while run.advance(1 << 15) < trace.requests:
        pass
    return run.tallies()


def number(ids: Any) -> Trace:
    trace = Trace("objects")
    for at in range(0, len(ids), PIECE):
        trace.add(ids[at : at + PIECE])
    return trace


@dataclass(frozen=True, slots=True)
class Timed:
    what: str
    requests: int  # that one call replays
    work: Callable[[], object]
    peer: str | None = None


def contenders(trace: Trace, ids: Any) -> Iterator[Timed]:
    start = ids[:PEER_REQUESTS].tolist()
    yield Timed("numbering the objects", len(ids), partial(number, ids))
    for share in SHARES:
        capacity = max(1, round(share * trace.unique))
        ((_, hits, *_),) = replay(number(ids[:PEER_REQUESTS]), [("lru", capacity)])
        if hits != ordered_dict(start, capacity):
            raise AssertionError("lru: not the hits of the peer")
        peer = f"{PEER}, {share:.0%}"
        yield Timed(peer, len(start), partial(ordered_dict, start, capacity))
        for name in (*policies(), OPTIMUM):
            work = partial(replay, trace, [(name, capacity)])
            yield Timed(f"{name}, {share:.0%}", len(ids), work, peer)
    eight = [("lru", max(1, trace.unique * i // 80)) for i in range(1, 9)]
    yield Timed("lru, eight in one pass", 8 * len(ids), partial(replay, trace, eight), peer)


def measure(trace: Trace, ids: Any, rounds: int) -> list[Row]:
    timed = list(contenders(trace, ids))
    rates: dict[str, list[float]] = {each.what: [] for each in timed}
    for _ in range(rounds):
        for each in timed:
            start = time.thread_time_ns()
            each.work()
            rates[each.what].append(1e3 * each.requests / (time.thread_time_ns() - start))
    rows = []
    for each in timed:
        low, middle, high = statistics.quantiles(rates[each.what], n=4)
        ratio = middle / statistics.median(rates[each.peer]) if each.peer else None
        target = TARGET if each.what.startswith("lru") else None
        rows.append(Row(each.what, middle, (high - low) / 2, ratio, target))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", metavar="FILE", help="a .u32.xz file (Zipf-like ids)")
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 3 if options.quick else max(2, options.rounds)
    if options.trace:
        with lzma.open(options.trace) as file:
            ids = np.frombuffer(file.read(), "<u4")
    else:
        ids = (np.random.default_rng(0).zipf(1.1, REQUESTS) % OBJECTS).astype(np.uint32)
    trace = number(ids)
    rows = measure(trace, ids, rounds)
    if options.json:
        print(json.dumps({"rounds": rounds, "rows": [asdict(row) for row in rows]}, indent=2))
        return 0
    print(
        f"simulate: {trace.requests:,} requests for {trace.unique:,} objects, million requests a "
        f"second of one core, median of {rounds} rounds"
    )
    print(f"{'':28}{'M/s':>8}{'±':>7}{'ours is':>9}{'target':>8}")
    for row in rows:
        ratio = f"{row.times_peer:.0f}x" if row.times_peer else ""
        target = f">={row.target:.0f}" if row.target else ""
        print(f"{row.what:28}{row.millions:8.1f}{row.spread:7.1f}{ratio:>9}{target:>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
