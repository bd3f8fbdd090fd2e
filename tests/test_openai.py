"""The model behind an endpoint, against a real HTTP server on loopback that fails as told."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bul_fakes import until
from endpoint_fake import (
    MODEL,
    TEXTS,
    Fake,
    Turn,
    answer,
    delta,
    endpoint,
    error,
    event,
    hang_up,
    refused,
    sent,
    silent,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.config import Secret, Settings
from blatam_kv.errors import ConfigError, Error, InvalidRequest, ModelError
from blatam_kv.truthgpt import Message, Sampling, TruthGPT, load
from blatam_kv.truthgpt.chat import Dialect, Piece, estimate_prompt, read_piece, request_body
from blatam_kv.truthgpt.endpoint import (
    BrokenAnswer,
    Endpoint,
    EndpointRefused,
    EndpointTimeout,
    EndpointUnavailable,
    MalformedAnswer,
    NotAuthorized,
    Retries,
    Timeouts,
    UnknownModel,
)
from blatam_kv.truthgpt.openai import GO_ON, OpenAI
from blatam_kv.truthgpt.protocol import Completion, Usage

KEY = "sk-very-secret-4711"
TEXT = "".join(TEXTS)
MESSAGES = [Message("system", "You are TruthGPT."), Message("user", "Un plan")]
SAMPLING = Sampling(max_tokens=64, seed=7)


class Time:
    """A clock that only moves when somebody sleeps, and remembers how long they did."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake() -> Iterator[Fake]:
    with endpoint() as running:
        yield running


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def model(fake: Fake, time: Time) -> Iterator[OpenAI]:
    with connect(fake, time) as connected:
        yield connected


def connect(fake: Fake, time: Time, **more: Any) -> OpenAI:
    options: dict[str, Any] = {
        "key": KEY,
        "clock": time.clock,
        "sleep": time.sleep,
        "chance": lambda: 1.0,
    }
    return OpenAI(fake.url, MODEL, **(options | more))


# Answers.


def test_it_is_a_truthgpt(model: OpenAI) -> None:
    assert isinstance(model, TruthGPT)


def test_an_answer_has_text_reason_and_usage(model: OpenAI) -> None:
    completion = model.generate(MESSAGES, sampling=SAMPLING)
    assert completion == Completion(TEXT, "stop", Usage(42, 5, 32))


def test_the_request_says_what_the_sampling_says(model: OpenAI, fake: Fake) -> None:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.8, seed=2**40, stop=("END",))
    model.generate(MESSAGES, sampling=sampling)
    assert fake.chats == [
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You are TruthGPT."},
                {"role": "user", "content": "Un plan"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.8,
            "seed": 2**40 % (2**31 - 1),
            "stop": ["END"],
        }
    ]
    assert fake.requests[-1].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1])
def test_every_seed_is_one_that_all_servers_take(seed: int) -> None:
    body = request_body(MODEL, MESSAGES, Sampling(seed=seed), Dialect())
    assert isinstance(body["seed"], int)
    assert 0 <= body["seed"] < 2**31 - 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_cut_anywhere_says_the_same(model: OpenAI, fake: Fake, size: int) -> None:
    fake.turns.append(sent(whole(), size=size))
    chunks = list(model.stream(MESSAGES, sampling=SAMPLING))
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(42, 5, 32)


def test_pieces_arrive_while_the_model_still_writes(model: OpenAI, fake: Fake) -> None:
    proceed = threading.Event()

    def turn(connection: Any) -> None:
        connection.begin_events()
        connection.chunk(delta("first "))
        assert proceed.wait(30)
        connection.chunk(delta("second") + delta(reason="stop") + b"data: [DONE]\n\n")
        connection.chunk(b"")

    fake.turns.append(turn)
    stream = model.stream(MESSAGES, sampling=SAMPLING)
    assert next(stream).text == "first "
    proceed.set()
    assert "".join(chunk.text for chunk in stream) == "second"


def test_an_answer_cut_by_max_tokens_says_length(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(answer(reason="length"))
    assert model.generate(MESSAGES, sampling=SAMPLING).finish_reason == "length"


def test_without_reported_usage_it_is_counted_and_estimated(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(answer("abcd", usage=None))
    assert model.generate(MESSAGES, sampling=SAMPLING).usage == Usage(17, 2, 0)


def test_a_stream_without_done_is_whole_once_its_reason_came(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(sent(delta("x") + delta(reason="stop")))
    assert model.generate(MESSAGES, sampling=SAMPLING).text == "x"


def test_stop_strings_beyond_those_a_server_takes_work_too(model: OpenAI, fake: Fake) -> None:
    stops = ("1", "2", "3", "4", "Hor", "#\n")
    completion = model.generate(MESSAGES, sampling=Sampling(stop=stops))
    assert fake.chats[0]["stop"] == ["1", "2", "3", "4"]
    assert completion.text == TEXT[: TEXT.index("Hor")]
    assert completion.finish_reason == "stop"


def test_an_endpoint_that_wants_max_completion_tokens_gets_them(model: OpenAI, fake: Fake) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    fake.turns.append(error(400, message, "unsupported_parameter"))
    for _ in range(2):
        assert model.generate(MESSAGES, sampling=SAMPLING).text == TEXT
    limits = [("max_tokens" in chat, "max_completion_tokens" in chat) for chat in fake.chats]
    assert limits == [(True, False), (False, True), (False, True)]


def test_an_endpoint_without_stream_options_is_asked_without(model: OpenAI, fake: Fake) -> None:
    fake.turns.extend([error(422, "extra field stream_options"), answer("x", usage=None)])
    assert model.generate(MESSAGES, sampling=SAMPLING).text == "x"
    assert "stream_options" not in fake.chats[1]


def test_a_dropped_stream_ends_the_request(model: OpenAI, fake: Fake) -> None:
    gone = threading.Event()

    def turn(connection: Any) -> None:
        connection.begin_events()
        connection.chunk(delta("first"))
        if not connection.connection.recv(1):  # the other side closed
            gone.set()
        connection.close_connection = True

    fake.turns.append(turn)
    stream = model.stream(MESSAGES, sampling=SAMPLING)
    del stream
    gc.collect()
    assert gone.wait(30)


def test_threads_share_one_model(model: OpenAI, fake: Fake) -> None:
    answers: list[Completion] = []

    def ask() -> None:
        for _ in range(4):
            answers.append(model.generate(MESSAGES, sampling=SAMPLING))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [Completion(TEXT, "stop", Usage(42, 5, 32))] * 24


# Failures that another attempt may cure.


@pytest.mark.parametrize(
    ("turn", "slept"),
    [
        (refused(500), [0.5]),
        (refused(503), [0.5]),
        (refused(408), [0.5]),
        (refused(409), [0.5]),
        (refused(429, Retry_After="7"), [7.0]),
        (refused(429, Retry_After="0"), [0.5]),
        (
            refused(
                503,
                Retry_After="Wed, 21 Oct 2037 07:28:20 GMT",
                Date="Wed, 21 Oct 2037 07:28:00 GMT",
            ),
            None,
        ),
        (hang_up, [0.5]),
        (sent(b"", cut=True), [0.5]),
        (sent(delta(""), cut=True), [0.5]),
        (sent(b"data: [DONE]\n\n"), [0.5]),
        (sent(event({"error": {"message": "engine is busy", "code": 503}})), [0.5]),
    ],
)
def test_a_passing_failure_is_asked_again(
    model: OpenAI, fake: Fake, time: Time, turn: Turn, slept: list[float] | None
) -> None:
    fake.turns.append(turn)
    assert model.generate(MESSAGES, sampling=SAMPLING).text == TEXT
    assert len(fake.chats) == 2
    assert slept is None or time.slept == slept


def test_waits_grow_and_end_with_the_attempts(fake: Fake, time: Time) -> None:
    fake.turns.extend([refused(500)] * 9)
    retries = Retries(attempts=5, first=1.0, longest=3.0)
    with (
        connect(fake, time, retries=retries) as model,
        pytest.raises(EndpointUnavailable, match="cannot answer now"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert len(fake.chats) == 5
    assert time.slept == [1.0, 2.0, 3.0, 3.0]


def test_no_wait_crosses_the_total_time(fake: Fake, time: Time) -> None:
    fake.turns.extend([refused(500)] * 9)
    timeouts, retries = Timeouts(total=4.0), Retries(attempts=9, first=2.0)
    with (
        connect(fake, time, timeouts=timeouts, retries=retries) as model,
        pytest.raises(EndpointUnavailable),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert time.slept == [2.0]


def test_an_endpoint_that_wants_too_long_a_wait_is_left_alone(fake: Fake, time: Time) -> None:
    fake.turns.append(refused(429, Retry_After="3600"))
    with (
        connect(fake, time, timeouts=Timeouts(total=1e6)) as model,
        pytest.raises(EndpointUnavailable) as caught,
    ):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert caught.value.retry_after == 3600.0
    assert time.slept == []


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 30))
def test_a_wait_is_between_what_is_asked_and_the_longest(
    failed: int, chance: float, retry_after: float | None
) -> None:
    wait = Retries(attempts=2001, longest=30.0).wait(failed, retry_after, chance)
    assert wait is not None
    assert (retry_after or 0.0) <= wait <= 30.0
    assert wait <= max(0.5 * 2.0 ** min(failed - 1, 60), retry_after or 0.0)


def test_nobody_there_is_said_after_the_attempts(time: Time) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            OpenAI(url, MODEL, clock=time.clock, sleep=time.sleep, chance=lambda: 1.0) as model,
            pytest.raises(EndpointUnavailable, match="BUL_OPENAI_BASE_URL"),
        ):
            model.generate(MESSAGES, sampling=SAMPLING)
    assert len(time.slept) == 3


def test_closing_ends_a_wait_between_attempts(fake: Fake) -> None:
    model = OpenAI(fake.url, MODEL, retries=Retries(first=1e6, longest=1e6))
    model._endpoint.timeouts = Timeouts(total=1e8)

    def turn(connection: Any) -> None:
        connection.reply(500, b"")
        model.close()

    fake.turns.append(turn)
    with pytest.raises(ModelError):
        model.generate(MESSAGES, sampling=SAMPLING)
    with pytest.raises(ModelError, match="closed"):
        model.generate(MESSAGES, sampling=SAMPLING)


# Failures that are final.


def test_after_the_first_piece_nothing_is_asked_again(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(sent(delta("half an ans"), cut=True))
    stream = model.stream(MESSAGES, sampling=SAMPLING)
    assert next(stream).text == "half an ans"
    with pytest.raises(BrokenAnswer, match="broke off"):
        next(stream)
    assert len(fake.chats) == 1


@pytest.mark.parametrize(
    ("stream", "kind", "hint"),
    [
        (delta("half"), BrokenAnswer, "without saying why"),
        (delta("half") + b"data: [DONE]\n\n", BrokenAnswer, "without saying why"),
        (delta("half") + event({"error": {"message": "oom", "code": 500}}), BrokenAnswer, "oom"),
        (delta("half") + b"data: {nonsense\n\n", MalformedAnswer, "not JSON"),
        (b"data: [" + b"[" * 100_000 + b"\n\n", MalformedAnswer, "not JSON"),
        (b"data: 7\n\n", MalformedAnswer, "not an object"),
        (event({"choices": 7}), MalformedAnswer, "choices"),
        (event({"choices": [7]}), MalformedAnswer, "choice"),
        (event({"choices": [{"delta": {"content": 7}}]}), MalformedAnswer, "not text"),
        (event({"choices": [{"delta": 7}]}), MalformedAnswer, "not text"),
        (b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n', MalformedAnswer, "half a c"),
        (delta("x", reason="tool_calls"), MalformedAnswer, "tool_calls"),
        (delta("x", reason="content_filter"), ModelError, "withheld"),
        (delta("x", usage={"prompt_tokens": -1}), MalformedAnswer, "count of tokens"),
        (delta("x", usage=[1]), MalformedAnswer, "usage"),
        (b"data: " + b"x" * (2 << 20) + b"\n\n", MalformedAnswer, "1,048,576"),
    ],
)
def test_a_stream_that_is_not_an_answer_is_an_error(
    model: OpenAI, fake: Fake, stream: bytes, kind: type[Error], hint: str
) -> None:
    fake.turns.append(sent(stream))
    with pytest.raises(kind, match=hint):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert len(fake.chats) == 1


@pytest.mark.parametrize("body", [b"{garbage", b"<html>", b"{}", b"\xff" * 9])
def test_a_body_that_is_no_stream_is_malformed(model: OpenAI, fake: Fake, body: bytes) -> None:
    fake.turns.append(refused(200, body))
    with pytest.raises(MalformedAnswer, match="application/json"):
        model.generate(MESSAGES, sampling=SAMPLING)


def test_silence_is_a_timeout_and_not_asked_again(fake: Fake, time: Time) -> None:
    fake.turns.append(silent)
    with (
        connect(fake, time, timeouts=Timeouts(read=0.05)) as model,
        pytest.raises(EndpointTimeout, match="BUL_OPENAI_READ_TIMEOUT"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)
    until(lambda: fake.chats)  # who gave up may be ahead of who was asked
    assert len(fake.chats) == 1


def test_an_answer_that_takes_longer_than_it_may_is_a_timeout(fake: Fake, time: Time) -> None:
    def turn(connection: Any) -> None:
        connection.begin_events()
        connection.chunk(delta("slow"))
        time.now += 601.0
        connection.chunk(delta("er"))
        connection.chunk(b"")

    fake.turns.append(turn)
    with (
        connect(fake, time) as model,
        pytest.raises(EndpointTimeout, match="BUL_OPENAI_TOTAL_TIMEOUT"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)


def test_a_wrong_key_is_said_with_the_settings_name(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(error(401, f"Incorrect API key provided: {KEY}", "invalid_api_key"))
    with pytest.raises(NotAuthorized, match=r"does not accept the key.*BUL_OPENAI_API_KEY"):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert len(fake.chats) == 1


def test_a_missing_key_is_said_with_the_settings_name(fake: Fake, time: Time) -> None:
    fake.turns.append(error(401, "Unauthorized"))
    with (
        connect(fake, time, key=None) as model,
        pytest.raises(NotAuthorized, match=r"wants a key.*BUL_OPENAI_API_KEY"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)
    assert "Authorization" not in fake.requests[-1].headers


def test_an_unknown_model_is_named_with_those_there_are(fake: Fake, time: Time) -> None:
    fake.turns.append(error(404, "The model does not exist", "model_not_found"))
    with (
        OpenAI(fake.url, "acme/writer-7") as model,
        pytest.raises(UnknownModel, match=r"'acme/writer-7'.*did you mean acme/writer-7b.*offers"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)


def test_a_wrong_path_is_told_from_a_wrong_model(fake: Fake) -> None:
    with (
        OpenAI(fake.url + "/v2", MODEL) as model,
        pytest.raises(EndpointRefused, match="ends in /v1"),
    ):
        model.generate(MESSAGES, sampling=SAMPLING)


@pytest.mark.parametrize(
    "turn",
    [
        error(400, "This model's maximum context length is 2048 tokens.", "BadRequestError"),
        error(400, "too large", "context_length_exceeded"),
        refused(400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "n"}}),
        sent(event({"error": {"message": "maximum context length is 9", "code": 400}})),
    ],
)
def test_a_prompt_too_long_for_the_model_is_the_callers_error(
    model: OpenAI, fake: Fake, turn: Turn
) -> None:
    fake.turns.append(turn)
    with pytest.raises(InvalidRequest, match="no room") as caught:
        model.stream(MESSAGES, sampling=SAMPLING)
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("turn", "status"),
    [
        (error(400, "bad temperature"), 400),
        (error(429, "You exceeded your current quota", "insufficient_quota"), 429),
        (refused(302, Location="http://127.0.0.1:9/"), 302),
        (refused(501), 501),
    ],
)
def test_a_refusal_is_not_asked_again(model: OpenAI, fake: Fake, turn: Turn, status: int) -> None:
    fake.turns.append(turn)
    with pytest.raises(EndpointRefused) as caught:
        model.generate(MESSAGES, sampling=SAMPLING)
    assert caught.value.status == status
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("messages", "hint"),
    [
        ([], "empty"),
        ([Message("tool", "x")], "'tool' is not one of"),  # type: ignore[arg-type]
        ([Message("user", "half \ud83d")], "half a character"),
    ],
)
def test_bad_messages_are_refused_before_anything_is_sent(
    model: OpenAI, fake: Fake, messages: list[Message], hint: str
) -> None:
    for call in (model.stream, model.generate):
        with pytest.raises(InvalidRequest, match=hint):
            call(messages, sampling=SAMPLING)
    with pytest.raises(InvalidRequest, match=hint):
        model.count_tokens(messages)
    assert fake.requests == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "choices delta content finish_reason usage error code message prompt_tokens "
                "completion_tokens prompt_tokens_details cached_tokens".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_piece_or_a_model_error(body: object) -> None:
    with contextlib.suppress(ModelError):
        assert isinstance(read_piece(json.dumps(body), ANY_ENDPOINT), Piece)


ANY_ENDPOINT = Endpoint("http://127.0.0.1:1")


# What the endpoint says about its model.


def test_the_context_is_the_servers_or_the_option(fake: Fake, time: Time) -> None:
    with connect(fake, time) as model:
        assert model.context_tokens == 2048
    with connect(fake, time, context_tokens=512) as model:
        assert model.context_tokens == 512
    fake.models = {"data": [{"id": MODEL, "owned_by": "llamacpp"}]}
    fake.tokenizer = "llama.cpp"
    with connect(fake, time) as model:
        assert model.context_tokens == 3000
    fake.models = {"data": [{"id": MODEL}]}
    with connect(fake, time) as model:
        assert model.context_tokens == 4096


def test_the_fingerprint_follows_place_name_and_listing(fake: Fake, time: Time) -> None:
    def fingerprint(name: str = MODEL) -> str:
        with OpenAI(fake.url, name) as model:
            return model.fingerprint

    first = fingerprint()
    entry = fake.models["data"][0]
    entry["created"], entry["permission"] = 123, [{"id": "modelperm-1"}]
    assert fingerprint() == first  # vLLM makes these up anew each time
    entry["root"] = "/other-weights"
    assert len({first, fingerprint(), fingerprint("another")}) == 3
    with endpoint() as other, OpenAI(other.url, MODEL) as model:
        assert model.fingerprint != first


def test_an_endpoint_without_a_list_of_models_has_a_fingerprint(fake: Fake, time: Time) -> None:
    fake.others["/v1/models"] = refused(404)
    with connect(fake, time) as model:
        assert len(model.fingerprint) == 64
        assert model.offered == ()


def test_a_changed_listing_is_seen_by_the_first_answer_a_minute_later(
    model: OpenAI, fake: Fake, time: Time
) -> None:
    before = model.fingerprint
    fake.models["data"][0]["root"] = "/other-weights"
    model.generate(MESSAGES, sampling=SAMPLING)
    assert model.fingerprint == before
    time.now += 61.0
    fake.others["/v1/models"] = refused(500)
    model.generate(MESSAGES, sampling=SAMPLING)
    assert model.fingerprint == before
    del fake.others["/v1/models"]
    time.now += 61.0
    model.generate(MESSAGES, sampling=SAMPLING)
    assert model.fingerprint != before


@pytest.mark.parametrize("models", [7, {}, {"data": 7}])
def test_a_list_of_models_that_is_none_is_malformed(fake: Fake, time: Time, models: object) -> None:
    fake.models = models
    with connect(fake, time) as model, pytest.raises(MalformedAnswer, match="list of models"):
        _ = model.fingerprint


def test_a_listing_of_strange_entries_is_read_for_the_rest(fake: Fake, time: Time) -> None:
    fake.models = {"data": [7, {"id": 7}, {"id": MODEL, "max_model_len": "many"}, None]}
    with connect(fake, time) as model:
        assert model.offered == (MODEL,)
        assert model.context_tokens == 4096


# Counting.


def test_tokens_are_counted_by_the_server_once_a_prompt(model: OpenAI, fake: Fake) -> None:
    assert [model.count_tokens(MESSAGES) for _ in range(3)] == [17, 17, 17]
    (asked,) = fake.asked("/tokenize")
    assert asked.body["messages"][1] == {"role": "user", "content": "Un plan"}
    assert asked.body["add_generation_prompt"] is True
    model.count_tokens(MESSAGES[1:])
    assert len(fake.asked("/tokenize")) == 2


def test_tokens_are_counted_by_llama_cpp(model: OpenAI, fake: Fake) -> None:
    fake.tokenizer = "llama.cpp"
    assert model.count_tokens(MESSAGES) == len("You are TruthGPT.|Un plan")
    asked = len(fake.requests)
    model.count_tokens(MESSAGES[1:])
    assert len(fake.requests) == asked + 2  # the other way is not tried again


def test_a_server_without_a_tokenizer_is_asked_once(model: OpenAI, fake: Fake) -> None:
    fake.tokenizer = ""
    assert model.count_tokens(MESSAGES) == estimate_prompt(MESSAGES)
    asked = len(fake.requests)
    assert model.count_tokens(MESSAGES[1:]) == estimate_prompt(MESSAGES[1:])
    assert len(fake.requests) == asked


def test_a_tokenizer_that_is_down_rests_and_comes_back(
    model: OpenAI, fake: Fake, time: Time
) -> None:
    fake.others["/tokenize"] = refused(503)
    for _ in range(3):
        assert model.count_tokens(MESSAGES) == estimate_prompt(MESSAGES)
    assert len(fake.asked("/tokenize")) == 1
    del fake.others["/tokenize"]
    time.now += 31.0
    assert model.count_tokens(MESSAGES) == 17


def test_the_estimate_is_a_third_of_the_bytes_and_the_frames() -> None:
    assert estimate_prompt([Message("user", "abcdef")]) == 2 + 4 + 3
    assert estimate_prompt([Message("user", "ñandú")]) == 3 + 4 + 3
    assert estimate_prompt([Message("system", ""), Message("user", "a")]) == 4 + 1 + 4 + 3


# Secrets and settings.


def every_failure(fake: Fake, time: Time) -> Iterator[OpenAI]:
    echo = f"your key {KEY} is bad"
    turns: list[Turn] = [
        *(error(status, echo) for status in (400, 401, 403, 404, 429, 500)),
        refused(500, echo.encode()),
        sent(delta("x") + event({"error": {"message": echo, "code": 500}})),
        sent(event({"error": {"message": echo, "code": 400}})),
        hang_up,
    ]
    for turn in turns:
        model = connect(fake, time, retries=Retries(attempts=1))
        fake.turns.append(turn)
        yield model


def test_the_key_is_in_no_error_log_or_repr(
    fake: Fake, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(Settings(openai_api_key=Secret(KEY))), str(Secret(KEY))]
    for model in every_failure(fake, time):
        with model, pytest.raises(Error) as caught:
            model.generate(MESSAGES, sampling=SAMPLING)
        seen: BaseException | None = caught.value
        while seen is not None:
            shown += [str(seen), repr(seen)]
            seen = seen.__cause__ or seen.__context__
        shown += [repr(model), repr(model._endpoint), repr(model._endpoint._client)]
    assert caplog.records
    shown += [record.getMessage() for record in caplog.records]
    assert not [text for text in shown if KEY in text]


def test_a_key_that_comes_back_in_a_header_is_not_shown(model: OpenAI, fake: Fake) -> None:
    fake.turns.append(refused(200, b"", Content_Type=f"text/{KEY}"))
    with pytest.raises(MalformedAnswer, match=r"text/\*\*\*"):
        model.generate(MESSAGES, sampling=SAMPLING)


@pytest.mark.parametrize("key", ["with space", "line\nend", "ключ", ""])
def test_a_key_that_cannot_stand_in_a_header_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError, match="BUL_OPENAI_API_KEY must be printable") as caught:
        OpenAI("http://127.0.0.1:1", MODEL, key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_a_base_url_is_taken_as_people_write_it(url: str, base: str) -> None:
    with OpenAI(url, MODEL) as model:
        assert model.base_url == base


@pytest.mark.parametrize(
    "url",
    ["", "host:8000", "ftp://host", "http://", "http://h:x", "http://h/?a=1", "http://h/v1#x",
     "http://me:pw@host/v1", "http://h/\nv1", "http://h\u00e9/v1", "http://[::1/v1"],
)  # fmt: skip
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base URL") as caught:
        OpenAI(url, MODEL)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: OpenAI("http://127.0.0.1:1", " "),
        lambda: OpenAI("http://127.0.0.1:1", MODEL, context_tokens=0),
        lambda: Timeouts(read=0),
        lambda: Timeouts(total=float("nan")),
        lambda: Retries(attempts=0),
        lambda: Retries(first=-1),
        lambda: load("openai", settings=Settings(model="openai", openai_model=MODEL)),
        lambda: load("openai", settings=Settings(model="openai", openai_base_url="http://h")),
    ],
)
def test_bad_options_are_config_errors(build: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        build()


def settings_for(fake: Fake, **more: Any) -> Settings:
    return Settings(
        model="openai",
        openai_base_url=fake.url,
        openai_model=MODEL,
        openai_api_key=Secret(KEY),
        **more,
    )


def test_the_settings_choose_the_model(fake: Fake) -> None:
    settings = settings_for(fake, openai_context_tokens=99, openai_attempts=2)
    model = load(settings=settings)
    assert isinstance(model, OpenAI)
    with model:
        assert (model.model_id, model.context_tokens) == (MODEL, 99)
        assert model._endpoint.retries.attempts == 2
        assert model.generate(MESSAGES, sampling=SAMPLING).text == TEXT
    assert load(settings=Settings()).model_id == "truthgpt-mini"
    with pytest.raises(ConfigError, match=r"known: mini, local, openai \(did you mean openai\?\)"):
        load("opnai")


# Documents through it.


def finished(service: Service, query: str, **fields: Any) -> Any:
    request = parse_request({"query": query, "outline": [], **fields})
    order = service.place(request)
    task = service.answer_from_cache(order, request) or service.enqueue(order, request)
    while not service.task(task.id).is_finished:
        threading.Event().wait(0.005)
    return service.task(task.id)


def test_a_document_is_written_once_and_then_comes_from_the_cache(
    model: OpenAI, fake: Fake
) -> None:
    service = Service(model, Settings(retry_attempts=0, cache_persistence=False), version="9")
    try:
        first = finished(service, "Plan de negocio para una panadería")
        assert (first.status, first.cache, first.answer.text) == ("completed", "miss", TEXT.strip())
        assert first.answer.usage == Usage(42, 5, 32)
        asked = len(fake.requests)
        again = finished(service, "Plan de negocio para una panadería")
        assert (again.cache, again.answer) == ("hit", first.answer)
        assert len(fake.requests) == asked
        assert len(fake.chats) == 1
    finally:
        service.close()


def test_a_document_is_written_section_by_section(model: OpenAI, fake: Fake) -> None:
    service = Service(model, Settings(retry_attempts=0), version="9")
    try:
        for words in ("# Plan\n", "Uno.", "## B\n\nDos."):
            fake.turns.append(answer(words))
        done = finished(service, "Plan de negocio", outline=["A", "B"])
    finally:
        service.close()
    assert done.answer.text == "# Plan\n\n## A\n\nUno.\n\n## B\n\nDos."
    title, first, second = [chat["messages"] for chat in fake.chats]
    assert first[: len(title)] == second[: len(title)] == title
    assert first[len(title) :] == [
        {"role": "assistant", "content": "# Plan\n\n## A\n\n"},
        {"role": "user", "content": GO_ON},
    ]
    assert second[len(title)]["content"] == "# Plan\n\n## A\n\nUno.\n\n## B\n\n"


def test_half_an_answer_is_never_cached(model: OpenAI, fake: Fake) -> None:
    service = Service(model, Settings(retry_attempts=0, cache_persistence=False), version="9")
    try:
        fake.turns.append(sent(delta("# Half a plan"), cut=True))
        assert finished(service, "Plan de negocio").status == "failed"
        whole_one = finished(service, "Plan de negocio")
        assert (whole_one.status, whole_one.cache) == ("completed", "miss")
        assert whole_one.answer.text == TEXT.strip()
    finally:
        service.close()
