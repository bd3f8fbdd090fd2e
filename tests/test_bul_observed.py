"""A model that is watched says what it says unwatched, and each of its calls is noted once."""

from __future__ import annotations

import pytest
from bul_fakes import Scripted, running
from prometheus_client.parser import text_string_to_metric_families

from blatam_kv.bul.observed import Observed
from blatam_kv.bul.request import parse_request
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.metrics import CacheSnapshot, ServiceMetrics
from blatam_kv.truthgpt.protocol import Message, Sampling, TruthGPT

PROMPT = [Message("user", "Plan de negocio")]


def watched(model: Scripted) -> tuple[Observed, ServiceMetrics]:
    nothing = CacheSnapshot(
        policy="lru", entries=0, memory_bytes=0, memory_limit_bytes=1, evictions={}
    )
    metrics = ServiceMetrics(version="1", cache=lambda: nothing, queue_depth=dict)
    return Observed(model, metrics, provider="openai"), metrics


def value(metrics: ServiceMetrics, name: str, **labels: str) -> float:
    """One sample: the one of that name whose labels include these."""
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(metrics.expose()[0].decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_it_says_what_the_model_says() -> None:
    model = Scripted()
    seen, _ = watched(model)
    assert isinstance(seen, TruthGPT)
    assert list(seen.stream(PROMPT, sampling=Sampling(seed=3), salt=b"s")) == list(
        model.stream(PROMPT, sampling=Sampling(seed=3), salt=b"s")
    )
    assert seen.generate(PROMPT, sampling=Sampling()) == model.generate(PROMPT, sampling=Sampling())
    assert model.salts == [b"s", b"s", b"", b""]
    assert (seen.model_id, seen.fingerprint, seen.context_tokens, seen.count_tokens(PROMPT)) == (
        *(model.model_id, model.fingerprint, model.context_tokens, model.count_tokens(PROMPT)),
    )


def test_an_answer_is_timed_and_its_tokens_counted() -> None:
    seen, metrics = watched(Scripted())
    seen.generate(PROMPT, sampling=Sampling())
    took = "gen_ai_server_request_duration_seconds_count"
    assert value(metrics, took, error_type="", gen_ai_provider_name="openai") == 1
    assert value(metrics, took, error_type="model") == 0
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count") == 1
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_count") == 1
    tokens = {
        kind: value(metrics, "gen_ai_client_token_usage_sum", gen_ai_token_type=kind)
        for kind in ("input", "output", "cached_input")
    }
    assert tokens == {"input": seen.count_tokens(PROMPT), "output": 7, "cached_input": 0}
    assert value(metrics, "kv_cache_errors_total", error_type="model") == 0


@pytest.mark.parametrize("error", [ModelError("broke off"), ValueError("a bug")])
def test_a_call_that_breaks_off_is_an_error_of_the_model(error: Exception) -> None:
    model = Scripted()
    model.error = error
    seen, metrics = watched(model)
    with pytest.raises(type(error)):
        list(seen.stream(PROMPT, sampling=Sampling()))
    took = "gen_ai_server_request_duration_seconds_count"
    assert value(metrics, took, error_type="model") == 1
    assert value(metrics, took, error_type="") == 0
    assert value(metrics, "kv_cache_errors_total", error_type="model") == 1


def test_a_prompt_that_does_not_fit_and_an_answer_nobody_wants_are_no_errors() -> None:
    model = Scripted()
    seen, metrics = watched(model)
    model.error = InvalidRequest("too long")
    with pytest.raises(InvalidRequest):
        list(seen.stream(PROMPT, sampling=Sampling()))
    next(pieces := iter(seen.stream(PROMPT, sampling=Sampling())))
    del pieces
    assert value(metrics, "kv_cache_errors_total", error_type="model") == 0


def test_what_a_service_writes_is_noted_and_a_hit_is_not() -> None:
    with running(Scripted()) as service:
        request = parse_request({"query": "Plan de negocio"})
        task = service.enqueue(service.place(request), request)
        while not service.task(task.id).is_finished:
            pass
        assert service.answer_from_cache(service.place(request), request) is not None
        took = "gen_ai_server_request_duration_seconds_count"
        assert value(service.metrics, took, error_type="") == 1
