"""``adaptive`` beside every policy in hindsight, on every trace and capacity of hit_ratios.csv; with
sizes and with costs beside gdsf; and its price in nanoseconds.

The traces are those of tests/data, or of a folder that holds more of them as NAME.u32.xz beside a
hit_ratios.csv. Hit ratios are exact; the price is that of build/release/core_bench (./run bench).
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import blatam_kv as kv

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "build" / "release" / "core_bench"
DATA = ROOT / "tests" / "data"
FORMS = ("full", "sampled")
# Of the hit ratios: points below the best in hindsight. Of the price: nanoseconds above lru.
GAP = {"full": 0.7, "sampled": 1.0}
PRICE = {"adaptive full": 250.0, "adaptive sampled": 40.0}
SHARES = ("1%", "5%", "10%", "25%")


def known(folder: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Percent by policy, of each trace and capacity."""
    cells: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    with (folder / "hit_ratios.csv").open() as file:
        for row in csv.DictReader(file):
            if (folder / f"{row['trace']}.u32.xz").exists():
                cell = cells[row["trace"], int(row["size"])]
                cell[row["policy"]] = 100 * float(row["hit_ratio"])
    return cells


def hit_ratios(folder: Path) -> list[dict[str, object]]:
    cells = known(folder)
    rows = []
    for trace in sorted({trace for trace, _ in cells}):
        capacities = sorted(capacity for name, capacity in cells if name == trace)
        forms = {
            form: kv.simulate(
                folder / f"{trace}.u32.xz", "adaptive", capacities, shadows=form, progress=False
            )
            for form in FORMS
        }
        for at, capacity in enumerate(capacities):
            cell = cells[trace, capacity]
            optimum = cell.pop("Belady")
            best = max(cell, key=lambda policy: cell[policy])
            rows.append(
                {
                    "trace": trace,
                    "capacity": capacity,
                    "requests_each": round(forms["full"].requests / capacity),
                    "best": best,
                    "best_ratio": cell[best],
                    "lru_lfu": max(cell["LRU"], cell["LFU"]),
                    "optimum": optimum,
                    **{form: 100 * forms[form].results[at].hit_ratio for form in FORMS},
                }
            )
    return rows


def show_sizes(folder: Path) -> None:
    """A trace of web objects, with the sizes they had."""
    if not (folder / "adaptsize_request.sz.xz").exists():
        return
    requests, sizes = (
        np.frombuffer(
            lzma.decompress((folder / f"adaptsize_request.{kind}.xz").read_bytes()), "<u4"
        )
        for kind in ("u32", "sz")
    )
    print(f"\nadaptsize_request with sizes, % of requests | % of bytes at {', '.join(SHARES)}")
    for policy in ("lru", "gdsf", "adaptive"):
        found = kv.simulate(requests, policy, SHARES, sizes=sizes, progress=False).results
        print(
            f"  {policy:10}",
            *(f"{100 * each.hit_ratio:6.2f}" for each in found),
            " |",
            *(f"{100 * (each.byte_hit_ratio or 0):6.2f}" for each in found),
        )


def saved(policy: str, keys: list[int], costs: list[float], capacity: int) -> float:
    """Percent of the cost of all requests that hits have saved."""
    cache: kv.Cache[int, bool] = kv.Cache(capacity=capacity, policy=policy)
    hit = 0.0
    for key in keys:
        if cache.get(key) is None:
            cache.put(key, True, cost=costs[key])
        else:
            hit += costs[key]
    return 100 * hit / sum(costs[key] for key in keys)


def show_costs() -> None:
    """Draws and a loop of 20,000 keys whose misses cost differently, by a log-normal distribution."""
    random = np.random.default_rng(1)
    odds = 1 / np.arange(1, 20_001) ** 0.9
    draws = random.choice(20_000, 400_000, p=odds / odds.sum())
    streams = {"Zipf 0.9": draws, "loop": np.resize(np.arange(20_000), 400_000)}
    print("\nmisses of unlike cost, % of it saved at 2 | 10 % of the keys")
    for name, stream in streams.items():
        for sigma in (1.0, 2.0):
            costs = random.lognormal(sigma=sigma, size=20_000).tolist()
            for policy in ("lru", "gdsf", "adaptive"):
                few, many = (saved(policy, stream.tolist(), costs, size) for size in (400, 2000))
                print(f"  {name:9} sigma {sigma:.0f}  {policy:10}{few:6.2f} | {many:6.2f}")


def prices(repetitions: int) -> dict[str, float]:
    """Nanoseconds a request above lru, by form and capacity."""
    done = subprocess.run(
        [
            BINARY,
            "--benchmark_filter=learn/",
            f"--benchmark_repetitions={repetitions}",
            "--benchmark_enable_random_interleaving=true",
            "--benchmark_min_time=0.2",
            "--benchmark_format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    times: dict[str, list[float]] = defaultdict(list)
    for run in json.loads(done.stdout)["benchmarks"]:
        if run["run_type"] == "iteration":
            times[run["run_name"].partition("/")[2]].append(run["cpu_time"])
    median = {name: statistics.median(each) for name, each in times.items()}
    return {
        name: time - median[f"lru/{name.rpartition('/')[2]}"]
        for name, time in median.items()
        if not name.startswith("lru/")
    }


def show(rows: list[dict[str, object]], form: str, worst: int) -> None:
    def number(row: dict[str, object], name: str) -> float:
        return float(str(row[name]))

    def gap(row: dict[str, object]) -> float:
        return number(row, "best_ratio") - number(row, form)

    def lead(row: dict[str, object]) -> float:
        return number(row, form) - number(row, "lru_lfu")

    long = [gap(row) for row in rows if number(row, "requests_each") >= 100]
    leads = sorted(map(lead, rows))
    print(f"\n{form} shadows, {len(rows)} cells, points of hit ratio")
    print(
        f"  below the best in hindsight  {statistics.mean(map(gap, rows)):6.2f}  (<= {GAP[form]})"
    )
    print(f"  the same, >= 100 requests each {statistics.mean(long):4.2f}  ({len(long)} cells)")
    print(f"  worst against max(LRU, LFU)  {-leads[0]:6.2f}  (<= 2.5)")
    print(f"  cells more than 0.5 below it {sum(each < -0.5 for each in leads):6}")
    print(
        f"  {'the cells it loses most on':32}{'capacity':>9}{'ours':>8}{'best':>8}  {'who':10}{'LRU/LFU':>8}"
    )
    for row in sorted(rows, key=gap, reverse=True)[:worst]:
        print(
            f"  {row['trace']!s:32}{row['capacity']!s:>9}{number(row, form):8.2f}"
            f"{number(row, 'best_ratio'):8.2f}  {row['best']!s:10}{number(row, 'lru_lfu'):8.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=DATA, metavar="DIR")
    parser.add_argument("--worst", type=int, default=12, help="cells to show of each form")
    parser.add_argument(
        "--repetitions", type=int, default=9, help="at least 7 for a figure to quote"
    )
    parser.add_argument("--quick", action="store_true", help="hit ratios only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = hit_ratios(options.traces)
    price = {} if options.quick or not BINARY.exists() else prices(options.repetitions)
    if options.json:
        print(json.dumps({"cells": rows, "price_ns": price}, indent=2))
        return 0
    for form in FORMS:
        show(rows, form, options.worst)
    for trace in ("mooncake_conversation", "mooncake_synthetic"):
        path = options.traces / f"{trace}.jsonl.xz"
        if path.exists():
            print(f"\n{trace}, blocks of prompts, % at {', '.join(SHARES)}")
            found = kv.simulate(path, ["lru", "adaptive", "belady"], SHARES, progress=False).results
            for at in range(0, len(found), len(SHARES)):
                each = found[at : at + len(SHARES)]
                print(f"  {each[0].policy:10}", *(f"{100 * one.hit_ratio:6.2f}" for one in each))
    show_sizes(options.traces)
    show_costs()
    if price:
        print("\nCPU ns a request above lru, Zipf 0.99 of a million keys, by capacity")
    for name, nanoseconds in sorted(price.items()):
        target = PRICE.get(name.partition("/")[0])
        print(f"  {name:28}{nanoseconds:7.1f}" + (f"  (<= {target:.0f})" if target else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
