"""``/v1``: what OpenAI's clients send and read, through their own package where it can tell."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from bul_fakes import Scripted, running
from server_browser import Browser, browsing
from starlette.requests import Request

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.chat import Asked, ChatOrder, ChatRequest, orders, parse
from blatam_kv.bul.chats import Telling
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.wanted import Wanted
from blatam_kv.errors import ModelError
from blatam_kv.server.body import Recent

ASK: dict[str, Any] = {"model": "truthgpt", "messages": [{"role": "user", "content": "bread"}]}


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=2) as browser:
        yield browser


def chat(browser: Browser, **fields: Any) -> httpx.Response:
    return browser.post("/v1/chat/completions", json=ASK | fields)


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith(("data: ", ":")) for line in lines)
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def text_of(response: httpx.Response) -> str:
    *pieces, done = events(response)
    assert done == "[DONE]"
    deltas = [json.loads(piece)["choices"] for piece in pieces]
    return "".join(choices[0]["delta"].get("content", "") for choices in deltas if choices)


def refused(response: httpx.Response, status: int, hint: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert hint in error["message"]
    return error


def client_of(browser: Browser) -> openai.AsyncOpenAI:
    # Some versions of the package name another HTTP library with the same interface.
    straight: Any = httpx.AsyncClient(transport=httpx.ASGITransport(app=browser.app))
    return openai.AsyncOpenAI(
        base_url="http://127.0.0.1:8002/v1",
        api_key=browser.key,
        max_retries=0,
        http_client=straight,
    )


# ---- OpenAI's own package -----------------------------------------------------------------------


def test_the_openai_package_works_unchanged(browser: Browser, model: Scripted) -> None:
    async def talk() -> None:
        async with client_of(browser) as client:
            names = [each.id async for each in client.models.list()]
            assert names == ["truthgpt", "scripted"]
            assert (await client.models.retrieve("truthgpt")).object == "model"
            answer = await client.chat.completions.create(**ASK, temperature=0.5, max_tokens=50)
            message = answer.choices[0].message
            assert message.role == "assistant"
            assert message.content is not None
            assert "About bread" in message.content
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 7
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
            stream = await client.chat.completions.create(
                **ASK,
                temperature=0.5,
                max_tokens=50,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert text == message.content
            assert chunks[0].choices[0].delta.role == "assistant"
            assert chunks[-1].choices == []
            assert chunks[-1].usage == answer.usage.model_copy(update={"cached": True})
            legacy = await client.completions.create(model="scripted", prompt="bread")
            assert "About bread" in legacy.choices[0].text
            with pytest.raises(openai.NotFoundError) as missing:
                await client.chat.completions.create(model="gpt-9", messages=ASK["messages"])
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as bad:
                await client.chat.completions.create(**ASK, temperature=3)
            assert bad.value.param == "temperature"
        browser.key = "wrong"
        with pytest.raises(openai.AuthenticationError):
            await client_of(browser).models.list()

    asyncio.run(talk())
    assert model.calls == ["bread", "bread"]


# ---- hits, misses, streams ----------------------------------------------------------------------


def test_a_miss_is_written_and_a_hit_is_the_same_answer(browser: Browser, model: Scripted) -> None:
    first, second = chat(browser), chat(browser)
    assert first.headers["cache-status"].startswith('blatam-kv; fwd=miss; key="')
    assert second.headers["cache-status"].startswith("blatam-kv; hit; ttl=3")
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["created"] == second.json()["created"]
    assert "cached" not in first.json()["usage"]
    assert second.json()["usage"] == first.json()["usage"] | {"cached": True}
    assert first.json()["id"] != second.json()["id"]
    assert model.calls == ["bread"]


def test_streams_are_hits_and_make_hits(browser: Browser, model: Scripted) -> None:
    streamed = chat(browser, stream=True)
    assert streamed.headers["x-accel-buffering"] == "no"
    whole = chat(browser)
    again = chat(browser, stream=True)
    assert "; hit" in whole.headers["cache-status"]
    assert "; hit" in again.headers["cache-status"]
    assert text_of(streamed) == text_of(again) == whole.json()["choices"][0]["message"]["content"]
    assert model.calls == ["bread"]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "bred"}]},
        {"messages": [{"role": "system", "content": "x"}, *ASK["messages"]]},
        {"temperature": 0.9},
        {"top_p": 0.5},
        {"max_tokens": 5},
        {"max_completion_tokens": 6},
        {"seed": 1},
        {"stop": "x"},
        {"stop": ["x", "y"]},
    ],
)
def test_what_changes_the_answer_is_another_answer(
    browser: Browser, model: Scripted, change: dict[str, Any]
) -> None:
    chat(browser)
    assert "miss" in chat(browser, **change).headers["cache-status"]
    assert "hit" in chat(browser, **change).headers["cache-status"]
    assert len(model.calls) == 2


@pytest.mark.parametrize(
    "same",
    [
        {"model": "scripted"},
        {"user": "ana"},
        {"n": 1},
        {"stream": None},
        {"stop": None},
        {"presence_penalty": 0},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "bread"}]}]},
    ],
)
def test_what_changes_nothing_is_the_same_answer(
    browser: Browser, model: Scripted, same: dict[str, Any]
) -> None:
    chat(browser)
    assert "hit" in chat(browser, **same).headers["cache-status"]
    assert len(model.calls) == 1


def test_several_answers_differ_in_their_seeds(browser: Browser, model: Scripted) -> None:
    many = chat(browser, n=3, seed=5).json()
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in many["choices"]}) == 3
    assert many["usage"]["completion_tokens"] == 21
    assert "hit" in chat(browser, seed=7).headers["cache-status"]
    assert len(model.calls) == 3


def test_a_thousand_who_ask_the_same_make_one_call(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()

    async def ask(client: httpx.AsyncClient, number: int) -> str:
        response = await client.post("/v1/chat/completions", json=ASK | {"stream": number % 2 == 0})
        return (
            text_of(response)
            if number % 2 == 0
            else str(response.json()["choices"][0]["message"]["content"])
        )

    async def everyone() -> set[str]:
        transport = httpx.ASGITransport(app=browser.app)
        headers = {"X-API-Key": browser.key or ""}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8002", headers=headers
        ) as client:
            asking = [asyncio.create_task(ask(client, number)) for number in range(1000)]
            await asyncio.to_thread(model.writing.wait, 30)
            assert model.gate is not None
            model.gate.set()
            return set(await asyncio.gather(*asking))

    assert len(asyncio.run(everyone())) == 1
    assert model.calls == ["bread"]


@pytest.mark.parametrize(
    ("header", "body", "looks", "keeps"),
    [
        ("no-cache", None, False, True),
        ("no-store", None, False, False),
        (None, {"no-cache": True}, False, True),
        (None, {"no-store": True}, False, False),
        ("max-age=5", None, True, True),
    ],
)
def test_one_request_may_do_without_the_cache(
    browser: Browser, model: Scripted, header: str | None, body: Any, looks: bool, keeps: bool
) -> None:
    wishes: dict[str, Any] = {} if body is None else {"cache": body}
    headers = {} if header is None else {"Cache-Control": header}
    request = {"json": ASK | wishes, "headers": headers}
    browser.post("/v1/chat/completions", **request)
    assert ("hit" in chat(browser).headers["cache-status"]) is keeps
    calls = len(model.calls)
    browser.post("/v1/chat/completions", **request)
    assert (len(model.calls) == calls) is looks


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_failure_is_told_and_never_kept(browser: Browser, model: Scripted) -> None:
    model.error = ModelError("out of paper")
    refused(chat(browser), 503, "out of paper")
    model.error = RuntimeError("secret detail")
    response = chat(browser)
    refused(response, 503, "the model failed (RuntimeError)")
    assert "secret" not in response.text
    model.error = None
    assert chat(browser).status_code == 200
    assert len(model.calls) == 3


def test_a_stream_that_breaks_off_says_so_and_is_never_kept(
    browser: Browser, model: Scripted
) -> None:
    model.error = ModelError("out of paper")
    *_, last = events(chat(browser, stream=True))
    assert json.loads(last)["error"]["message"] == "out of paper"
    model.error, model.finish = None, False
    *_, last = events(chat(browser, stream=True))
    assert "broke off" in json.loads(last)["error"]["message"]
    model.finish = True
    assert "miss" in chat(browser).headers["cache-status"]


@pytest.mark.parametrize(
    ("change", "param", "hint"),
    [
        ({"messages": []}, "messages", ""),
        ({"messages": None}, "messages", ""),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "system"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "other than text",
        ),
        ({"temperature": 2.1}, "temperature", "2"),
        ({"top_p": 0}, "top_p", ""),
        ({"n": 17}, "n", "16"),
        ({"max_tokens": 0}, "max_tokens", ""),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "send one"),
        ({"stop": ["a"] * 5}, "stop", "4"),
        ({"stop": ""}, "stop.0", ""),
        ({"tools": [{"type": "function"}]}, "tools", "no effect on this model"),
        ({"response_format": {"type": "json_object"}}, "response_format", "no effect"),
        ({"presence_penalty": 0.5}, "presence_penalty", "no effect"),
        ({"logprobs": True}, "logprobs", "no effect"),
        ({"seed": -1}, "seed", ""),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"stream_options": {"include": True}}, "stream_options.include", "not a known field"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, "messages", "shorten"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    browser: Browser, model: Scripted, change: dict[str, Any], param: str, hint: str
) -> None:
    error = refused(chat(browser, **change), 400, hint)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert model.calls == []


def test_an_unknown_model_and_an_unknown_path_are_404(browser: Browser) -> None:
    refused(chat(browser, model="gpt-9"), 404, "there is truthgpt and scripted")
    refused(browser.get("/v1/models/gpt-9"), 404, "there is truthgpt")
    refused(browser.get("/v1/embeddings"), 404, "nothing is served")


def test_without_a_key_the_error_is_openais(browser: Browser) -> None:
    browser.key = None
    assert refused(chat(browser), 401, "needs an API key")["code"] == "invalid_api_key"


def test_too_many_are_told_when_to_come_again(model: Scripted) -> None:
    model.gate = threading.Event()
    answers: queue.Queue[httpx.Response] = queue.Queue()
    with browsing(model, max_concurrent_tasks=1, max_queued_tasks=1) as browser:
        threads = [
            threading.Thread(target=lambda seed=seed: answers.put(chat(browser, seed=seed)))
            for seed in range(3)
        ]
        threads[0].start()
        assert model.writing.wait(30)
        for thread in threads[1:]:
            thread.start()
        response = answers.get(timeout=60)
        assert response.headers["retry-after"] == "1"
        assert refused(response, 503, "try again later")["code"] == "overloaded"
        model.gate.set()
        for thread in threads:
            thread.join()
        assert [answers.get().status_code, answers.get().status_code] == [200, 200]
        assert chat(browser, seed=9).status_code == 200


# ---- the telling itself -------------------------------------------------------------------------


def test_who_comes_late_hears_it_from_its_beginning() -> None:
    async def listen() -> list[str]:
        telling = Telling()
        telling.say("a")
        listener = telling.listener()
        assert telling.join()
        late = telling.listener()
        telling.say("b")
        telling.end(None, ModelError("x"))
        heard = []
        for each in (listener, late):
            try:
                async for piece in each.pieces():
                    heard.append(piece)
            except ModelError as error:
                heard.append(str(error))
        return heard

    assert asyncio.run(listen()) == ["a", "b", "x", "a", "b", "x"]


def test_silence_is_told_as_an_empty_piece() -> None:
    async def listen() -> str:
        listener = Telling().listener()
        async for piece in listener.pieces(every=0.001):
            return piece
        return "never"

    assert asyncio.run(listen()) == ""


def test_an_answer_is_given_up_when_everybody_has_gone_and_not_before() -> None:
    async def leave() -> None:
        telling = Telling()
        assert not telling.give_up()
        first = telling.listener()
        assert telling.join()
        first.close()
        assert not telling.give_up()
        telling.listener().close()
        assert telling.give_up()
        assert not telling.join()

    asyncio.run(leave())


def test_two_tenants_with_the_same_bytes_share_nothing() -> None:
    made: list[object] = []

    def make(payload: object) -> Wanted[Asked, list[ChatOrder]]:
        made.append(payload)
        return Wanted(parse(payload, ChatRequest), orders)

    read = Recent(make)

    def asked(tenant: str) -> Wanted[Asked, list[ChatOrder]]:
        request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]})
        request.state.body = json.dumps(ASK).encode()
        request.state.caller = replace(ITSELF, tenant=tenant, salt=tenant.encode() * 32)
        return asyncio.run(read(request))

    ours, again, theirs = asked("a"), asked("a"), asked("b")
    assert ours is again
    assert ours is not theirs
    assert len(made) == 2


def test_orders_are_worked_out_anew_for_another_tenant_or_model(model: Scripted) -> None:
    wanted = Wanted(parse(ASK, ChatRequest), orders)
    (first,) = wanted.order(model, ITSELF)
    (other,) = wanted.order(model, replace(ITSELF, salt=bytes(range(32))))
    model.fingerprint = "f2"
    (retrained,) = wanted.order(model, ITSELF)
    assert len({first.digest, other.digest, retrained.digest}) == 3


def order_of(model: Scripted, content: str, *, tenant: str = "local") -> ChatOrder:
    asked = parse({"messages": [{"role": "user", "content": content}]}, ChatRequest)
    caller = replace(ITSELF, tenant=tenant, salt=tenant.encode().ljust(32))
    (order,) = orders(asked, model, caller)
    return order


def test_an_answer_that_nobody_hears_is_not_written_to_its_end(model: Scripted) -> None:
    model.gate = threading.Event()
    with running(model) as service:
        order = order_of(model, "bread")

        async def leave() -> None:
            telling, _ = service.chats.ask(order)
            listener = telling.listener()
            assert await asyncio.to_thread(model.writing.wait, 30)
            listener.close()

        asyncio.run(leave())
        model.gate.set()
        while service.chats._under_way:  # closing would end it as well
            time.sleep(0.001)
        assert service.chats.lookup(order) is None


@pytest.mark.parametrize("keyed", [False, True])
def test_a_client_that_leaves_before_its_whole_answer_is_not_written_for(
    model: Scripted, keyed: bool
) -> None:
    """Unless it sent a key, with which it will ask again."""
    model.gate = threading.Event()
    asked = {"messages": [{"role": "user", "content": "bread"}]}
    with browsing(model) as browser:
        headers = {"host": "127.0.0.1", "content-type": "application/json"}
        headers |= {"x-api-key": browser.key or ""} | ({"idempotency-key": "k"} if keyed else {})
        scope: dict[str, Any] = {
            **{"type": "http", "asgi": {"spec_version": "2.3"}, "http_version": "1.1"},
            **{"method": "POST", "scheme": "http", "path": "/v1/chat/completions"},
            **{"query_string": b"", "client": ("127.0.0.1", 1)},
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        body = {"type": "http.request", "body": json.dumps(asked).encode()}

        async def leave() -> None:
            said = [body]

            async def receive() -> Any:
                if said:
                    return said.pop()
                assert await asyncio.to_thread(model.writing.wait, 30)
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            asking = asyncio.ensure_future(browser.app(scope, receive, send))
            if keyed:
                assert await asyncio.to_thread(model.writing.wait, 30)
                assert model.gate is not None
                model.gate.set()
            await asking
            if not keyed:
                assert browser.service.chats._under_way  # it was not waited for

        asyncio.run(leave())
        model.gate.set()
        while browser.service.chats._under_way:
            time.sleep(0.001)
        again = browser.post("/v1/chat/completions", json=asked)
        assert again.status_code == 200
        assert len(model.calls) == (1 if keyed else 2)


def test_one_that_nobody_waits_for_any_more_never_reaches_the_model(model: Scripted) -> None:
    model.gate = threading.Event()
    with running(model, max_concurrent_tasks=1) as service:

        async def leave() -> None:
            first, _ = service.chats.ask(order_of(model, "first"))
            heard = first.listener()
            assert await asyncio.to_thread(model.writing.wait, 30)
            second, _ = service.chats.ask(order_of(model, "second"))
            second.listener().close()
            assert model.gate is not None
            model.gate.set()
            await heard.wait()
            with pytest.raises(ModelError, match="nobody listens"):
                await second.listener().wait()

        asyncio.run(leave())
    assert model.calls == ["first"]


# ---- one bound for chats and documents ----------------------------------------------------------


def test_chats_and_documents_share_their_writers_tenants_take_turns_and_batches_wait(
    model: Scripted,
) -> None:
    model.gate = threading.Event()
    with running(model, max_concurrent_tasks=1) as service:
        service.batches.ask([parse_request({"query": "first", "priority": 1})])
        assert model.writing.wait(30)
        service.batches.ask(
            [parse_request({"query": f"batch {n}", "priority": 3}) for n in range(2)]
        )

        async def listen() -> None:
            heard = []
            for tenant, content in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
                telling, how = service.chats.ask(order_of(model, content, tenant=tenant))
                assert how == "miss"
                heard.append(telling.listener())
            assert service.writers.busy == 1
            assert service.queue.depths()[1] == 4
            assert model.gate is not None
            model.gate.set()
            for each in heard:
                await each.wait()

        asyncio.run(listen())
        while len(model.calls) < 7:
            time.sleep(0.001)
    # Each tenant's own in its order, b before a's second, batches last.
    assert model.calls == ["first", "a1", "b1", "a2", "a3", "batch 0", "batch 1"]


def test_a_chat_that_takes_too_long_is_ended(model: Scripted) -> None:
    model.gate = threading.Event()
    with browsing(model, task_timeout=0.01) as browser:
        answers: queue.Queue[httpx.Response] = queue.Queue()
        thread = threading.Thread(target=lambda: answers.put(chat(browser)))
        thread.start()
        assert model.writing.wait(30)
        (saying,) = browser.service.chats._under_way
        while saying.why is None:
            time.sleep(0.001)
        model.gate.set()
        thread.join()
        refused(answers.get(), 503, "BUL_TASK_TIMEOUT")
        assert len(model.calls) == 1


def test_while_writing_is_paused_hits_are_answered_and_others_told(
    browser: Browser, model: Scripted
) -> None:
    chat(browser)
    assert browser.post("/processor/stop").status_code == 200
    assert "; hit" in chat(browser).headers["cache-status"]
    refused(chat(browser, seed=1), 503, "writing is paused")
    assert browser.post("/processor/start").status_code == 200
    assert chat(browser, seed=1).status_code == 200


def test_a_stop_tells_those_that_wait_at_once(model: Scripted) -> None:
    model.gate = threading.Event()
    with running(model, max_concurrent_tasks=1) as service:

        async def wait() -> None:
            first, _ = service.chats.ask(order_of(model, "first"))
            first.listener()
            assert await asyncio.to_thread(model.writing.wait, 30)
            second, _ = service.chats.ask(order_of(model, "second"))
            service.drain()
            with pytest.raises(ModelError, match="is stopping"):
                await second.listener().wait()

        asyncio.run(wait())
    assert model.calls == ["first"]
