"""The streams behind the page: figures as /metrics has them, texts as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from bul_fakes import Scripted
from server_browser import Browser, browsing

from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.tasks import Task
from blatam_kv.server import live

EVENTS = "/api/v1/events"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing(Scripted()) as browser:
        yield browser


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def samples(browser: Browser) -> dict[str, float]:
    lines = browser.get("/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_the_first_event_has_the_samples_of_metrics_by_the_same_names(browser: Browser) -> None:
    browser.finished(browser.ask(query="bread").json()["task_id"])
    about, figures, nodes = events(browser.get(f"{EVENTS}?count=1").text)
    assert (about[0], figures[0], nodes[0]) == ("about", "figures", "nodes")
    assert about[1]["strategy"] == "adaptive"
    told = figures[1]["samples"]
    known = samples(browser)
    assert {name: known[name] for name in told if not name.startswith("process_")} == {
        name: value for name, value in told.items() if not name.startswith("process_")
    }
    assert 'kv_cache_requests_total{status="miss",tier="none"}' in told
    assert 'kv_cache_latency_seconds_bucket{le="+Inf"}' in told
    assert not any(name.startswith(("gen_ai_", "http_server")) for name in told)


def test_later_events_have_what_changed(browser: Browser) -> None:
    _, first, nodes, second = events(browser.get(f"{EVENTS}?count=2").text)
    ((only,), shares) = nodes[1].pop("nodes"), nodes[1]
    assert shares == {"database": False, "redis": False, "listening": None}
    assert only["this"]
    assert only["since"] > 0
    assert only["unfinished"] == 0
    assert len(first[1]["samples"]) > 50
    assert all(name.startswith("process_") for name in second[1]["samples"])


def test_a_stream_that_goes_on_tells_less_often(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(live, "asyncio", SimpleNamespace(sleep=sleep))
    told = events(browser.get(f"{EVENTS}?count=23").text)
    assert [name for name, _ in told].count("figures") == 23
    assert slept == [1.0] * 19 + [3.0] * 3


def test_figures_are_open_to_this_machine_and_else_to_those_who_may(browser: Browser) -> None:
    key, browser.key = browser.key, None
    assert browser.get(f"{EVENTS}?count=1").status_code == 200
    for name in ("X-Forwarded-For", "Via"):
        assert browser.get(f"{EVENTS}?count=1", headers={name: "x"}).status_code == 401
    browser.key = browser.keys.create("acme", role="reader").api_key
    assert browser.get(f"{EVENTS}?count=1", headers={"Via": "x"}).status_code == 403
    browser.key = key
    assert browser.get(f"{EVENTS}?count=1", headers={"Via": "x"}).status_code == 200
    assert browser.get(f"{EVENTS}?count=0").status_code == 422


def test_a_key_that_is_revoked_ends_the_figures_it_opened(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = browser.keys.create("acme", role="monitor")

    async def revoke(seconds: float) -> None:
        browser.keys.revoke(made.key.key_id)

    monkeypatch.setattr(live, "asyncio", SimpleNamespace(sleep=revoke))
    browser.key = made.api_key
    heard = events(browser.get(f"{EVENTS}?count=9", headers={"Via": "1.1 proxy"}).text)
    assert [name for name, _ in heard] == ["about", "figures", "nodes"]


def test_a_text_is_told_whole_and_then_its_task(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    told = events(browser.get(f"/task/{task}/text").text)
    assert told[-1][0] == "done"
    assert told[-1][1]["status"] == "completed"
    written = "".join(data for name, data in told if name == "text")
    document = browser.get(f"/task/{task}/documents").json()["documents"][0]["content"]
    assert document.startswith(written.strip())
    again = events(browser.get(f"/task/{task}/text").text)
    assert [name for name, _ in again] == ["done"]


def test_a_key_that_is_revoked_hears_no_more_of_a_text(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    known = iter([True, False])
    monkeypatch.setattr(Guard, "knows", lambda self, caller: next(known))
    monkeypatch.setattr(Task, "is_finished", False)  # it would go on
    heard = events(browser.get(f"/task/{task}/text").text)
    assert [name for name, _ in heard] == ["waiting"]


def test_a_text_that_failed_says_why(browser: Browser) -> None:
    browser.service.pause()
    task = browser.ask(query="bread").json()["task_id"]
    browser.request("DELETE", f"/task/{task}")
    ((name, data),) = events(browser.get(f"/task/{task}/text").text)
    assert (name, data["status"]) == ("done", "cancelled")


def test_another_tenant_s_text_is_not_there(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.key = browser.keys.create("globex").api_key
    assert browser.get(f"/task/{task}/text").status_code == 404


def test_browsers_get_the_page_and_programs_the_list(browser: Browser) -> None:
    page = browser.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'data-open="yes"' in page.text
    tag = {"Accept": "text/html", "If-None-Match": page.headers["etag"]}
    assert browser.get("/", headers=tag).status_code == 304
    far = browser.get("/", headers={"Accept": "text/html", "X-Forwarded-For": "10.0.0.1"})
    assert 'data-open="no"' in far.text
    assert "endpoints" in browser.get("/").json()
    for path in ("/page/app.js", "/page/style.css", "/page/icon.svg", "/favicon.ico"):
        part = browser.get(path)
        assert part.status_code == 200
        assert "default-src 'none'" in part.headers["content-security-policy"]
    assert browser.get("/page/index.html").status_code == 404
    assert browser.get("/page/..%2flive.py").status_code == 404
