"""``bench --http``: real traffic for a running service, and how it answered."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

from blatam_kv.cli.demo import QUERIES
from blatam_kv.cli.remote import connect
from blatam_kv.cli.report import show
from blatam_kv.config import Settings
from blatam_kv.errors import Error, InvalidRequest
from blatam_kv.metrics import LatencyHistogram

# Of so many documents, few are asked for often and most seldom (Zipf): each is computed once.
_DOCUMENTS = 60
_MAX_LENGTH = 60


class Traffic:
    """What was asked and answered. Safe from any thread."""

    def __init__(self) -> None:
        self.hits = LatencyHistogram()
        self.others = LatencyHistogram()
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()

    def answered(self, status: int, cache: str, seconds: float) -> None:
        """Count one answer."""
        with self._lock:
            self._statuses[status] += 1
        (self.hits if "; hit" in cache else self.others).record(seconds)

    def failed(self, reason: str) -> None:
        """Count one request that got none."""
        with self._lock:
            self.failures[reason] += 1

    def described(self, seconds: float) -> dict[str, object]:
        """The result."""
        asked = self.hits.count + self.others.count
        quantiles = {f"p{q}_ms": round(1000 * self.hits.quantile(q / 100), 3) for q in (50, 95, 99)}
        return {
            "requests": asked,
            "requests_per_second": round(asked / seconds, 1),
            "hits": self.hits.count,
            "hit_rate": round(self.hits.count / asked, 4) if asked else 0.0,
            "hit_latency": quantiles,
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "failures": dict(self.failures),
        }


def traffic(
    url: str, settings: Settings, *, seconds: float, connections: int, as_json: bool
) -> int:
    """Ask for documents over so many connections for so long. Exit status 1 if any request got no
    answer, or a 5xx.

    Raises InvalidRequest, and Unreachable when nobody answers at the start.
    """
    if not 0 < seconds <= 86_400:
        raise InvalidRequest("--seconds takes more than 0 and at most 86,400", field="seconds")
    if not 1 <= connections <= 256:
        raise InvalidRequest("--connections takes 1 to 256", field="connections")
    with connect(url, settings) as client:
        client.request("GET", "/api/v1/kv-cache/stats").json("hit_rate")  # who may not is told now
    result, began = Traffic(), time.monotonic()
    threads = [
        threading.Thread(target=_ask, args=(url, settings, began + seconds, seed, result))
        for seed in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = result.described(time.monotonic() - began)
    show(report, as_json=as_json)
    broken = any(status >= "500" for status in report["statuses"])  # type: ignore[attr-defined]  # a dict
    return 1 if result.failures or broken else 0


def _ask(url: str, settings: Settings, until: float, seed: int, result: Traffic) -> None:
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, _DOCUMENTS + 1)]
    with connect(url, settings) as client:
        while time.monotonic() < until:
            (number,) = chance.choices(range(_DOCUMENTS), weights)
            query = QUERIES[number % len(QUERIES)] | {
                "max_length": _MAX_LENGTH,
                "seed": number // len(QUERIES),
                "priority": chance.randrange(5),
            }
            start = time.perf_counter()
            try:
                reply = client.request("POST", "/query", query)
            except Error as error:
                result.failed(type(error).__name__)
                time.sleep(0.1)
                continue
            cache = reply.headers.get("Cache-Status", "")
            result.answered(reply.status, cache, time.perf_counter() - start)
