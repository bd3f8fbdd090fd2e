"""The HTTP face, request by request, without a socket."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from bul_fakes import VERSION, Scripted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from server_browser import Browser, browsing

from blatam_kv.errors import ModelError


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=1) as browser:
        yield browser


def check_problem(response: Any, status: int, code: str, hint: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert hint in body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "instance"} <= set(body)
    assert "Traceback" not in response.text
    return body


# The way of one document.


def test_a_document_is_queued_written_and_fetched(browser: Browser) -> None:
    asked = browser.ask(query="Informe financiero de la clínica", format="html")
    assert asked.status_code == 202
    body = asked.json()
    assert body["status"] == "queued"
    assert body["inferred"] == ["language", "document_type", "business_area"]
    assert body["document_type"] == "financial_report"
    assert body["estimated_time"] >= 0
    assert asked.headers["cache-status"].startswith('blatam-kv; fwd=miss; key="')
    assert asked.headers["location"] == body["links"]["status"]
    status = browser.finished(body["task_id"])
    assert status["status"] == "completed"
    assert status["progress"] == 1.0
    assert status["documents"][0]["title"] == "Document"
    fetched = browser.get(body["links"]["documents"])
    assert fetched.headers["cache-status"] == "blatam-kv; fwd=miss; stored"
    (document,) = fetched.json()["documents"]
    assert document["format"] == "html"
    assert document["media_type"] == "text/html; charset=utf-8"
    assert document["content"].startswith("<!DOCTYPE html>")
    assert document["usage"]["completion_tokens"] == 7
    assert document["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert 0 < document["seconds_to_first_text"] <= document["seconds"]
    assert document["finish_reason"] == "stop"


def test_the_second_time_is_a_hit_at_once(browser: Browser, model: Scripted) -> None:
    browser.finished(browser.ask(query="bread").json()["task_id"])
    again = browser.ask(query="bread")
    assert again.status_code == 200
    assert again.json()["status"] == "completed"
    assert again.headers["cache-status"].startswith("blatam-kv; hit; ttl=3")
    assert model.calls == ["bread"]


def test_without_a_ttl_a_hit_names_none(model: Scripted) -> None:
    with browsing(model, cache_ttl=None) as browser:
        browser.finished(browser.ask(query="bread").json()["task_id"])
        assert (
            browser.ask(query="bread").headers["cache-status"].startswith('blatam-kv; hit; key="')
        )


def test_who_joins_a_running_answer_is_told_so(browser: Browser, model: Scripted) -> None:
    model.gate = threading.Event()
    first, second = browser.ask(query="bread"), browser.ask(query="bread")
    assert second.headers["cache-status"].startswith('blatam-kv; fwd=miss; collapsed; key="')
    pending = browser.get(f"/task/{first.json()['task_id']}/documents")
    assert pending.json()["documents"] == []
    model.gate.set()
    browser.finished(second.json()["task_id"])
    assert model.calls == ["bread"]


@pytest.mark.parametrize(
    ("format", "media_type", "extension"),
    [
        ("markdown", "text/markdown; charset=utf-8", "md"),
        ("md", "text/markdown; charset=utf-8", "md"),
        ("html", "text/html; charset=utf-8", "html"),
        ("txt", "text/plain; charset=utf-8", "txt"),
        ("json", "application/json", "json"),
    ],
)
def test_a_download_is_the_bytes_of_the_document(
    browser: Browser, format: str, media_type: str, extension: str
) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    file = browser.get(f"/task/{task}/documents?format={format}&download=1")
    assert file.status_code == 200
    assert file.headers["content-type"] == media_type
    name = f"attachment; filename=\"Document.{extension}\"; filename*=UTF-8''Document.{extension}"
    assert file.headers["content-disposition"] == name
    assert file.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in file.headers["content-security-policy"]
    (entry,) = browser.get(f"/task/{task}/documents?format={format}").json()["documents"]
    assert entry["content"].encode() == file.content
    assert entry["filename"] == f"Document.{extension}"


def test_a_hostile_title_cannot_break_the_headers(browser: Browser, model: Scripted) -> None:
    model.text = '# ../"; filename=evil.exe\r\nX-Evil: 1 ñ\n\nx'
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    file = browser.get(f"/task/{task}/documents?download=1")
    assert "x-evil" not in file.headers
    assert file.headers["content-disposition"] == (
        'attachment; filename="_ filename=evil.exe.md"; '
        "filename*=UTF-8''%3B%20filename%3Devil.exe.md"
    )


def test_a_failed_task_says_why_and_the_next_one_works(browser: Browser, model: Scripted) -> None:
    model.error = ModelError("the weights are missing")
    task = browser.ask(query="bread").json()["task_id"]
    status = browser.finished(task)
    assert status["error"] == {"code": "S001", "detail": "the weights are missing"}
    assert status["documents"] == []
    refused = browser.get(f"/task/{task}/documents?download=1")
    check_problem(refused, 409, "A002", "the weights are missing")
    model.error = None
    again = browser.ask(query="bread").json()["task_id"]
    assert browser.finished(again)["status"] == "completed"


# Bad input.


@pytest.mark.parametrize(
    ("fields", "field", "hint"),
    [
        ({"query": ""}, "query", "is empty"),
        ({"query": "x" * 10_001}, "query", "shorten it to 10,000"),
        ({"query": 1}, "query", "valid string"),
        ({"query": "q", "format": "odt"}, "format", "not one of"),
        ({"query": "q", "language": "klingon"}, "language", "is not one of es, en"),
        ({"query": "q", "langauge": "es"}, "langauge", "did you mean language?"),
        ({}, "query", "is required"),
    ],
)
def test_a_bad_field_is_422_with_its_name_and_fix(
    browser: Browser, model: Scripted, fields: dict[str, Any], field: str, hint: str
) -> None:
    body = check_problem(browser.post("/query", json=fields), 422, "A002", hint)
    assert [error["field"] for error in body["errors"]] == [field]
    assert hint in body["errors"][0]["detail"]
    assert model.calls == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"query": "a"',
        b"\xff\xfe",
        b'{"query": "\\ud800"}',
        b'{"query": NaN}',
        b'{"query": "a"} x',
        b"[" * 100_000,
        b'{"query": "' + b"\xc3\x28" + b'"}',
    ],
)
def test_malformed_json_is_400(browser: Browser, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = browser.post("/query", content=content, headers=headers)
    check_problem(response, 400, "A002", "not valid JSON")


@pytest.mark.parametrize(("levels", "status"), [(15, 422), (17, 400)])
def test_deep_json_is_400(browser: Browser, levels: int, status: int) -> None:
    content = b'{"query": ' + b"[" * levels + b"]" * levels + b"}"
    headers = {"Content-Type": "application/json"}
    assert browser.post("/query", content=content, headers=headers).status_code == status


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_415(browser: Browser, media_type: str) -> None:
    response = browser.post("/query", content=b"{}", headers={"Content-Type": media_type})
    check_problem(response, 415, "A002", "application/json")


def test_a_compressed_body_is_415(browser: Browser) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = browser.post("/query", content=b"\x1f\x8b", headers=headers)
    check_problem(response, 415, "A002", "Content-Encoding")


def test_a_charset_beside_the_content_type_is_fine(browser: Browser) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    content = b'{"query": "bread"}'
    assert browser.post("/query", content=content, headers=headers).status_code == 202


def test_a_body_announced_too_large_is_413(browser: Browser) -> None:
    response = browser.post("/query", json={"query": "x" * (1 << 20)})
    check_problem(response, 413, "A002", "larger than 1,048,576 bytes")


def test_a_body_that_grows_too_large_is_413_without_being_read_to_its_end(browser: Browser) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)

    headers = {"Content-Type": "application/json"}
    response = browser.post("/query", content=endless(), headers=headers)
    check_problem(response, 413, "A002", "larger than")
    assert sent <= (1 << 20) + 2 * (1 << 16)


def test_a_body_that_stalls_is_408(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blatam_kv.server.body.MAX_BODY_SECONDS", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b'{"query":'
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json"}
    response = browser.post("/query", content=stalled(), headers=headers)
    check_problem(response, 408, "A002", "did not arrive within")


def test_a_query_longer_than_the_model_can_read_is_422(browser: Browser, model: Scripted) -> None:
    model.context_tokens = 60
    check_problem(browser.ask(query="word " * 100), 422, "A002", "shorten it to")


def test_a_full_queue_is_503_with_retry_after(model: Scripted) -> None:
    model.gate = threading.Event()
    with browsing(model, max_concurrent_tasks=1, max_queued_tasks=1) as browser:
        browser.ask(query="one")
        assert model.writing.wait(30)
        browser.ask(query="two")
        refused = browser.ask(query="three")
        body = check_problem(refused, 503, "S001", "1 documents are waiting already")
        assert body["type"].endswith("#temporary-reduced-capacity")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_model_that_cannot_even_read_is_503_with_its_reason(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object) -> int:
        raise ModelError("the weights are missing")

    monkeypatch.setattr(Scripted, "count_tokens", gone)
    check_problem(browser.ask(query="bread"), 503, "S001", "the weights are missing")


@pytest.mark.parametrize("part", ["status", "documents"])
def test_an_unknown_task_is_404(browser: Browser, part: str) -> None:
    check_problem(browser.get(f"/task/nope/{part}"), 404, "A003", "no task 'nope'")


@pytest.mark.parametrize("path", ["/nope", "/query/", "/task/", "/task/a/b/status", "/..%2f"])
def test_an_unknown_path_is_404(browser: Browser, path: str) -> None:
    check_problem(browser.get(path), 404, "A003", "GET / lists")


def test_a_wrong_method_is_405_and_names_the_right_one(browser: Browser) -> None:
    response = browser.get("/query")
    check_problem(response, 405, "A002", "use POST")
    assert response.headers["allow"] == "POST"
    assert browser.post("/healthz").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("options", "field", "hint"),
    [
        ("format=odt", "format", "not one of"),
        ("format=htm", "format", "did you mean html?"),
        ("download=yes", "download", "must be 0 or 1"),
        ("fromat=html", "fromat", "did you mean format?"),
    ],
)
def test_bad_options_of_documents_are_422(
    browser: Browser, options: str, field: str, hint: str
) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    body = check_problem(browser.get(f"/task/{task}/documents?{options}"), 422, "A002", hint)
    assert body["errors"][0]["field"] == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["query", "format", "language", "priority", "seed", "temperature", "x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(NAMES, JSON) | JSON | st.binary(max_size=50))
def test_any_body_is_answered_with_a_task_or_a_problem(browser: Browser, body: object) -> None:
    try:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate: not JSON that can be sent
        return
    headers = {"Content-Type": "application/json"}
    response = browser.post("/query", content=content, headers=headers)
    if response.status_code in (200, 202):
        assert response.json()["task_id"]
    else:
        assert response.status_code in (400, 422, 503)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"]


# What every exchange gets.


def test_a_good_request_id_comes_back_and_a_bad_one_is_replaced(browser: Browser) -> None:
    good = browser.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"})
    assert good.headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 129, "", "ñ".encode()):
        replaced = browser.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(replaced) == 32
        assert replaced.isalnum()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8002", "127.8.8.8", "[::1]", "[::1]:8002", "LOCALHOST:1"]
)
def test_names_of_this_machine_are_served(browser: Browser, host: str) -> None:
    assert browser.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8002",
        "192.168.1.5",
        "[::2]",
    ],
)
def test_another_host_name_is_421(browser: Browser, host: str) -> None:
    response = browser.get("/healthz", headers={"Host": host})
    check_problem(response, 421, "A001", "does not answer to that name")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example"]
)
def test_a_page_of_another_site_is_403(browser: Browser, model: Scripted, origin: str) -> None:
    clear = browser.post("/api/v1/kv-cache/clear", headers={"Origin": origin})
    check_problem(clear, 403, "A001", "pages of other sites")


def test_a_second_host_header_does_not_help(browser: Browser) -> None:
    headers = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert browser.get("/healthz", headers=headers).status_code == 421


def test_a_page_of_this_machine_is_served(browser: Browser) -> None:
    headers = {"Origin": "http://localhost:3000"}
    assert browser.post("/api/v1/kv-cache/clear", headers=headers).status_code == 200


def test_a_bug_is_500_without_its_trace(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("blatam_kv.bul.reports.Reports.stats", broken)
    with caplog.at_level(logging.ERROR):
        response = browser.get("/stats", headers={"X-Request-ID": "find-me"})
    check_problem(response, 500, "S001", "its log has the reason")
    assert "secret" not in response.text
    assert "find-me" in caplog.text
    assert browser.get("/healthz").status_code == 200


# The other endpoints.


def test_index_health_and_version(browser: Browser) -> None:
    assert browser.get("/healthz").json() == {"status": "ok"}
    version = browser.get("/version").json()
    assert (version["version"], version["model"]) == (VERSION, "scripted")
    assert "POST /query" in browser.get("/").json()["endpoints"]
    assert browser.request("HEAD", "/healthz").content == b""


def test_every_endpoint_of_the_index_is_routed(browser: Browser) -> None:
    for line in browser.get("/").json()["endpoints"]:
        method, path = line.split()
        reply = browser.request(method, path.replace("{id}", "x"))
        assert reply.status_code != 405, line
        assert "nothing is served" not in reply.text, line


def test_stats_health_and_clear_speak_the_originals_words(browser: Browser) -> None:
    browser.finished(browser.ask(query="bread").json()["task_id"])
    browser.ask(query="bread")
    assert {
        *("total_tasks", "completed_tasks", "failed_tasks", "average_processing_time"),
        *("cache_hit_rate", "business_area_distribution"),
    } <= set(browser.get("/stats").json())
    cache = browser.get("/api/v1/kv-cache/stats").json()
    assert {
        *("hit_rate", "miss_rate", "total_requests", "cached_requests", "memory_usage"),
        *("average_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"),
        "throughput_rps",
    } <= set(cache)
    assert (cache["hit_rate"], cache["entries"]) == (0.5, 1)
    health = browser.get("/api/v1/kv-cache/health").json()
    assert health["status"] == "healthy"
    assert set(health["metrics"]) == {"memory_usage", "cache_size", "active_sessions"}
    assert browser.post("/api/v1/kv-cache/clear").json() == {"cleared": 1}
    assert browser.ask(query="bread").status_code == 202


def test_metrics_count_what_happened_and_never_a_path(browser: Browser) -> None:
    task = browser.ask(query="bread").json()["task_id"]
    browser.finished(task)
    browser.ask(query="bread")
    browser.get(f"/task/{task}/documents?format=html")
    browser.get("/some/odd/path")
    browser.request("BREW", "/query")
    response = browser.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert found["kv_cache_requests_total", "hit", "memory"] == 1
    assert found["kv_cache_requests_total", "miss", "none"] == 1
    assert found["kv_cache_entries",] == 1
    assert found["kv_cache_latency_seconds_count",] == 2
    assert found["bul_documents_total", "html", "ok"] == 1
    assert found["bul_stage_duration_seconds_count", "model"] == 1
    http = "http_server_request_duration_seconds_count"
    assert found[http, "/query", "202", "POST"] == 1
    assert found[http, "/task/{id}/documents", "200", "GET"] == 1
    assert found[http, "404", "GET", "unmatched"] == 1
    assert found[http, "/query", "405", "_OTHER"] == 1
    assert "odd" not in response.text
    assert task not in response.text
    assert len(response.text.splitlines()) < 1000
