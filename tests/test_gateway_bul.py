"""BUL behind the gateway: keys and signatures arrive untouched, or are made anew, and nobody becomes
somebody else on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_servers import Gateway, gateway, system
from nginx_server import free_port, nginx
from test_server_process import serving

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.security.keys import NewKey
from blatam_kv.cli.nginx import nginx as configuration
from blatam_kv.client import Client
from blatam_kv.config import Settings
from blatam_kv.signature import sign

BUL = "/api/v1/bul"
QUERY = json.dumps({"query": "Plan de negocio", "max_length": 40}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def bul(folder: Path) -> Iterator[Client]:
    with serving(data_dir=folder / "data", BUL_TRUSTED_PROXIES="127.0.0.1") as (_, client):
        yield client


@pytest.fixture(scope="module")
def gate(bul: Client, folder: Path) -> Iterator[Gateway]:
    """A gateway with the data directory of BUL, so with its keys; "signed" is the same BUL, asked
    with the gateway's own key."""
    keys = open_keys(Settings(data_dir=folder / "data"))
    own = keys.create("gateway")
    file = folder / "own.key"
    file.write_text(own.signing_key.hex())
    signed = {
        "url": bul.url,
        "credentials": "sign",
        "key_id": own.key.key_id,
        "key_file": str(file),
        "path": "/signed",
    }
    with system(folder, "gamma") as gamma:
        systems = {
            "bul": {"url": bul.url},
            "bare": {"url": bul.url, "path": "/bare", "credentials": "keep"},
            "signed": signed,
            "gamma": {"url": gamma},
        }
        with gateway(folder, systems) as found:
            yield found


@pytest.fixture(scope="module")
def writer(gate: Gateway) -> NewKey:
    return gate.keys.create("acme", role="writer")


def signed(
    gate: Gateway, key: NewKey, method: str, path: str, body: bytes | None = None
) -> httpx.Response:
    headers = sign(method, gate.url + path, key_id=key.key.key_id, key=key.signing_key, body=body)
    return gate.client.request(method, path, content=body, headers=headers)


def finished(gate: Gateway, key: NewKey, task: dict[str, str], base: str = BUL) -> dict[str, str]:
    while task["status"] in ("queued", "processing"):
        task = signed(gate, key, "GET", f"{base}/task/{task['task_id']}/status").json()
    assert task["status"] == "completed", task
    return task


def test_what_a_client_signed_arrives_as_it_signed_it(gate: Gateway, writer: NewKey) -> None:
    answer = signed(gate, writer, "POST", f"{BUL}/query", QUERY)
    assert answer.status_code in (200, 202), answer.text
    finished(gate, writer, answer.json())
    again = signed(gate, writer, "POST", f"{BUL}/query", QUERY)
    assert "; hit" in again.headers["cache-status"]
    assert again.headers["via"].startswith("1.1 blatam-")


def test_a_signature_for_another_path_or_body_opens_nothing(gate: Gateway, writer: NewKey) -> None:
    key = {"key_id": writer.key.key_id, "key": writer.signing_key}
    for url, body in ((f"{gate.url}/query", QUERY), (f"{gate.url}{BUL}/query", b"{}")):
        headers = sign("POST", url, body=body, **key)  # type: ignore[arg-type]  # two of its types
        answer = gate.client.post(f"{BUL}/query", content=QUERY, headers=headers)
        assert answer.status_code == 401


def test_an_api_key_and_its_absence_arrive(gate: Gateway, writer: NewKey) -> None:
    key = {"X-API-Key": writer.api_key}
    assert gate.get(f"{BUL}/tasks", headers=key).status_code == 200
    assert gate.get(f"{BUL}/tasks").status_code == 401
    bearer = {"Authorization": f"Bearer {writer.api_key}"}
    models = gate.get(f"{BUL}/v1/models", headers=bearer)
    assert models.json()["object"] == "list"
    assert gate.get(f"{BUL}/v1/nothing", headers=bearer).json()["error"]["type"]


def test_metrics_are_not_open_to_whoever_comes_through_the_gateway(gate: Gateway) -> None:
    assert gate.get(f"{BUL}/metrics").status_code == 401
    assert gate.get("/metrics").status_code == 200


def test_tenants_stay_apart_behind_the_gateway(gate: Gateway, writer: NewKey) -> None:
    task = finished(gate, writer, signed(gate, writer, "POST", f"{BUL}/query", QUERY).json())
    other = gate.keys.create("globex")
    claims = {"X-API-Key": other.api_key, "X-Tenant": "acme", "X-Tenant-ID": "acme"}
    assert gate.get(f"{BUL}/task/{task['task_id']}/status", headers=claims).status_code == 404


def test_a_stream_of_chat_passes(gate: Gateway, writer: NewKey) -> None:
    body = {
        "model": "truthgpt",
        "stream": True,
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "Plan"}],
    }
    key = {"X-API-Key": writer.api_key}
    with gate.client.stream("POST", f"{BUL}/v1/chat/completions", json=body, headers=key) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"


# ---- re-signed ----------------------------------------------------------------------------------


def test_the_gateway_signs_with_its_own_key_for_whom_it_knows(
    gate: Gateway, writer: NewKey
) -> None:
    answer = gate.client.post(
        "/signed/query",
        content=QUERY,
        headers={"X-API-Key": writer.api_key, "Content-Type": "application/json"},
    )
    assert answer.status_code in (200, 202), answer.text
    answer = signed(gate, writer, "POST", "/signed/query", QUERY)
    assert answer.status_code in (200, 202), answer.text
    task = answer.json()["task_id"]
    # The task is the gateway's: BUL knows only who signed.
    assert (
        gate.get(f"{BUL}/task/{task}/status", headers={"X-API-Key": writer.api_key}).status_code
        == 404
    )
    assert signed(gate, writer, "GET", f"/signed/task/{task}/status").status_code == 200


def test_the_gateway_signs_for_nobody_it_does_not_know(gate: Gateway) -> None:
    reader = gate.keys.create("acme", role="reader")
    json_type = {"Content-Type": "application/json"}
    for headers, status in (
        ({}, 401),
        ({"X-API-Key": "bkv_" + "0" * 12 + "_" + "x" * 43}, 401),
        ({"X-API-Key": reader.api_key}, 403),
    ):
        answer = gate.client.post("/signed/query", content=QUERY, headers=json_type | headers)
        assert answer.status_code == status
        assert answer.json()["system"] == "signed"
    assert gate.get("/signed/tasks", headers={"X-API-Key": reader.api_key}).status_code == 200


# ---- by name ------------------------------------------------------------------------------------


def route(gate: Gateway, wanted: dict[str, object], **headers: str) -> httpx.Response:
    return gate.client.post("/api/v1/gateway/route", json=wanted, headers=headers or gate.key)


def test_a_system_is_asked_by_its_name(gate: Gateway) -> None:
    wanted: dict[str, object] = {"target_system": "gamma", "endpoint": "/a b/é?x=1"}
    seen = route(gate, {**wanted, "data": {"n": 1}}).json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/a%20b/%C3%A9", "x=1")
    assert seen["size"] == len('{"n":1}')
    assert ["content-type", "application/json"] in seen["headers"]
    assert gate.admin.api_key not in json.dumps(seen)
    seen = route(gate, {**wanted, "method": "GET", "data": {"n": 1, "m": "a b"}}).json()
    assert (seen["method"], seen["query"], seen["size"]) == ("GET", "x=1&n=1&m=a+b", 0)
    again = gate.client.post("/systems/route", json={**wanted, "method": "GET"}, headers=gate.key)
    assert again.json()["path"] == "/a%20b/%C3%A9"


def test_bul_asked_by_name_knows_who_asks_by_key_and_by_signature(
    gate: Gateway, writer: NewKey
) -> None:
    wanted = {
        "target_system": "bul",
        "endpoint": "/query",
        "method": "POST",
        "data": json.loads(QUERY),
    }
    answer = route(gate, wanted, **{"X-API-Key": writer.api_key})
    assert answer.status_code in (200, 202), answer.text
    task = answer.json()["task_id"]
    status = f"/task/{task}/status"
    path = "/api/v1/gateway/route"
    body = json.dumps({"target_system": "bul", "endpoint": status, "method": "GET"}).encode()
    assert signed(gate, writer, "POST", path, body).json()["task_id"] == task
    other = gate.keys.create("globex")
    assert signed(gate, other, "POST", path, body).status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "hint"),
    [
        ({"target_system": "gama"}, 404, "did you mean gamma?"),
        ({"endpoint": "echo"}, 422, "begins with /"),
        ({"endpoint": "/a\r\nX-Evil: 1"}, 422, "begins with /"),
        ({"endpoint": "/../../bul/tasks"}, 400, "steps"),
        ({"method": "get"}, 422, "must be one of GET"),
        ({"method": "CONNECT"}, 422, "must be one of GET"),
        ({"method": "GET", "data": [1]}, 422, "names and plain values"),
        ({"headers": {}}, 422, "headers"),
    ],
)
def test_a_bad_request_by_name_is_refused(
    gate: Gateway, change: dict[str, object], status: int, hint: str
) -> None:
    answer = route(gate, {"target_system": "gamma", "endpoint": "/echo"} | change)
    assert answer.status_code == status, answer.text
    assert hint in answer.json()["detail"]


def test_who_may_only_read_cannot_have_the_gateway_sign_a_change(gate: Gateway) -> None:
    reader = {"X-API-Key": gate.keys.create("acme", role="reader").api_key}
    asked: dict[str, object] = {"target_system": "signed", "endpoint": "/query"}
    assert route(gate, asked | {"data": json.loads(QUERY)}, **reader).status_code == 403
    listed: dict[str, object] = {"target_system": "signed", "endpoint": "/tasks", "method": "GET"}
    assert route(gate, listed, **reader).status_code == 200


def test_asking_by_name_takes_a_key(gate: Gateway) -> None:
    answer = route(gate, {"target_system": "gamma", "endpoint": "/echo"}, **{"X-None": "1"})
    assert answer.status_code == 401


# ---- what it tells ------------------------------------------------------------------------------


def test_the_original_s_endpoints_answer(gate: Gateway) -> None:
    route(gate, {"target_system": "gamma", "endpoint": "/echo"})
    for base in ("", "/api/v1/gateway"):
        names = [each["name"] for each in gate.get(f"{base}/systems").json()["systems"]]
        assert names == ["bul", "bare", "signed", "gamma"]
        checked = gate.client.post(f"{base}/systems/gamma/health-check", headers=gate.key).json()
        assert (checked["system"], checked["status"]) == ("gamma", "healthy")
        everything = gate.client.post(f"{base}/systems/health-check-all", headers=gate.key).json()
        states = {name: each["status"] for name, each in everything["systems"].items()}
        assert states == dict.fromkeys(names, "healthy")
        history = gate.get(f"{base}/systems/gamma").json()["checks"]
        assert len(history) >= 2
        assert history[0]["at"] >= history[-1]["at"]
        requests = gate.get(f"{base}/requests?system=gamma&limit=1", headers=gate.key).json()
        (latest,) = requests["requests"]
        found = gate.get(f"{base}/requests/{latest['id']}", headers=gate.key).json()
        assert (found["system"], found["status"]) == ("gamma", 200)
        assert gate.get(f"{base}/requests/none", headers=gate.key).status_code == 404
        assert gate.get(f"{base}/operations", headers=gate.key).json() == {"operations": []}
        statistics = gate.get(f"{base}/statistics").json()
        assert statistics["systems"]["gamma"]["requests"] >= 1
        for path in ("/requests", "/operations"):
            assert gate.get(base + path).status_code == 401


def test_its_own_pages_answer_and_metrics_count(gate: Gateway) -> None:
    for path in ("/", "/healthz", "/readyz", "/health", "/version"):
        assert gate.get(path).status_code == 200, path
    text = gate.get("/metrics").text
    assert 'gateway_request_duration_seconds_count{status="200",system="gamma"}' in text
    assert 'gateway_system_up{system="gamma"} 1.0' in text


def test_a_system_that_says_it_is_ill_is_unhealthy_and_still_asked(gate: Gateway) -> None:
    gate.client.post("/api/v1/gamma/ill")
    try:
        checked = gate.client.post("/systems/gamma/health-check", headers=gate.key).json()
        assert (checked["status"], checked["http_status"]) == ("unhealthy", 503)
        assert gate.get("/readyz").json()["checks"]["gamma"] == "down"
        assert gate.get("/api/v1/gamma/echo").status_code == 200
    finally:
        gate.client.post("/api/v1/gamma/well")


def test_bul_is_the_same_with_and_without_the_path_it_has_at_the_gateway(
    bul: Client, gate: Gateway
) -> None:
    direct = httpx.get(f"{bul.url}{BUL}/version", trust_env=False).json()
    assert direct == gate.get(f"{BUL}/version").json() == bul.request("GET", "/version").json()
    assert urlsplit(bul.url).path == ""


def test_a_key_file_that_is_no_key_stops_the_gateway(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "key").write_text("zz")
    systems = {
        "x": {
            "url": "http://127.0.0.1:1",
            "credentials": "sign",
            "key_id": "k",
            "key_file": str(tmp_path / "key"),
        }
    }
    (tmp_path / "g.json").write_text(json.dumps({"gateway": {"port": 0}, "systems": systems}))
    command = [sys.executable, "-m", "blatam_kv", "gateway", "--config", str(tmp_path / "g.json")]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "systems.x.key_file" in done.stderr


# ---- where links lead ---------------------------------------------------------------------------


def followed(client: httpx.Client, key: NewKey, base: str) -> set[str]:
    """Every link and Location that a document leads to, followed as it is; what they begin with."""
    headers = {"X-API-Key": key.api_key, "X-Forwarded-Prefix": "/evil"}
    kind = {"Content-Type": "application/json"}
    asked = client.post(f"{base}/query", content=QUERY, headers=headers | kind)
    assert asked.status_code in (200, 202), asked.text
    found = [asked.headers["location"], *asked.json()["links"].values()]
    while (task := client.get(found[0], headers=headers).json())["status"] != "completed":
        assert "task_id" in task, task
    found.append(task["documents"][0]["href"])
    for link in found:
        answer = client.get(link, headers=headers)
        assert answer.status_code == 200, (link, answer.text)
    assert client.get(found[-1], headers=headers).headers["content-disposition"]
    return {link.partition("/task/")[0] for link in found}


@pytest.mark.parametrize("base", [BUL, "/bare"])
def test_links_lead_through_the_gateway_whatever_a_client_says(
    gate: Gateway, writer: NewKey, base: str
) -> None:
    """BUL sees its own path of the first, and is told of the second that it was taken off."""
    assert followed(gate.client, writer, base) == {base}


def test_links_lead_through_an_nginx_in_front_of_the_gateway(
    bul: Client, gate: Gateway, writer: NewKey, tmp_path: Path
) -> None:
    systems = {
        "bul": {"url": bul.url},
        "bare": {"url": bul.url, "path": "/bare", "credentials": "keep"},
    }
    (tmp_path / "inner").mkdir()
    with gateway(tmp_path / "inner", systems, trusted_proxies=["127.0.0.1"]) as inner:
        port = free_port()
        place = urlsplit(inner.url).netloc
        site = configuration([place], services={"outer": place}, listen=f"127.0.0.1:{port}", rate=0)
        url = f"http://127.0.0.1:{port}"
        with (
            nginx(tmp_path, site, port=port),
            httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
        ):
            for base in (BUL, "/bare"):
                assert followed(client, writer, f"/outer{base}") == {f"/outer{base}"}


def test_our_own_client_follows_them(bul: Client, gate: Gateway, writer: NewKey) -> None:
    asked = {"query": "Plan de negocio", "max_length": 40}
    with Client(f"{gate.url}{BUL}", api_key=writer.api_key) as client:
        text = client.document(asked)
    with Client(bul.url, api_key=writer.api_key) as client:
        assert client.document(asked) == text
