"""``blatam_kv.Cache`` beside dict and the Python caches: medians, ratios, targets, and a plot.

Peers that are installed take part (cachebox, cachetools, lru-dict, theine); ``./run bench`` brings
them. Every round times each of them in turn, on keys of its own copy; the figures are thread CPU time,
wall time for two threads. Memory is the growth of a process of its own, keys and values taken off.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import blatam_kv as kv

CAPACITY = 100_000
UNIVERSE = 1_000_000
OPERATIONS = 50_000  # a round
PEER = "cachebox lru"
KINDS: dict[str, Callable[[int], Hashable]] = {"int": int, "str": lambda i: f"key-{i:09d}"}
Keys = Sequence[Hashable]


class OrderedDictLru(OrderedDict[Hashable, Any]):
    """The LRU cache that everyone writes by hand."""

    def get(self, key: Hashable, default: Any = None) -> Any:
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > CAPACITY:
            self.popitem(last=False)


# ---- the peers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """How one cache is made and spoken to: ``put`` is the name of a method, or ``[]``, or ``()``
    where a call does both. threads: it may be shared between them, else each operation takes a lock,
    as its documentation demands."""

    make: Callable[[int], Any]
    put: str = "[]"
    threads: bool = True


def peers() -> dict[str, Peer]:
    """Those installed; dict is the floor and evicts nothing."""
    found = {
        "dict (floor)": Peer(lambda _: {}),
        "blatam_kv lru": Peer(lambda n: kv.Cache(capacity=n)),
        "blatam_kv lfu": Peer(lambda n: kv.Cache(capacity=n, policy="lfu")),
        "OrderedDict lru": Peer(lambda _: OrderedDictLru(), threads=False),
        "lru_cache": Peer(lambda n: functools.lru_cache(maxsize=n)(lambda key: True), "()"),
    }
    for name, module, attribute, put in (
        (PEER, "cachebox", "LRUCache", "[]"),
        ("cachebox lfu", "cachebox", "LFUCache", "[]"),
        ("cachetools lru", "cachetools", "LRUCache", "[]"),
        ("lru-dict", "lru", "LRU", "[]"),
        ("theine", "theine", "Cache", "set"),
    ):
        try:
            made = getattr(importlib.import_module(module), attribute)
            found[name] = Peer(made, put, threads=module != "cachetools")
        except ImportError:
            print(f"not installed, so not measured: {module}", file=sys.stderr)
    return found


# ---- what is timed ------------------------------------------------------------------------------


def calls(function: Callable[[Hashable], object], keys: Keys) -> None:
    for key in keys:
        function(key)


def assignments(cache: Any, keys: Keys) -> None:
    for key in keys:
        cache[key] = True


def stores(function: Callable[[Hashable, object], object], keys: Keys) -> None:
    for key in keys:
        function(key, True)


def mixed_assignments(cache: Any, keys: Keys) -> None:
    get = cache.get
    for i, key in enumerate(keys):
        if i % 10:
            get(key)
        else:
            cache[key] = True


def mixed_stores(cache: Any, keys: Keys) -> None:
    get, put = cache.get, cache.set
    for i, key in enumerate(keys):
        if i % 10:
            get(key)
        else:
            put(key, True)


def read(peer: Peer, cache: Any, keys: Keys) -> None:
    calls(cache if peer.put == "()" else cache.get, keys)


def write(peer: Peer, cache: Any, keys: Keys) -> None:
    if peer.put == "[]":
        assignments(cache, keys)
    elif peer.put == "()":
        calls(cache, keys)
    else:
        stores(getattr(cache, peer.put), keys)


def mix(peer: Peer, cache: Any, keys: Keys) -> None:
    if peer.put == "[]":
        mixed_assignments(cache, keys)
    elif peer.put == "()":
        calls(cache, keys)
    else:
        mixed_stores(cache, keys)


def mixed_under_lock(cache: Any, lock: threading.Lock, keys: Keys) -> None:
    get = cache.get
    for i, key in enumerate(keys):
        if i % 10:
            with lock:
                get(key)
        else:
            with lock:
                cache[key] = True


def mix_in_two_threads(peer: Peer, cache: Any, keys: Keys) -> None:
    half = len(keys) // 2
    run = functools.partial(mix, peer, cache)
    if not peer.threads:
        run = functools.partial(mixed_under_lock, cache, threading.Lock())
    threads = [threading.Thread(target=run, args=(part,)) for part in (keys[:half], keys[half:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_many(peer: Peer, cache: Any, keys: Keys) -> None:
    """By thousands: ``get_many`` where there is one, else a list comprehension over get."""
    batches = [keys[i : i + 1000] for i in range(0, len(keys), 1000)]
    if hasattr(cache, "get_many"):
        for batch in batches:
            cache.get_many(batch)
    else:
        get = cache if peer.put == "()" else cache.get
        for batch in batches:
            [get(key) for key in batch]


@dataclass(frozen=True)
class Row:
    """One operation: on which keys, by which clock, and what is wanted of it."""

    run: Callable[[Peer, Any, Keys], None]
    keys: str  # warm: 1,000 of them; hits: all that are in; fresh: never seen; zipf
    against: str  # the peer of the target
    at_least: float  # times faster than it
    clock: Callable[[], int] = time.thread_time_ns


ROWS = {
    "get, warm": Row(read, "warm", "dict (floor)", 1 / 1.3),
    "get, hit": Row(read, "hits", PEER, 1.3),
    "put, evicting": Row(write, "fresh", PEER, 1.4),
    "90/10 zipf": Row(mix, "zipf", PEER, 1.4),
    "90/10 zipf, 2 threads": Row(mix_in_two_threads, "zipf", PEER, 1.4, time.perf_counter_ns),
    "get_many(1000), warm": Row(read_many, "warm", "dict (floor)", 1.0),
    "get_many(1000)": Row(read_many, "hits", "dict (floor)", 1.0),
}
GET_MANY_NS = 20.0
MEMORY_BYTES = 64.0


def zipf(count: int) -> list[int]:
    """Zipf 0.99 over the universe."""
    weights = list(accumulate(1 / (i + 1) ** 0.99 for i in range(UNIVERSE)))
    return random.Random(1).choices(range(UNIVERSE), cum_weights=weights, k=count)


def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median nanoseconds by operation, kind of key, and cache."""
    rng = random.Random(0)
    numbers = {
        "warm": [rng.randrange(CAPACITY - 1000, CAPACITY) for _ in range(OPERATIONS)],
        "hits": [rng.randrange(CAPACITY) for _ in range(OPERATIONS)],
        "zipf": zipf(OPERATIONS),
    }
    result: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ROWS}
    for kind, convert in KINDS.items():
        everything = [convert(i) for i in range(CAPACITY)]
        keys = {name: [convert(i) for i in sequence] for name, sequence in numbers.items()}
        caches = {name: (peer, peer.make(CAPACITY)) for name, peer in peers().items()}
        for name, (peer, cache) in caches.items():  # the answers before the times
            write(peer, cache, everything)
            answer = (cache if peer.put == "()" else cache.get)(everything[77])
            if answer not in (True, (True, True)):  # theine says so twice
                raise AssertionError(f"{name} answered {answer!r}")
        times: dict[tuple[str, str], list[float]] = {}
        fresh = CAPACITY
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for operation, row in ROWS.items():
                for name, (peer, cache) in caches.items():
                    if row.keys == "fresh":  # objects of its own, as a program's would be
                        used: Keys = [convert(i) for i in range(fresh, fresh + OPERATIONS)]
                    else:
                        used = keys[row.keys]
                    start = row.clock()
                    row.run(peer, cache, used)
                    elapsed = (row.clock() - start) / OPERATIONS
                    times.setdefault((operation, name), []).append(elapsed)
                if row.keys in ("fresh", "zipf"):  # so that the gets of the next row hit again
                    fresh += OPERATIONS * (row.keys == "fresh")
                    for peer, cache in caches.values():
                        write(peer, cache, everything)
        gc.enable()
        for (operation, name), values in times.items():
            result[operation].setdefault(kind, {})[name] = statistics.median(values)
    return result


def memory_of(name: str, entries: int = 1_000_000) -> float:
    """Bytes an entry of one full cache in this process, beyond int keys and values."""
    peer = peers()[name]
    keys = list(range(10**6, 10**6 + entries))
    gc.collect()
    before = resident()
    cache = peer.make(entries)
    write(peer, cache, keys)
    gc.collect()
    return (resident() - before) / entries


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure_memory(names: Sequence[str]) -> dict[str, float]:
    """Each in a process of its own: nothing that was freed is used again."""
    result = {}
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        result[name] = float(done.stdout)
    return result


# ---- what is printed ----------------------------------------------------------------------------


def verdicts(
    times: dict[str, dict[str, dict[str, float]]], memory: dict[str, float]
) -> list[tuple[str, str, str, bool]]:
    """What was wanted, what was seen, and whether that is enough."""
    found = []
    for operation, row in ROWS.items():
        for kind, by_name in times[operation].items():
            if row.against not in by_name:
                continue
            ours, theirs = by_name["blatam_kv lru"], by_name[row.against]
            wanted, seen = f">= {row.at_least:.2f}x {row.against}", f"{theirs / ours:.2f}x"
            enough = theirs / ours >= row.at_least
            if operation == "get_many(1000), warm":
                wanted, seen, enough = (
                    f"<= {GET_MANY_NS:.0f} ns",
                    f"{ours:.1f} ns",
                    ours <= GET_MANY_NS,
                )
            found.append((f"{operation}, {kind}", wanted, seen, enough))
    ours = memory["blatam_kv lru"]
    wanted = f"<= {MEMORY_BYTES:.0f} bytes"
    found.append(("memory an entry", wanted, f"{ours:.0f} bytes", ours <= MEMORY_BYTES))
    return found


def show(times: dict[str, dict[str, dict[str, float]]], memory: dict[str, float]) -> None:
    names = list(next(iter(times["get, hit"].values())))
    for kind in KINDS:
        print(f"\nns an operation, {kind} keys, {CAPACITY:,} entries")
        print(f"{'':24}" + "".join(f"{name:>16}" for name in names))
        for operation, by_kind in times.items():
            print(f"{operation:24}" + "".join(f"{by_kind[kind][n]:16.0f}" for n in names))
    print("\nbytes an entry beyond key and value, 1,000,000 entries")
    print(f"{'':24}" + "".join(f"{memory[name]:16.0f}" for name in names))
    print(f"\n{'blatam_kv lru':32}{'target':>26}{'seen':>12}")
    for what, wanted, seen, enough in verdicts(times, memory):
        print(f"{what:32}{wanted:>26}{seen:>12}  {'' if enough else 'MISSED'}")


def plot(
    times: dict[str, dict[str, dict[str, float]]], memory: dict[str, float], path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n in next(iter(times["get, hit"].values())) if n != "dict (floor)"]
    panels = ["get, hit", "put, evicting", "90/10 zipf", "90/10 zipf, 2 threads"]
    figure, axes = pyplot.subplots(1, len(panels) + 1, figsize=(16, 4.2), sharey=True)
    places = range(len(names))
    colours = ["#0b7a75" if n.startswith("blatam") else "#b8c4c2" for n in names]
    for axis, operation in zip(axes, panels, strict=False):
        for offset, (kind, hatch) in enumerate((("int", ""), ("str", "///"))):
            speeds = [1000 / times[operation][kind][n] for n in names]
            axis.barh(
                [p + (offset - 0.5) * 0.38 for p in places],
                speeds,
                0.36,
                color=colours,
                hatch=hatch,
                edgecolor="white",
                label=f"{kind} keys",
            )
        floor = times[operation]["int"].get("dict (floor)")
        if floor and operation == "get, hit":
            axis.axvline(1000 / floor, color="#444", linestyle=":", linewidth=1)
            axis.text(1000 / floor, len(names) - 0.6, " dict", fontsize=8, color="#444")
        axis.set_title(operation)
        axis.set_xlabel("million operations a second")
    axes[-1].barh(list(places), [memory[n] for n in names], 0.6, color=colours)
    axes[-1].set_title("memory")
    axes[-1].set_xlabel("bytes an entry beyond key and value")
    axes[0].set_yticks(list(places), names)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right", fontsize=8, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Python caches, {CAPACITY:,} entries, Python {sys.version.split()[0]}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the comparison")
    parser.add_argument("--memory-of", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of(options.memory_of))
        return 0
    rounds = 3 if options.quick else options.rounds
    times = measure(rounds)
    memory = measure_memory(list(next(iter(times["get, hit"].values()))))
    if options.json:
        print(json.dumps({"rounds": rounds, "ns": times, "memory_bytes": memory}, indent=2))
    else:
        print(f"Python caches, median of {rounds} interleaved rounds")
        show(times, memory)
    if options.plot:
        plot(times, memory, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
