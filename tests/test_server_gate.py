"""The stages in front of every answer, request by request: who, how often, what, whether."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bul_fakes import Scripted, running
from server_browser import Browser

from blatam_kv.bul.caller import Scope
from blatam_kv.bul.security.audit import AuditLog
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import KeyRing, NewKey
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.master import Master
from blatam_kv.server.bul import create_app, doors
from blatam_kv.server.hosts import Hosts
from blatam_kv.signature import content_digest, sign

BASE = "http://127.0.0.1:8002"
QUERY = json.dumps({"query": "bread"}).encode()


class Site:
    """A service, its keys, its log, and a clock that is set by hand."""

    def __init__(self, browser: Browser, folder: Path, model: Scripted) -> None:
        self.browser = browser
        self.keys = browser.keys
        self.folder = folder
        self.model = model

    def send(
        self, made: NewKey, method: str, path: str, body: bytes | None = None, **options: Any
    ) -> httpx.Response:
        """A signed request. headers: what is changed after signing, None takes one out."""
        changes = options.pop("headers", {})
        sent = options.pop("sent", body)
        headers: dict[str, Any] = sign(
            method,
            BASE + path,
            key_id=made.key.key_id,
            key=made.signing_key,
            body=body,
            **options,
        )
        headers = {name: text for name, text in (headers | changes).items() if text is not None}
        self.browser.key = None
        return self.browser.request(method, path, content=sent, headers=headers)

    def events(self) -> list[dict[str, Any]]:
        """The audit log."""
        return [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]


@contextmanager
def site(*, limit: int | None = None, proxies: tuple[str, ...] = (), **more: Any) -> Iterator[Site]:
    model = Scripted()
    with tempfile.TemporaryDirectory() as name, running(model) as service:
        folder = Path(name)
        keys = KeyRing(folder, Master(bytes(range(32))))
        guard = Guard(
            keys,
            limiter=None if limit is None else Limiter(limit, 60, clock=lambda: 0.0),
            audit=AuditLog(folder),
            count=service.metrics.rejected,
            **more,
        )
        app = create_app(service, guard, proxies=proxies, hosts=Hosts("127.0.0.1", ["bul.example"]))
        with closing(guard):
            yield Site(Browser(app, None, keys), folder, model)


@pytest.fixture
def bul() -> Iterator[Site]:
    with site() as found:
        yield found


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == "A001"
    return body


# ---- who ----------------------------------------------------------------------------------------

OPEN = ("/", "/health", "/healthz", "/readyz", "/version")  # and /openapi.json


def test_what_is_open_needs_no_key(bul: Site) -> None:
    for path in OPEN:
        assert bul.browser.get(path).status_code == 200, path


def test_everything_else_needs_one() -> None:
    with site() as bul, running(Scripted()) as service:
        closed = [door for door in doors(service) if door.scope is not None]
        assert len(closed) >= 24
        for door in closed:
            path = door.path.replace("{id}", "x").replace("{area}", "hr")
            if not door.local:
                response = bul.browser.request(door.method, path, content=b"{}")
                refused(response, 401)
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert "blatam-kv-1" in response.headers["accept-signature"]
        assert {door.path for door in doors(service) if door.scope is None} == set(OPEN)


@pytest.mark.parametrize(
    "header",
    [
        lambda key: {"X-API-Key": key},
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"Authorization": f"bearer {key}"},
    ],
)
def test_an_api_key_is_taken_in_either_header(
    bul: Site, header: Callable[[str], dict[str, str]]
) -> None:
    headers = header(bul.keys.create("acme").api_key)
    assert bul.browser.get("/stats", headers=headers).status_code == 200


def test_a_signed_request_is_served(bul: Site) -> None:
    made = bul.keys.create("acme")
    assert bul.send(made, "POST", "/query", QUERY).status_code == 202
    assert bul.send(made, "GET", "/stats?").status_code == 200


def test_a_signature_is_good_once(bul: Site) -> None:
    made = bul.keys.create("acme")
    options: dict[str, Any] = {"nonce": "n" * 12, "created": int(time.time())}
    assert bul.send(made, "POST", "/query", QUERY, **options).status_code == 202
    refused(bul.send(made, "POST", "/query", QUERY, **options), 401)
    assert bul.events()[-1]["cause"] == "replayed"


WRONG: dict[str, dict[str, Any]] = {
    "malformed_signature": {"headers": {"Signature": "sig1=:AAAA:"}},
    "wrong_signature": {"headers": {"Content-Type": "application/json; charset=utf-8"}},
    "wrong_digest": {"sent": QUERY + b" "},
    "stale": {"created": int(time.time()) - 1000},
    "two_credentials": {"headers": {"X-API-Key": "bkv_x"}},
}


@pytest.mark.parametrize("cause", WRONG)
def test_every_wrong_signature_gets_the_same_answer_and_leaves_nothing(
    bul: Site, cause: str
) -> None:
    made = bul.keys.create("acme")
    body = refused(bul.send(made, "POST", "/query", QUERY, **WRONG[cause]), 401)
    nothing = refused(bul.browser.post("/query", content=QUERY), 401)
    assert {**body, "request_id": ""} == {**nothing, "request_id": ""}
    assert bul.events()[-1]["cause"] == cause
    assert bul.model.calls == []
    assert bul.send(made, "POST", "/query", QUERY).status_code == 202


def test_what_was_signed_before_the_service_started_may_have_been_seen(bul: Site) -> None:
    made = bul.keys.create("acme")
    refused(bul.send(made, "GET", "/stats", created=int(time.time()) - 60), 401)
    assert bul.events()[-1]["cause"] == "stale"


def test_a_signature_that_leaves_the_body_out_is_refused(bul: Site) -> None:
    made = bul.keys.create("acme")
    refused(bul.send(made, "POST", "/query", None, sent=QUERY), 401)
    refused(bul.send(made, "GET", "/stats", None, sent=QUERY), 401)
    assert {event["cause"] for event in bul.events()} == {"malformed_signature"}


def test_a_revoked_key_and_an_unknown_one_look_alike(bul: Site) -> None:
    made = bul.keys.create("acme")
    bul.keys.revoke(made.key.key_id)
    refused(bul.send(made, "GET", "/stats"), 401)
    assert bul.events()[-1]["cause"] == "unknown_key"
    refused(bul.browser.get("/stats", headers={"X-API-Key": made.api_key}), 401)
    assert bul.events()[-1]["cause"] == "bad_api_key"


def test_two_keys_are_one_too_many(bul: Site) -> None:
    key = bul.keys.create("acme").api_key
    headers = {"X-API-Key": key, "Authorization": f"Bearer {key}"}
    refused(bul.browser.get("/stats", headers=headers), 401)


def test_a_key_works_from_its_networks_only(bul: Site) -> None:
    here, there = (
        bul.keys.create("a", networks=("127.0.0.0/8",)),
        bul.keys.create("a", networks=("10.0.0.0/8", "2001:db8::/32")),
    )
    assert bul.send(here, "GET", "/stats").status_code == 200
    refused(bul.send(there, "GET", "/stats"), 401)
    headers = {"X-API-Key": there.api_key, "X-Forwarded-For": "10.1.2.3"}
    refused(bul.browser.get("/stats", headers=headers), 401)
    assert bul.events()[-1]["cause"] == "network"


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("10.1.2.3", 200),
        ("1.2.3.4, 10.1.2.3", 200),
        ("10.1.2.3, 1.2.3.4", 401),  # the first may be the client's own invention
        ("10.1.2.3, 127.0.0.1", 200),
        ("10.1.2.3, nonsense", 401),
        ("", 401),
    ],
)
def test_behind_a_trusted_proxy_the_address_is_the_one_it_names(
    forwarded: str, status: int
) -> None:
    with site(proxies=("127.0.0.0/8",)) as bul:
        key = bul.keys.create("acme", networks=("10.0.0.0/8",)).api_key
        headers = {"X-API-Key": key, "X-Forwarded-For": forwarded}
        assert bul.browser.get("/stats", headers=headers).status_code == status


def test_metrics_are_open_on_this_machine_only(bul: Site) -> None:
    assert bul.browser.get("/metrics").status_code == 200
    for headers in (
        {"X-Forwarded-For": "10.1.2.3"},
        {"Forwarded": "for=10.1.2.3"},
        {"Via": "1.1 proxy"},
        {"Host": "bul.example"},
    ):
        refused(bul.browser.get("/metrics", headers=headers), 401)
    key = bul.keys.create("acme", role="monitor").api_key
    headers = {"Via": "1.1 proxy", "X-API-Key": key}
    assert bul.browser.get("/metrics", headers=headers).status_code == 200


def test_keys_that_cannot_be_read_open_nothing() -> None:
    with site() as bul:
        key = bul.keys.create("acme").api_key
        (bul.folder / "keys.json").write_text("{")
        bul.keys._looked = 0.0
        response = bul.browser.get("/stats", headers={"X-API-Key": key})
        assert response.status_code == 503
        assert bul.browser.get("/healthz").status_code == 200


def test_an_address_that_fails_too_often_is_told_to_wait_but_keys_go_on_working(
    bul: Site,
) -> None:
    good = bul.keys.create("acme").api_key
    statuses = [
        bul.browser.get("/stats", headers={"X-API-Key": "bad"}).status_code for _ in range(35)
    ]
    assert statuses[:30] == [401] * 30
    assert set(statuses[30:]) == {429}
    assert len(bul.events()) == 30
    assert bul.browser.get("/stats", headers={"X-API-Key": good}).status_code == 200


# ---- how often ----------------------------------------------------------------------------------


def test_the_limit_is_a_tenants_and_told_in_every_answer() -> None:
    with site(limit=2) as bul:
        one, two = bul.keys.create("acme").api_key, bul.keys.create("acme").api_key
        other = bul.keys.create("other").api_key
        first = bul.browser.get("/stats", headers={"X-API-Key": one})
        assert first.headers["ratelimit-policy"] == '"read";q=2;w=60'
        assert first.headers["ratelimit"] == '"read";r=1;t=30'
        assert bul.browser.get("/stats", headers={"X-API-Key": two}).status_code == 200
        third = bul.browser.get("/stats", headers={"X-API-Key": one})
        assert third.status_code == 429
        assert third.headers["retry-after"] == "30"
        assert third.json()["type"].endswith("#quota-exceeded")
        assert bul.browser.get("/stats", headers={"X-API-Key": other}).status_code == 200
        # Reading does not use up what writing may.
        asked = bul.browser.post("/query", content=b"", headers={"X-API-Key": one})
        assert asked.status_code == 415


def test_a_key_may_have_a_limit_of_its_own() -> None:
    with site(limit=1) as bul:
        key = bul.keys.create("acme", rate=3).api_key
        statuses = [
            bul.browser.get("/stats", headers={"X-API-Key": key}).status_code for _ in range(4)
        ]
    assert statuses == [200, 200, 200, 429]


# ---- whether ------------------------------------------------------------------------------------


def test_a_role_opens_its_doors_and_no_others(bul: Site) -> None:
    allowed = {
        "writer": {"/query", "/stats", "/task/x/status"},
        "reader": {"/task/x/status"},
        "monitor": {"/stats"},
        "admin": {"/query", "/stats", "/task/x/status", "/api/v1/kv-cache/clear"},
    }
    for role, paths in allowed.items():
        headers = {"X-API-Key": bul.keys.create("acme", role=role).api_key}
        for path in allowed["admin"]:
            post = path in ("/query", "/api/v1/kv-cache/clear")
            options: dict[str, Any] = {"json": {"query": role}} if post else {}
            response = bul.browser.request(
                "POST" if post else "GET", path, headers=headers, **options
            )
            assert (response.status_code != 403) == (path in paths), (role, path)
    while len(bul.model.calls) < 2:  # a writer's thread begins when it likes
        pass
    assert sorted(bul.model.calls) == ["admin", "writer"]
    causes = [event["cause"] for event in bul.events() if event["event"] == "refused"]
    assert set(causes) == {"scope"}


def test_the_stages_come_in_the_order_they_were_drawn_in() -> None:
    with site(limit=1) as bul:
        key = {"X-API-Key": bul.keys.create("acme", role="monitor").api_key}
        wrong = {"content": b"not json", "headers": key | {"Content-Type": "application/json"}}
        # Sanitisation before access, the limit before both, authentication before all.
        assert bul.browser.post("/query", **wrong).status_code == 400
        assert bul.browser.post("/query", **wrong).status_code == 429
        assert bul.browser.post("/query", content=b"not json").status_code == 401


# ---- tenants ------------------------------------------------------------------------------------


def test_a_tenant_sees_neither_answers_nor_tasks_of_another(bul: Site) -> None:
    ours, theirs = ({"X-API-Key": bul.keys.create(name).api_key} for name in ("ours", "theirs"))
    task = bul.browser.post("/query", json={"query": "bread"}, headers=ours).json()["task_id"]
    while bul.browser.get(f"/task/{task}/status", headers=ours).json()["status"] != "completed":
        pass
    assert bul.browser.get(f"/task/{task}/status", headers=theirs).status_code == 404
    assert bul.browser.get(f"/task/{task}/documents", headers=theirs).status_code == 404
    again = bul.browser.post("/query", json={"query": "bread"}, headers=theirs)
    assert again.headers["cache-status"].startswith('blatam-kv; fwd=miss; key="')
    status = f"/task/{again.json()['task_id']}/status"
    while bul.browser.get(status, headers=theirs).json()["status"] != "completed":
        pass  # at its end a task is counted a moment before it stops being unfinished
    assert bul.browser.post("/query", json={"query": "bread"}, headers=ours).status_code == 200
    assert bul.browser.get("/stats", headers=theirs).json()["total_tasks"] == 1
    assert bul.browser.get("/stats", headers=ours).json()["total_tasks"] == 2


def test_no_secret_reaches_the_log_or_the_metrics(bul: Site) -> None:
    made = bul.keys.create("acme")
    bul.send(made, "POST", "/query", QUERY, sent=QUERY + b"x")
    bul.browser.get("/stats", headers={"X-API-Key": made.api_key + "x"})
    text = (bul.folder / "audit.log").read_text() + bul.browser.get("/metrics").text
    for secret in (made.api_key, made.api_key[-43:], made.signing_key.hex(), "acme", "bread"):
        assert secret not in text
    assert 'bul_rejected_total{reason="wrong_digest",stage="authentication"} 1.0' in text


def test_the_right_to_administer_implies_the_others() -> None:
    with site() as bul:
        known = bul.keys.by_api_key(bul.keys.create("acme", role="admin").api_key)
        assert known is not None
        assert all(known.caller.may(scope) for scope in Scope)


def test_a_digest_of_another_body_of_the_same_length_is_refused(bul: Site) -> None:
    made = bul.keys.create("acme")
    other = json.dumps({"query": "beard"}).encode()
    assert len(other) == len(QUERY)
    refused(bul.send(made, "POST", "/query", QUERY, sent=other), 401)
    change = {"headers": {"Content-Digest": content_digest(other)}, "sent": other}
    refused(bul.send(made, "POST", "/query", QUERY, **change), 401)


# ---- the document of all this -------------------------------------------------------------------


def test_the_interface_is_described_as_it_is(bul: Site) -> None:
    document = bul.browser.get("/openapi.json").json()
    with running(Scripted()) as service:
        for door in doors(service):
            operation = document["paths"][re.sub(r":\w+}", "}", door.path)][door.method.lower()]
            assert operation["summary"].endswith((".", "not."))
            assert ("security" in operation) == (door.scope is not None)
    query = document["components"]["schemas"]["QueryRequest"]
    assert query["required"] == ["query"]
    assert {"format", "priority", "company_name"} <= set(query["properties"])
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(names) == len(set(names))
    text = json.dumps(document)
    assert all(
        f'"{name}"' in text
        for name in (reference.rpartition("/")[2] for reference in references(document))
    )


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
