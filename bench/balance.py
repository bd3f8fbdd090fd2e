"""The balancer beside round robin and least connections: prompts of a real trace on simulated GPUs.

Requests of Mooncake's traces come at their times (tests/data). Each GPU works one request after the
other, reads a prompt's tokens but for the blocks of 512 that its own cache has (LRU, in blocks), and takes
eight times as long for a token that it writes. All are so fast that without any cache they would be
busy nine tenths of the time. What chooses is the real Balancer with a monitor that sees how busy the
GPUs are, noisily; round robin; least connections; and what was here before, rendezvous hashing on the
first block with loads of at most a quarter above the mean. Seven stretches of the trace; the median of
each figure, and from where to where it goes. The second table is what a choice costs, in thread CPU time.

    python bench/balance.py [--gpus 4] [--cache-blocks 4000] [--load 0.9] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import lzma
import random
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blatam_kv.devices import Balancer, Reading, Ticket, Weights

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
TRACES = ("mooncake_conversation", "mooncake_synthetic")
RUNS, BLOCK, WRITTEN, SEEN = (
    7,
    512,
    8,
    256,
)  # SEEN: tokens of an answer that a balancer reckons with
STRETCH = 3000  # requests of a run
COST_ROUNDS, COST_CALLS = 9, 2000

Request = dict[str, Any]  # a line of the trace
Chooser = Callable[["Farm", Request], tuple[int, Ticket | None]]


class Farm:
    """GPUs that work, and what an observer may know of them."""

    def __init__(self, gpus: int, cache_blocks: int, tokens_per_second: float, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.free_at = [0.0] * gpus
        self.work = [0.0] * gpus
        self.open = [0] * gpus
        self.queued = [0] * gpus  # tokens, as rendezvous hashing counts them
        self.speed = tokens_per_second
        self.caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(gpus)]
        self.room = cache_blocks
        self.events: list[tuple[float, int, int, int, Ticket | None, bool]] = []
        self.waits: list[float] = []
        self.read = self.cached = self.number = 0

    def until(self, moment: float) -> None:
        """What ends by then."""
        while self.events and self.events[0][0] <= moment:
            at, _, gpu, tokens, ticket, over = heapq.heappop(self.events)
            self.now = at
            if over:
                self.open[gpu] -= 1
                self.queued[gpu] -= tokens
            if ticket is not None:
                ticket.done() if over else ticket.progress(tokens)
        self.now = moment

    def take(self, gpu: int, request: Request, ticket: Ticket | None) -> None:
        """The request on this GPU, after what it has."""
        ids, length = request["hash_ids"], request["input_length"]
        cache = self.caches[gpu]
        depth = 0
        while depth < len(ids) and ids[depth] in cache:
            depth += 1
        cached = min(depth * BLOCK, length - 1)
        for name in reversed(ids):
            cache[name] = None
            cache.move_to_end(name)
        while len(cache) > self.room:
            cache.popitem(last=False)
        first = max(self.free_at[gpu], self.now) + (length - cached) / self.speed
        end = first + WRITTEN * request["output_length"] / self.speed
        self.work[gpu] += end - max(self.free_at[gpu], self.now)
        self.free_at[gpu] = end
        self.waits.append(first - self.now)
        self.read += length
        self.cached += cached
        self.open[gpu] += 1
        self.queued[gpu] += length + SEEN
        self.number += 2
        saved = 0 if ticket is None else ticket.saved_tokens
        heapq.heappush(self.events, (first, self.number, gpu, length - saved, ticket, False))
        heapq.heappush(self.events, (end, self.number + 1, gpu, length + SEEN, ticket, True))

    # What a monitor sees.

    def gpus(self) -> list[str]:
        return [str(gpu) for gpu in range(len(self.free_at))]

    def reading(self, gpu: str) -> Reading:
        busy = float(self.free_at[int(gpu)] > self.now) + self.chance.uniform(-0.1, 0.1)
        return Reading(
            utilization=min(max(busy, 0.0), 1.0), used_bytes=60, total_bytes=80, at=self.now
        )


class Seen:
    """The farm as a monitor."""

    def __init__(self, farm: Farm) -> None:
        self.gpus, self.read = farm.gpus, farm.reading


def ours(farm: Farm) -> Chooser:
    balancer = Balancer(Seen(farm), weights=Weights(block_tokens=BLOCK), clock=lambda: farm.now)

    def choose(farm: Farm, request: Request) -> tuple[int, Ticket]:
        balancer.read()
        names = [name.to_bytes(8, "big") for name in request["hash_ids"]]
        ticket = balancer.choose(request["input_length"] + SEEN, prefix=names)
        return int(ticket.gpu), ticket

    return choose


def round_robin(farm: Farm) -> Chooser:
    return lambda farm, request: (len(farm.waits) % len(farm.open), None)


def least_connections(farm: Farm) -> Chooser:
    def choose(farm: Farm, request: Request) -> tuple[int, None]:
        turn = len(farm.waits)
        order = sorted(range(len(farm.open)), key=lambda gpu: (gpu - turn) % len(farm.open))
        return min(order, key=lambda gpu: farm.open[gpu]), None

    return choose


def first_block(farm: Farm) -> Chooser:
    def choose(farm: Farm, request: Request) -> tuple[int, None]:
        tokens = request["input_length"] + SEEN
        most = 1.25 * (sum(farm.queued) + tokens) / len(farm.queued)
        name = request["hash_ids"][0].to_bytes(8, "big")
        order = sorted(range(len(farm.queued)), key=lambda gpu: _rank(name, gpu), reverse=True)
        for gpu in order:
            if farm.queued[gpu] + tokens <= most or farm.queued[gpu] == 0:
                return gpu, None
        return farm.queued.index(min(farm.queued)), None

    return choose


def _rank(name: bytes, gpu: int) -> bytes:
    return hashlib.blake2b(name, digest_size=8, key=str(gpu).encode()).digest()


RULES: dict[str, Callable[[Farm], Chooser]] = {
    "round robin": round_robin,
    "least connections": least_connections,
    "first block, bounded": first_block,
    "Balancer": ours,
}


@dataclass(frozen=True, slots=True)
class Row:
    trace: str
    rule: str
    cached: tuple[float, float, float]  # share of prompt tokens: median, lowest, highest
    p95: tuple[float, float, float]  # seconds until the first token
    uneven: tuple[float, float, float]  # work of the GPU with most, of the one with least


def run(
    requests: Sequence[Request], rule: str, options: argparse.Namespace, seed: int
) -> tuple[float, float, float]:
    span = (requests[-1]["timestamp"] - requests[0]["timestamp"]) / 1000
    total = sum(each["input_length"] + WRITTEN * each["output_length"] for each in requests)
    farm = Farm(
        options.gpus, options.cache_blocks, total / span / options.gpus / options.load, seed
    )
    choose = RULES[rule](farm)
    for request in requests:
        farm.until((request["timestamp"] - requests[0]["timestamp"]) / 1000)
        gpu, ticket = choose(farm, request)
        farm.take(gpu, request, ticket)
    farm.until(float("inf"))
    assert len(farm.waits) == len(requests)
    assert not any(farm.open)
    waits = sorted(farm.waits)
    return farm.cached / farm.read, waits[int(0.95 * len(waits))], max(farm.work) / min(farm.work)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def rows(options: argparse.Namespace) -> list[Row]:
    found = []
    for trace in TRACES:
        with lzma.open(DATA / f"{trace}.jsonl.xz", "rt") as lines:
            requests = [json.loads(line) for line in lines]
        step = (len(requests) - STRETCH) // (RUNS - 1)
        results: dict[str, list[tuple[float, float, float]]] = {rule: [] for rule in RULES}
        for number in range(RUNS):
            stretch = requests[number * step : number * step + STRETCH]
            for rule, each in results.items():
                each.append(run(stretch, rule, options, number))
        found += [
            Row(trace, rule, *(spread(column) for column in zip(*each, strict=True)))
            for rule, each in results.items()
        ]
    return found


def costs() -> list[tuple[int, int, float]]:
    """GPUs, names of the prefix, and microseconds of a choice with its end: the median."""
    found = []
    for gpus in (4, 16):
        for names in (0, 24, 256):
            farm = Farm(gpus, 1, 1.0, 0)
            balancer = Balancer(Seen(farm), clock=lambda: 0.0)
            balancer.read()
            prompts = [[b"%d %d" % (prompt, name) for name in range(names)] for prompt in range(32)]
            rounds = []
            for _ in range(COST_ROUNDS):
                began = time.thread_time()
                for call in range(COST_CALLS):
                    balancer.choose(1000, prefix=prompts[call % 32]).done()
                rounds.append((time.thread_time() - began) / COST_CALLS * 1e6)
            found.append((gpus, names, statistics.median(rounds)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--cache-blocks", type=int, default=4000, help="of 512 tokens, of a GPU")
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table, cost = rows(options), costs()
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in table], "microseconds": cost}, indent=2))
        return
    print(f"{options.gpus} GPUs, {options.cache_blocks} blocks each, {options.load:.0%} load")
    print(f"{'trace':<22} {'rule':<21} {'cached tokens':>20} {'P95 s':>20} {'most/least':>18}")
    for row in table:
        peer = next(r for r in table if (r.trace, r.rule) == (row.trace, "least connections"))
        shares = "{:.1%} ({:.1%}-{:.1%})".format(*row.cached)
        waits = "{:.2f} ({:.2f}-{:.2f})".format(*row.p95)
        uneven = "{:.2f} ({:.2f}-{:.2f})".format(*row.uneven)
        print(
            f"{row.trace:<22} {row.rule:<21} {shares:>20} {waits:>20} {uneven:>18}"
            f"  {row.cached[0] / peer.cached[0]:.2f}x cached, {row.p95[0] / peer.p95[0]:.2f}x P95"
        )
    print(f"\n{'GPUs':>4} {'names':>6} {'us a choice':>12}")
    for gpus, names, microseconds in cost:
        print(f"{gpus:>4} {names:>6} {microseconds:>12.1f}")


if __name__ == "__main__":
    main()
