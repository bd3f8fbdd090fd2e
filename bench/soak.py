"""What hits cost through everything, and whether memory stays flat over very many of them.

The service runs as its own process, as ``blatam-kv serve`` starts it, with a key, a rate limit and
its database, so a hit passes every stage, and one of ``POST /query`` leaves a row. Beside it runs a
Starlette handler that reads the body and returns the same bytes. Rounds alternate between the two.
Then the service is asked on, and its resident memory is read ten times.

A batch of 1,000 documents is written as well, and its ZIP fetched, while the memory is read.

    nice python bench/soak.py [--requests 200000] [--only query|chat|batch]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import zipfile

from _served import (
    BODY,
    CHAT,
    CONNECTIONS,
    MICROSECONDS_TARGET,
    QUERY,
    RATIO_TARGET,
    Crowd,
    bul,
    resident,
    trivial,
)

from blatam_kv.client import Client

# Memory that a run may take after its first third, a small part of what a leak of one object a
# request would cost.
GROWTH_TARGET = 8 << 20
CASES = {"query": ("/query", QUERY), "chat": (CHAT, BODY)}


def soak(name: str, *, requests: int, each: int, rounds: int) -> dict[str, object]:
    """Cost beside the floor, then memory over many requests."""
    path, body = CASES[name]
    with tempfile.TemporaryDirectory() as folder, bul(folder) as (pid, url, made):
        headers = {"X-API-Key": made.api_key}
        crowd = Crowd(url, path, body, lambda: headers)
        with crowd:
            while b"; hit" not in (answer := crowd.ask()):
                time.sleep(0.1)
        content = answer.partition(b"\r\n\r\n")[2]
        with trivial(content) as (floor, floor_url):
            floor_crowd = Crowd(floor_url, "/", body, lambda: headers)
            pairs = [
                (crowd.microseconds(pid, each), floor_crowd.microseconds(floor, each))
                for _ in range(rounds)
            ]
        memory = []
        with crowd:
            for _ in range(10):
                for _ in range(requests // 10 // CONNECTIONS):
                    crowd.ask()
                memory.append(resident(pid))
    return {
        "path": path,
        "hit_us": statistics.median(pair[0] for pair in pairs),
        "trivial_us": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
        "ratios": [round(ours / theirs, 2) for ours, theirs in pairs],
        "requests": requests,
        "memory": memory,
        "growth": max(memory[3:]) - memory[2],
    }


def batch(documents: int) -> dict[str, object]:
    """Memory of a service while a batch is written and its ZIP is sent."""
    with tempfile.TemporaryDirectory() as folder, bul(folder) as (pid, url, made):
        with Client(url, api_key=made.api_key) as client:
            client.document({"query": "warm", "max_length": 40})
            wanted = [
                {"query": f"Informe número {n} de la panadería", "max_length": 40}
                for n in range(documents)
            ]
            before, began = resident(pid), time.perf_counter()
            asked = client.request("POST", "/api/batch", {"documents": wanted}).json("batch_id")
            path, memory = f"/api/batch/{asked['batch_id']}", [resident(pid)]
            while client.request("GET", f"{path}?tasks=0").json("status")["status"] != "completed":
                memory.append(resident(pid))
                time.sleep(1.0)
            written, zipped = time.perf_counter() - began, io.BytesIO()
            client.download(f"{path}/archive", zipped)
            memory.append(resident(pid))
            for _ in range(5):  # what it takes again it has kept
                client.download(f"{path}/archive", io.BytesIO())
                memory.append(resident(pid))
        with zipfile.ZipFile(zipped) as archive:
            assert len(archive.namelist()) == documents + 1
    return {
        "documents": documents,
        "seconds": written,
        "zip_bytes": zipped.tell(),
        "before": before,
        "memory": memory,
        "growth": max(memory) - before,
        "growth_of_five_more_zips": memory[-1] - memory[-6],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000, help="of each soak (200000)")
    parser.add_argument("--round", type=int, default=2_000, help="requests a round (2000)")
    parser.add_argument("--rounds", type=int, default=7, help="of each contender (7)")
    parser.add_argument("--only", choices=[*CASES, "batch"], help="one of the three")
    parser.add_argument("--documents", type=int, default=1_000, help="of the batch (1000)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in [options.only] if options.only else [*CASES, "batch"]:
        if name == "batch":
            report = batch(options.documents)
            print(json.dumps(report))
            continue
        report = soak(name, requests=options.requests, each=options.round, rounds=options.rounds)
        if options.json:
            print(json.dumps(report))
            continue
        memory = report["memory"]
        assert isinstance(memory, list)
        grown = (max(memory[3:]) - memory[2]) / 2**20
        print(f"\n{report['path']} (load average {os.getloadavg()[0]:.1f})")
        print(f"hit      {report['hit_us']:6.1f} us CPU (target {MICROSECONDS_TARGET:.0f})")
        print(f"trivial  {report['trivial_us']:6.1f} us CPU")
        print(f"ratio    {report['ratio']:6.2f} (target {RATIO_TARGET}), of {report['ratios']}")
        steps = " ".join(f"{each / 2**20:.1f}" for each in memory)
        print(f"memory   {steps} MiB over {options.requests:,} hits")
        print(f"growth   {grown:6.1f} MiB after the first third (target {GROWTH_TARGET >> 20})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
