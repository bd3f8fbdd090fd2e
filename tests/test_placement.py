"""Devices as the settings name them: mini and a transformers model on several, and several endpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from device_fakes import nvml
from endpoint_fake import MODEL, Fake, endpoint, hang_up, sent, whole
from transformers_models import save_model

from blatam_kv import cli
from blatam_kv.config import Settings
from blatam_kv.errors import ConfigError, DeviceFailed, DeviceTrouble, ModelError
from blatam_kv.metrics.devices import of_gpus
from blatam_kv.server.serve import _blocks
from blatam_kv.truthgpt import Message, Sampling, load
from blatam_kv.truthgpt.faults import failure, trouble_of
from blatam_kv.truthgpt.local import Local
from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.openai import OpenAI
from blatam_kv.truthgpt.placement import watched
from blatam_kv.truthgpt.protocol import Continues, RunsOnDevices
from blatam_kv.truthgpt.replicas import Replicas

MESSAGES = [Message("system", "A plan for a bakery. " * 6), Message("user", "Un plan, año 2026")]
GREEDY = Sampling(max_tokens=8, temperature=0.0)


def names(model: object) -> list[str]:
    assert isinstance(model, RunsOnDevices)
    return [each.gpu for each in model.devices()]


# ---- mini ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [(), ("cpu",), ("auto",)])
def test_one_device_is_the_model_itself(devices: tuple[str, ...]) -> None:
    assert type(load(settings=Settings(devices=devices))) is Mini


def test_several_devices_are_replicas_that_are_told_apart() -> None:
    model = load(settings=Settings(devices=("cpu", "cpu", "cpu")))
    assert names(model) == ["cpu", "cpu/2", "cpu/3"]
    assert isinstance(model, Continues)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": ("cuda:0",)}, "runs on the CPU alone, not on cuda:0"),
        ({"devices": ("auto", "cpu")}, "auto or a list"),
        ({"devices": ("cpu",), "local_device": "cuda:1"}, "both set"),
        ({"model": "openai", "devices": ("cpu",)}, "go into openai_base_url"),
        ({"model": "openai", "openai_base_url": "http://a/v1,http://a/v1/"}, "names an endpoint twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(settings=Settings(**{"openai_model": MODEL, **settings}))


# ---- a transformers model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("models") / "writer"
    save_model(path)
    return path


def test_a_model_of_the_machine_answers_alike_on_each_device_from_one_store(
    folder: Path, tmp_path: Path
) -> None:
    settings = Settings(
        model="local", local_model=folder, devices=("cpu", "cpu"), data_dir=tmp_path,
        kv_memory_mb=16, kv_disk_mb=16,
    )  # fmt: skip
    alone = load(settings=replace(settings, devices=()))
    assert isinstance(alone, Local)
    model = load(settings=settings)
    assert isinstance(model, Replicas)
    assert names(model) == ["cpu", "cpu/2"]
    assert model.fingerprint == alone.fingerprint
    expected = alone.generate(MESSAGES, sampling=GREEDY)
    store = _blocks(model, settings, bytes(32))
    assert store is not None
    with store:
        one, other = model.models
        cold = one.generate(MESSAGES, sampling=GREEDY)
        warm = other.generate(MESSAGES, sampling=GREEDY)
        assert cold.text == warm.text == expected.text
        assert cold.usage.cached_tokens == 0
        assert warm.usage.cached_tokens > 0  # what the other device computed
        assert model.generate(MESSAGES, sampling=GREEDY).usage.cached_tokens > 0


@pytest.mark.parametrize(("gpus", "expected"), [(2, ["cuda:0", "cuda:1"]), (0, None)])
def test_auto_is_every_gpu_that_torch_sees_or_the_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, expected: list[str] | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(uuid=name[-1])
    )
    module = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    model = load(settings=Settings(model="local", local_model=folder, devices=("auto",)))
    if expected is None:
        assert isinstance(model, Local)
        return
    assert isinstance(model, Replicas)
    assert names(model) == expected
    model._balancer.read()  # by the UUIDs that torch told
    assert [each.utilization for each in model.devices()] == [0.30, 0.31]
    with pytest.raises(ConfigError, match="no cuda:2; torch sees 2"):
        load(settings=Settings(model="local", local_model=folder, devices=("cuda:0", "cuda:2")))


@pytest.mark.parametrize("settings", [{"local_device": "cuda:1"}, {"devices": ("cuda:1",)}])
def test_a_single_gpu_is_read_and_has_nothing_to_do_that_anyone_knew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(uuid=name[-1])
    )
    module = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    chosen = Settings(model="local", local_model=folder, **settings)
    model = load(settings=chosen)
    assert isinstance(model, Local)
    with watched(model, chosen) as devices:
        (seen,) = devices()
        assert (seen.gpu, seen.utilization, seen.balanced) == ("cuda:1", 0.31, False)
        told = {
            sample.name.removeprefix("kv_cache_gpu_")
            for family in of_gpus(devices())
            for sample in family.samples
        }
        assert {"utilization_ratio", "power_watts", "in_rotation", "failures_total"} <= told
        assert not told & {"in_flight", "queued_tokens", "routed_total"}
    assert module.calls == ["init", "shutdown"]


def test_of_a_cpu_nothing_is_read() -> None:
    with watched(Mini(), Settings()) as devices:
        assert devices() == ()


def test_without_a_driver_gpus_are_balanced_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(uuid=name[-1])
    )
    monkeypatch.setitem(sys.modules, "pynvml", None)
    model = load(settings=Settings(model="local", local_model=folder, devices=("auto",)))
    assert names(model) == ["cuda:0", "cuda:1"]
    assert "blatam-kv[gpu]" in caplog.text


# ---- whose fault it was -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), DeviceTrouble.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: device-side assert"), DeviceTrouble.LOST),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceTrouble.FAILED),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"), DeviceTrouble.OUT_OF_MEMORY),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (MemoryError("the host's"), None),
        (ValueError("CUDA"), None),
    ],
)  # fmt: skip
def test_what_torch_raises_is_the_devices_fault_or_not(
    error: Exception, trouble: DeviceTrouble | None
) -> None:
    assert trouble_of(error) == trouble
    told = failure(error, "writer failed")
    assert isinstance(told, ModelError)
    assert told.elsewhere == (trouble is not None)
    assert not isinstance(told, DeviceFailed) or told.reason is trouble


def test_a_model_whose_device_fails_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Local(folder)
    inner = model._ready().model

    def broken(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(inner, "forward", broken)
    with pytest.raises(DeviceFailed, match="illegal memory") as caught:
        model.generate(MESSAGES, sampling=GREEDY)
    assert caught.value.reason is DeviceTrouble.LOST


# ---- endpoints ----------------------------------------------------------------------------------


@contextmanager
def endpoints(count: int) -> Iterator[tuple[list[Fake], Replicas]]:
    """So many model servers, and a model of them all."""
    with ExitStack() as opened:
        fakes = [opened.enter_context(endpoint()) for _ in range(count)]
        settings = Settings(
            model="openai", openai_model=MODEL, openai_base_url=",".join(f.url for f in fakes),
            openai_connect_timeout=2.0, openai_attempts=2,
        )  # fmt: skip
        model = load(settings=settings)
        assert isinstance(model, Replicas)
        yield fakes, opened.enter_context(model)


def test_several_endpoints_are_one_model_known_by_the_first() -> None:
    with endpoints(3) as (fakes, model):
        with OpenAI(fakes[0].url, MODEL) as first:
            assert model.fingerprint == first.fingerprint
        assert names(model) == [fake.url.split("/")[2] for fake in fakes]
        texts = {model.generate(MESSAGES, sampling=GREEDY).text for _ in range(3)}
        assert len(texts) == 1
        streams = [model.stream([Message("user", f"{n}")], sampling=GREEDY) for n in range(6)]
        for stream in streams:
            next(stream)
        assert min(len(fake.chats) for fake in fakes) >= 2
        for stream in streams:
            assert list(stream)[-1].finish_reason == "stop"


def test_an_endpoint_that_dies_before_a_word_costs_a_request_nothing() -> None:
    with endpoints(2) as (fakes, model):
        assert model.fingerprint
        fakes[0].turns.append(hang_up)
        for _ in range(3):
            assert model.generate(MESSAGES, sampling=GREEDY).text.startswith("# Plan")
        assert [each.failures for each in model.devices()] == [1, 0]


def test_a_conversation_goes_to_the_endpoint_that_has_its_beginning() -> None:
    with endpoints(3) as (fakes, model):
        said = "Una panadería con obrador propio, en su barrio. " * 24
        for turn in range(4):
            said += f"Así lo dice la carta número {turn}. " * 24
            model.generate([Message("user", said)], sampling=GREEDY)
        assert sorted(len(fake.chats) for fake in fakes) == [0, 0, 4]
        assert sum(each.saved_tokens for each in model.devices()) > 500


def test_an_endpoint_that_breaks_off_has_said_something_and_is_left_out() -> None:
    with endpoints(2) as (fakes, model):
        assert model.fingerprint
        stream = whole()
        for fake in fakes:
            fake.turns.append(sent(stream[: len(stream) // 2], cut=True))
        with pytest.raises(ModelError, match=r"broke off|dropped"):
            model.generate(MESSAGES, sampling=GREEDY)
        assert sum(len(fake.chats) for fake in fakes) == 1
        assert sum(each.failures for each in model.devices()) == 1


def test_endpoints_with_different_models_are_refused() -> None:
    with endpoints(2) as (fakes, model):
        fakes[1].models = {"data": [{"id": MODEL, "root": "/another"}]}
        with pytest.raises(ConfigError, match="another model"):
            _ = model.fingerprint


def test_an_endpoint_that_is_not_there_at_the_start_is_left_out() -> None:
    with endpoint() as fake:
        urls = f"{fake.url},http://127.0.0.1:9/v1"
        settings = Settings(
            model="openai", openai_model=MODEL, openai_base_url=urls, openai_attempts=1
        )
        model = load(settings=settings)
        assert isinstance(model, Replicas)
        with model:
            assert model.fingerprint
            assert [each.in_rotation for each in model.devices()] == [True, False]
            assert model.generate(MESSAGES, sampling=GREEDY).text.startswith("# Plan")


def test_the_doctor_names_each_device_and_what_an_endpoint_does_not_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUL_OPENAI_ATTEMPTS", "1")
    with endpoint() as fake:
        urls = f"http://127.0.0.1:9/v1,{fake.url}"
        flags = ["doctor", "--json", "--data-dir", str(tmp_path), "--model", "openai"]
        for name, listed in ((MODEL, True), ("acme/other", False)):
            cli.main([*flags, "--openai-base-url", urls, "--openai-model", name])
            told = json.loads(capsys.readouterr().out)["openai"]
            assert told["devices"]["127.0.0.1:9"].startswith("left out")
            assert told["devices"][fake.url.split("/")[2]] == "in the rotation"
            assert (told["reason"] is None) == listed
