"""What a cache hit over HTTP costs the server, beside a handler that does nothing.

Both run in processes of their own under uvicorn with uvloop and httptools, and are asked in turn
over sixteen kept connections at once; the handler returns what a chat hit returns. Cost is CPU time
of the process, per request. Then the time to the first byte of a streamed hit, one at a time.

    python bench/service.py [--rounds 9] [--requests 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile

from _served import (
    BODY,
    CHAT,
    MICROSECONDS_TARGET,
    QUERY,
    RATIO_TARGET,
    Crowd,
    Headers,
    bul,
    first_bytes,
    trivial,
)

from blatam_kv.client import Client
from blatam_kv.signature import sign

ROUNDS, REQUESTS, STREAMS = 9, 2000, 500
FIRST_BYTE_TARGET = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, bul(folder) as (pid, url, made):
        with_key = {"X-API-Key": made.api_key}

        def signed(path: str, body: bytes) -> Headers:
            return lambda: {
                name: text
                for name, text in sign(
                    "POST", url + path, key_id=made.key.key_id, key=made.signing_key, body=body
                ).items()
                if name != "Content-Type"  # the crowd sends it
            }

        with Client(url, api_key=made.api_key) as client:
            client.document(json.loads(QUERY))
            answer = client.request("POST", CHAT, json.loads(BODY)).content
        with trivial(answer) as (floor_pid, floor_url):
            cases = {
                "trivial handler": (floor_pid, Crowd(floor_url, "/", BODY, lambda: with_key)),
                "chat hit, API key": (pid, Crowd(url, CHAT, BODY, lambda: with_key)),
                "chat hit, signed": (pid, Crowd(url, CHAT, BODY, signed(CHAT, BODY))),
                "document hit, signed": (pid, Crowd(url, "/query", QUERY, signed("/query", QUERY))),
            }
            costs: dict[str, list[float]] = {name: [] for name in cases}
            for turn in range(options.rounds + 1):
                for name, (which, crowd) in cases.items():
                    cost = crowd.microseconds(which, options.requests)
                    if turn:  # the first one warms up
                        costs[name].append(cost)
            streamed = json.dumps(json.loads(BODY) | {"stream": True}).encode()
            plain_head, stream_head = (lambda: with_key), signed(CHAT, streamed)
            latencies = {
                "trivial handler": first_bytes(floor_url, "/", BODY, plain_head, STREAMS),
                "streamed hit, signed": first_bytes(url, CHAT, streamed, stream_head, STREAMS),
            }
    floors = costs["trivial handler"]
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"{'CPU of the server a request':<28} {'µs':>7}  {'of trivial':>10}  {'spread':>11}")
    for name, values in costs.items():
        ratios = [value / floor for value, floor in zip(values, floors, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        ratio = statistics.median(ratios)
        print(f"{name:<28} {statistics.median(values):>7.1f}  {ratio:>9.2f}x  {spread:>11}")
    print(f"target, chat hit: at most {MICROSECONDS_TARGET:.0f} µs and {RATIO_TARGET}x")
    print(f"\n{'ms to the first byte':<28} {'median':>7}  {'P99':>10}")
    for name, values in latencies.items():
        ninety_nine = sorted(values)[int(0.99 * len(values))]
        print(f"{name:<28} {statistics.median(values):>7.2f}  {ninety_nine:>10.2f}")
    print(f"target, streamed hit: at most {FIRST_BYTE_TARGET} ms, one at a time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
