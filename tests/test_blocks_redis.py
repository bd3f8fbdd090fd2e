"""Prefixes that nodes share: a real Redis between stores, between processes and between services."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, BrokenTier, load, prompt_of, save
from redis import Redis as Client
from redis_server import Redis, redis
from test_bul_shared import eventually
from test_server_process import serving

import blatam_kv as kv
from blatam_kv.cli.remote import connect
from blatam_kv.config import Secret, Settings
from blatam_kv.tiers.protocol import Rests
from blatam_kv.tiers.redis import RedisTier

PROMPT = prompt_of([1, 2, 3, 4, 5])
TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis() as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: Redis) -> None:
    Client.from_url(server.url).flushall()


def node(server: Redis, *, mac_key: bytes | None = None, **options: Any) -> kv.KVStore:
    """A store of its own memory over the Redis of all."""
    tier = RedisTier(server.url, namespace="blatam-kv:blocks", timeout=10.0, mac_key=mac_key)
    given: dict[str, Any] = {"capacity_bytes": "1MiB", "model": "m", "shared": tier}
    return kv.KVStore(options.pop("layout", LAYOUT), **given | options)


OTHER = """
import sys
from block_fakes import LAYOUT, load, prompt_of, save
import blatam_kv as kv
from blatam_kv.tiers.redis import RedisTier

url, verb = sys.argv[1:]
tier = RedisTier(url, namespace="blatam-kv:blocks", timeout=10.0)
with kv.KVStore(LAYOUT, capacity_bytes="1MiB", model="m", shared=tier) as store:
    call = save if verb == "save" else load
    print(call(store, prompt_of([1, 2, 3, 4, 5])), store.stats().tokens_from_far)
"""


def other(server: Redis, verb: str) -> list[int]:
    """What another process does: tokens, and how many of them came from Redis."""
    command = [sys.executable, "-c", OTHER, server.url, verb]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_what_one_process_computed_another_fetches_bit_for_bit(server: Redis) -> None:
    assert other(server, "save") == [len(PROMPT), 0]
    with node(server) as store:
        assert store.match_prefix(PROMPT) == len(PROMPT)
        assert load(store, PROMPT) == len(PROMPT)  # compares every value
        assert load(store, PROMPT) == len(PROMPT)
        stats = store.stats()
        assert stats.tokens_from_far == stats.tokens_from_memory == len(PROMPT)
    assert other(server, "load") == [len(PROMPT), len(PROMPT)]


def test_a_prefix_is_two_round_trips_and_a_save_waits_for_none(server: Redis) -> None:
    with node(server) as one:
        save(one, PROMPT)
        one.flush()
    with node(server) as two:
        client: Any = Client.from_url(server.url)
        client.config_resetstat()
        assert load(two, PROMPT) == len(PROMPT)
        calls = {name: stat["calls"] for name, stat in client.info("commandstats").items()}
        assert (calls["cmdstat_strlen"], calls["cmdstat_mget"]) == (5, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "another"},
        {"codec": "int8"},
        {"tokenizer": "another"},
        {"lora": "another"},
        {"rope": {"theta": 5}},
        {"salt": b"another tenant"},
        {"layout": kv.KVLayout(layers=2, kv_heads=1, head_dim=3, dtype="float16", block_tokens=16)},
        {"layout": kv.KVLayout(layers=3, kv_heads=1, head_dim=3, dtype="float32", block_tokens=16)},
    ],
    ids=str,
)
def test_a_node_with_anything_else_finds_nothing(server: Redis, options: dict[str, Any]) -> None:
    with node(server) as one:
        save(one, PROMPT)
        one.flush()
    with node(server, **options) as two:
        assert two.match_prefix(PROMPT) == 0
        out = np.empty((2, *two.layout.shape(len(PROMPT))), two.layout.dtype)
        assert two.load_prefix(PROMPT, out=(out[0], out[1])) == 0
        assert two.stats().foreign == two.stats().damaged == 0  # there was nothing to refuse


def test_lossless_codecs_serve_one_another_and_auto_is_small_there(server: Redis) -> None:
    layout = kv.KVLayout(layers=2, kv_heads=1, head_dim=64, dtype="bfloat16", block_tokens=64)
    tokens = list(range(128))
    keys, values = (
        np.random.default_rng(seed)
        .normal(size=layout.shape(128))
        .astype(np.float32)
        .view(np.uint32)
        >> 16
        for seed in (1, 2)
    )
    pair = keys.astype(np.uint16), values.astype(np.uint16)
    with node(server, layout=layout, codec="auto") as one:
        one.save_prefix(tokens, *pair)
        one.flush()
    with node(server, layout=layout, codec="raw") as two:
        out = np.empty_like(pair[0]), np.empty_like(pair[1])
        assert two.load_prefix(tokens, out=out) == 128
        for got, wanted in zip(out, pair, strict=True):
            np.testing.assert_array_equal(got, wanted)
        client: Any = Client.from_url(server.url)
        sizes = [client.strlen(name) for name in client.keys("*")]
        assert len(sizes) == 2
        assert max(sizes) < 0.9 * layout.block_bytes


def test_tenants_share_the_redis_and_no_block(server: Redis) -> None:
    with node(server) as one, node(server) as two:
        save(one.tenant(b"ana"), PROMPT)
        one.flush()
        assert load(two, PROMPT) == load(two.tenant(b"bea"), PROMPT) == 0
        assert load(two.tenant(b"ana"), PROMPT) == len(PROMPT)


def test_every_damage_there_is_a_miss_and_the_block_is_mended(server: Redis) -> None:
    client: Any = Client.from_url(server.url)
    with node(server) as one:
        save(one, PROMPT)
        one.flush()
    whole = {name: client.get(name) for name in client.keys("*")}
    for at, name in enumerate(whole):
        data, another = whole[name], list(whole.values())[at - 1]
        flipped = data[:-900] + bytes([data[-900] ^ 1]) + data[-899:]
        for spoilt in (data[: len(data) // 2], flipped, another):
            client.mset(whole | {name: spoilt})
            with node(server) as two:
                assert load(two, PROMPT) < len(PROMPT)  # and every value that came was right
                assert not client.exists(name)
                save(two, PROMPT)
                two.flush()
            assert client.exists(name)


def test_a_record_that_is_whole_and_holds_another_block_is_thrown_away_there(
    server: Redis,
) -> None:
    client: Any = Client.from_url(server.url)
    with node(server) as one:
        save(one, PROMPT)
        one.flush()
    tier = RedisTier(server.url, namespace="blatam-kv:blocks", timeout=10.0)
    names = client.keys("*")
    keys = [bytes.fromhex(name.decode().rpartition(":")[2]) for name in names]
    records = [record for record in tier.get_many(keys) if record is not None]
    spoilt = bytearray(records[0].payload)
    spoilt[100] ^= 1
    for bad in (
        replace(records[0], payload=bytes(spoilt)),  # its blobs have checksums of their own
        replace(records[0], tags=bytes(32)),
        replace(records[0], tokens=bytes(4 * 16)),
        replace(records[0], codec="int8"),
    ):
        tier.put_many([*records[1:], bad])
        with node(server) as two:
            assert load(two, PROMPT) < len(PROMPT)
            assert two.stats().damaged + two.stats().foreign == 1
            assert client.exists(f"blatam-kv:blocks:1:{bad.key.hex()}") == 0
    tier.close()


def test_with_a_mac_key_who_has_it_not_puts_nothing_into_prompts(server: Redis) -> None:
    with node(server, mac_key=b"x" * 32) as forger:
        save(forger, PROMPT)
        forger.flush()
    with node(server, mac_key=b"k" * 32) as one:
        assert load(one, PROMPT) == 0


def test_clear_forgets_a_tenants_blocks_or_everybodys_there_too(server: Redis) -> None:
    client: Any = Client.from_url(server.url)
    client.set("blatam-kv:1:answer", "stays")
    with node(server) as one:
        for store in (one, one.tenant(b"ana")):
            save(store, PROMPT)
        one.flush()
        assert len(client.keys("blatam-kv:blocks:1:*")) == 10
        one.clear(tenant=b"ana")
        with node(server) as two:
            assert two.tenant(b"ana").match_prefix(PROMPT) == 0
            assert two.match_prefix(PROMPT) == len(PROMPT)
        save(one, prompt_of([9]))  # on its way, perhaps
        one.clear(everyone=True)
        one.flush()
        assert client.keys("*") == [b"blatam-kv:1:answer"]
        save(one, PROMPT)  # what was forgotten may come back
        one.flush()
        assert len(client.keys("blatam-kv:blocks:1:*")) == 5


def test_blocks_that_a_folder_or_memory_has_survive_a_redis_that_lost_them(
    server: Redis, tmp_path: Path
) -> None:
    client: Any = Client.from_url(server.url)
    with node(server, path=tmp_path) as one:
        save(one, PROMPT)
        one.flush()
        client.flushall()
        assert load(one, PROMPT) == len(PROMPT)
        assert load(one, [*PROMPT, *prompt_of([8])]) == len(PROMPT)
    with node(server, path=tmp_path) as one:
        assert load(one, PROMPT) == len(PROMPT)
        assert one.stats().tokens_from_far == 0


def test_what_came_from_there_goes_to_the_folder_when_memory_needs_its_room(
    server: Redis, tmp_path: Path
) -> None:
    with node(server) as one:
        save(one, PROMPT)
        one.flush()
    with node(server, path=tmp_path) as two:
        assert load(two, PROMPT) == len(PROMPT)
    Client.from_url(server.url).flushall()
    with node(server, path=tmp_path) as two:
        assert load(two, PROMPT) == len(PROMPT)


def test_a_redis_that_is_away_costs_a_store_nothing_but_its_prefixes() -> None:
    with redis() as own:
        tier = RedisTier(own.url, namespace="blatam-kv:blocks", timeout=0.05)
        with kv.KVStore(LAYOUT, capacity_bytes="1MiB", model="m", shared=tier) as store:
            own.freeze()
            assert save(store, PROMPT) == load(store, PROMPT) == len(PROMPT)
            assert load(store, prompt_of([7])) == 0
            store.flush()
            far = store.stats().far
            assert far is not None
            assert far.failing
            own.stop()
            for number in range(5):
                assert load(store, prompt_of([7 + number])) == 0
            far = store.stats().far
            assert far is not None
            assert far.left_alone


def test_a_tier_that_is_never_left_alone_is_one_all_the_same() -> None:
    assert not isinstance(BrokenTier(), Rests)
    assert isinstance(RedisTier("redis://h"), Rests)


def test_services_share_the_prefixes_of_mini(server: Redis, tmp_path: Path) -> None:
    secret = hashlib.sha256(b"of both").hexdigest()
    settings = replace(Settings(), data_dir=tmp_path, hmac_secret=Secret(secret))
    with ExitStack() as opened:
        clients = []
        for _ in range(2):
            _, process = opened.enter_context(
                serving("--kv-redis-url", server.url, BUL_HMAC_SECRET=secret)
            )
            clients.append(opened.enter_context(connect(process.url, settings)))
        texts, found = [], []
        for client in clients:
            query = "Plan de negocio para una panadería de masa madre en Valencia. " * 12
            texts.append(client.document({"query": query, "max_length": 40}))
            stats = client.request("GET", "/api/v1/kv-cache/stats").json()
            found.append(stats["blocks"]["tokens_found"]["redis"])
            eventually(lambda: bool(Client.from_url(server.url).keys("blatam-kv:blocks:1:*")))
        assert texts[0] == texts[1]
        assert found[0] == 0
        assert found[1] > 0
        metrics = clients[1].request("GET", "/metrics").content.decode()
        assert 'kv_tier_requests_total{result="hit",store="blocks",tier="redis"}' in metrics
        name = "kv_tier_operation_duration_seconds_count"
        assert f'{name}{{operation="get",store="blocks",tier="redis"}} 0' not in metrics
        assert f'{name}{{operation="get",store="blocks",tier="redis"}}' in metrics
        assert "kv_blocks_recomputed_total 0.0" in metrics
