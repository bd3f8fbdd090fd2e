"""A real trace through a real store: as many hits as the simulator says, block by block."""

from __future__ import annotations

import json
import lzma
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from block_fakes import check

import blatam_kv as kv
from blatam_kv import _core
from blatam_kv.blocks.block import block_weight

DATA = Path(__file__).parent / "data"
# A block of the trace, 512 tokens of a large model, is 16 tokens with a few bytes of values here.
LAYOUT = kv.KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16", block_tokens=16)
WEIGHT = block_weight(2 * 128, 64)
REQUESTS = 600


@pytest.fixture(scope="module", params=["mooncake_conversation", "mooncake_synthetic"])
def trace(request: pytest.FixtureRequest) -> list[list[int]]:
    """The beginning of a trace: the ids of each request's blocks."""
    with lzma.open(DATA / f"{request.param}.jsonl.xz", "rt") as lines:
        return [json.loads(line)["hash_ids"] for line in islice(lines, REQUESTS)]


def replayed(trace: list[list[int]], store: kv.KVStore) -> int:
    """Blocks found, each request loading what is there and saving what is not."""
    longest = max(map(len, trace)) * LAYOUT.block_tokens
    values = np.zeros(LAYOUT.shape(longest), np.float16)
    out = np.empty_like(values), np.empty_like(values)
    hits = 0
    for ids in trace:
        # Equal ids mean equal prompts up to there, so an id can stand for its block's tokens.
        tokens = np.repeat(np.array(ids, np.uint32), LAYOUT.block_tokens)
        hits += store.load_prefix(tokens, out=out) // LAYOUT.block_tokens
        x = values[:, : len(tokens)]
        store.save_prefix(tokens, x, x)
    return hits


def compared(trace: list[list[int]], path: Path, policy: str, share: float) -> tuple[int, int, int]:
    """Hits of a store, hits of the simulator, and blocks asked for."""
    path.write_text("".join(json.dumps({"hash_ids": ids}) + "\n" for ids in trace))
    capacity = int(share * len({block for ids in trace for block in ids}))
    (expected,) = kv.simulate(path, policy=policy, capacity=capacity).results
    with kv.KVStore(LAYOUT, capacity_bytes=capacity * WEIGHT, policy=policy) as store:
        hits = replayed(trace, store)
        check(store)
    return hits, expected.hits, expected.requests


# All but tinylfu, whose sketch sees other hashes here.
EXACT = [policy for policy in _core.policies() if policy != "tinylfu"]


@pytest.mark.parametrize("policy", EXACT)
def test_a_store_that_saves_in_portions_hits_as_often(
    trace: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """As stores of large models do, whose blocks are a portion each."""
    monkeypatch.setattr("blatam_kv.blocks.levels.PORTION_BYTES", 2 * 2 * 128)
    hits, expected, _ = compared(trace, tmp_path / "trace.jsonl", policy, 0.1)
    assert hits == expected


@pytest.mark.parametrize("policy", EXACT)
@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_store_hits_as_often_as_the_simulator_says(
    trace: list[list[int]], tmp_path: Path, policy: str, share: float
) -> None:
    hits, expected, _ = compared(trace, tmp_path / "trace.jsonl", policy, share)
    assert hits == expected


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_where_hashes_matter_they_matter_little(
    trace: list[list[int]], tmp_path: Path, share: float
) -> None:
    hits, expected, asked = compared(trace, tmp_path / "trace.jsonl", "tinylfu", share)
    assert abs(hits - expected) <= 0.002 * asked


def test_a_whole_trace_is_replayed_exactly(tmp_path: Path) -> None:
    """As many blocks as a sample of keys would begin at, which the simulator and a store would then
    choose by different names."""
    with lzma.open(DATA / "mooncake_conversation.jsonl.xz", "rt") as lines:
        trace = [json.loads(line)["hash_ids"] for line in lines]
    hits, expected, asked = compared(trace, tmp_path / "trace.jsonl", "adaptive", 0.1)
    assert hits == expected
    assert hits / asked > 0.294
