"""From order to answer: cached or computed, once, and never wrong after a failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from bul_fakes import Scripted

from blatam_kv.bul.drafts import Stopped
from blatam_kv.bul.order import Order, place
from blatam_kv.bul.pipeline import Pipeline
from blatam_kv.bul.request import parse_request
from blatam_kv.cache import Cache
from blatam_kv.errors import InvalidRequest, ModelError


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def pipeline(model: Scripted) -> Pipeline:
    return Pipeline(model, Cache(capacity=10), clock=lambda: 1000.0)


def order(model: Scripted, query: str = "bread", **fields: object) -> Order:
    return place(parse_request({"query": query, **fields}), model)


def test_the_first_time_computes_and_the_second_finds(pipeline: Pipeline, model: Scripted) -> None:
    wanted = order(model)
    assert pipeline.lookup(wanted) is None
    answer, wrote = pipeline.write(wanted)
    assert wrote
    assert answer.title == "Document"
    assert answer.text.startswith("# Document\n\nAbout bread")
    assert answer.born == 1000.0
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("stop", 7)
    assert pipeline.lookup(wanted) == (answer, "memory")
    assert pipeline.write(wanted) == (answer, False)
    assert model.calls == ["bread"]


def test_an_answer_without_a_heading_is_called_after_the_query(
    pipeline: Pipeline, model: Scripted
) -> None:
    model.text = "just words"
    assert pipeline.write(order(model, "bread\nand  butter"))[0].title == "bread and butter"


def test_control_characters_of_the_model_do_not_reach_the_document(
    pipeline: Pipeline, model: Scripted
) -> None:
    model.text = "# A\x1b[2J\x00\r\nb\n"
    assert pipeline.write(order(model))[0].text == "# A[2J\nb"


@pytest.mark.parametrize("kind", [ModelError, ValueError])
def test_a_failure_is_not_cached_and_the_next_request_works(
    pipeline: Pipeline, model: Scripted, kind: type[Exception]
) -> None:
    model.error = kind("no")
    with pytest.raises(kind, match="no"):
        pipeline.write(order(model))
    assert pipeline.lookup(order(model)) is None
    model.error = None
    assert pipeline.write(order(model))[1]


@pytest.mark.parametrize("text", ["", " \n\x00 "])
def test_an_empty_answer_is_a_failure(pipeline: Pipeline, model: Scripted, text: str) -> None:
    model.text = text
    with pytest.raises(ModelError, match="empty answer"):
        pipeline.write(order(model))
    assert len(pipeline.cache) == 0


def test_an_answer_that_breaks_off_is_a_failure(pipeline: Pipeline, model: Scripted) -> None:
    model.finish = False
    with pytest.raises(ModelError, match="broke off"):
        pipeline.write(order(model))
    assert len(pipeline.cache) == 0


def test_a_query_that_leaves_no_room_is_refused_before_the_model_runs(
    pipeline: Pipeline, model: Scripted
) -> None:
    model.context_tokens = 100
    with pytest.raises(InvalidRequest, match=r"reads 100 in all; shorten it to \d+ %") as caught:
        pipeline.write(order(model, "word " * 200))
    assert caught.value.field == "query"
    assert model.calls == []


def test_the_answer_gets_the_room_that_the_prompt_leaves(
    pipeline: Pipeline, model: Scripted
) -> None:
    pipeline.write(order(model, max_length=10_000))
    pipeline.write(order(model, max_length=50))
    taken = model.count_tokens(order(model).messages)
    assert [sampling.max_tokens for sampling in model.samplings] == [4096 - taken, 50]


def test_stopping_ends_the_writing_and_stores_nothing(pipeline: Pipeline, model: Scripted) -> None:
    stop = threading.Event()
    shares: list[float] = []

    def progress(share: float) -> None:
        shares.append(share)
        stop.set()

    with pytest.raises(Stopped):
        pipeline.write(order(model), progress=progress, stop=stop)
    assert len(shares) == 1
    assert len(pipeline.cache) == 0


def test_many_threads_asking_for_one_answer_run_the_model_once(
    pipeline: Pipeline, model: Scripted
) -> None:
    model.gate = threading.Event()
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(pipeline.write, order(model)) for _ in range(16)]
        assert model.writing.wait(30)
        model.gate.set()
        answers = [future.result() for future in waiting]
    assert len({id(answer) for answer, _ in answers}) == 1
    assert sum(wrote for _, wrote in answers) == 1
    assert len(model.calls) == 1
