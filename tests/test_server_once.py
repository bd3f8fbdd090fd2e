"""Idempotency-Key: a request that is sent again is answered again, and done once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bul_fakes import Faulty, Scripted, until
from postgres_server import Postgres, postgres
from server_browser import Browser, browsing
from starlette.responses import Response, StreamingResponse
from test_bul_fence import is_known_dead
from test_server_bul import check_problem

from blatam_kv.bul.storage import Claim, Earlier, Reply, StorageUnavailable, open_storage
from blatam_kv.bul.storage.replies import KEEP_SECONDS, STALE_SECONDS
from blatam_kv.errors import ModelError
from blatam_kv.server.once import MOST_BYTES, Once

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "bread"}]}


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=1) as browser:
        yield browser


def send(browser: Browser, path: str, body: Any, key: str = "k1") -> httpx.Response:
    return browser.post(path, json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/query", {"query": "bread"}),
        ("/api/batch", {"documents": [{"query": "bread"}, {"query": "cake"}]}),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "bread"}),
        ("/v1/chat/completions", CHAT | {"stream": True}),
    ],
)
def test_what_is_sent_again_gets_the_same_bytes_and_is_done_once(
    browser: Browser, path: str, body: Any
) -> None:
    first, again = send(browser, path, body), send(browser, path, body)
    assert first.status_code in (200, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("content-type", "location", "cache-status"):
        assert again.headers.get(name) == first.headers.get(name)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    other = send(browser, path, body, "k2")
    assert other.content != first.content
    if path in ("/query", "/api/batch"):
        tasks = 2 * len(body.get("documents", [0]))
        until(lambda: browser.get("/tasks").json()["total"] >= tasks)  # a hit's row comes later
        assert browser.get("/tasks").json()["total"] == tasks


def test_another_body_under_the_same_key_is_422(browser: Browser) -> None:
    send(browser, "/query", {"query": "bread"})
    refused = send(browser, "/query", {"query": "cake"})
    body = check_problem(refused, 422, "A002", "sent with another body")
    assert body["errors"][0]["field"] == "Idempotency-Key"


def test_keys_belong_to_a_tenant_and_a_route(browser: Browser) -> None:
    first = send(browser, "/query", {"query": "bread"})
    assert send(browser, "/v1/completions", {"prompt": "bread"}).status_code == 200
    browser.key = browser.keys.create("other").api_key
    theirs = send(browser, "/query", {"query": "cake"})
    assert theirs.status_code == 202
    assert theirs.json()["task_id"] != first.json()["task_id"]


def test_while_the_first_is_being_answered_others_are_409(
    browser: Browser, model: Scripted
) -> None:
    model.gate = threading.Event()
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(send(browser, "/v1/chat/completions", CHAT))
    )
    thread.start()
    assert model.writing.wait(30)
    busy = send(browser, "/v1/chat/completions", CHAT)
    assert busy.status_code == 409
    assert busy.headers["retry-after"] == "1"
    model.gate.set()
    thread.join()
    assert send(browser, "/v1/chat/completions", CHAT).content == answers[0].content


def test_what_failed_is_tried_again(browser: Browser, model: Scripted) -> None:
    model.error = ModelError("out of paper")
    assert send(browser, "/v1/chat/completions", CHAT).status_code == 503
    broken = send(browser, "/v1/chat/completions", CHAT | {"stream": True}, "k2")
    assert "out of paper" in broken.text
    model.error = None
    assert send(browser, "/v1/chat/completions", CHAT).status_code == 200
    whole = send(browser, "/v1/chat/completions", CHAT | {"stream": True}, "k2")
    assert whole.text.endswith("data: [DONE]\n\n")
    assert "idempotency-replayed" not in whole.headers


def test_a_request_that_is_not_valid_leaves_its_key_free(browser: Browser) -> None:
    assert send(browser, "/query", {"query": ""}).status_code == 422
    assert send(browser, "/query", {"query": "bread"}).status_code == 202


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ñ", "a b", '"a"b"', "a\\b"])
def test_a_key_that_is_none_is_named(browser: Browser, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    refused = browser.post("/query", json={"query": "bread"}, headers=headers)
    check_problem(refused, 400, "A002", "1 to 255 visible characters")


def test_a_quoted_key_and_a_bare_one_are_the_same(browser: Browser) -> None:
    first = send(browser, "/query", {"query": "bread"}, '"k1"')
    assert send(browser, "/query", {"query": "bread"}).content == first.content


def test_two_keys_are_one_too_many(browser: Browser) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert browser.post("/query", json={"query": "b"}, headers=headers).status_code == 400


def test_without_a_database_a_key_is_503_and_no_key_is_served(model: Scripted) -> None:
    archive = Faulty()
    with browsing(model, archive=archive) as browser:
        browser.finished(browser.ask(query="bread").json()["task_id"])
        archive.broken = True
        check_problem(send(browser, "/query", {"query": "bread"}), 503, "S002", "cannot be")
        assert browser.ask(query="bread").status_code == 200
        archive.broken = False


def test_the_answer_outlives_the_process(model: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with browsing(model, archive=open_storage(url)) as browser:
        first = send(browser, "/query", {"query": "bread"})
    with browsing(model, archive=open_storage(url)) as browser:
        again = send(browser, "/query", {"query": "bread"})
    assert again.content == first.content


class Kept:
    """Replies that note what is done with them."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def claim(self, *named: str) -> Claim:
        tenant, route, key, _ = named
        return Claim(tenant, route, key, 1.0)

    def keep(self, claim: Claim, reply: Reply) -> None:
        self.done.append("keep")

    def release(self, claim: Claim) -> None:
        self.done.append("release")


@pytest.mark.parametrize(
    ("pieces", "heard", "done"),
    [
        ([b"data: a\n\n", b"data: [DONE]\n\n"], 2, "keep"),
        ([b"data: a\n\n", b"data: [DONE]\n\n"], 1, "release"),  # the client has gone
        ([b'data: {"error": {}}\n\n'], 1, "release"),
        ([b"x" * (MOST_BYTES + 1), b"data: [DONE]\n\n"], 2, "release"),
    ],
)
def test_a_stream_is_kept_if_it_was_heard_to_a_good_end(
    pieces: list[bytes], heard: int, done: str
) -> None:
    replies = Kept()

    async def told() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def answer() -> Response:
        return StreamingResponse(told())

    async def listen() -> None:
        once = Once(replies)  # type: ignore[arg-type]
        response = await once.through(["k"], "acme", "POST /x", b"", answer)
        assert isinstance(response, StreamingResponse)
        stream: Any = response.body_iterator
        for _ in range(heard):
            await anext(stream)
        if heard < len(pieces):
            await stream.aclose()
        else:
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(listen())
    assert replies.done == [done]


def test_an_answer_that_breaks_down_gives_its_key_back() -> None:
    replies = Kept()

    async def answer() -> Response:
        raise RuntimeError("no")

    async def ask() -> None:
        with pytest.raises(RuntimeError):
            await Once(replies).through(["k"], "t", "r", b"", answer)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert replies.done == ["release"]


# ---- the rows -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, server: Postgres) -> str:
    return f"sqlite:///{tmp_path / 'bul.db'}" if request.param == "sqlite" else server.database()


REPLY = Reply(200, [("content-type", "text/plain")], b"\x00bread")


def test_a_key_is_taken_once_kept_for_a_day_and_then_free(url: str) -> None:
    archive = open_storage(url)
    named = ("acme", "POST /query", "k")
    claim = archive.replies.claim(*named, "r1", now=0.0)
    assert claim == Claim(*named, 0.0)
    assert archive.replies.claim(*named, "r2", now=1.0) == Earlier("r1", None)
    archive.replies.keep(claim, REPLY)
    found = archive.replies.claim(*named, "r1", now=KEEP_SECONDS - 1)
    assert found == Earlier("r1", REPLY)
    archive.replies.release(claim)  # an answer that is kept is not given back
    assert archive.replies.claim(*named, "r1", now=KEEP_SECONDS - 1) == Earlier("r1", REPLY)
    assert archive.replies.claim(*named, "r3", now=KEEP_SECONDS + 1) == Claim(
        *named, KEEP_SECONDS + 1
    )
    archive.close()


def test_what_was_being_answered_when_the_process_ended_is_free_again(url: str) -> None:
    archive, elsewhere = open_storage(url, node="a"), open_storage(url, node="b")
    named = ("acme", "POST /query", "k")
    assert archive.live()  # else it would be dead
    assert elsewhere.live()
    assert isinstance(archive.replies.claim(*named, "r", now=0.0), Claim)
    elsewhere.replies.release_all()
    assert elsewhere.replies.claim(*named, "r", now=1.0) == Earlier("r", None, elsewhere=True)
    archive.replies.release_all()
    assert isinstance(elsewhere.replies.claim(*named, "r", now=1.0), Claim)
    # A node that never comes back does not hold it for ever.
    late = 2.0 + STALE_SECONDS
    assert isinstance(archive.replies.claim(*named, "r", now=late), Claim)
    for each in (archive, elsewhere):
        each.close()


def test_of_many_who_claim_a_key_one_has_it(url: str) -> None:
    archive = open_storage(url)
    won: list[bool] = []

    def claim() -> None:
        won.append(isinstance(archive.replies.claim("acme", "POST /query", "k", "r"), Claim))

    threads = [threading.Thread(target=claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 15 + [True]
    archive.close()


def test_old_replies_are_deleted(url: str) -> None:
    archive = open_storage(url)
    claim = archive.replies.claim("acme", "POST /query", "k", "r", now=0.0)
    assert isinstance(claim, Claim)
    archive.retain(newest=10, days=1, now=KEEP_SECONDS + 1)
    archive.replies.keep(claim, REPLY)  # it is gone: changes nothing
    again = archive.replies.claim("acme", "POST /query", "k", "r", now=1.0)
    assert isinstance(again, Claim)
    archive.close()


def test_an_old_claim_keeps_nothing_and_gives_nothing_back(url: str) -> None:
    archive = open_storage(url)
    named = ("acme", "POST /query", "k")
    old = archive.replies.claim(*named, "r", now=0.0)
    assert isinstance(old, Claim)
    new = archive.replies.claim(*named, "r", now=1.0 + STALE_SECONDS)
    assert isinstance(new, Claim)
    archive.replies.keep(old, REPLY)
    archive.replies.release(old)
    assert archive.replies.claim(*named, "r", now=2.0 + STALE_SECONDS) == Earlier("r", None)
    archive.replies.keep(new, REPLY)
    assert archive.replies.claim(*named, "r", now=2.0 + STALE_SECONDS) == Earlier("r", REPLY)
    archive.close()


# ---- a node that dies in the middle -------------------------------------------------------------


def test_what_a_dead_node_was_answering_is_the_next_ones_to_answer(server: Postgres) -> None:
    url = server.database()
    one, two = open_storage(url, node="one"), open_storage(url, node="two")
    assert one.live()
    assert two.live()
    named = ("acme", "POST /query", "k")
    claim = one.replies.claim(*named, "r", now=1.0)
    assert isinstance(claim, Claim)
    assert two.replies.claim(*named, "r", now=2.0) == Earlier("r", None, elsewhere=True)
    one._nodes.close()  # it is paused, and thought dead
    for others in (("other", "POST /query", "k"), ("acme", "POST /x", "k")):
        assert isinstance(two.replies.claim(*others, "r", now=2.0), Claim)  # theirs is another key
    assert two.replies.claim(*named, "other", now=2.0) == Earlier("r", None, elsewhere=True)
    until(lambda: is_known_dead(two, "one"))
    taken = two.replies.claim(*named, "r", now=2.0)
    assert taken == Claim(*named, 2.0)
    assert one.live()
    one.replies.keep(claim, Reply(200, [], b"too late"))
    one.replies.release(claim)
    assert one.replies.claim(*named, "r", now=3.0) == Earlier("r", None, elsewhere=True)
    assert taken is not None
    two.replies.keep(taken, REPLY)
    assert one.replies.claim(*named, "r", now=3.0) == Earlier("r", REPLY)
    for each in (one, two):
        each.close()


def test_of_many_who_claim_what_a_dead_node_had_one_has_it(server: Postgres) -> None:
    url = server.database()
    dead, alive = open_storage(url, node="one"), open_storage(url, node="two")
    assert alive.live()
    assert isinstance(dead.replies.claim("acme", "POST /query", "k", "r"), Claim)
    won: list[bool] = []

    def claim() -> None:
        won.append(isinstance(alive.replies.claim("acme", "POST /query", "k", "r"), Claim))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    for each in (dead, alive):
        each.close()


def test_who_asks_waits_a_moment_for_a_node_that_may_be_dead() -> None:
    asked: list[int] = []

    class Dying(Kept):
        def claim(self, *named: str) -> Claim | Earlier:  # type: ignore[override]
            asked.append(1)
            return (
                Earlier(named[3], None, elsewhere=True) if len(asked) < 3 else Claim("", "", "", 1)
            )

    async def answer() -> Response:
        return Response(b"bread")

    response = asyncio.run(Once(Dying()).through(["k"], "t", "r", b"", answer))  # type: ignore[arg-type]
    assert response.body == b"bread"
    assert len(asked) == 3


def test_an_answer_that_cannot_be_noted_is_given_and_noted_later() -> None:
    class Away(Kept):
        away = True

        def keep(self, claim: Claim, reply: Reply) -> None:
            if self.away:
                raise StorageUnavailable("away")
            super().keep(claim, reply)

    replies = Away()
    once = Once(replies)  # type: ignore[arg-type]

    async def answer() -> Response:
        return Response(b"bread")

    async def ask() -> Response:
        return await once.through(["k"], "t", "r", b"", answer)

    assert asyncio.run(ask()).body == b"bread"
    with pytest.raises(StorageUnavailable):
        asyncio.run(ask())
    replies.away = False
    asyncio.run(ask())
    assert replies.done == ["keep", "keep"]
