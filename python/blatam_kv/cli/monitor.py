"""``monitor``: how the running service does, a line every few seconds."""

from __future__ import annotations

import json
import time
from typing import Any

from blatam_kv.cli.remote import connect
from blatam_kv.config import Settings
from blatam_kv.errors import InvalidRequest

_HEAD = (
    f"{'time':<8}  {'requests':>8}  {'per s':>7}  {'hits':>6}  {'P50 ms':>8}  {'P95 ms':>8}  "
    f"{'P99 ms':>8}  {'entries':>8}  {'MiB':>7}  {'waiting':>7}"
)
_HEAD_EVERY = 20


def monitor(
    url: str, settings: Settings, *, interval: float, count: int | None, as_json: bool
) -> int:
    """Print until interrupted, or ``count`` lines. per s: since the line before.

    Raises InvalidRequest for an interval that is no time, Unreachable when the service goes away.
    """
    if not 0.05 <= interval <= 86_400:
        raise InvalidRequest("--interval takes 0.05 to 86,400 seconds", field="interval")
    if count is not None and count < 1:
        raise InvalidRequest("--count takes at least 1", field="count")
    printed, before, last = 0, 0, time.monotonic()
    with connect(url, settings) as client:
        while True:
            service = client.request("GET", "/stats").json("total_tasks")
            cache = client.request("GET", "/api/v1/kv-cache/stats").json("total_requests")
            now = time.monotonic()
            rate = (cache["total_requests"] - before) / (now - last) if printed else 0.0
            before, last = cache["total_requests"], now
            line = _line(service, cache, rate)
            if as_json:
                print(json.dumps(line), flush=True)
            else:
                if printed % _HEAD_EVERY == 0:
                    print(_HEAD)
                print(_row(line), flush=True)
            printed += 1
            if printed == count:
                return 0
            time.sleep(interval)


def _line(service: dict[str, Any], cache: dict[str, Any], rate: float) -> dict[str, Any]:
    return {
        "time": time.strftime("%H:%M:%S"),
        "requests": cache["total_requests"],
        "requests_per_second": round(rate, 1),
        "hit_rate": cache["hit_rate"],
        "p50_ms": cache["p50_latency_ms"],
        "p95_ms": cache["p95_latency_ms"],
        "p99_ms": cache["p99_latency_ms"],
        # What only administrators are told stays empty for others.
        "entries": cache.get("entries"),
        "memory_bytes": cache.get("memory_usage"),
        "waiting": service.get("queue_depth"),
    }


def _row(line: dict[str, Any]) -> str:
    memory = None if line["memory_bytes"] is None else round(line["memory_bytes"] / 2**20, 1)
    return (
        f"{line['time']}  {line['requests']:>8}  {line['requests_per_second']:>7}  "
        f"{line['hit_rate']:>6.1%}  {line['p50_ms']:>8.2f}  {line['p95_ms']:>8.2f}  "
        f"{line['p99_ms']:>8.2f}  {_or_dash(line['entries']):>8}  {_or_dash(memory):>7}  "
        f"{_or_dash(line['waiting']):>7}"
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
