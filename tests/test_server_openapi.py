"""The document of the interface: every route is in it, and every example in it works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from bul_fakes import Scripted
from server_browser import Browser, browsing

from blatam_kv.server.bul import INDEX


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    # An example calls back to a name that is never looked up: nobody delivers here.
    with browsing(model, max_concurrent_tasks=1) as browser:
        yield browser


def operations(browser: Browser) -> list[tuple[str, str, dict[str, Any]]]:
    paths = browser.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def test_every_example_is_a_request_that_works(browser: Browser, model: Scripted) -> None:
    model.text = "# Plan\n\nUna panader\u00eda."
    task = browser.finished(browser.ask(query="bread").json()["task_id"])
    batch = browser.post("/api/batch", json={"documents": [{"query": "bread"}]}).json()["batch_id"]
    asked = browser.ask(query="bread")
    key = asked.headers["cache-status"].partition('key="')[2].rstrip('"')
    model.gate = threading.Event()
    waiting = browser.ask(query="waits").json()["task_id"]
    also = browser.ask(query="waits too").json()["task_id"]
    ids = {
        "/documents/{id}": task["documents"][0]["document_id"],
        "/cache/pins/{id}": task["documents"][0]["document_id"],
        "/v1/models/{id}": "truthgpt",
        "DELETE /task/{id}": waiting,
        "DELETE /tasks/{id}": also,
    }
    # What others need comes before what takes it away, and what sets before what shows.
    last = ("/processor/stop", "/processor/start", "/cache/{key}", "/api/v1/kv-cache/clear")
    order = {"PUT": 0, "GET": 1, "POST": 2, "DELETE": 3}
    found = sorted(
        operations(browser),
        key=lambda each: (
            last.index(each[1]) if each[1] in last else -1,
            each[1].startswith("/v1") and each[0] == "POST",
            order[each[0]],
        ),
    )
    for method, path, operation in found:
        if path.startswith("/v1") and method == "POST":
            model.gate.set()
        where, query = path, {}
        for parameter in operation["parameters"]:
            name, value = parameter["name"], parameter["example"]
            if parameter["in"] == "query":
                query[name] = value
                continue
            if name == "id":
                fallback = batch if "batch" in path else task["task_id"]
                value = ids.get(f"{method} {path}", ids.get(path, fallback))
            where = where.replace(f"{{{name}}}", key if name == "key" else str(value))
        options: dict[str, Any] = {}
        if "requestBody" in operation:
            body = operation["requestBody"]["content"]["application/json"]
            options["json"] = body["example"]
            query = {}  # a list in JSON says all of it itself
        response = browser.request(method, where, params=query, **options)
        assert response.status_code < 300, (method, where, query, response.text)


def test_every_route_is_described_with_its_scope_and_a_summary(browser: Browser) -> None:
    described = operations(browser)
    assert len({operation["operationId"] for _, _, operation in described}) == len(described)
    for method, path, operation in described:
        assert operation["summary"].endswith((".", ".``", "``")), (method, path)
        assert "security" in operation or "description" not in operation
    listed = set(INDEX) - {"GET /openapi.json"}  # which is this document
    known = {f"{method} {path}" for method, path, _ in described}
    assert listed <= known
