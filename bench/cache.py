"""``blatam_kv.Cache`` beside dict and the Python caches: medians, spread and ratios.

Peers that are installed take part (cachebox, cachetools, lru-dict): pip install cachebox cachetools
lru-dict. Every round times each of them in turn; the figures are thread CPU time.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import blatam_kv as kv

CAPACITY = 100_000
UNIVERSE = 1_000_000


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


def caches() -> dict[str, Callable[[], Any]]:
    """Name to maker; dict is the floor and evicts nothing."""
    found: dict[str, Callable[[], Any]] = {
        "dict (floor)": dict,
        "blatam_kv lru": lambda: kv.Cache(capacity=CAPACITY),
        "blatam_kv lfu": lambda: kv.Cache(capacity=CAPACITY, policy="lfu"),
        "OrderedDict lru": OrderedDictLru,
    }
    for name, module, class_name in (
        ("cachebox lru", "cachebox", "LRUCache"),
        ("cachetools lru", "cachetools", "LRUCache"),
        ("lru-dict", "lru", "LRU"),
    ):
        try:
            found[name] = partial(getattr(importlib.import_module(module), class_name), CAPACITY)
        except ImportError:
            continue
    return found


def zipf(count: int, seed: int) -> list[int]:
    """Zipf 0.99 over the universe."""
    rng = random.Random(seed)
    weights = [0.0] * UNIVERSE
    total = 0.0
    for i in range(UNIVERSE):
        total += 1 / (i + 1) ** 0.99
        weights[i] = total
    return rng.choices(range(UNIVERSE), cum_weights=weights, k=count)


def time_get(cache: Any, keys: Sequence[Hashable]) -> None:
    get = cache.get
    for key in keys:
        get(key)


def time_put(cache: Any, keys: Sequence[Hashable]) -> None:
    for key in keys:
        cache[key] = None


def time_mix(cache: Any, keys: Sequence[Hashable]) -> None:
    get = cache.get
    for i, key in enumerate(keys):
        if i % 10:
            get(key)
        else:
            cache[key] = True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds

    rng = random.Random(0)
    warm = [rng.randrange(1000) for _ in range(100_000)]
    hits = [rng.randrange(CAPACITY) for _ in range(100_000)]
    mixed = zipf(100_000, 1)
    columns: list[tuple[str, Callable[[Any, Sequence[Hashable]], None], Any]] = []
    for kind, convert in (("int", int), ("str", lambda i: f"key-{i:09d}")):
        columns += [
            (f"get warm {kind}", time_get, [convert(k) for k in warm]),
            (f"get {kind}", time_get, [convert(k) for k in hits]),
            (f"put {kind}", time_put, None),
            (f"90/10 {kind}", time_mix, [convert(k) for k in mixed]),
        ]
    made = {name: {"int": make(), "str": make()} for name, make in caches().items()}
    for by_kind in made.values():
        for i in range(CAPACITY):
            by_kind["int"][i] = True
            by_kind["str"][f"key-{i:09d}"] = True
    for name, by_kind in made.items():  # the answers before the times
        if by_kind["int"].get(77) is not True or by_kind["str"].get("missing") is not None:
            raise AssertionError(f"{name} gave a wrong answer")

    times: dict[tuple[str, str], list[float]] = {}
    fresh = CAPACITY
    gc.disable()
    for _ in range(rounds):
        for column, measure, keys in columns:
            kind = column.rsplit(" ", 1)[1]
            for name, by_kind in made.items():
                used = keys
                if used is None:  # keys never seen: every put evicts
                    numbers = range(fresh, fresh + 50_000)
                    used = list(numbers) if kind == "int" else [f"key-{i:09d}" for i in numbers]
                start = time.thread_time_ns()
                measure(by_kind[kind], used)
                elapsed = (time.thread_time_ns() - start) / len(used)
                times.setdefault((name, column), []).append(elapsed)
            if keys is None:
                fresh += 50_000
                for by_kind in made.values():  # so that the gets of the next round hit again
                    for i in range(CAPACITY):
                        by_kind[kind][i if kind == "int" else f"key-{i:09d}"] = True
    gc.enable()

    table = {
        name: {column: statistics.median(times[name, column]) for column, _, _ in columns}
        for name in made
    }
    if options.json:
        print(json.dumps({"rounds": rounds, "ns": table}, indent=2))
        return 0
    print(f"Python caches, CPU ns per operation, {CAPACITY:,} entries, median of {rounds}")
    print(f"{'':18}" + "".join(f"{column:>14}" for column, _, _ in columns))
    ours = table["blatam_kv lru"]
    for name, row in table.items():
        print(f"{name:18}" + "".join(f"{row[column]:14.0f}" for column, _, _ in columns))
        if not name.startswith("blatam_kv"):
            ratios = "".join(f"{row[column] / ours[column]:13.2f}x" for column, _, _ in columns)
            print(f"{'  over ours':18}{ratios}")
    missing = [m for m in ("cachebox", "cachetools", "lru") if m not in sys.modules]
    if missing:
        print(f"not installed, so not measured: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
