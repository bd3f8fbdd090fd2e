"""A local model whose device keeps beginnings of prompts: the host stands in for the device, in both
of its orders, and the oracle is the same model with the store's blocks by way of the host."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_blocks import LOST
from test_local import store_of
from transformers_models import save_model

from blatam_kv import KVStore
from blatam_kv.config import Settings, load
from blatam_kv.cuda.bus import Bus
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable
from blatam_kv.integrations.transformers import KVCache
from blatam_kv.integrations.transformers.near import Near
from blatam_kv.integrations.transformers.prefix import Row, restore
from blatam_kv.metrics import TierSnapshot
from blatam_kv.tiers import Tier
from blatam_kv.tiers.gpu import GpuTier
from blatam_kv.truthgpt import Message, Sampling
from blatam_kv.truthgpt.local import Local, from_settings
from blatam_kv.truthgpt.pool import Pool

SHORT = Sampling(max_tokens=12, temperature=0.0)
BLOCK = 64
POOL_BYTES = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("models") / "writer"
    save_model(path)
    return path


@pytest.fixture(params=[False, True], ids=["threads", "lazy"])
def lazy(request: pytest.FixtureRequest) -> Any:
    return request.param


class Opened:
    """A tier on the host as a device, and what it runs on."""

    def __init__(self, pool_bytes: int = POOL_BYTES, *, lazy: bool = False) -> None:
        self.bus = Bus(pool_bytes, device=-1, buffers=2, buffer_bytes=4096, lazy=lazy)
        self.pool_bytes = pool_bytes

    def __call__(self, below: Tier) -> GpuTier:
        return GpuTier(below, capacity_bytes=self.pool_bytes, bus=self.bus)

    def pool(self) -> Pool:
        return Pool(0, "cpu", open_tier=self)


class ByTheHost(Pool):
    """Whole blocks, as a device takes them, but by way of the host."""

    def __init__(self) -> None:
        super().__init__(0, "cpu")

    def restore(self, cache: Any, store: KVStore, tokens: Any, *, reserve: int, near: Any) -> int:
        return restore(cache, store, [Row(0, tokens)], reserve=reserve, multiple=BLOCK)


def model_with(folder: Path, pool: Pool | None, dtype: str = "bfloat16") -> Local:
    return Local(folder, dtype=dtype, pool=pool)


def conversation(turns: int, start: str = "A plan for a bakery. ") -> Iterator[list[Message]]:
    said = start * 8
    for turn in range(turns):
        said += f" And then {turn} more loaves of rye."
        yield [Message("system", said), Message("user", f"Un plan, {turn}")]


def answers(model: Local, store: KVStore, turns: int = 4, **options: Any) -> list[tuple[str, int]]:
    model.keep_prefixes(store)
    found = []
    for messages in conversation(turns, **options):
        for _ in range(2):
            answer = model.generate(messages, sampling=SHORT)
            found.append((answer.text, answer.usage.cached_tokens))
    return found


def shown(model: Local) -> TierSnapshot:
    (tier,) = model.tiers()
    return tier


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_answers_are_those_without_a_pool_and_prefixes_are_found_on_the_device(
    folder: Path, lazy: bool, dtype: str
) -> None:
    with model_with(folder, ByTheHost(), dtype) as other, store_of(other) as store:
        expected = answers(other, store)
    with model_with(folder, Opened(lazy=lazy).pool(), dtype) as model, store_of(model) as store:
        assert answers(model, store) == expected
        assert all(cached % BLOCK == 0 for _, cached in expected)
        assert any(cached >= 2 * BLOCK for _, cached in expected)
        now = shown(model)
        assert now.device is not None
        assert now.lookups["hit"] > now.lookups["miss"] > 0
        assert now.device.records["promoted"] == now.lookups["miss"] == now.entries
        assert now.device.loads["whole"] == sum(cached > 0 for _, cached in expected)


@pytest.mark.parametrize("codec", ["raw", "exp4", "int8", "int4_kc", "exp_huff"])
def test_keys_and_values_have_the_bits_that_the_host_decodes(
    folder: Path, lazy: bool, codec: str
) -> None:
    with model_with(folder, None) as model:
        layout = store_of(model).layout
        config = model._ready().model.config
    random = np.random.default_rng(5)
    tokens = random.integers(0, 280, 3 * BLOCK + 5)
    shape = layout.shape(3 * BLOCK)
    floats = random.standard_normal((2, *shape)).astype(np.float32)
    keys, values = (floats.view(np.uint32) >> 16).astype(np.uint16)
    with KVStore(layout, capacity_bytes="16MiB", codec=codec) as store:
        store.save_prefix(tokens[: 3 * BLOCK], keys, values)
        host = KVCache(config)
        assert restore(host, store, [Row(0, tokens)], multiple=BLOCK) == 3 * BLOCK
        near = Near(Opened(lazy=lazy), "cpu")
        for _ in range(2):  # from the host's memory, then from the device
            cache = KVCache(config)
            assert near.restore(cache, store, tokens) == 3 * BLOCK
            assert cache.reused == (3 * BLOCK,)
            for ours, theirs in zip(cache.keeping, host.keeping, strict=True):
                pairs = zip(ours.stored(0, 0, 192), theirs.stored(0, 0, 192), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)
        assert near.restore(KVCache(config), store, tokens[: 3 * BLOCK]) == 2 * BLOCK
        near.close()


def test_memory_stays_within_the_pool_and_what_left_it_is_found_in_the_store(
    folder: Path, lazy: bool
) -> None:
    with model_with(folder, ByTheHost()) as other, store_of(other) as store:
        expected = [answers(other, store, 2, start=start) for start in ("Pan. ", "Té. ", "Vino. ")]
        expected += [answers(other, store, 2, start=start) for start in ("Pan. ", "Té. ")]
    opened = Opened(36 << 10, lazy=lazy)  # two blocks of 16 KiB
    with model_with(folder, opened.pool()) as model, store_of(model) as store:
        found = [answers(model, store, 2, start=start) for start in ("Pan. ", "Té. ", "Vino. ")]
        found += [answers(model, store, 2, start=start) for start in ("Pan. ", "Té. ")]
        assert found == expected
        now = shown(model)
        assert now.bytes is not None
        assert now.bytes <= now.limit_bytes == opened.pool_bytes  # type: ignore[operator]
        assert now.device is not None
        assert now.device.taken_bytes <= opened.pool_bytes
        assert now.evicted > 0
        assert now.device.records["spilled"] == now.device.records["dropped"] == 0


def test_a_pool_too_small_for_a_block_costs_no_answer(folder: Path) -> None:
    with model_with(folder, ByTheHost()) as other, store_of(other) as store:
        expected = [text for text, _ in answers(other, store, 2)]
    with model_with(folder, Opened(4096).pool()) as model, store_of(model) as store:
        found = answers(model, store, 2)
        assert [cached > 0 for _, cached in found][1]  # by way of the host, which has more of it
        assert len(found) == len(expected)


@pytest.mark.parametrize("calls", [0, 5, 20, 60, 150])
def test_a_device_that_is_lost_costs_no_answer(
    folder: Path, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened()
    with model_with(folder, opened.pool()) as model, store_of(model) as store:
        model.keep_prefixes(store)
        opened.bus.fail_after(calls, LOST, forever=True)
        for messages in conversation(3):
            for _ in range(2):
                answer = model.generate(messages, sampling=SHORT)
                assert answer.usage.completion_tokens > 0
        assert answer.usage.cached_tokens > 0
        assert shown(model).left_alone
        assert "restart it" in caplog.text


def test_tenants_find_nothing_of_each_other_on_the_device(folder: Path) -> None:
    with model_with(folder, Opened().pool()) as model, store_of(model) as store:
        model.keep_prefixes(store)
        (messages,) = conversation(1)
        for salt in (b"one", b"two"):
            cached = [
                model.generate(messages, sampling=SHORT, salt=salt).usage.cached_tokens
                for _ in range(3)
            ]
            assert cached[0] == 0
            assert cached[1] == cached[2] > 0


def test_a_damaged_block_is_computed_again(folder: Path) -> None:
    opened = Opened()
    with model_with(folder, opened.pool()) as model, store_of(model) as store:
        first = answers(model, store, 1)
        near = model._pool._near
        assert isinstance(near, Near)
        tier = near._tier
        for key in list(tier._memory._records):
            resident = tier._memory.find(key)
            assert resident is not None
            opened.bus.up(
                [(b"\xff" * 64, resident.piece, 0)]
            )  # a raw block shows it when it comes down
            assert tier.get_many([key]) == [None]
        again = answers(model, store, 1)
        assert again[0][1] > 0  # the store has it
        assert len(again) == len(first)


def test_float32_goes_by_the_host_and_says_why(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with model_with(folder, Opened().pool(), "float32") as model, store_of(model) as store:
        assert answers(model, store, 1)[1][1] > 0
    assert "float32" in caplog.text


# ---- the setting --------------------------------------------------------------------------------


def test_without_a_gpu_the_start_says_what_is_missing_and_nothing_is_taken(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blatam_kv.cuda import probe

    flags = {"model": "local", "local_model": str(folder), "local_gpu_pool_mb": "64"}
    settings = load(environ={}, flags=flags)
    assert settings.local_gpu_pool_mb == 64
    with from_settings(settings) as model, store_of(model) as store:
        assert "elsewhere than on a CUDA device" in caplog.text
        assert answers(model, store, 1)[1][1] > 0
        assert model.tiers() == []
    absent = probe.Status(False, (), None, 0, DeviceTrouble.NOT_BUILT, "built without CUDA")
    monkeypatch.setattr(probe, "status", lambda: absent)
    from_settings(settings, device="cuda:0")
    assert "no pool for prefixes on cuda:0: built without CUDA" in caplog.text


def test_a_pool_is_off_unless_asked_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert Settings().local_gpu_pool_mb == 0
    with from_settings(load(environ={}, flags={"model": "local", "local_model": str(folder)})) as m:
        assert m.tiers() == []
    assert "pool" not in caplog.text


def test_a_pool_that_the_device_has_no_room_for_is_given_up(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = []

    def refuse(below: Tier) -> GpuTier:
        opened.append(below)
        raise DeviceUnavailable(DeviceTrouble.OUT_OF_MEMORY, "CUDA error 2: out of memory")

    pool = Pool(0, "cpu", open_tier=refuse)
    with model_with(folder, pool) as model, store_of(model) as store:
        assert answers(model, store, 2)[1][1] > 0
    assert len(opened) == 1
    assert "out of memory" in caplog.text
