"""What the page costs whoever looks at it, and how soon it shows something: a real browser on a real
service that answers hits.

The cost is the CPU time that the scheduler gave to all of the browser's processes while the page was
open, beside that of an empty page; the share of the page's own thread, as the browser accounts it, and
what the service paid for telling.

    python bench/page.py [--rounds 5] [--seconds 20] [--loads 7]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _served import bul, cpu_seconds
from playwright.sync_api import Browser, Page, sync_playwright

from blatam_kv.client import Client

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
TARGET_SHARE, TARGET_FIRST, HITS_A_SECOND = 1.0, 1.0, 5.0
_MARK = """() => {
  const navigation = performance.getEntriesByType("navigation")[0];
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {
    answered: navigation.responseStart, parsed: navigation.domInteractive,
    painted: paint ? paint.startTime : NaN, figures: window.firstFigures ?? NaN,
  };
}"""
_FIRST = """new MutationObserver((_, observer) => {
  if (!document.body?.dataset.ready) return;
  window.firstFigures = performance.now();
  observer.disconnect();
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-ready"] });"""


def processes(root: int) -> list[int]:
    """A process and all that descend from it."""
    found = [root]
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        for child in children.read_text().split():
            found += processes(int(child))
    return found


def cpu_of(roots: list[int]) -> float:
    """CPU seconds of some processes and all that descend from them, so far."""
    total = 0.0
    for root in roots:
        for pid in processes(root):
            try:
                total += cpu_seconds(pid)
            except OSError:
                continue  # it has ended
    return total


def browsers(before: set[int]) -> list[int]:
    """The children of this process that were not there before."""
    return [pid for pid in children() if pid not in before]


def children() -> set[int]:
    found = set[int]()
    for listed in Path("/proc/self/task").glob("*/children"):
        found |= {int(child) for child in listed.read_text().split()}
    return found


@contextmanager
def hits(url: str, key: str) -> Iterator[None]:
    """Somebody who asks for the same few documents while the body runs."""
    stop = threading.Event()

    def ask() -> None:
        with Client(url, api_key=key) as client:
            number = 0
            while not stop.wait(1 / HITS_A_SECOND):
                number += 1
                query = {"query": f"Plan de negocio {number % 3}", "max_length": 40}
                client.request("POST", "/query", query)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def opened(browser: Browser, url: str) -> tuple[Page, dict[str, float]]:
    """A page in a context of its own, and milliseconds until things were there."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(_FIRST)
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    marks: dict[str, float] = page.evaluate(_MARK)
    return page, marks


def shares(page: Page, seconds: float, roots: list[int], server: int) -> dict[str, float]:
    """Per cent of a core while nothing is done but looking."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def metrics() -> dict[str, float]:
        found: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
        return {each["name"]: each["value"] for each in found}

    cpu, served, own, began = cpu_of(roots), cpu_seconds(server), metrics(), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    after = metrics()
    session.detach()
    names = {"thread": "TaskDuration", "script": "ScriptDuration", "layout": "LayoutDuration"}
    return {
        "browser": 100 * (cpu_of(roots) - cpu) / took,
        "service": 100 * (cpu_seconds(server) - served) / took,
        **{name: 100 * (after[of] - own[of]) / took for name, of in names.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loads", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        print("there is no chromium here; apt-get install chromium", file=sys.stderr)
        return 1
    before = children()
    with tempfile.TemporaryDirectory() as folder, bul(folder) as (server, url, key):
        known = children()
        with sync_playwright() as playwright, hits(url, key.api_key):
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            roots = browsers(known | before)
            loads = []
            for _ in range(options.loads):
                page, marks = opened(browser, url)
                loads.append(marks)
                page.context.close()
            found: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                empty = browser.new_context().new_page()
                time.sleep(2)
                cpu, began = cpu_of(roots), time.perf_counter()
                time.sleep(options.seconds / 2)
                share = 100 * (cpu_of(roots) - cpu) / (time.perf_counter() - began)
                found.setdefault("empty page", []).append(share)
                empty.context.close()
                page, _ = opened(browser, url)
                time.sleep(25)  # until its charts have more than a few points
                for name, value in shares(page, options.seconds, roots, server).items():
                    found.setdefault(name, []).append(value)
                page.context.close()
            browser.close()
    load = Path("/proc/loadavg").read_text().split()[0]
    middle = {name: statistics.median(values) for name, values in found.items()}
    first = {name: statistics.median(each[name] for each in loads) for name in loads[0]}
    worst = {name: max(each[name] for each in loads) for name in loads[0]}
    if options.json:
        print(json.dumps({"shares": middle, "first": first, "worst": worst, "load": load}))
        return 0
    print(f"{'% of a core':<14} {'median':>7} {'spread':>13}")
    for name, values in found.items():
        print(f"{name:<14} {middle[name]:>7.2f} {min(values):>6.2f}-{max(values):.2f}")
    print(f"\n{'ms until':<14} {'median':>7} {'worst':>7}")
    for name, value in first.items():
        print(f"{name:<14} {value:>7.0f} {worst[name]:>7.0f}")
    print(
        f"\ntargets: browser at most {TARGET_SHARE:g} % of a core, first figures within "
        f"{TARGET_FIRST:g} s; load average {load}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
