"""What a GPU tier tells of itself: what was done, and nothing that a load waits for."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

import pytest
from bul_fakes import Scripted
from device_blocks import (
    DIM,
    HEADS,
    LAYERS,
    LOST,
    OUT_OF_MEMORY,
    TAGS,
    TOKENS,
    Block,
    DictTier,
    Engine,
    key_of,
    open_tier,
    some_slots,
)
from prometheus_client import CollectorRegistry
from prometheus_server import ROOT, promtool

from blatam_kv.errors import DeviceUnavailable, NoRoom, Unsupported
from blatam_kv.metrics import ServiceMetrics, TierMetrics
from blatam_kv.tiers.gpu import GpuTier
from blatam_kv.truthgpt.protocol import HoldsTiers
from blatam_kv.truthgpt.replicas import Replicas

BLOCK_BYTES = 2 * TOKENS * HEADS * DIM * 2 * LAYERS
HERE = {"store": "blocks", "tier": "host"}


def shown(tier: GpuTier) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(TierMetrics(lambda: [tier.snapshot()]))
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, HERE | labels)
    assert found is not None, (name, labels)
    return found


def loaded(tier: GpuTier, numbers: list[int], engine: Engine) -> int:
    keys = [key_of(number) for number in numbers]
    with tier.load_layers(keys, engine.cache, some_slots(len(keys))) as load:
        return load.finish()


def test_every_figure_is_what_was_done() -> None:
    below = DictTier()
    tier, bus = open_tier(below)
    engine, slots = Engine(), some_slots(2)
    for tensor in engine.tensors:
        tensor[:] = 0
    stored = Block.of(7, "int4").record
    below.put_many([replace(stored, key=key_of(2))])
    assert tier.save_blocks(
        [key_of(0), key_of(1)], engine.cache, slots, codec="int4", tags=TAGS, tokens=[b"", b""]
    )
    assert tier.get_many([key_of(0), key_of(9)])[1] is None
    assert loaded(tier, [0, 1, 2], engine) == 3
    assert loaded(tier, [0, 1, 2, 9], engine) == 3
    now = tier.stats()
    assert (now.hits, now.misses) == (1 + 2 + 3, 1 + 1 + 1)
    assert now.loads == {"whole": 1, "part": 1, "refused": 0, "failed": 0}
    assert now.raw_bytes == {
        ("int4", "encode"): 2 * BLOCK_BYTES,
        ("int4", "decode"): 6 * BLOCK_BYTES,
    }
    payload = len(stored.payload)
    assert 0.8 * payload < now.encoded_bytes["int4", "encode"] / 2 <= payload
    assert now.encoded_bytes["int4", "decode"] < 6 * payload
    registry = shown(tier)
    for name, labels, expected in (
        ("kv_tier_entries", {}, 3),
        ("kv_cache_size_limit_bytes", {}, 1 << 20),
        ("kv_tier_requests_total", {"result": "hit"}, now.hits),
        ("kv_tier_requests_total", {"result": "miss"}, now.misses),
        ("kv_tier_failing", {}, 0),
        ("kv_tier_circuit_open", {}, 0),
        ("kv_gpu_pool_taken_bytes", {}, bus.taken_bytes),
        ("kv_gpu_queue_entries", {}, 0),
        ("kv_gpu_staging_buffers", {"direction": "down"}, 2),
        ("kv_gpu_bus_bytes_total", {"direction": "up"}, now.traffic.up_bytes),
        ("kv_gpu_loads_total", {"outcome": "part"}, 1),
        ("kv_gpu_records_total", {"event": "promoted"}, 1),
        ("kv_gpu_raw_bytes_total", {"codec": "int4", "operation": "decode"}, 6 * BLOCK_BYTES),
        ("kv_tier_operation_duration_seconds_count", {"operation": "get"}, 1),
        ("kv_tier_operation_duration_seconds_count", {"operation": "load"}, 2),
        ("kv_tier_operation_duration_seconds_count", {"operation": "save"}, 1),
    ):
        assert value(registry, name, **labels) == expected, (name, labels)
    assert value(registry, "kv_gpu_bus_bytes_total", direction="down") > 2 * payload
    tier.close()
    assert value(registry, "kv_gpu_records_total", event="spilled") == 2


def test_what_is_refused_and_what_fails_is_counted_apart() -> None:
    below = DictTier()
    size = len(Block.of(0, "raw").record.payload)
    tier, bus = open_tier(below, 2 * (size + 256))
    tier.put_many([Block.of(number, "raw").record for number in range(2)])
    assert tier.pin(key_of(0))
    assert tier.pin(key_of(1))
    with pytest.raises(NoRoom):
        tier.load_layers([key_of(0), key_of(1)] * 2, Engine().cache, some_slots(4))
    assert tier.stats().loads["refused"] == 1
    tier.unpin(key_of(1))
    bus.fail_after(8, LOST, forever=True)
    with pytest.raises(DeviceUnavailable):
        loaded(tier, [0], Engine())
    now = tier.stats()
    assert now.loads["failed"] + now.loads["refused"] == 2
    with pytest.raises(DeviceUnavailable):
        loaded(tier, [0], Engine())
    assert tier.stats().loads["refused"] == now.loads["refused"] + 1
    registry = shown(tier)
    assert value(registry, "kv_tier_failures_total", reason="lost") >= 1
    assert value(registry, "kv_tier_failing") == value(registry, "kv_tier_circuit_open") == 1
    tier.close()


def test_a_call_that_works_again_ends_the_failing() -> None:
    tier, bus = open_tier(DictTier())
    tier.put_many([Block.of(0, "int8").record])
    bus.fail_after(0, OUT_OF_MEMORY, forever=True)
    assert tier.get_many([key_of(0)]) == [None]
    assert tier.stats().failing
    bus.fail_after(1 << 60, OUT_OF_MEMORY, forever=False)
    assert tier.get_many([key_of(0)]) != [None]
    assert not tier.stats().failing
    assert tier.stats().reasons == {"out of memory": 1}
    tier.close()


def test_the_page_names_every_metric_of_its_own_and_the_text_is_prometheus() -> None:
    tier, _ = open_tier(DictTier())
    metrics = ServiceMetrics(
        version="1", cache=_nothing, queue_depth=dict, tiers=lambda: [tier.snapshot()]
    )
    tier.put_many([Block.of(0, "int8").record])
    loaded(tier, [0], Engine())
    text, _ = metrics.expose()
    declared = set(re.findall(r"^# TYPE (kv_gpu_\w+) ", text.decode(), re.MULTILINE))
    page = (ROOT / "docs" / "MONITORING.md").read_text()
    assert declared == set(re.findall(r"^\| `(kv_gpu_\w+)` \|", page, re.MULTILINE))
    promtool("check", "metrics", cwd=ROOT, text=text)
    tier.close()


def test_a_scrape_is_answered_while_a_load_is_under_way() -> None:
    below, asked, go_on = DictTier(), threading.Event(), threading.Event()
    tier, _ = open_tier(below)
    below.put_many([Block.of(0, "int8").record])
    get_many = below.get_many

    def slow(keys: Any) -> Any:
        asked.set()
        go_on.wait()
        return get_many(keys)

    below.get_many = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=loaded, args=(tier, [0], Engine()))
    thread.start()
    asked.wait()
    assert value(shown(tier), "kv_tier_entries") == 0
    go_on.set()
    thread.join()
    assert value(shown(tier), "kv_tier_entries") == 1
    tier.close()


def test_replicas_show_what_their_models_hold() -> None:
    class Holder(Scripted):
        def tiers(self) -> list[Any]:
            return [tier.snapshot()]

    tier, _ = open_tier(DictTier())
    assert not isinstance(Scripted(), HoldsTiers)
    replicas = Replicas({"cuda:0": Holder(), "cuda:1": Scripted()})
    assert isinstance(replicas, HoldsTiers)
    assert [each.tier for each in replicas.tiers()] == ["host"]
    tier.close()


def test_a_codec_that_is_refused_is_no_load() -> None:
    below = DictTier()
    tier, _ = open_tier(below)
    with pytest.raises(Unsupported):
        tier.save_blocks(
            [key_of(0)], Engine().cache, some_slots(1), codec="zip", tags=TAGS, tokens=[b""]
        )
    assert tier.stats().raw_bytes == {}
    tier.close()


def _nothing() -> Any:
    from blatam_kv.metrics import CacheSnapshot

    return CacheSnapshot(
        policy="lru", entries=0, memory_bytes=0, memory_limit_bytes=1, evictions={}
    )
