"""The C++ core beside std::unordered_map + std::list: medians, spread, ratios and targets.

Runs build/release/core_bench (made by ``./run bench``), repetitions interleaved at random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

BINARY = Path(__file__).resolve().parent.parent / "build" / "release" / "core_bench"
PEER = "unordered_map+list"
# Name of the row: nanoseconds wanted, from ARCHITECTURE.md's table of targets.
TARGETS = {"evict+insert+touch": 200.0, "u64 get hit": 20.0}
FILTER = "get hit|put\\+evict|zipf|evict\\+insert"


def measure(repetitions: int) -> dict[str, tuple[float, float]]:
    """Median and half inter-quartile range of each benchmark's CPU nanoseconds."""
    done = subprocess.run(
        [
            BINARY,
            f"--benchmark_filter={FILTER}",
            f"--benchmark_repetitions={repetitions}",
            "--benchmark_enable_random_interleaving=true",
            "--benchmark_min_time=0.1",
            "--benchmark_format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    times: dict[str, list[float]] = {}
    for run in json.loads(done.stdout)["benchmarks"]:
        if run.get("error_occurred"):
            raise RuntimeError(f"{run['name']}: {run['error_message']}")
        if run["run_type"] == "iteration":
            times.setdefault(run["run_name"], []).append(run["cpu_time"])
    result = {}
    for name, values in times.items():
        values.sort()
        quarter = len(values) // 4
        result[name] = (values[len(values) // 2], (values[-1 - quarter] - values[quarter]) / 2)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repetitions", type=int, default=9, help="at least 7 for a figure to quote"
    )
    parser.add_argument("--quick", action="store_true", help="3 repetitions: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not BINARY.exists():
        print("build/release/core_bench is not built; run: ./run bench", file=sys.stderr)
        return 1
    results = measure(3 if options.quick else options.repetitions)
    rows = []
    for name, (median, spread) in results.items():
        what, _, who = name.partition("/")
        if who == PEER:
            continue
        peer = results.get(f"{what}/{PEER}")
        rows.append(
            {
                "what": what if who == "ours" else f"{what} {who}",
                "ns": median,
                "spread_ns": spread,
                "peer_ns": peer[0] if peer else None,
                "times_faster": peer[0] / median if peer else None,
                "target_ns": TARGETS.get(what),
            }
        )
    if options.json:
        print(json.dumps({"peer": PEER, "rows": rows}, indent=2))
        return 0
    print(f"C++ core, CPU ns per operation, 100,000 entries but where it says 10 M; peer: {PEER}")
    print(f"{'':34}{'ours':>9}{'±':>7}{'peer':>9}{'faster':>9}{'target':>9}")
    for row in rows:
        peer_ns = f"{row['peer_ns']:.1f}" if row["peer_ns"] else ""
        faster = f"{row['times_faster']:.2f}x" if row["times_faster"] else ""
        target = f"<={row['target_ns']:.0f}" if row["target_ns"] else ""
        print(
            f"{row['what']:34}{row['ns']:9.1f}{row['spread_ns']:7.1f}"
            f"{peer_ns:>9}{faster:>9}{target:>9}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
