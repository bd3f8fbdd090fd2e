"""Callbacks: each end is told, signed, at least once, over restarts, and nobody waits for another."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, running, until
from postgres_server import Postgres, postgres
from server_browser import browsing
from test_server_bul import check_problem

from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.courier import Courier
from blatam_kv.bul.outbound import Outbound
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.master import Master
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import Callback, open_storage
from blatam_kv.errors import ModelError
from blatam_kv.signature import Claim, Parts, content_digest, keyed

OWN = ("127.0.0.0/8",)
KEY = bytes(range(32))


@dataclass
class Receiver:
    """Somebody who is told. answers: statuses to answer with, 200 when they are used up."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    gate: threading.Event | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.heard]


@contextmanager
def receiving() -> Iterator[Receiver]:
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.heard.append(({k.lower(): v for k, v in self.headers.items()}, body))
            if told.gate is not None:
                told.gate.wait(120)
            self.send_response(told.answers.pop(0) if told.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/done?for=bul"
    try:
        yield told
    finally:
        if told.gate is not None:
            told.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def delivering(service: Service, *, signer: Any = None, **options: Any) -> Iterator[Courier]:
    courier = Courier(
        service.archive.callbacks,
        service,
        signer or (lambda tenant, key_id: (key_id, KEY)),
        Outbound(OWN, total_seconds=120.0),
        count=service.metrics.called_back,
        **({"pauses": (0.0, 0.0, 0.0)} | options),
    )
    courier.start()
    with closing(courier):
        yield courier


def ask(service: Service, query: str, url: str, caller: Caller = ITSELF) -> str:
    request = parse_request({"query": query, "callback_url": url})
    return service.enqueue(service.place(request, caller), request, caller.key_id).id


def outcome(service: Service, name: str) -> float:
    text = service.metrics.expose()[0].decode()
    lines = [
        line for line in text.splitlines() if f'bul_callbacks_total{{outcome="{name}"}}' in line
    ]
    return float(lines[0].split()[-1]) if lines else 0.0


@pytest.fixture
def model() -> Scripted:
    return Scripted()


def test_the_end_of_a_task_is_told_signed_by_the_key_that_asked(model: Scripted) -> None:
    with running(model) as service, receiving() as told, delivering(service):
        task = ask(service, "bread", told.url)
        until(lambda: outcome(service, "delivered"))
        ((headers, body),) = told.heard
    event = json.loads(body)
    assert event["type"] == "task.completed"
    assert event["id"] == headers["webhook-id"]
    assert event["data"]["task_id"] == task
    assert event["data"]["links"]["documents"] == f"/task/{task}/documents"
    assert headers["content-digest"] == content_digest(body)
    claim = Claim.read([headers["signature-input"]], [headers["signature"]])
    parts = Parts(
        method="POST",
        authority=headers["host"],
        path="/done",
        query="?for=bul",
        content_type=headers["content-type"],
        content_digest=headers["content-digest"],
    )
    assert claim.key_id == ITSELF.key_id
    assert claim.proves(parts, keyed(KEY))
    assert claim.timely(time.time())


def test_failures_cancellations_hits_and_batches_are_told_as_well(model: Scripted) -> None:
    with (
        running(model, max_concurrent_tasks=1) as service,
        receiving() as told,
        delivering(service),
    ):
        model.error = ModelError("out of paper")
        ask(service, "fails", told.url)
        until(lambda: len(told.heard) == 1)
        model.error, model.gate = None, threading.Event()
        service.cancel(ask(service, "cancelled", told.url))
        until(lambda: len(told.heard) == 2)
        model.gate.set()
        first = ask(service, "bread", told.url)
        until(lambda: len(told.heard) == 3)
        requests = [parse_request({"query": query}) for query in ("bread", "cake")]
        batch, _ = service.batches.ask(requests, callback_url=told.url)
        until(lambda: len(told.heard) == 4)
        all_hits, _ = service.batches.ask(requests, callback_url=told.url)
        until(lambda: len(told.heard) == 5)
    failed, cancelled, written, many, cached = told.events
    assert (failed["type"], failed["data"]["error"]) == ("task.failed", "out of paper")
    assert cancelled["type"] == "task.cancelled"
    assert written["data"]["task_id"] == first
    assert (many["type"], many["data"]["batch_id"]) == ("batch.completed", batch)
    assert (many["data"]["total"], many["data"]["completed"]) == (2, 2)
    assert cached["data"]["batch_id"] == all_hits


def test_it_is_tried_again_under_the_same_id_until_it_is_taken(model: Scripted) -> None:
    with running(model) as service, receiving() as told:
        told.answers = [500, 302, 404]
        with delivering(service):
            ask(service, "bread", told.url)
            until(lambda: outcome(service, "delivered"))
    assert len({event["id"] for event in told.events}) == 1
    assert [event["attempt"] for event in told.events] == [1, 2, 3, 4]
    nonces = {headers["signature-input"] for headers, _ in told.heard}
    assert len(nonces) == 4  # a receiver that checks nonces takes every one of them


@pytest.mark.parametrize(("answers", "tries"), [([500] * 9, 4), ([410], 1)])
def test_it_is_given_up_after_the_last_pause_or_when_the_receiver_says_so(
    model: Scripted, answers: list[int], tries: int
) -> None:
    with running(model) as service, receiving() as told:
        told.answers = answers
        with delivering(service):
            ask(service, "bread", told.url)
            until(lambda: outcome(service, "given_up"))
        assert len(told.heard) == tries
        assert not service.archive.callbacks.waiting()


def test_what_fails_while_the_rows_are_read_waits_for_its_pause(model: Scripted) -> None:
    with running(model) as service, receiving() as told:
        gate = told.gate = threading.Event()
        told.answers = [500]
        rows, looks = service.archive.callbacks, 0
        read = rows.due

        def due(**options: Any) -> list[Callback]:
            nonlocal looks
            found = read(**options)
            if told.heard and not gate.is_set():  # what was read is due, and not any more
                gate.set()
                until(lambda: not courier._under_way)
            looks += gate.is_set()
            return found

        rows.due = due  # type: ignore[method-assign]
        with delivering(service, pauses=(3600.0,)) as courier:
            ask(service, "bread", told.url)
            until(lambda: looks == 2)
        assert len(told.heard) == 1
        assert outcome(service, "failed") == 1


def test_without_a_key_it_is_given_up(model: Scripted) -> None:
    with (
        running(model) as service,
        receiving() as told,
        delivering(service, signer=lambda tenant, key_id: None),
    ):
        ask(service, "bread", told.url)
        until(lambda: outcome(service, "given_up"))
        assert told.heard == []


def test_what_an_earlier_process_left_is_delivered_by_the_next(
    model: Scripted, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with receiving() as told:
        with running(model, archive=open_storage(url)) as service:
            service.pause()
            task = ask(service, "bread", told.url)
        with running(model, archive=open_storage(url)) as service, delivering(service):
            until(lambda: told.heard)
            until(lambda: outcome(service, "delivered"))
        with running(model, archive=open_storage(url)) as service, delivering(service):
            ask(service, "cake", told.url)
            until(lambda: len(told.heard) == 2)
    assert told.events[0]["data"]["task_id"] == task


def test_a_tenant_whose_receiver_hangs_keeps_nobody_else_waiting(model: Scripted) -> None:
    other = Caller(tenant="other", key_id="k", scopes=frozenset(), salt=b"x" * 32)
    with running(model) as service, receiving() as slow, receiving() as quick:
        slow.gate = threading.Event()
        with delivering(service):
            for number in range(70):
                ask(service, f"q{number}", slow.url)
            until(lambda: len(slow.heard) == 2)
            ask(service, "bread", quick.url, other)
            until(lambda: quick.heard)
            assert len(slow.heard) == 2
            slow.gate.set()


def test_a_callback_must_be_a_public_url(model: Scripted) -> None:
    with browsing(model) as browser:
        for url, hint in (
            ("http://127.0.0.1/x", "not a public address"),
            ("http://169.254.169.254/latest", "not a public address"),
            ("ftp://example.org", "must be a URL"),
            (7, "callback_url"),
        ):
            refused = browser.ask(query="bread", callback_url=url)
            check_problem(refused, 422, "A002", hint)
            documents = [{"query": "bread"}]
            body = {"documents": documents, "callback_url": url}
            check_problem(browser.post("/api/batch", json=body), 422, "A002", "callback_url")
            inner = {"documents": [{"query": "bread", "callback_url": url}]}
            check_problem(browser.post("/api/batch", json=inner), 422, "A002", "callback_url")
        assert browser.get("/tasks").json()["total"] == 0


def test_the_key_that_asked_signs_else_the_tenants_newest() -> None:
    with tempfile.TemporaryDirectory() as folder:
        now = 1_000_000.0
        keys = KeyRing(Path(folder), Master(KEY), clock=lambda: now)
        first = keys.create("acme")
        now += 10
        second = keys.create("acme")
        assert keys.signer("acme", first.key.key_id) == (first.key.key_id, first.signing_key)
        keys.revoke(first.key.key_id)
        assert keys.signer("acme", first.key.key_id) == (second.key.key_id, second.signing_key)
        keys.revoke(second.key.key_id)
        assert keys.signer("acme", first.key.key_id) is None
        assert keys.signer("other", first.key.key_id) is None


# ---- the rows -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_due_is_this_nodes_own_and_in_turn(
    kind: str, tmp_path: Path, server: Postgres
) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}" if kind == "sqlite" else server.database()
    archive, elsewhere = open_storage(url, node="a"), open_storage(url, node="b")
    made = [
        Callback(tenant=tenant, key_id="k", url="http://x/", task_id="0" * 32, due=due)
        for tenant, due in (("t", 5.0), ("t", 3.0), ("u", 4.0))
    ]
    archive.add((), made)
    rows = archive.callbacks
    assert [each.due for each in rows.due(now=4.5, limit=9)] == [3.0, 4.0]
    assert [each.due for each in rows.due(now=9.0, limit=9, without=["t"])] == [4.0]
    assert [each.due for each in rows.due(now=9.0, limit=1)] == [3.0]
    assert elsewhere.callbacks.due(now=9.0, limit=9) == []
    assert not elsewhere.callbacks.waiting()
    rows.tried(made[1], error="no", again=20.0)
    rows.tried(made[2], error="no", again=None)
    rows.delivered(made[0])
    (left,) = rows.due(now=30.0, limit=9)
    assert (left.id, left.tries, left.due) == (made[1].id, 1, 20.0)
    archive.retain(newest=1, days=1, now=time.time() + 2 * 86_400)
    assert not rows.waiting()
    for each in (archive, elsewhere):
        each.close()
