"""The KVStore: looking a long prompt up, bookkeeping, loading, and what a cached prefix saves.

Rounds interleave every contender with its floor: digests alone, a hand-written LRU of the same
names, a copy of the same tensors, and for the embedded model the whole prefill. Figures are CPU time
of the thread, except for times to the first token, which are wall time on an otherwise idle process:
there the model and the store work together. What is loaded is compared before it is timed. "disk, new
process" is a process that has loaded the model and then opens the store, finds the prefix and
computes the rest; its interpreter's start and the weights are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import blatam_kv as kv
from blatam_kv import _core, tensors
from blatam_kv.blocks.block import Block, block_weight
from blatam_kv.blocks.events import News
from blatam_kv.blocks.residents import Residents
from blatam_kv.truthgpt.mini import Mini

Array = npt.NDArray[Any]
LONG = 131_072  # tokens of a prompt that is looked up
RESIDENT = 100_000  # blocks in memory while there is bookkeeping
CHAIN = 20  # blocks of a prompt there
PREFIX = 2048  # tokens that are cached for the model
LAYOUT = kv.KVLayout(layers=16, kv_heads=8, head_dim=128)  # 64 KiB a token
LOADED = 1024  # tokens of it


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its floor; spread is half the inter-quartile range of the ratio. ratio is
    floor / ours for speeds and for what is to be near its floor, floor being the slow way for times
    to the first token."""

    what: str
    ours: float
    unit: str
    floor: float
    floor_is: str
    ratio: float
    spread: float
    target: str


def row(what: str, unit: str, pairs: list[tuple[float, float]], floor_is: str, target: str) -> Row:
    """pairs: (ours, floor), one a round."""
    ratios = [floor / ours for ours, floor in pairs]
    quartiles = (
        statistics.quantiles(ratios, n=4) if len(ratios) > 2 else [min(ratios), 0, max(ratios)]
    )
    return Row(
        what,
        statistics.median(ours for ours, _ in pairs),
        unit,
        statistics.median(floor for _, floor in pairs),
        floor_is,
        statistics.median(ratios),
        (quartiles[2] - quartiles[0]) / 2,
        target,
    )


def show(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(each) for each in rows], indent=2))
        return
    print(f"{'':46}{'ours':>9}{'floor':>10}{'ratio':>8}{'±':>6}  target")
    for each in rows:
        print(
            f"{each.what:46}{each.ours:9.2f}{each.floor:10.2f}{each.ratio:8.2f}{each.spread:6.2f}"
            f"  {each.target:10} {each.unit}; floor: {each.floor_is}"
        )


def cpu(work: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / 1e9


def wall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def match(rounds: int) -> list[Row]:
    """A prompt of 128k tokens, all of it cached."""
    layout = kv.KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16")
    ids = np.random.default_rng(1).integers(0, 150_000, LONG).astype(np.int32)
    x = np.zeros(layout.shape(LONG), np.float16)
    salt = b"tenant"
    with kv.KVStore(layout, capacity_bytes="64MiB", salt=salt) as store:
        store.save_prefix(ids, x, x)
        if store.match_prefix(ids) != LONG:
            raise AssertionError("the prompt is not cached")
        pairs = [
            (
                1e3 * cpu(lambda: store.match_prefix(ids)),
                1e3
                * cpu(
                    lambda: _core.chain_digests(ids, block_tokens=64, parent=bytes(32), key=salt)
                ),
            )
            for _ in range(rounds)
        ]
    return [row("match_prefix, 128k tokens", "ms", pairs, "the digests alone", "<= 1.5 ms")]


def bookkeeping(rounds: int) -> list[Row]:
    """Prompts of 20 blocks come, are used and go; nothing of their payloads is read."""
    chains = [chain_of_blocks() for _ in range(2 * RESIDENT // CHAIN)]
    # A prompt has the names of its blocks one behind the other.
    names = {chain[-1].name: b"".join(block.name for block in chain) for chain in chains}
    weight = block_weight(64, 64)
    memory = Residents(
        capacity_bytes=RESIDENT * weight, policy="lru", news=News(), clock=time.monotonic
    )
    by_hand: OrderedDict[bytes, Block] = OrderedDict()

    def ours(some: list[list[Block]]) -> None:
        for chain in some:
            memory.add(chain[-1].name, names[chain[-1].name], chain)
            memory.use(chain[-1].name, names[chain[-1].name])

    def hand(some: list[list[Block]]) -> None:
        for chain in some:
            for block in chain:
                by_hand[block.name] = block
                if len(by_hand) > RESIDENT:
                    by_hand.popitem(last=False)
            for block in reversed(chain):
                by_hand.move_to_end(block.name)

    half = len(chains) // 2
    for work in (ours, hand):
        work(chains[:half])
    pairs = []
    for at in range(rounds):
        some = chains[:half] if at % 2 else chains[half:]
        scale = 1e6 / RESIDENT
        pairs.append((scale * cpu(partial(ours, some)), scale * cpu(partial(hand, some))))
    name = "evict + insert + touch, 100k blocks"
    return [row(name, "us", pairs, "OrderedDict, no parents", "<= 0.5 us")]


def chain_of_blocks() -> list[Block]:
    blocks: list[Block] = []
    for position in range(CHAIN):
        blocks.append(
            Block(
                name=os.urandom(32),
                parent=blocks[-1].name if blocks else bytes(32),
                position=position,
                tokens=bytes(64),
                payload=bytes(64),
                codec="raw",
                tags=bytes(32),
            )
        )
    return blocks


def loading(rounds: int) -> list[Row]:
    """A prefix of bfloat16 values like a model's, in each codec, beside a copy of the tensors."""
    tokens = np.arange(LOADED)
    shape = (2, *LAYOUT.shape(LOADED))
    wide = np.random.default_rng(2).standard_normal(shape, np.float32)
    both = tensors.narrowed(wide, "bfloat16")
    out, copied = np.empty_like(both), np.empty_like(both)
    rows = []
    for codec in ("raw", "exp4", "int8"):
        with kv.KVStore(LAYOUT, capacity_bytes="512MiB", codec=codec) as store:
            if store.save_prefix(tokens, both[0], both[1]) != LOADED:
                raise AssertionError("the prefix was not stored")
            store.load_prefix(tokens, out=(out[0], out[1]))
            if codec != "int8" and out.tobytes() != both.tobytes():
                raise AssertionError(f"{codec} came back different")
            np.copyto(copied, both)
            pairs, firsts = [], []
            for _ in range(rounds):
                whole = cpu(partial(store.load_prefix, tokens, out=(out[0], out[1])))
                pairs.append((whole, cpu(lambda: np.copyto(copied, both))))
                firsts.append(_layerwise(store, tokens, (out[0], out[1])))
        floor = "numpy copy"
        size = both.nbytes / 1e9
        rows.append(
            Row(
                **asdict(row(f"load_prefix, {codec}", "GB/s", pairs, floor, ""))
                | {
                    "ours": size / statistics.median(ours for ours, _ in pairs),
                    "floor": size / statistics.median(copy for _, copy in pairs),
                }
            )
        )
        rows.append(
            row(f"layer 0 of {LAYOUT.layers}, {codec}", "ms", firsts, "the whole load, wall", "")
        )
    return rows


def _layerwise(store: kv.KVStore, tokens: Array, out: tuple[Array, Array]) -> tuple[float, float]:
    """Milliseconds until the first layer, and until the last."""
    start = time.perf_counter()
    with store.load_layers(tokens, out=out) as load:
        load.wait(0)
        first = time.perf_counter() - start
        load.wait(LAYOUT.layers - 1)
        return 1e3 * first, 1e3 * (time.perf_counter() - start)


def prompt_of(mini: Mini) -> Array:
    """A prompt whose first tokens are cached."""
    return (
        np.random.default_rng(3).integers(0, mini.weights.shape.vocab, PREFIX + 40).astype(np.int32)
    )


def mini_store(mini: Mini, folder: Path | None) -> kv.KVStore:
    layers, kv_heads, head_dim = mini.kv_shape
    layout = kv.KVLayout(layers=layers, kv_heads=kv_heads, head_dim=head_dim, dtype="float32")
    return kv.KVStore(layout, capacity_bytes="64MiB", path=folder, model=mini.fingerprint)


def first_logits(mini: Mini, store: kv.KVStore, tokens: Array) -> tuple[Array, int]:
    """What the first token is chosen from, and how many tokens were reused for it."""
    layout = store.layout
    keys, values = np.empty((2, *layout.shape(PREFIX)), np.float32)
    found = store.load_prefix(tokens[:PREFIX], out=(keys, values))
    prefix = (keys[:, :found], values[:, :found]) if found else None
    return mini.prefill(tokens, prefix=prefix).logits, found


def first_token(rounds: int) -> list[Row]:
    """The embedded model with 2,048 tokens cached: computed, from memory, from disk elsewhere."""
    mini = Mini()
    tokens = prompt_of(mini)
    computed = mini.prefill(tokens)
    memory, disk = [], []
    with tempfile.TemporaryDirectory() as name, mini_store(mini, None) as here:
        folder = Path(name)
        with mini_store(mini, folder) as there:
            for store in (here, there):
                store.save_prefix(tokens, computed.keys, computed.values)
        logits, found = first_logits(mini, here, tokens)
        if found != PREFIX or logits.tobytes() != computed.logits.tobytes():
            raise AssertionError("a reused prefix gives other logits")
        for _ in range(rounds):
            full = 1e3 * wall(lambda: mini.prefill(tokens))
            memory.append((1e3 * wall(lambda: first_logits(mini, here, tokens)), full))
            disk.append((_elsewhere(folder, computed.logits.tobytes()), full))
    what, floor = f"first token, {PREFIX} tokens cached,", "the whole prefill"
    return [
        row(f"{what} memory", "ms", memory, floor, ">= 10x"),
        row(f"{what} disk, new process", "ms", disk, floor, ">= 5x"),
    ]


def _elsewhere(folder: Path, expected: bytes) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--from", str(folder)], capture_output=True, check=True
    )
    said = json.loads(done.stdout)
    if bytes.fromhex(said["logits"]) != expected:
        raise AssertionError("a prefix from disk gives other logits")
    return float(said["ms"])


def elsewhere(folder: Path) -> int:
    """The other process: prints milliseconds and logits."""
    mini = Mini()
    tokens = prompt_of(mini)
    mini.prefill(tokens[:64])  # the libraries are warm, the store is not open
    start = time.perf_counter()
    with mini_store(mini, folder) as store:
        logits, found = first_logits(mini, store, tokens)
        ms = 1e3 * (time.perf_counter() - start)
    if found != PREFIX:
        raise AssertionError(f"{found} tokens came from disk, not {PREFIX}")
    print(json.dumps({"ms": ms, "logits": logits.tobytes().hex()}))
    return 0


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "match": match,
    "bookkeeping": bookkeeping,
    "loading": loading,
    "first token": first_token,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure to quote")
    parser.add_argument("--quick", action="store_true", help="3 rounds: a look, not a figure")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated (all)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--from", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        return elsewhere(options.folder)
    rounds = 3 if options.quick else options.rounds
    rows = [each for part in options.part or PARTS for each in PARTS[part](rounds)]
    show(rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
