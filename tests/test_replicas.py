"""One model on several devices: who answers, what happens when a device fails, and what never differs."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from bul_fakes import until
from device_fakes import Machine, OnDevice
from mini_models import TINY, DictStore, noise, write, write_tiny

from blatam_kv.errors import ConfigError, DeviceFailed, DeviceTrouble, InvalidRequest, ModelError
from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.protocol import Continues, Message, RunsOnDevices, Sampling, TruthGPT
from blatam_kv.truthgpt.replicas import AnotherModel, ContinuingReplicas, Replicas

GREEDY = Sampling(max_tokens=24, temperature=0.0)
SOON = 0.002


def said(text: str) -> list[Message]:
    return [Message("user", text)]


def three() -> tuple[list[OnDevice], Replicas]:
    """Three devices, the third of them the least busy, as their monitor says."""
    models = [OnDevice() for _ in range(3)]
    machine = Machine([0.8, 0.5, 0.2])
    replicas = Replicas(dict(zip("012", models, strict=True)), machine, clock=machine.clock)
    replicas._balancer.read()
    return models, replicas


def _probed_since(model: OnDevice, probes: int) -> bool:
    return model.probes > probes


def asked(models: Sequence[OnDevice]) -> list[int]:
    return [len(model.calls) for model in models]


# ---- who answers --------------------------------------------------------------------------------


def test_it_is_a_model_like_any_other() -> None:
    models, replicas = three()
    assert isinstance(replicas, TruthGPT)
    assert isinstance(replicas, RunsOnDevices)
    assert not isinstance(replicas, Continues)
    assert (replicas.model_id, replicas.fingerprint) == ("scripted", "f1")
    assert replicas.context_tokens == 4096
    assert replicas.count_tokens(said("12345678")) == models[0].count_tokens(said("12345678"))
    answer = replicas.generate(said("a plan"), sampling=GREEDY)
    assert answer == models[0].generate(said("a plan"), sampling=GREEDY)


def test_the_least_busy_answers_and_calls_at_once_spread() -> None:
    models, replicas = three()
    replicas.generate(said("one"), sampling=GREEDY)
    assert asked(models) == [0, 0, 1]
    streams = [replicas.stream(said(f"{n}"), sampling=GREEDY) for n in range(6)]
    for stream in streams:
        next(stream)
    busy = [each.in_flight for each in replicas.devices()]
    assert (sum(busy), sorted(busy), min(busy)) == (6, busy, 1)  # as their utilisation allows
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]  # a generator
    assert [each.in_flight + each.queued_tokens for each in replicas.devices()] == [0, 0, 0]


def test_what_an_answer_still_needs_falls_as_it_comes() -> None:
    _, replicas = three()
    stream = replicas.stream(said("x" * 4000), sampling=GREEDY)
    next(stream)
    *_, third = replicas.devices()
    assert (third.queued_tokens, third.in_flight_tokens) == (0, 24)  # 1,000 of the prompt are read
    next(stream)
    assert replicas.devices()[2].in_flight_tokens == 23
    assert list(stream)[-1].finish_reason == "stop"
    assert replicas.devices()[2].in_flight_tokens == 0


def test_a_call_that_is_never_begun_is_on_no_books() -> None:
    _, replicas = three()
    replicas.stream(said("x"), sampling=GREEDY)
    assert [each.routed for each in replicas.devices()] == [0, 0, 0]


def test_what_a_caller_did_wrong_is_nobodys_failure() -> None:
    models, replicas = three()
    models[2].error = InvalidRequest("too long", field="messages")
    with pytest.raises(InvalidRequest):
        replicas.generate(said("x"), sampling=GREEDY)
    models[2].error = ModelError("no such luck")
    with pytest.raises(ModelError, match="no such luck"):
        replicas.generate(said("x"), sampling=GREEDY)
    assert [each.failures for each in replicas.devices()] == [0, 0, 0]
    assert asked(models) == [0, 0, 2]


# ---- failures -----------------------------------------------------------------------------------


def test_a_call_whose_device_fails_before_a_word_is_answered_by_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models, replicas = three()
    models[2].lost = True
    with caplog.at_level(logging.WARNING):
        answer = replicas.generate(said("x"), sampling=GREEDY)
    assert answer.text.startswith("# Document")
    assert "2 leaves the rotation: CUDA error" in caplog.text
    assert asked(models) == [0, 1, 0]
    assert [each.in_rotation for each in replicas.devices()] == [True, True, False]
    replicas.generate(said("y"), sampling=GREEDY)
    assert asked(models) == [0, 2, 0]


def test_it_is_tried_at_one_other_device_and_no_more() -> None:
    models, replicas = three()
    for model in models:
        model.lost = True
    with pytest.raises(DeviceFailed):
        replicas.generate(said("x"), sampling=GREEDY)
    assert [each.failures for each in replicas.devices()] == [0, 1, 1]


def test_what_was_said_is_not_said_again_by_another() -> None:
    models, replicas = three()
    models[2].lost_after_first = True
    stream = replicas.stream(said("x"), sampling=GREEDY)
    assert next(stream).text
    with pytest.raises(DeviceFailed):
        next(stream)
    assert asked(models) == [0, 0, 1]
    assert not replicas.devices()[2].in_rotation
    assert [each.in_flight for each in replicas.devices()] == [0, 0, 0]


def test_alone_it_says_what_went_wrong_and_is_tried_again_by_the_next_call() -> None:
    model = OnDevice()
    replicas = Replicas({"cuda:0": model})
    model.lost = True
    with pytest.raises(DeviceFailed, match="illegal memory"):
        replicas.generate(said("x"), sampling=GREEDY)
    model.lost = False
    assert replicas.generate(said("x"), sampling=GREEDY).text
    assert replicas.devices()[0].in_rotation


def test_a_device_comes_back_when_a_probe_of_it_succeeds() -> None:
    models = [OnDevice() for _ in range(2)]
    machine = Machine([0.1, 0.9])
    replicas = Replicas(
        dict(zip("01", models, strict=True)), machine, clock=machine.clock, interval=SOON
    )
    with replicas:
        models[0].lost = True
        replicas.generate(said("x"), sampling=GREEDY)
        for _ in range(3):
            machine.now += 100.0
            probes = models[0].probes
            until(functools.partial(_probed_since, models[0], probes))
        assert asked(models) == [0, 1]  # no work was risked
        models[0].lost = False
        machine.now += 100.0
        until(lambda: replicas.devices()[0].in_rotation)
        replicas.generate(said("x"), sampling=GREEDY)
    assert models[0].calls[-1] == "x"


def test_models_and_monitor_are_closed_with_it() -> None:
    ended = []

    class Closed(OnDevice):
        def __enter__(self) -> Closed:
            return self

        def __exit__(self, *_: object) -> None:
            ended.append(self)

    models = [Closed(), Closed()]
    with Replicas(dict(zip("01", models, strict=True)), interval=SOON):
        pass
    assert sorted(map(id, ended)) == sorted(map(id, models))


# ---- one model ----------------------------------------------------------------------------------


def test_devices_with_different_models_are_refused() -> None:
    models, replicas = three()
    models[1].fingerprint = "f2"
    with pytest.raises(ConfigError, match="1 runs another model than 0"):
        _ = replicas.fingerprint
    with pytest.raises(ConfigError, match="at least one device"):
        Replicas({})


def test_one_that_becomes_another_model_is_left_out_and_nothing_of_it_is_heard() -> None:
    models, replicas = three()
    assert replicas.fingerprint == "f1"
    models[2].fingerprint, models[2].text = "f2", "something else"
    answer = replicas.generate(said("x"), sampling=GREEDY)
    assert answer.text.startswith("# Document")
    assert replicas.fingerprint == "f1"
    assert [each.in_rotation for each in replicas.devices()] == [True, True, False]
    with pytest.raises(AnotherModel):
        replicas._probe("2")


def test_one_that_cannot_be_asked_at_the_start_joins_later() -> None:
    models = [OnDevice()]
    broken = DeviceFailed(DeviceTrouble.OUT_OF_MEMORY, "CUDA out of memory")

    class Absent(OnDevice):
        @property
        def fingerprint(self) -> str:
            raise broken

        @fingerprint.setter
        def fingerprint(self, value: str) -> None:
            pass

    replicas = Replicas({"0": Absent(), "1": models[0]})
    assert replicas.fingerprint == "f1"
    assert [each.in_rotation for each in replicas.devices()] == [False, True]
    with pytest.raises(DeviceFailed, match="out of memory"):
        _ = Replicas({"0": Absent(), "1": Absent()}).fingerprint


# ---- with a real model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def test_an_answer_does_not_depend_on_the_device(weights: Path) -> None:
    alone = Mini(weights=weights)
    replicas = ContinuingReplicas({name: Mini(weights=weights) for name in ("cpu", "cpu/2")})
    assert isinstance(replicas, Continues)
    assert replicas.fingerprint == alone.fingerprint
    prompts = [said(f"{n} " * 40) for n in range(4)]
    expected = [alone.generate(prompt, sampling=GREEDY) for prompt in prompts]
    streams = [replicas.stream(prompt, sampling=GREEDY) for prompt in prompts]
    texts = [next(stream).text for stream in streams]  # all at once, on both
    assert {each.routed for each in replicas.devices()} == {2}
    for n, stream in enumerate(streams):
        texts[n] += "".join(chunk.text for chunk in stream)
    assert texts == [answer.text for answer in expected]
    *_, whole = alone.resume(prompts[0], "abc", sampling=GREEDY)
    *_, spread = replicas.resume(prompts[0], "abc", sampling=GREEDY)
    assert spread == whole


def test_a_store_of_the_host_serves_every_device(weights: Path) -> None:
    store = DictStore()
    models = {name: Mini(store, weights=weights) for name in ("cpu", "cpu/2")}
    replicas = ContinuingReplicas(models, affinity=False)
    prompt = said("shared beginning " * 16)
    cold = models["cpu"].generate(prompt, sampling=GREEDY)
    with closing(models["cpu/2"].stream(prompt, sampling=GREEDY)) as other:  # type: ignore[type-var]
        *_, last = other
    assert cold.usage.cached_tokens == 0
    assert last.usage is not None
    assert last.usage.cached_tokens >= 192
    assert replicas.generate(prompt, sampling=GREEDY).text == cold.text


def test_a_conversation_finds_its_prefix_where_each_device_has_a_store_of_its_own(
    tmp_path: Path,
) -> None:
    wide = dataclasses.replace(TINY, layers=1, context=2048)
    shape = json.dumps(dataclasses.asdict(wide))
    weights = write(tmp_path / "wide.safetensors", noise(wide), shape=shape)
    models = {f"{n}": Mini(DictStore(), weights=weights) for n in range(2)}
    replicas = ContinuingReplicas(models)
    one_token = Sampling(max_tokens=1, temperature=0.0)
    cached = known = 0
    conversations = ["", ""]
    for turn in range(3):
        for n in (1, 0):
            conversations[n] += f"La panadería {n} abre en su barrio, dice la carta {turn}. " * 9
            usage = replicas.generate(said(conversations[n]), sampling=one_token).usage
            if turn:
                cached += usage.cached_tokens
                known += usage.prompt_tokens * turn // (turn + 1)
    assert cached >= 0.6 * known
    assert sum(each.saved_tokens for each in replicas.devices()) > 0


def test_tenants_do_not_lead_one_another_to_their_prefixes() -> None:
    models = [OnDevice() for _ in range(2)]
    replicas = Replicas(dict(zip("01", models, strict=True)))
    long = said("a prompt that many know " * 100)
    replicas.generate(long, sampling=GREEDY, salt=b"one")
    replicas.generate(long, sampling=GREEDY, salt=b"two")
    assert sum(each.saved_tokens for each in replicas.devices()) == 0
    replicas.generate(long, sampling=GREEDY, salt=b"two")
    assert sum(each.saved_tokens for each in replicas.devices()) > 0


def test_threads_share_it_and_the_books_are_even_afterwards() -> None:
    models = [OnDevice() for _ in range(3)]
    replicas = Replicas(dict(zip("012", models, strict=True)))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in range(40):
                if (seed, n) == (0, 20):
                    models[1].lost = True
                replicas.generate(said(f"{seed} {n}"), sampling=GREEDY)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(asked(models)) == 160
    assert all(
        each.in_flight == each.queued_tokens == each.in_flight_tokens == 0
        for each in replicas.devices()
    )
