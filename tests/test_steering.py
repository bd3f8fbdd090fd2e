"""Pins and the policy of a running service: who may, what it comes to, and that nothing is lost by it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bul_fakes import Scripted, asked_task, finished_task, running, until
from server_browser import Browser, browsing
from test_server_gate import Site, site
from test_server_process import serving

from blatam_kv.bul import steering
from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.steering import CannotPin, Change
from blatam_kv.bul.storage import open_storage
from blatam_kv.bul.tasks import UnknownDocument
from blatam_kv.cli import main
from blatam_kv.config import STRATEGIES
from blatam_kv.errors import InvalidRequest

PINS, POLICY = "/cache/pins", "/api/v1/kv-cache/policy"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing(Scripted()) as browser:
        yield browser


def written(browser: Browser, query: str) -> str:
    """The id of a document that is there, in the cache and in the database."""
    status = browser.finished(browser.ask(query=query).json()["task_id"])
    document: str = status["documents"][0]["document_id"]
    until(lambda: browser.get(f"/documents/{document}").status_code == 200)
    return document


def ask(service: Service, query: str, caller: Caller = ITSELF) -> str:
    """The same of a service that is asked in process."""
    request = parse_request({"query": query})
    order = service.place(request, caller)
    task = service.answer_from_cache(order, request) or service.enqueue(order, request)
    until(lambda: service.task(task.id, tenant=caller.tenant).is_finished)
    answer = service.task(task.id, tenant=caller.tenant).answer
    assert answer is not None
    service._recorder.flush()
    return answer.id


# ---- pins ---------------------------------------------------------------------------------------


def test_a_pinned_answer_stays_when_everything_else_has_left() -> None:
    model = Scripted()
    with running(model, cache_max_memory_mb=1, cache_strategy="lru") as service:
        pinned = ask(service, "keep me")
        answer = service.steering.pin(pinned, tenant="local")
        assert answer.id == pinned
        model.text = "# Large\n\n" + "x" * 100_000
        for number in range(20):
            ask(service, f"large {number}")
        assert service.reports.cache_snapshot().evictions["capacity"] > 5
        calls = len(model.calls)
        assert ask(service, "keep me") == pinned
        assert len(model.calls) == calls
        assert service.steering.unpin(pinned, tenant="local")
        for number in range(20, 40):
            ask(service, f"large {number}")
        assert ask(service, "keep me") != pinned


def test_what_is_pinned_is_shown_with_its_bytes(browser: Browser) -> None:
    bread, cake = written(browser, "bread"), written(browser, "cake")
    for _ in range(2):  # twice is once
        for document in (bread, cake):
            assert browser.request("PUT", f"{PINS}/{document}").status_code == 200
    shown = browser.get(PINS).json()
    assert [each["document_id"] for each in shown["pins"]] == [cake, bread]
    assert all(each["title"] == "Document" for each in shown["pins"])
    assert shown["pinned"] == 2
    assert shown["bytes"] == sum(each["bytes"] for each in shown["pins"]) > 600
    assert shown["limit_bytes"] == 128 << 20
    assert f"kv_cache_pinned_bytes {shown['bytes']:.1f}" in browser.get("/metrics").text
    assert browser.request("DELETE", f"{PINS}/{bread}").status_code == 204
    assert browser.request("DELETE", f"{PINS}/{bread}").status_code == 404
    assert [each["document_id"] for each in browser.get(PINS).json()["pins"]] == [cake]


def test_no_tenant_pins_unpins_or_sees_what_is_another_s(browser: Browser) -> None:
    document = written(browser, "bread")
    browser.request("PUT", f"{PINS}/{document}")
    mine, browser.key = browser.key, browser.keys.create("globex", role="admin").api_key
    assert browser.request("PUT", f"{PINS}/{document}").status_code == 404
    assert browser.request("DELETE", f"{PINS}/{document}").status_code == 404
    theirs = browser.get(PINS).json()
    assert theirs["pins"] == []
    assert theirs["pinned"] == 1  # an administrator may know how full the cache is
    browser.key = mine
    assert len(browser.get(PINS).json()["pins"]) == 1


def test_an_answer_that_is_not_in_memory_cannot_be_pinned(browser: Browser) -> None:
    document = written(browser, "bread")
    browser.post("/api/v1/kv-cache/clear")
    refused = browser.request("PUT", f"{PINS}/{document}")
    assert refused.status_code == 409
    assert "ask for it again" in refused.json()["detail"]
    assert browser.request("PUT", f"{PINS}/nonsense").status_code == 404


def test_pins_leave_half_of_the_cache_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted()
    with running(model, cache_max_memory_mb=1) as service:
        model.text = "# Large\n\n" + "x" * 200_000
        documents = [ask(service, f"large {number}") for number in range(4)]
        for document in documents[:2]:
            service.steering.pin(document, tenant="local")
        with pytest.raises(CannotPin, match="524,288; unpin one"):
            service.steering.pin(documents[2], tenant="local")
        service.steering.pin(documents[0], tenant="local")  # it is already
        assert service.steering.pins(tenant="local").pinned == 2
        service.steering.unpin(documents[0], tenant="local")
        monkeypatch.setattr(steering, "MOST_PINS", 1)
        with pytest.raises(CannotPin, match="there may be 1 with"):
            service.steering.pin(documents[2], tenant="local")


def test_a_pin_ends_with_its_answer(browser: Browser) -> None:
    document = written(browser, "bread")
    browser.request("PUT", f"{PINS}/{document}")
    browser.post("/api/v1/kv-cache/clear")
    assert browser.get(PINS).json()["pins"] == []
    again = written(browser, "bread")
    assert again != document
    assert browser.get(PINS).json()["pinned"] == 0


def test_pins_and_answers_outlive_a_restart_and_a_policy_does_not(tmp_path: Path) -> None:
    model = Scripted()
    options: dict[str, Any] = {"data_dir": tmp_path, "cache_strategy": "lru"}
    archive = (
        f"sqlite:///{tmp_path / 'bul.db'}"  # in memory its rows would be gone with the service
    )
    with running(model, archive=open_storage(archive), **options) as service:
        documents = [ask(service, f"plan {number}") for number in range(5)]
        service.steering.pin(documents[3], tenant="local")
        service.steering.change_policy("tinylfu")
        assert service.reports.cache_snapshot().policy == "tinylfu"
        for number in range(5):
            ask(service, f"plan {number}")
    calls = len(model.calls)
    with running(model, archive=open_storage(archive), **options) as service:
        assert [ask(service, f"plan {number}") for number in range(5)] == documents
        assert len(model.calls) == calls
        assert service.steering.policy == "lru"
        pins = service.steering.pins(tenant="local")
        assert [answer.id for answer in pins.mine] == [documents[3]]
        assert service.steering.unpin(documents[3], tenant="local")


def test_answers_outside_the_database_are_nobody_s(browser: Browser) -> None:
    """What was never recorded for a tenant cannot be pinned by knowing its id."""
    stray = finished_task(asked_task("stray")).answer
    assert stray is not None
    browser.service.pipeline.cache.put(b"x" * 32, stray)
    with pytest.raises(UnknownDocument):
        browser.service.steering.pin(stray.id, tenant="acme")


# ---- the policy ---------------------------------------------------------------------------------


def test_the_policy_is_shown_changed_and_told(browser: Browser) -> None:
    assert browser.get(POLICY).json() == {
        "policy": "adaptive",
        "configured": "adaptive",
        "policies": list(STRATEGIES),
    }
    documents = {written(browser, query) for query in ("bread", "cake")}
    changed = browser.request("PUT", f"{POLICY}/lfu").json()
    assert (changed["policy"], changed["before"]) == ("lfu", "adaptive")
    assert browser.get(POLICY).json()["policy"] == "lfu"
    assert browser.get("/api/v1/kv-cache/stats").json()["strategy"] == "lfu"
    assert 'kv_cache_policy_info{policy="lfu"} 1.0' in browser.get("/metrics").text
    assert '"strategy":"lfu"' in browser.get("/api/v1/events?count=1").text
    hits = {
        browser.ask(query=query).json()["documents"][0]["document_id"]
        for query in ("bread", "cake")
    }
    assert hits == documents
    assert browser.request("PUT", f"{POLICY}/lfu").json()["seconds"] == 0.0


def test_a_policy_that_is_none_is_refused_by_its_name(browser: Browser) -> None:
    refused = browser.request("PUT", f"{POLICY}/lruu")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "policy"
    assert "did you mean lru?" in refused.json()["detail"]
    with pytest.raises(InvalidRequest):
        browser.service.steering.change_policy("")
    assert browser.service.steering.policy == "adaptive"


def test_each_policy_has_the_evictions_that_were_its_own() -> None:
    model = Scripted()
    with running(model, cache_max_memory_mb=1, cache_strategy="lru") as service:
        model.text = "# Large\n\n" + "x" * 200_000
        for number in range(8):
            ask(service, f"first {number}")
        first = service.reports.cache_snapshot().evictions["capacity"]
        done = service.steering.change_policy("fifo")
        assert done == Change(policy="fifo", before="lru", seconds=done.seconds)
        for number in range(3):
            ask(service, f"second {number}")
        service.steering.change_policy("lru")
        for number in range(2):
            ask(service, f"third {number}")
        now = service.reports.cache_snapshot()
        each = {name: counts["capacity"] for name, counts in now.evictions_by_policy.items()}
        assert each == {"lru": first + 2, "fifo": 3}
        assert sum(each.values()) == now.evictions["capacity"]
        text = service.metrics.expose()[0].decode()
        assert f'kv_cache_evictions_total{{policy="lru",reason="capacity"}} {first + 2}.0' in text


def test_hits_are_answered_while_policies_change_and_pins_come_and_go(tmp_path: Path) -> None:
    model = Scripted()
    archive = f"sqlite:///{tmp_path / 'bul.db'}"
    settings: dict[str, Any] = {"data_dir": tmp_path, "cache_strategy": "lru"}
    with running(model, archive=open_storage(archive), **settings) as service:
        documents = {query: ask(service, query) for query in ("one", "two", "three", "four")}
        calls, stop, wrong = len(model.calls), threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                for query, document in documents.items():
                    request = parse_request({"query": query})
                    task = service.answer_from_cache(service.place(request), request)
                    if task is None or task.answer is None or task.answer.id != document:
                        wrong.append((query, task))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for _ in range(3):
            for policy in STRATEGIES:
                service.steering.change_policy(policy)
                service.steering.pin(documents["one"], tenant="local")
                service.steering.unpin(documents["one"], tenant="local")
        stop.set()
        for reader in readers:
            reader.join()
        assert wrong == []
        assert len(model.calls) == calls
        assert service.steering.pins(tenant="local").pinned == 0


# ---- who may ------------------------------------------------------------------------------------

CHANGES = (("PUT", f"{PINS}/x"), ("DELETE", f"{PINS}/x"), ("PUT", f"{POLICY}/lfu"))
LOOKS = (("GET", PINS), ("GET", POLICY))


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_only_administrators_may(browser: Browser, role: str) -> None:
    browser.key = browser.keys.create("acme", role=role).api_key
    for method, path in (*CHANGES, *LOOKS):
        assert browser.request(method, path).status_code == 403, (method, path)
    assert browser.service.steering.policy == "adaptive"


def test_a_page_elsewhere_cannot_make_an_administrator_s_browser_do_it(browser: Browser) -> None:
    begun = browser.post("/api/v1/session")
    cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    browser.key = None
    for method, path in CHANGES:
        assert browser.request(method, path, headers=cookie).status_code == 401
        forged = cookie | {"X-CSRF-Token": "0" * 64}
        assert browser.request(method, path, headers=forged).status_code == 401
    assert browser.service.steering.policy == "adaptive"
    token = cookie | {"X-CSRF-Token": begun.json()["csrf_token"]}
    assert browser.request("PUT", f"{POLICY}/lfu", headers=token).status_code == 200


def test_what_administrators_do_is_written_down() -> None:
    with site() as bul:
        made = bul.keys.create("acme", role="admin")

        def send(method: str, path: str) -> httpx.Response:
            return bul.send(made, method, path, b"" if method in ("PUT", "POST") else None)

        assert send("PUT", f"{POLICY}/lfu").status_code == 200
        assert send("POST", "/api/v1/kv-cache/clear").status_code == 200
        assert send("GET", POLICY).status_code == 200  # looking is no deed
        noted = [event for event in events(bul) if event["event"] == "administered"]
        assert [(event["method"], event["path"]) for event in noted] == [
            ("PUT", f"{POLICY}/lfu"),
            ("POST", "/api/v1/kv-cache/clear"),
        ]
        assert {event["tenant"] for event in noted} == {"acme"}
        assert {event["key_id"] for event in noted} == {made.key.key_id}


def events(bul: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bul.folder / "audit.log").read_text().splitlines()]


# ---- from the command line ----------------------------------------------------------------------


def test_the_command_line_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(data_dir=tmp_path) as (_, client):
        asked = {"query": "Plan de negocio", "max_length": 40}
        client.document(asked)
        task = client.request("POST", "/query", asked).json()
        document = task["documents"][0]["document_id"]

        def run(*arguments: str) -> str:
            place = ["--url", client.url, "--data-dir", str(tmp_path)]
            assert main([*arguments, *place]) == 0
            return capsys.readouterr().out

        assert run("policy").startswith("adaptive (the settings say adaptive)\nthere are lru, lfu")
        assert run("policy", "s3fifo").startswith("s3fifo decides, adaptive did; changed in ")
        assert json.loads(run("policy", "--json"))["policy"] == "s3fifo"
        assert run("pins") == "0 pinned in all, 0 of 134,217,728 bytes\n"
        assert run("pins", "--add", document).startswith("pinned '")
        assert document in run("pins")
        assert run("pins", "--remove", document) == f"unpinned {document}\n"
        place = ["--url", client.url, "--data-dir", str(tmp_path)]
        assert main(["pins", "--remove", document, *place]) == 1
        assert "no answer of yours is pinned" in capsys.readouterr().err
        assert main(["policy", "nonsense", *place]) == 1
        assert "must be one of lru, lfu" in capsys.readouterr().err
