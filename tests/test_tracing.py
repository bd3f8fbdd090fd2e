"""Traces: what spans a request has, what they tell and what never, and that off is off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bul_fakes import Scripted, until
from endpoint_fake import MODEL, endpoint
from gateway_servers import gateway, system
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from otlp_server import collector
from server_browser import Browser, browsing
from test_server_process import serving

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.storage import open_storage
from blatam_kv.config import Settings
from blatam_kv.errors import ConfigError, MissingExtra, ModelError
from blatam_kv.server.traced import Traced
from blatam_kv.tracing import carried, current, open_tracing, span, under
from blatam_kv.tracing.otel import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
QUERY = {"query": "Plan de negocio para una zanahoria"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "¿Qué es una zanahoria?"}]}


class Traces:
    """The face of a service whose spans stay in memory."""

    def __init__(self, browser: Browser, model: Scripted, exporter: InMemorySpanExporter) -> None:
        self.browser, self.model, self._exporter = browser, model, exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, name: str) -> ReadableSpan:
        """The one span of that name, as soon as it is there."""
        until(lambda: any(each.name == name for each in self.spans))
        (found,) = (each for each in self.spans if each.name == name)
        return found

    def below(self, parent: ReadableSpan) -> set[str]:
        """The names of its children."""
        return {each.name for each in self.spans if each.parent == parent.get_span_context()}

    def forget(self) -> None:
        self._exporter.clear()


@contextmanager
def traced(model: Scripted | None = None, **settings: Any) -> Iterator[Traces]:
    model, exporter = model or Scripted(), InMemorySpanExporter()
    tracing = Tracing("bul", version="1", processor=SimpleSpanProcessor(exporter))
    with browsing(model, resumed=tracing.resumed, **settings) as browser:
        browser.app = Traced(browser.app, tracing)
        yield Traces(browser, model, exporter)
    tracing.close()


def attributes(found: ReadableSpan) -> dict[str, Any]:
    return dict(found.attributes or {})


# ---- what a request's trace is made of ----------------------------------------------------------


def test_a_miss_is_followed_from_its_door_through_the_queue_to_the_model_and_back() -> None:
    with traced() as traces:
        asked = traces.browser.post("/query", json=QUERY, headers=CALLER)
        traces.browser.finished(asked.json()["task_id"])
        request, wrote = traces.of("POST /query"), traces.of("write")
        call = traces.of("chat scripted")
        ours = [each for each in traces.spans if f"0x{TRACE}" in each.to_json()]
        assert request.kind is SpanKind.SERVER
        assert request.parent is not None
        assert request.parent.span_id == int(PARENT, 16)
        assert traces.below(request) == {
            *("authenticate", "limit", "sanitise", "authorise"),
            *("cache.lookup", "queue.wait", "write"),
        }
        assert traces.below(wrote) == {"chat scripted"}
        assert {each.name for each in ours} == {
            *traces.below(request),
            *("POST /query", "chat scripted"),
        }
        assert attributes(request) == {
            "http.request.method": "POST",
            "http.route": "/query",
            "http.response.status_code": 202,
            "network.protocol.version": "1.1",
            "url.path": "/query",
            "url.scheme": "http",
        }
        assert attributes(traces.of("cache.lookup"))["blatam_kv.cache.hit"] is False
        told = attributes(call)
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.provider.name"] == "mini"
        assert told["gen_ai.request.model"] == "scripted"
        assert told["gen_ai.usage.input_tokens"] > told["gen_ai.usage.output_tokens"] == 7
        assert told["gen_ai.usage.cache_read.input_tokens"] == 0
        assert told["gen_ai.response.finish_reasons"] == ("stop",)
        for each in ours:
            assert each.start_time is not None
            assert each.end_time is not None
            assert request.start_time is not None
            assert request.start_time - 1_000_000 <= each.start_time <= each.end_time, each.name


def test_a_hit_has_no_span_of_a_model() -> None:
    with traced() as traces:
        traces.browser.post("/v1/chat/completions", json=CHAT)
        traces.of("chat scripted")
        traces.forget()
        traces.browser.post("/v1/chat/completions", json=CHAT)
        request = traces.of("POST /v1/chat/completions")
        assert request.parent is None
        assert traces.below(request) == {
            *("authenticate", "limit", "sanitise", "authorise", "cache.lookup")
        }
        assert attributes(traces.of("cache.lookup"))["blatam_kv.cache.hit"] is True


def test_answers_that_are_kept_on_disk_and_read_from_there_say_so(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cache_persistence": True, "cache_persistence_path": tmp_path / "c"}
    with traced(**settings) as traces:
        traces.browser.post("/v1/chat/completions", json=CHAT)
        assert "cache.store" in traces.below(traces.of("write"))
        assert any(each.name == "disk.get" for each in traces.spans)


def test_rendering_has_a_span_under_the_request_that_wanted_it() -> None:
    with traced() as traces:
        task = traces.browser.post("/query", json=QUERY).json()["task_id"]
        traces.browser.finished(task)
        traces.browser.get(f"/task/{task}/documents?format=html&download=1")
        request = traces.of("GET /task/{id}/documents")
        assert traces.of("render").parent == request.get_span_context()
        assert attributes(traces.of("render"))["blatam_kv.format"] == "html"
        assert attributes(request)["url.path"] == f"/task/{task}/documents"


def test_no_span_holds_a_word_of_a_prompt_or_an_answer_or_who_asked() -> None:
    with traced() as traces:
        task = traces.browser.post("/query", json=QUERY).json()["task_id"]
        traces.browser.finished(task)
        traces.browser.get(f"/task/{task}/documents?format=txt")
        traces.browser.get("/search?query=zanahoria")
        traces.browser.post("/v1/chat/completions", json=CHAT | {"stream": True})
        traces.browser.post("/v1/chat/completions", json={"messages": "zanahoria"})
        traces.model.error = ModelError("no word of a zanahoria")
        traces.browser.post("/v1/chat/completions", json=CHAT | {"seed": 1})
        until(lambda: [each.name for each in traces.spans].count("chat scripted") == 3)
        text = json.dumps([json.loads(each.to_json()) for each in traces.spans])
        for word in ("zanahoria", "Detail", "acme", traces.browser.key):
            assert word is not None
            assert word not in text, word


def test_what_fails_says_the_kind_of_it() -> None:
    with traced() as traces:
        traces.model.error = ModelError("secret words")
        assert traces.browser.post("/v1/chat/completions", json=CHAT).status_code == 503
        call, request = traces.of("chat scripted"), traces.of("POST /v1/chat/completions")
        assert call.status.status_code is request.status.status_code is StatusCode.ERROR
        assert attributes(call)["error.type"] == "ModelError"
        assert attributes(request)["error.type"] == "503"
        traces.forget()
        assert traces.browser.get("/task/none/status").status_code == 404
        assert traces.of("GET /task/{id}/status").status.status_code is StatusCode.UNSET


def test_probes_and_scrapes_have_no_trace() -> None:
    with traced() as traces:
        for path in ("/healthz", "/readyz", "/health", "/metrics"):
            assert traces.browser.get(path).status_code == 200
        assert traces.spans == []


def test_who_joins_a_writing_has_no_second_one() -> None:
    with traced() as traces:
        traces.browser.service.pause()
        first, second = (traces.browser.post("/query", json=QUERY) for _ in range(2))
        traces.browser.service.go_on()
        for each in (first, second):
            traces.browser.finished(each.json()["task_id"])
        wrote = traces.of("write")
        requests = [each for each in traces.spans if each.name == "POST /query"]
        assert len(requests) == 2
        assert wrote.parent == requests[0].get_span_context()


# ---- sampling and carrying ----------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [True, False])
def test_a_task_that_another_process_goes_on_with_stays_in_its_trace(
    tmp_path: Path, sampled: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    caller = CALLER | {"traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}"}
    archive = open_storage(url)
    with traced(archive=archive, continuous_mode=False) as before:  # nothing is written
        asked = before.browser.post("/query", json=QUERY, headers=caller)
        asked = asked.json()["task_id"]
        quiet = before.browser.post("/query", json={"query": "Sin traza"}).json()["task_id"]
    archive = open_storage(url)
    with traced(archive=archive) as after:
        for task in (asked, quiet):
            after.browser.finished(task)
        of_asked = [each for each in after.spans if f"0x{TRACE}" in each.to_json()]
        if not sampled:
            assert of_asked == []
            return
        (resumed,) = (each for each in of_asked if each.name == "resume")
        assert resumed.parent is not None
        assert resumed.parent.trace_id == int(TRACE, 16)
        assert after.below(resumed) == {"queue.wait", "write"}
        assert {"write", "chat scripted"} <= {each.name for each in of_asked}


def test_a_trace_that_is_not_sampled_is_not_recorded_but_carried_on() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("bul", version="1", processor=SimpleSpanProcessor(exporter))
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    with under(tracing.request("GET", unsampled, {})) as request:
        assert request is not None
        with span("inside") as inside:
            assert inside is request
            assert carried()["traceparent"].startswith(f"00-{TRACE}-")
            assert carried()["traceparent"].endswith("-00")
        request.past("over", 0.0, 1.0)
    request.end()
    assert exporter.get_finished_spans() == ()
    tracing.close()


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": "00-zz"}, {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}]
)
def test_a_request_without_a_parent_that_can_be_read_begins_a_trace(headers: Any) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("bul", version="1", processor=SimpleSpanProcessor(exporter))
    tracing.request("GET", headers, {}).end()
    (found,) = exporter.get_finished_spans()
    assert found.parent is None
    tracing.close()


def test_an_error_ends_a_span_and_the_one_before_holds_again() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("bul", version="1", processor=SimpleSpanProcessor(exporter))
    outer = tracing.request("GET", CALLER, {})
    with under(outer):
        with pytest.raises(ValueError, match="words"), span("inside"):
            int("words")
        with span("also inside"):
            assert current() is not outer
        assert current() is outer
        assert carried()["tracestate"] == "vendor=1"
    assert current() is None
    inside, other = exporter.get_finished_spans()
    assert other.status.status_code is StatusCode.UNSET
    assert inside.status.status_code is StatusCode.ERROR
    assert (inside.attributes or {})["error.type"] == "ValueError"
    tracing.close()


# ---- off, and how it is turned on ---------------------------------------------------------------


def test_without_a_trace_nothing_is_made_and_nothing_is_carried() -> None:
    with span("one") as one:
        assert one is None
    assert span("one") is span("two")
    assert current() is None
    assert carried() == {}


def test_a_service_that_does_not_trace_loads_nothing_of_it() -> None:
    program = "import sys, blatam_kv.server.bul, blatam_kv.gateway.serve, blatam_kv.server.serve\n"
    program += "print([name for name in sys.modules if 'opentelemetry' in name])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"blatam-kv\[otel\]"):
        open_tracing("bul", version="1")


def test_a_protocol_that_is_not_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="must be http/protobuf, not 'grpc'"):
        open_tracing("bul", version="1")


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "bul"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,x=y"}, "theirs"),
    ],
)
def test_the_usual_variables_name_the_service(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str
) -> None:
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    exporter = InMemorySpanExporter()
    tracing = Tracing("bul", version="1.2", processor=SimpleSpanProcessor(exporter))
    tracing.request("GET", {}, {}).end()
    (found,) = exporter.get_finished_spans()
    assert found.resource.attributes["service.name"] == name
    assert found.resource.attributes["service.version"] == "1.2"
    tracing.close()


# ---- all of it, over the wire -------------------------------------------------------------------


def test_one_trace_leads_through_the_gateway_and_bul_to_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with collector() as taken, endpoint() as fake:
        monkeypatch.setenv("BUL_OTEL", "true")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taken.url)
        flags = (
            "--model",
            "openai",
            "--openai-base-url",
            fake.url,
            "--openai-model",
            MODEL,
        )
        folder = tmp_path / "data"
        with (
            serving(*flags, data_dir=folder) as (_, client),
            system(tmp_path, "gamma") as gamma,
            gateway(tmp_path, {"bul": {"url": client.url}, "gamma": {"url": gamma}}) as gate,
        ):
            echoed = gate.get("/api/v1/gamma/echo", headers=CALLER).json()["headers"]
            (carried_on,) = (value for name, value in echoed if name == "traceparent")
            assert carried_on.startswith(f"00-{TRACE}-")
            assert PARENT not in carried_on  # it is the gateway's, in place of the caller's
            key = open_keys(Settings(data_dir=folder)).create("acme", role="admin").api_key
            answer = httpx.post(
                f"{gate.url}/api/v1/bul/v1/chat/completions",
                json=CHAT,
                headers={"X-API-Key": key, **CALLER},
                trust_env=False,
                timeout=60,
            )
            assert answer.status_code == 200, answer.text

            def named(service: str, name: str) -> Callable[[Any], bool]:
                return lambda each: (each.service, each.name) == (service, name)

            entry = taken.wait_for(named("blatam-kv-gateway", "POST /api/v1/bul/{path}"))
            passed = taken.wait_for(named("blatam-kv-gateway", "POST"))
            request = taken.wait_for(named("blatam-kv", "POST /v1/chat/completions"))
            wrote = taken.wait_for(named("blatam-kv", "write"))
            call = taken.wait_for(named("blatam-kv", f"chat {MODEL}"))
        chain = (entry, passed, request, wrote, call)
        assert {each.trace for each in chain} == {TRACE}
        assert [each.parent for each in chain] == [PARENT, *(each.id for each in chain[:-1])]
        assert passed.attributes["http.response.status_code"] == 200
        assert call.attributes["gen_ai.usage.cache_read.input_tokens"] == 32
        assert call.kind == 3  # a client's
        (asked,) = fake.asked("/v1/chat/completions")
        found = {name.lower(): value for name, value in asked.headers.items()}
        assert found["traceparent"] == f"00-{TRACE}-{call.id}-01"
        assert taken.paths == {"/v1/traces"}


def test_what_is_left_is_sent_when_a_service_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with collector() as taken:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taken.url)
        with serving(BUL_OTEL="true") as (process, client):
            client.request("GET", "/stats")
            assert taken.spans == []
            process.terminate()
            assert process.wait(60) == 0
        assert taken.wait_for(lambda each: each.name == "GET /stats")
