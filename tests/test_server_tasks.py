"""Tasks, batches, documents, areas and the processor over HTTP, request by request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from bul_fakes import Faulty, Scripted
from server_browser import Browser, browsing
from test_server_bul import check_problem

from blatam_kv.bul.request import MAX_BATCH
from blatam_kv.truthgpt.brief import AREAS


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=1) as browser:
        yield browser


def written(browser: Browser, query: str, **fields: Any) -> dict[str, Any]:
    task: str = browser.ask(query=query, **fields).json()["task_id"]
    return browser.finished(task)


# A task.


def test_a_waiting_task_tells_its_place_and_how_long(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()
    browser.ask(query="first")
    assert model.writing.wait(30)
    asked = [browser.ask(query=f"q{n}", priority=2).json() for n in range(2)]
    assert [(task["position"], task["priority"]) for task in asked] == [(1, 2), (2, 2)]
    urgent = browser.ask(query="urgent", priority=0).json()
    assert urgent["position"] == 1
    status = browser.get(asked[1]["links"]["status"]).json()
    assert status["position"] == 3
    assert status["estimated_time"] > urgent["estimated_time"] > 0
    model.gate.set()
    done = browser.finished(asked[1]["task_id"])
    assert "position" not in done
    assert done["estimated_time"] == 0.0


@pytest.mark.parametrize("path", ["/task", "/tasks"])
def test_a_task_is_cancelled(browser: Browser, model: Scripted, path: str) -> None:
    model.gate = threading.Event()
    task = browser.ask(query="bread").json()["task_id"]
    gone = browser.request("DELETE", f"{path}/{task}")
    assert (gone.status_code, gone.json()["status"]) == (200, "cancelled")
    assert browser.request("DELETE", f"{path}/{task}").json()["status"] == "cancelled"
    assert browser.get(f"{path}/{task}/status").json()["status"] == "cancelled"
    refused = browser.get(f"{path}/{task}/documents?download=1")
    check_problem(refused, 409, "A002", "is cancelled: was cancelled")


def test_a_finished_task_is_409_and_an_unknown_one_404(browser: Browser) -> None:
    task = written(browser, "bread")["task_id"]
    check_problem(browser.request("DELETE", f"/task/{task}"), 409, "A002", "is completed")
    check_problem(browser.request("DELETE", "/task/nope"), 404, "A003", "no task 'nope'")


def test_a_deadline_is_a_number_of_seconds(browser: Browser) -> None:
    assert browser.ask(query="bread", deadline_seconds=60).status_code == 202
    refused = browser.ask(query="bread", deadline_seconds=0)
    check_problem(refused, 422, "A002", "deadline_seconds")


def test_tasks_are_listed_newest_first_in_pages(browser: Browser, model: Scripted) -> None:
    names = [written(browser, f"q{n}")["task_id"] for n in range(3)]
    model.error = ValueError("no")
    names.append(written(browser, "fails")["task_id"])
    everything = browser.get("/tasks").json()
    assert [task["task_id"] for task in everything["tasks"]] == names[::-1]
    assert (everything["total"], everything["page"], everything["limit"]) == (4, 1, 20)
    page = browser.get("/tasks?page=2&limit=3").json()
    assert [task["task_id"] for task in page["tasks"]] == [names[0]]
    failed = browser.get("/tasks?status=failed").json()
    assert [task["task_id"] for task in failed["tasks"]] == [names[3]]
    assert failed["tasks"][0]["created"] < failed["tasks"][0]["finished"]


@pytest.mark.parametrize(
    ("path", "field", "hint"),
    [
        ("/tasks?page=0", "page", "whole number from 1"),
        ("/tasks?limit=101", "limit", "from 1 to 100"),
        ("/tasks?limit=-1", "limit", "whole number"),
        ("/tasks?limit=1e1", "limit", "whole number"),
        ("/tasks?limit=٣", "limit", "whole number"),
        ("/tasks?page=99999999999999999999", "page", "whole number"),
        ("/tasks?status=done", "status", "is not one of queued"),
        ("/tasks?page=1&page=2", "page", "is there twice"),
        ("/documents?business_area=sails", "business_area", "did you mean sales?"),
        ("/documents?area=sales", "area", "is not a known option"),
        ("/search", "q", "is required"),
        ("/search?q=", "q", "1 to 200 characters"),
        (f"/search?q={'x' * 201}", "q", "1 to 200 characters"),
    ],
)
def test_a_bad_option_is_422_with_its_name_and_fix(
    browser: Browser, path: str, field: str, hint: str
) -> None:
    body = check_problem(browser.get(path), 422, "A002", hint)
    assert [error["field"] for error in body["errors"]] == [field]


# Documents.


def test_documents_are_listed_searched_and_fetched(browser: Browser, model: Scripted) -> None:
    model.text = "# Política de vacaciones\n\nVeinte días."
    written(browser, "vacaciones", business_area="hr")
    model.text = "# Plan\n\nPan y más pan."
    written(browser, "panadería", business_area="sales")
    listed = browser.get("/documents").json()
    assert [entry["title"] for entry in listed["documents"]] == ["Plan", "Política de vacaciones"]
    assert listed["total"] == 2
    (hr,) = browser.get("/documents?business_area=hr").json()["documents"]
    (found,) = browser.get("/search?q=POLITICA+dia&limit=5").json()["documents"]
    assert found == hr
    whole = browser.get(f"/documents/{hr['document_id']}").json()
    assert whole["content"].startswith("# Política de vacaciones")
    assert whole["model"] == "scripted"
    file = browser.get(hr["href"])
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.content.decode() == whole["content"]
    html = browser.get(f"/documents/{hr['document_id']}?format=html").json()
    assert html["media_type"] == "text/html; charset=utf-8"


def test_a_document_asked_for_twice_is_listed_once(browser: Browser) -> None:
    written(browser, "bread")
    browser.ask(query="bread")
    assert browser.get("/documents").json()["total"] == 1


def test_an_unknown_document_is_404(browser: Browser) -> None:
    check_problem(browser.get("/documents/nope"), 404, "A003", "no document 'nope'")


def test_another_tenant_finds_nothing_of_it(browser: Browser) -> None:
    task = written(browser, "bread")
    batch = browser.post("/api/batch", json={"documents": [{"query": "cake"}]}).json()["batch_id"]
    document = task["documents"][0]["document_id"]
    browser.key = browser.keys.create("other").api_key
    for path in (
        f"/task/{task['task_id']}/status",
        f"/documents/{document}",
        f"/api/batch/{batch}",
    ):
        assert browser.get(path).status_code == 404, path
        if path.startswith("/api"):
            assert browser.request("DELETE", path).status_code == 404
    assert browser.get("/tasks").json()["total"] == 0
    assert browser.get("/documents").json()["total"] == 0
    assert browser.get("/search?q=bread").json()["total"] == 0
    assert browser.request("DELETE", f"/task/{task['task_id']}").status_code == 404


# Batches.


def test_a_batch_is_written_and_its_progress_told(browser: Browser, model: Scripted) -> None:
    written(browser, "cached")
    documents = [{"query": f"q{n}"} for n in range(20)] + [{"query": "cached", "format": "html"}]
    asked = browser.post("/api/batch", json={"documents": documents})
    assert asked.status_code == 202
    path = asked.headers["location"]
    assert asked.json()["total"] == 21
    while (status := browser.get(path).json())["status"] != "completed":
        assert 0 <= status["progress"] <= 1
        assert sum(status[name] for name in ("queued", "processing", "completed")) == 21
    assert (status["completed"], status["progress"], status["failed"]) == (21, 1.0, 0)
    assert [task["task_id"] for task in status["tasks"]] == [
        task["task_id"] for task in asked.json()["tasks"]
    ]
    assert len(model.calls) == 21


def test_a_batch_waits_behind_single_documents(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()
    browser.ask(query="first")
    assert model.writing.wait(30)
    documents = [{"query": "calm"}, {"query": "hasty", "priority": 0}]
    browser.post("/api/batch", json={"documents": documents})
    single = browser.ask(query="single").json()["task_id"]
    model.gate.set()
    browser.finished(single)
    while len(model.calls) < 4:
        pass
    assert model.calls == ["first", "hasty", "single", "calm"]


def test_a_batch_is_cancelled(browser: Browser, model: Scripted) -> None:
    written(browser, "cached")
    model.gate = threading.Event()
    documents = [{"query": query} for query in ("cached", "a", "b")]
    path = browser.post("/api/batch", json={"documents": documents}).headers["location"]
    gone = browser.request("DELETE", path).json()
    assert (gone["status"], gone["completed"], gone["cancelled"]) == ("completed", 1, 2)


@pytest.mark.parametrize(
    ("body", "field", "hint"),
    [
        ([], "documents", "must be a list"),
        ({"documents": {}}, "documents", "must be a list"),
        ({"documents": []}, "documents", "1 to 1,000 documents"),
        ({"documents": [{"query": "x"}] * 1001}, "documents", "has 1,001 items"),
        ({"documents": [{"query": "x"}], "priority": 5}, "priority", "from 0 to 4"),
        ({"documents": [{"query": "x"}], "priority": True}, "priority", "from 0 to 4"),
        ({"documents": [{"query": "x"}], "docs": 1}, "docs", "is not a known field"),
        ({"documents": [{"query": "x"}, 3]}, "documents.1", "must be an object"),
        ({"documents": [{"query": "x"}, {"query": ""}]}, "documents.1.query", "is empty"),
    ],
)
def test_a_bad_batch_is_422_and_nothing_of_it_is_taken(
    browser: Browser, model: Scripted, body: Any, field: str, hint: str
) -> None:
    problem = check_problem(browser.post("/api/batch", json=body), 422, "A002", hint)
    assert problem["errors"][0]["field"] == field
    assert browser.get("/tasks").json()["total"] == 0
    assert model.calls == []


def test_the_largest_batch_is_taken_and_a_second_beyond_the_tenants_share_is_not(
    browser: Browser, model: Scripted
) -> None:
    model.gate = threading.Event()
    for start in (0, MAX_BATCH):
        documents = [{"query": f"q{start + n}"} for n in range(MAX_BATCH)]
        assert browser.post("/api/batch", json={"documents": documents}).status_code == 202
    refused = browser.post("/api/batch", json={"documents": [{"query": f"z{n}"} for n in range(9)]})
    check_problem(refused, 503, "S001", "documents of yours are waiting already")
    assert int(refused.headers["retry-after"]) >= 1
    browser.key = browser.keys.create("other").api_key
    assert browser.ask(query="another tenant").status_code == 202
    browser.service.pause()


# The processor, areas, health.


def test_the_processor_stops_and_starts(browser: Browser, model: Scripted) -> None:
    written(browser, "cached")
    assert browser.get("/processor/status").json()["status"] == "running"
    stopped = browser.post("/processor/stop").json()
    assert stopped["status"] == "paused"
    task = browser.ask(query="bread").json()["task_id"]
    assert browser.ask(query="cached").status_code == 200
    assert browser.get("/processor/status").json()["queue_depth_by_priority"]["1"] == 1
    assert browser.post("/processor/start").json()["status"] == "running"
    assert browser.finished(task)["status"] == "completed"


def test_what_others_do_is_for_administrators(browser: Browser) -> None:
    browser.key = browser.keys.create("other").api_key
    for path in ("/processor/stop", "/processor/start"):
        assert browser.post(path).status_code == 403
    assert "queue_depth" not in browser.get("/processor/status").json()


def test_areas_are_listed_with_their_documents(browser: Browser) -> None:
    agents = browser.get("/agents").json()["agents"]
    assert [agent["area"] for agent in agents] == list(AREAS)
    assert browser.get("/agents/legal").json() == {
        "area": "legal",
        "document_types": ["legal_contract"],
    }
    check_problem(browser.get("/agents/leagl"), 404, "A003", "did you mean legal?")


def test_health_is_the_state_of_readiness(browser: Browser) -> None:
    assert browser.get("/health").json() == browser.get("/readyz").json()


# Scopes.

WRITE, READ, METRICS, ADMIN = "documents:write", "documents:read", "metrics:read", "admin"
ROUTES = {
    "POST /query": WRITE,
    "GET /tasks": READ,
    "DELETE /task/x": WRITE,
    "DELETE /tasks/x": WRITE,
    "GET /task/x/status": READ,
    "GET /tasks/x/status": READ,
    "GET /task/x/documents": READ,
    "POST /api/batch": WRITE,
    "GET /api/batch/x": READ,
    "DELETE /api/batch/x": WRITE,
    "GET /documents": READ,
    "GET /documents/x": READ,
    "GET /search?q=x": READ,
    "GET /agents": READ,
    "GET /agents/hr": READ,
    "GET /processor/status": METRICS,
    "POST /processor/start": ADMIN,
    "POST /processor/stop": ADMIN,
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_needs_a_key_with_its_scope(browser: Browser, route: str) -> None:
    method, path = route.split()
    body: dict[str, Any] = {}
    if method == "POST":
        body = {"json": {"query": "x"} if path == "/query" else {"documents": [{"query": "x"}]}}
    browser.key = None
    assert browser.request(method, path, **body).status_code == 401
    for role, scopes in (
        ("writer", {WRITE, READ, METRICS}),
        ("reader", {READ}),
        ("monitor", {METRICS}),
        ("admin", {WRITE, READ, METRICS, ADMIN}),
    ):
        browser.key = browser.keys.create("acme", role=role).api_key
        refused = browser.request(method, path, **body).status_code == 403
        assert refused == (ROUTES[route] not in scopes), role


# Without a database.


def test_without_a_database_misses_are_503_and_hits_are_served(model: Scripted) -> None:
    archive = Faulty()
    with browsing(model, archive=archive) as browser:
        task = written(browser, "bread")["task_id"]
        archive.broken = True
        for reply in (
            browser.ask(query="cake"),
            browser.post("/api/batch", json={"documents": [{"query": "cake"}]}),
            browser.get("/tasks"),
            browser.get("/documents"),
            browser.get("/search?q=bread"),
            browser.get("/task/nope/status"),
        ):
            body = check_problem(reply, 503, "S002", "cannot be recorded or read now")
            assert body["type"].endswith("#temporary-reduced-capacity")
            assert int(reply.headers["retry-after"]) >= 1
            assert "away" not in reply.text
        ready = browser.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (200, "degraded")
        hit = browser.ask(query="bread")
        assert (hit.status_code, hit.json()["status"]) == (200, "completed")
        assert browser.get(f"/task/{task}/documents").status_code == 200
        again = browser.get(hit.json()["links"]["documents"])
        assert again.json()["documents"][0]["content"]
        archive.broken = False
        assert browser.ask(query="cake").status_code == 202
