"""The KVStore and what lies outside of the caller's call: the thread that writes, the disk, the process.

CPU time of the caller's thread beside a copy of the same tensors in memory, interleaved; and what the
process takes of the machine after blocks of many sizes came and went, beside numpy arrays of those
sizes. What is loaded is compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from blocks import CHAIN, LAYOUT, LOADED, Array, Row, chain_of_blocks, cpu, row, show

import blatam_kv as kv
from blatam_kv import tensors


def writing(rounds: int) -> list[Row]:
    """64 MiB of bfloat16 to a new folder and back: what the caller waits for. And handing blocks to
    the thread that writes, one by one."""
    tokens = np.arange(LOADED)
    wide = np.random.default_rng(2).standard_normal((2, *LAYOUT.shape(LOADED)), np.float32)
    both = tensors.narrowed(wide, "bfloat16")
    out, copied = np.empty_like(both), np.empty_like(both)
    saving: list[tuple[float, float]] = []
    loading, passing, handing = saving.copy(), saving.copy(), saving.copy()
    options: dict[str, Any] = {"disk_bytes": "1GiB", "policy": "lru"}
    for _ in range(rounds):
        saved = []
        for queue in ("256MiB", 0):
            with tempfile.TemporaryDirectory() as name:
                options |= {"path": name, "queue_bytes": queue}
                with kv.KVStore(LAYOUT, capacity_bytes="512MiB", **options) as store:
                    saved.append(1e3 * cpu(lambda: store.save_prefix(tokens, both[0], both[1])))
                copy = cpu(lambda: np.copyto(copied, both))
                for capacity, pairs in (("512MiB", loading), ("6MiB", passing)):
                    with kv.KVStore(LAYOUT, capacity_bytes=capacity, **options) as store:
                        load = cpu(lambda: store.load_prefix(tokens, out=(out[0], out[1])))
                        if store.stats().tokens_from_tier != LOADED:
                            raise AssertionError("the prefix was not on disk")
                    if queue:
                        pairs.append((1e3 * load, 1e3 * copy))
                if out.tobytes() != both.tobytes():
                    raise AssertionError("the disk gave something else")
        saving.append((saved[0], saved[1]))
        handing.append(_handing_over())
    copy_is = "numpy copy, in memory"
    return [
        row("save_prefix of 64 MiB, caller's CPU", "ms", saving, "writing before it returns", ""),
        row("hand a block to the writing thread", "us", handing, "an append to a list", "<= 5 us"),
        row("load_prefix of 64 MiB from disk", "ms", loading, copy_is, ""),
        row("the same where memory has no room", "ms", passing, copy_is, ""),
    ]


def _handing_over(count: int = 2000) -> tuple[float, float]:
    records = [block.record(1) for _ in range(count // CHAIN) for block in chain_of_blocks()]
    kept: list[object] = []
    with (
        tempfile.TemporaryDirectory() as name,
        kv.KVStore(
            kv.KVLayout(layers=1, kv_heads=1, head_dim=2), capacity_bytes="64MiB", path=name
        ) as store,
    ):
        ours = cpu(lambda: store._levels.below.keep(records))
    hand = cpu(lambda: [*map(kept.append, records)])
    return 1e6 * ours / count, 1e6 * hand / count


def memory(rounds: int) -> list[Row]:
    """What the process takes after blocks of many sizes came and went, in a process of its own; and
    with the same sizes in numpy arrays."""
    pairs = []
    for number in range(min(rounds, 3)):
        ours, arrays = (
            float(
                subprocess.run(
                    [sys.executable, __file__, "--churn", kind, "--seed", f"{number}"],
                    capture_output=True,
                    check=True,
                ).stdout
            )
            for kind in ("store", "arrays")
        )
        pairs.append((ours, arrays))
    what = "resident after churn, exp_huff, of 256 MiB"
    return [row(what, "MiB", pairs, "numpy arrays in a dict", "<= 1.1")]


def churn(kind: str, seed: int) -> int:
    """Fill 256 MiB eight times over; prints by how many MiB the process grew."""
    layout, capacity, most = kv.KVLayout(layers=1, kv_heads=8, head_dim=128), 256 << 20, 8
    random = np.random.default_rng(seed)
    wide = random.standard_normal((2, *layout.shape(64 * most)), np.float32)
    for at in range(most):  # some blocks have more of an exponent than others
        part = wide[:, :, 64 * at : 64 * (at + 1)]
        part *= np.exp2(random.integers(-4 * at, 1 + 4 * at, part.shape[:-1]))[..., None]
    both = tensors.narrowed(wide, "bfloat16")
    with kv.KVStore(layout, capacity_bytes="16MiB", codec="exp_huff") as store:
        store.save_prefix(np.arange(64 * most), both[0], both[1])
        sizes = [block.payload.nbytes for block in store._levels.residents.all()]
    begun = _resident_bytes()
    with kv.KVStore(layout, capacity_bytes=capacity, codec="exp_huff") as store:
        arrays: OrderedDict[int, Array] = OrderedDict()
        held = written = 0
        while written < 8 * capacity:
            count = int(random.integers(1, most + 1))
            first = int(random.integers(0, most - count + 1))
            tokens = np.arange(64 * count) + int(random.integers(1 << 30))
            # As a model does: its own tensors, new ones for each prompt.
            x = both[:, :, 64 * first : 64 * (first + count)].copy()
            written += count * layout.block_bytes
            if kind == "store":
                store.save_prefix(tokens, x[0], x[1])
                store.load_prefix(tokens, out=tuple(np.empty_like(x)))
                continue
            for size in sizes[first : first + count]:
                arrays[len(arrays) + written] = new = np.empty(layout.block_bytes + 256, np.uint8)
                new.resize(size, refcheck=False)
                new[:] = 1
                held += size
            np.empty_like(x)[:] = x
            while held > capacity:
                held -= arrays.popitem(last=False)[1].nbytes
        print((_resident_bytes() - begun) / 2**20)
    return 0


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--churn", choices=("store", "arrays"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.churn is not None:
        return churn(options.churn, options.seed)
    rounds = 3 if options.quick else options.rounds
    show([*writing(rounds), *memory(rounds)], as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
