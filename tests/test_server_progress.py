"""Progress as it happens, as events and through WebSockets, for who may see it and nobody else."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import httpx
import pytest
from bul_fakes import Scripted
from server_browser import Browser, browsing
from starlette.testclient import TestClient, WebSocketDenialResponse
from test_server_bul import check_problem
from test_server_process import serving
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from blatam_kv.bul.drafts import Part
from blatam_kv.bul.security.tickets import LIFE_SECONDS, Tickets
from blatam_kv.server import progress, replies
from blatam_kv.signature import keyed, sign

BASE, WS = "http://127.0.0.1:8002", "ws://127.0.0.1:8002"


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=1) as browser:
        yield browser


def client_of(browser: Browser) -> TestClient:
    return TestClient(browser.app, base_url=BASE, client=("127.0.0.1", 50_000))


def heard(browser: Browser, path: str, **headers: str) -> list[dict[str, Any]]:
    """All that a WebSocket tells until it closes by itself."""
    given = (
        {"X-API-Key": browser.key} if browser.key and not headers and "?" not in path else headers
    )
    told = []
    with client_of(browser).websocket_connect(WS + path, headers=given) as socket:
        while (message := socket.receive())["type"] == "websocket.send":
            told.append(json.loads(message["text"]))
    assert (message["type"], message["code"]) == ("websocket.close", 1000)
    return told


def denied(browser: Browser, path: str, **headers: str) -> httpx.Response:
    with (
        pytest.raises(WebSocketDenialResponse) as caught,
        client_of(browser).websocket_connect(WS + path, headers=headers),
    ):
        pass
    refusal: Any = caught.value  # a response of the HTTP library, by whichever of its names
    refusal.read()
    return cast(httpx.Response, refusal)


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


# ---- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["events", "socket"])
def test_a_task_is_followed_from_the_queue_to_its_document(
    browser: Browser, model: Scripted, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = model.gate = threading.Event()
    browser.ask(query="first")
    assert model.writing.wait(30)
    task = browser.ask(query="bread").json()["task_id"]
    described, times = replies.describe_now, 0

    def describe(*arguments: Any, **options: Any) -> dict[str, Any]:
        """As ever; writing goes on once it has been told what is before."""
        nonlocal times
        body = described(*arguments, **options)
        times += 1
        if times == 2:  # the first time only finds out whether there is anything to tell
            gate.set()
        return body

    monkeypatch.setattr(progress, "describe_now", describe)
    if through == "events":
        found = events(browser.get(f"/task/{task}/events"))
        assert found[-1] == ("end", {})
        told = [body for _, body in found[:-1]]
    else:
        told = heard(browser, f"/ws/task/{task}")
    assert (told[0]["status"], told[0]["position"]) == ("queued", 1)
    assert told[-1] == browser.get(f"/task/{task}/status").json()
    assert told[-1]["status"] == "completed"
    progresses = [body["progress"] for body in told]
    assert progresses == sorted(progresses)
    assert all(before != after for before, after in pairwise(told))


@pytest.mark.parametrize("through", ["events", "socket"])
def test_a_batch_is_followed_to_its_end(browser: Browser, through: str) -> None:
    documents = [{"query": f"q{n}"} for n in range(5)]
    batch = browser.post("/api/batch", json={"documents": documents}).json()["batch_id"]
    if through == "events":
        told = [body for _, body in events(browser.get(f"/api/batch/{batch}/events"))[:-1]]
    else:
        told = heard(browser, f"/ws/batch/{batch}")
    assert (told[-1]["status"], told[-1]["completed"], told[-1]["progress"]) == (
        "completed",
        5,
        1.0,
    )
    assert "tasks" not in told[-1]


def test_a_silence_is_filled(
    browser: Browser, model: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.01)
    model.gate = threading.Event()
    task = browser.ask(query="bread").json()["task_id"]
    assert model.writing.wait(30)
    timeout, silences = asyncio.timeout, 0

    def waited(seconds: float | None) -> asyncio.Timeout:
        """As ever; after a few silences the writing goes on."""
        nonlocal silences
        silences += seconds == 0.01
        if silences == 5 and model.gate is not None:
            model.gate.set()
        return timeout(seconds)

    monkeypatch.setattr(asyncio, "timeout", waited)
    assert ": still here\n\n" in browser.get(f"/task/{task}/events").text


def test_who_goes_is_forgotten(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()
    task = browser.ask(query="bread").json()["task_id"]
    assert model.writing.wait(30)
    book = browser.service.tasks
    with client_of(browser).websocket_connect(
        f"{WS}/ws/task/{task}", headers={"X-API-Key": browser.key or ""}
    ) as socket:
        assert socket.receive_json()["status"] == "processing"
        assert task in book._watchers
        socket.send_text("hello?")  # nobody listens to that
    deadline = time.monotonic() + 30
    while book._watchers:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    model.gate.set()


def test_only_so_many_may_listen(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MOST_OF_A_TENANT", 0)
    task = browser.ask(query="bread").json()["task_id"]
    response = browser.get(f"/task/{task}/events")
    check_problem(response, 503, "S001", "too many listen already")
    assert response.headers["retry-after"] == "10"


# ---- who may ------------------------------------------------------------------------------------


def test_another_tenants_is_not_there(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    other = browser.keys.create("other").api_key
    refused = denied(browser, f"/ws/task/{task}", **{"X-API-Key": other})
    check_problem(refused, 404, "A003", "no task")
    check_problem(denied(browser, "/ws/batch/x", **{"X-API-Key": other}), 404, "A003", "no batch")
    browser.key = other
    check_problem(browser.get(f"/task/{task}/events"), 404, "A003", "no task")


def test_a_socket_passes_the_same_stages(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    path = f"/ws/task/{task}"
    assert denied(browser, path).status_code == 401
    assert denied(browser, path, **{"X-API-Key": "bkv_x"}).status_code == 401
    monitor = browser.keys.create("acme", role="monitor").api_key
    assert denied(browser, path, **{"X-API-Key": monitor}).status_code == 403
    key = {"X-API-Key": browser.key or ""}
    assert denied(browser, "/ws/nowhere", **key).status_code == 404
    assert denied(browser, f"/task/{task}/status", **key).status_code == 405
    assert browser.get(path).status_code == 405
    # A page of another site that the user's browser shows.
    foreign = denied(browser, path, Origin="https://evil.example", **key)
    assert foreign.status_code == 403
    assert denied(browser, path, Host="evil.example", **key).status_code == 421


def test_a_signed_handshake_is_taken_once(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    made = browser.keys.create("acme")
    path = f"/ws/task/{task}"
    headers = sign("GET", BASE + path, key_id=made.key.key_id, key=made.signing_key)
    assert heard(browser, path, **headers)[-1]["status"] == "completed"
    assert denied(browser, path, **headers).status_code == 401


def test_a_ticket_opens_one_socket_and_nothing_else(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    made = browser.post("/api/ticket").json()
    assert made["expires_in"] == LIFE_SECONDS
    browser.key = None
    assert browser.get(f"/task/{task}/status?ticket={made['ticket']}").status_code == 401
    path = f"/ws/task/{task}?ticket={made['ticket']}"
    assert heard(browser, path)[-1]["status"] == "completed"
    assert denied(browser, path).status_code == 401
    assert browser.post("/api/ticket").status_code == 401


def test_a_ticket_ends_with_its_key(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    made = browser.keys.create("acme")
    browser.key = made.api_key
    ticket = browser.post("/api/ticket").json()["ticket"]
    browser.keys.revoke(made.key.key_id)
    assert denied(browser, f"/ws/task/{task}?ticket={ticket}").status_code == 401


def test_a_ticket_is_good_for_half_a_minute_once_and_unchanged() -> None:
    now = 1_000.0
    tickets = Tickets(keyed(bytes(32)), seconds=lambda: now, ticks=lambda: now)
    ticket = tickets.make("abc123")
    for where in range(len(ticket)):
        other = "0" if ticket[where] != "0" else "1"
        assert tickets.take(ticket[:where] + other + ticket[where + 1 :]) is None
    elsewhere = Tickets(keyed(bytes(32)), seconds=lambda: now, ticks=lambda: now)
    assert elsewhere.take(ticket) == "abc123"  # another node has the same secret
    assert Tickets(keyed(b"x" * 32), seconds=lambda: now).take(ticket) is None
    assert tickets.take(ticket) == "abc123"
    assert tickets.take(ticket) is None
    late = tickets.make("abc123")
    now += LIFE_SECONDS + 1
    assert tickets.take(late) is None
    for text in ("", "a.b.c.d", "ñ" * 200, ticket + "\n"):
        assert tickets.take(text) is None


# ---- the real server ----------------------------------------------------------------------------


def test_a_real_socket_is_told_and_closed() -> None:
    with serving() as (_, client):
        task = client.request("POST", "/query", {"query": "bread", "max_length": 20}).json()
        path = f"/ws/task/{task['task_id']}"
        url = client.url.replace("http://", "ws://") + path
        headers = client._headers("GET", path, None)
        told = []
        with connect(url, additional_headers=headers) as socket:
            try:
                while True:
                    told.append(json.loads(socket.recv(timeout=60)))
            except ConnectionClosedOK:
                pass
        assert told[-1]["status"] == "completed"
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code == 401
        assert b"needs an API key" in (refused.value.response.body or b"")


def test_watchers_are_woken_by_what_they_watch_only(browser: Browser) -> None:
    book = browser.service.tasks
    woken: list[str] = []
    stop = book.watch(["a"], lambda: woken.append("first"))
    again = book.watch(["a", "b"], lambda: woken.append("second"))
    book.progress(["c"], 0.5)
    assert woken == []
    book.progress(["a", "b"], 0.5)
    assert sorted(woken) == ["first", "second"]  # once each, whatever changed
    stop()
    book.progress(["a"], 0.5)
    assert sorted(woken) == ["first", "second", "second"]
    book.turn(["b"], Part(1, 2, "Aims"))
    assert sorted(woken) == ["first", "second", "second", "second"]
    again()
    assert book._watchers == {}


def test_the_loop_may_be_gone_when_something_changes(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()
    task = browser.ask(query="bread").json()["task_id"]
    desk = progress.ProgressDesk(browser.service, None)  # type: ignore[arg-type]

    async def begin() -> None:
        told = desk._watched([task], lambda: ({"n": 1}, False), "t")
        assert await anext(told) == {"n": 1}

    asyncio.run(begin())
    model.gate.set()
    assert browser.finished(task)["status"] == "completed"
