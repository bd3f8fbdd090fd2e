"""What a scrape costs, and for how long it holds the loop up, beside Prometheus's own library.

A service with everything that a scrape can tell of: answers and blocks of prompts in memory and on
disk, a policy that learned, 500 tenants, every histogram with every series that it may have. The
text is written as the service does it, and by the library from the same families, in turn; before,
both must say the same. Cost is CPU time of the thread that writes. The loop is watched by a callback
that calls itself again and again: held is the longest time between two calls.

    python bench/scrape.py [--rounds 9] [--scrapes 20]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.security.guard import Cause
from blatam_kv.bul.service import Service
from blatam_kv.config import Settings
from blatam_kv.documents.rendering import FORMATS
from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.prefixes import open_store

ROUNDS, SCRAPES, TENANTS = 9, 20, 500
TARGET_MS, TARGET_LINES = 5.0, 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scrapes", type=int, default=SCRAPES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder)) as service:
        metrics = service.metrics
        text = metrics.expose()[0]
        ours, theirs = names(text), names(generate_latest(metrics.registry))
        if ours != theirs:
            raise SystemExit(f"the two say different things: {ours ^ theirs}")
        ways: dict[str, Callable[[], object]] = {
            "ours": metrics.expose,
            "the library's": lambda: generate_latest(metrics.registry),
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        held: dict[str, list[float]] = {name: [] for name in ("nothing", *ways)}
        for turn in range(options.rounds + 1):
            for name, write in ways.items():
                cost = cpu_ms(write, options.scrapes)
                if turn:  # the first one warms up
                    costs[name].append(cost)
            for name, write in {"nothing": lambda: time.sleep(0.002), **ways}.items():
                held[name] += uvloop.run(held_ms(write, options.scrapes))
        lines = text.count(b"\n")
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"{lines} lines (target below {TARGET_LINES}), {len(text):,} bytes\n")
    print(f"{'ms of a scrape':<18} {'CPU':>6}  {'spread':>12}  {'loop held':>9}  {'P95':>6}")
    for name, values in held.items():
        took = costs.get(name, [])
        cpu = f"{statistics.median(took):.2f}" if took else "-"
        spread = f"{min(took):.2f}-{max(took):.2f}" if took else "-"
        worst = statistics.quantiles(values, n=20)[-1]
        print(
            f"{name:<18} {cpu:>6}  {spread:>12}  {statistics.median(values):>9.2f}  {worst:>6.2f}"
        )
    ratio = statistics.median(
        library / own for library, own in zip(costs["the library's"], costs["ours"], strict=True)
    )
    print(f"\n{ratio:.1f}x less than the library; target below {TARGET_MS:.0f} ms, CPU and held")
    return 0


@contextmanager
def filled(folder: Path) -> Iterator[Service]:
    """A service of which all was asked that can be."""
    settings = replace(Settings(), data_dir=folder, backup_enabled=True, kv_disk_mb=64)
    model = Mini()
    blocks = open_store(model, settings)
    assert blocks is not None
    service = Service(model, settings, version="bench", blocks=blocks)
    try:
        request = parse_request({"query": "Plan de negocio", "max_length": 40})
        for number in range(TENANTS):
            # All have one salt here, so that one answer is written for all.
            caller = replace(ITSELF, tenant=f"tenant-{number}")
            order = service.place(request, caller)
            if service.answer_from_cache(order, request) is None:
                service.enqueue(order, request)
                while service.tasks.unfinished:
                    time.sleep(0.05)
        note_everything(service)
        yield service
    finally:
        service.close(seconds=10)
        blocks.close()


def note_everything(service: Service) -> None:
    """Every series of every histogram and counter."""
    metrics = service.metrics
    for route in range(60):
        for method in ("GET", "POST", "DELETE"):
            for status in (200, 202, 302, 400, 401, 404, 429, 503):
                metrics.http(method, f"/route/{route}", status, 0.001)
    for stage in ("authenticate", "sanitise", "validate", "model", "document"):
        metrics.stage_took(stage, 0.01)
    for priority in range(5):
        metrics.waited(priority, 1.0)
    for operation in ("add", "adopt", "save", "read", "retain"):
        metrics.storage_failed(operation)
    for outcome in ("delivered", "failed", "given_up"):
        metrics.called_back(outcome)
    for cause in Cause:
        metrics.rejected("authentication", cause)
    for format in FORMATS:
        with metrics.document(format):
            pass


def names(text: bytes) -> set[str]:
    """Every sample's name and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def cpu_ms(write: Callable[[], object], scrapes: int) -> float:
    """CPU time of one scrape, in this thread."""
    start = time.thread_time()
    for _ in range(scrapes):
        write()
    return 1e3 * (time.thread_time() - start) / scrapes


async def held_ms(write: Callable[[], object], scrapes: int) -> list[float]:
    """For each of some scrapes by another thread, the longest time that the loop stood still."""
    loop = asyncio.get_running_loop()
    longest = last = 0.0
    watching = True

    def tick() -> None:
        nonlocal longest, last
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if watching:
            loop.call_later(0.0002, tick)

    found = []
    for _ in range(scrapes):
        watching, longest, last = True, 0.0, time.perf_counter()
        loop.call_soon(tick)
        await loop.run_in_executor(None, write)
        watching = False
        await asyncio.sleep(0.001)
        found.append(1e3 * longest)
    return found


if __name__ == "__main__":
    sys.exit(main())
