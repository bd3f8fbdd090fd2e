"""When a prefix of another node is worth its bytes: the rule beside always and never fetching.

A store with an empty memory loads a prefix that lies in a Redis behind a network of so many bytes a second
(a proxy that sleeps), and a model that reads so many tokens a second computes the rest. The model's time
is its speed's, not slept; the fetch's is measured. Each round is a new store that knows what two prompts
before it showed of the network, as a node does; ways are interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import blatam_kv as kv
from blatam_kv.blocks.worth import Worth
from blatam_kv.tiers.redis import RedisTier

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

LAYOUT = kv.KVLayout(layers=4, kv_heads=2, head_dim=64, dtype="bfloat16", block_tokens=64)
TOKENS = list(range(1024))
NETWORKS = (1e6, 2e6, 4e6, 8e6, 16e6, 64e6)
MODEL = 2000.0  # tokens a second
TARGET = 1.1


class Always(Worth):
    """Fetches whatever is there."""

    def blocks(self, sizes: Sequence[int], block_tokens: int) -> int:
        """All."""
        return len(sizes)


class Never(Worth):
    """Computes whatever is not here."""

    def blocks(self, sizes: Sequence[int], block_tokens: int) -> int:
        """None."""
        return 0


def store_over(url: str, worth: Worth) -> kv.KVStore:
    """A node with nothing of its own, and what it knows of the network and the model."""
    tier = RedisTier(url, namespace="bench:blocks", timeout=60.0)
    store = kv.KVStore(LAYOUT, capacity_bytes="64MiB", model="bench", shared=tier)
    store._levels.below.far.worth = worth
    return store


def loaded(url: str, tokens: list[int], worth: Worth) -> tuple[float, int]:
    """Seconds until the last token is read, and how many were fetched."""
    out = np.empty((2, *LAYOUT.shape(len(tokens))), np.uint16)
    with store_over(url, worth) as store:
        began = time.perf_counter()
        fetched = store.load_prefix(tokens, out=(out[0], out[1]))
        took = time.perf_counter() - began
        computed = (len(tokens) - fetched) / MODEL
        store.observe(len(tokens) - fetched, computed)
    return took + computed, fetched


def compare(url: str, network: float, rounds: int) -> float:
    """Print one line; how much slower the rule was than the better of the two."""
    ways = {"rule": Worth(), "always": Always(), "never": Never()}
    ways["rule"].computed(len(TOKENS), len(TOKENS) / MODEL)
    for first in (10_000, 20_000):  # two other prompts: what it has seen of the network
        loaded(url, [first + token for token in TOKENS], ways["rule"])
    took: dict[str, list[float]] = {way: [] for way in ways}
    shares: list[float] = []
    for _ in range(rounds):
        for way, worth in ways.items():
            seconds, fetched = loaded(url, TOKENS, worth)
            took[way].append(seconds)
            if way == "rule":
                shares.append(fetched / len(TOKENS))
    rule, always, never = (statistics.median(took[way]) for way in ("rule", "always", "never"))
    worse = rule / min(always, never)
    mark = "ok" if worse <= TARGET else "MISSED"
    print(
        f"{network / 1e6:7.0f} MB/s {1e3 * always:9.0f} {1e3 * never:9.0f} {1e3 * rule:9.0f} ms"
        f"   fetched {100 * statistics.median(shares):3.0f} %   {worse:5.2f} of the better"
        f" (target {TARGET}: {mark})"
    )
    return worse


def main() -> int:
    """Print a table; 1 if the rule is slower than the better way by more than the target."""
    from redis_server import redis
    from tcp_proxy import proxy

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    size = LAYOUT.block_bytes * len(TOKENS) // LAYOUT.block_tokens
    print(f"{len(TOKENS)} tokens, {size / 1e6:.1f} MB; a model of {MODEL:.0f} tokens a second;")
    print(f"medians of {rounds}; load average {os.getloadavg()[0]:.1f}")
    print("     network    always     never      rule")
    with redis() as server:
        path = server.url.removeprefix("unix://")
        with store_over(server.url, Worth()) as writer:
            for first in (0, 10_000, 20_000):
                tokens = [first + token for token in TOKENS]
                keys, values = np.zeros((2, *LAYOUT.shape(len(tokens))), np.uint16)
                writer.save_prefix(tokens, keys, values)
            writer.flush()
        worst = 0.0
        for network in NETWORKS:
            with proxy(path) as between:
                between.bytes_per_second = network
                url = f"redis://127.0.0.1:{between.port}"
                worst = max(worst, compare(url, network, rounds))
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
