"""``mini`` in front of a real ``KVStore``: the same answers, sooner, and never worse off for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_models import TINY, write_tiny

import blatam_kv as kv
from blatam_kv import ConfigError, TierUnavailable
from blatam_kv.bul.service import Service
from blatam_kv.config import Settings
from blatam_kv.truthgpt import Message, Sampling
from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.prefixes import FOLDER, open_store
from blatam_kv.truthgpt.protocol import KeepsPrefixes

BRIEFING = Message("system", "The house was founded on a hill of grain. " * 5)
QUERIES = ("plan for kites", "contract for kites", "kites")
SAMPLING = Sampling(max_tokens=12, temperature=1.0, seed=3)
# The tiny model's keys and values.
LAYOUT = kv.KVLayout(layers=2, kv_heads=2, head_dim=16, dtype="float32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def expected(weights: Path) -> dict[str, str]:
    """What is answered without a store."""
    model = Mini(weights=weights)
    return {query: said(model, query)[0] for query in QUERIES}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", kv_memory_mb=1, kv_disk_mb=4)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A warning of Python's is an error here: what models see goes to the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def said(model: Mini, query: str) -> tuple[str, int]:
    """The answer and the tokens that were reused for it."""
    answer = model.generate([BRIEFING, Message("user", query)], sampling=SAMPLING)
    return answer.text, answer.usage.cached_tokens


@pytest.mark.parametrize("codec", ["raw", "exp4", "exp_huff"])
def test_documents_of_one_company_reuse_its_briefing_bit_for_bit(
    weights: Path, expected: dict[str, str], codec: str
) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="4MiB", codec=codec) as store:
        model = Mini(store, weights=weights)
        reused = []
        for query in QUERIES:
            text, cached = said(model, query)
            assert text == expected[query]
            reused.append(cached)
        assert reused[0] == 0
        assert reused[1] == reused[2] == 192
        assert store.model == model.fingerprint


def test_a_reused_prefix_gives_the_same_logits_and_values(weights: Path) -> None:
    model = Mini(weights=weights)
    tokens = np.arange(150, dtype=np.int32) % TINY.vocab
    computed = model.prefill(tokens)
    with kv.KVStore(LAYOUT, capacity_bytes="4MiB") as store:
        store.save_prefix(tokens, computed.keys, computed.values)
        out = np.empty(LAYOUT.shape(128), np.float32), np.empty(LAYOUT.shape(128), np.float32)
        assert store.load_prefix(tokens, out=out) == 128
    reused = model.prefill(tokens, prefix=out)
    assert reused.cached_tokens == 128
    assert reused.logits.tobytes() == computed.logits.tobytes()
    assert reused.keys.tobytes() == computed.keys.tobytes()
    assert reused.values.tobytes() == computed.values.tobytes()


@pytest.mark.parametrize("block_tokens", [16, 128])
def test_blocks_of_another_size_are_used_as_far_as_whole_chunks_go(
    weights: Path, expected: dict[str, str], block_tokens: int
) -> None:
    layout = replace(LAYOUT, block_tokens=block_tokens)
    with kv.KVStore(layout, capacity_bytes="4MiB") as store:
        model = Mini(store, weights=weights)
        for query in QUERIES:
            text, cached = said(model, query)
            assert text == expected[query]
            assert cached % 64 == 0
        assert cached == (192 if block_tokens == 16 else 128)


# ---- a store that cannot be used ----------------------------------------------------------------


def test_a_store_of_another_layout_costs_a_warning_and_no_answer(
    weights: Path, expected: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    layout = replace(LAYOUT, layers=3)
    with kv.KVStore(layout, capacity_bytes="4MiB") as store:
        model = Mini(store, weights=weights)
        for query in QUERIES:
            assert said(model, query) == (expected[query], 0)
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert "shape [3, tokens, 2, 16]" in messages[0]


def test_a_store_that_was_closed_is_done_without(
    weights: Path, expected: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    store = kv.KVStore(LAYOUT, capacity_bytes="4MiB")
    model = Mini(store, weights=weights)
    said(model, QUERIES[0])
    store.close()
    assert said(model, QUERIES[1]) == (expected[QUERIES[1]], 0)
    assert "the store is closed" in caplog.text


def test_another_models_store_is_never_read(
    weights: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with kv.KVStore(LAYOUT, capacity_bytes="4MiB") as store:
        other = Mini(store, weights=write_tiny(tmp_path / "other", seed=1))
        said(other, QUERIES[0])
        saved = store.stats().saved
        model = Mini(store, weights=weights)
        with pytest.warns(UserWarning, match="blocks of another model"):
            assert said(model, QUERIES[1]) == (expected[QUERIES[1]], 0)
        assert store.stats().saved == saved


# ---- as the service opens it --------------------------------------------------------------------


def test_prefixes_outlive_the_process_that_computed_them(
    weights: Path, expected: dict[str, str], settings: Settings
) -> None:
    for number, query in enumerate(QUERIES):
        model = Mini(weights=weights)
        assert isinstance(model, KeepsPrefixes)
        store = open_store(model, settings)
        assert store is not None
        with store:
            assert said(model, query) == (expected[query], 192 if number else 0)
            stats = store.stats()
            assert stats.tokens_from_tier == (192 if number else 0)
            assert stats.capacity_bytes == 1 << 20
            assert stats.tier is not None
            assert stats.tier.disk_bytes == 4 << 20
    assert (settings.data_dir / FOLDER / "metadata.json").is_file()


def test_a_second_service_reads_beside_the_first(
    weights: Path,
    expected: dict[str, str],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = Mini(weights=weights), Mini(weights=weights)
    writer = open_store(first, settings)
    assert writer is not None
    with writer:
        said(first, QUERIES[0])
        writer.flush()
        reader = open_store(second, settings)
        assert reader is not None
        with reader:
            assert reader.read_only
            assert "is being written by" in caplog.text
            assert said(second, QUERIES[1]) == (expected[QUERIES[1]], 192)


def test_memory_alone_or_nothing_where_that_is_wanted(weights: Path, settings: Settings) -> None:
    model = Mini(weights=weights)
    memory = open_store(model, replace(settings, kv_disk_mb=0))
    assert memory is not None
    with memory:
        assert memory.stats().tier is None
    assert open_store(model, replace(settings, kv_memory_mb=0)) is None
    assert not settings.data_dir.exists()


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(
    weights: Path, settings: Settings
) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / FOLDER).write_text("not a folder")
    with pytest.raises((TierUnavailable, ConfigError)):
        open_store(Mini(weights=weights), settings)


def test_the_service_tells_of_prefixes_and_forgets_them(weights: Path, settings: Settings) -> None:
    model = Mini(weights=weights)
    store = open_store(model, settings)
    assert store is not None
    with store:
        for query in QUERIES[:2]:
            said(model, query)
        service = Service(model, settings, version="1", blocks=store)
        try:
            stats = service.reports.cache_stats()["blocks"]
            assert isinstance(stats, dict)
            assert stats["tokens_found"] == {"memory": 192, "disk": 0}
            assert stats["entries"] == store.stats().blocks > 0
            health = service.reports.cache_health()["components"]
            assert isinstance(health, dict)
            assert health["persistence"].startswith("prefixes are kept on disk")
            text, _ = service.metrics.expose()
            assert b'kv_blocks_tokens_found_total{tier="memory"} 192.0' in text
            service.clear()
            assert said(model, QUERIES[0])[1] == 0
        finally:
            service.close()
        without = Service(model, settings, version="1")
        assert without.reports.cache_stats()["blocks"] is None
        without.close()
