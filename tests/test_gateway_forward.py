"""What passes through the gateway: real processes on both sides, nothing between them is ours."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from bul_fakes import until
from gateway_servers import Gateway, both, gateway, system
from nginx_server import free_port

GAMMA = "/api/v1/gamma"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with both(tmp_path_factory.mktemp("gateway")) as found:
        yield found


def echo(gate: Gateway, path: str = "/echo", method: str = "GET", **options: Any) -> dict[str, Any]:
    answer = gate.client.request(method, GAMMA + path, **options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def told(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key == name]


def raw(gate: Gateway, request: bytes, *, half: bool = False) -> bytes:
    parts = urlsplit(gate.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as line:
        line.sendall(request.replace(b"HOST", parts.netloc.encode()))
        if half:
            line.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := line.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_path_and_query_arrive_as_they_were_sent(gate: Gateway, method: str) -> None:
    request = f"{method} {GAMMA}/a%2Fb/%C3%A9/;c=1?x=%20&y=a+b&x=2 HTTP/1.1\r\n"
    request += "Host: HOST\r\nConnection: close\r\n\r\n"
    answer = raw(gate, request.encode())
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["method"], seen["path"]) == (method, "/a%2Fb/%C3%A9/;c=1")
    assert seen["query"] == "x=%20&y=a+b&x=2"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_arrive_whole(gate: Gateway, size: int, chunked: bool) -> None:
    body = hashlib.shake_256(str(size).encode()).digest(size)
    pieces = (body[start : start + 70_000] for start in range(0, max(size, 1), 70_000))
    seen = echo(gate, method="POST", content=pieces if chunked else body)
    assert (seen["size"], seen["sha256"]) == (size, hashlib.sha256(body).hexdigest())


def test_answers_arrive_whole_and_connections_are_kept(gate: Gateway) -> None:
    for size in (0, 1, 1_000_000, 20_000_000):
        answer = gate.get(f"{GAMMA}/bytes?count={size}")
        assert answer.content == b"x" * size
    for _ in range(20):
        echo(gate)
    system_ = gate.get("/systems/gamma").json()
    assert 1 <= system_["idle_connections"] <= 4


def test_hop_by_hop_fields_stay_at_their_hop_in_both_directions(gate: Gateway) -> None:
    headers = {"Connection": "x-mine, keep-alive", "X-Mine": "1", "TE": "trailers", "X-Other": "2"}
    answer = gate.get(f"{GAMMA}/echo", headers=headers)
    seen = answer.json()
    assert told(seen, "x-other") == ["2"]
    assert not told(seen, "x-mine")
    assert not told(seen, "te")
    assert answer.headers["x-system"] == "gamma"
    assert "x-private" not in answer.headers


def test_a_system_is_told_whom_it_answers_and_not_what_a_client_claims(gate: Gateway) -> None:
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Tenant": "acme",
        "X-Real-IP": "6.6.6.6",
        "X-API-Key": "bkv_secret",
    }
    seen = echo(gate, headers=claims)
    assert told(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert told(seen, "x-forwarded-host") == [urlsplit(gate.url).netloc]
    assert "6.6.6.6" not in json.dumps(seen)
    assert "acme" not in json.dumps(seen)
    assert "bkv_secret" not in json.dumps(seen)


def test_a_request_id_is_carried_and_a_bad_one_replaced(gate: Gateway) -> None:
    answer = gate.get(f"{GAMMA}/echo", headers={"X-Request-ID": "abc-1.2_3"})
    assert told(answer.json(), "x-request-id") == ["abc-1.2_3"]
    assert answer.headers["x-request-id"] == "abc-1.2_3"
    answer = gate.get(f"{GAMMA}/echo", headers={"X-Request-ID": "a b"})
    (made,) = told(answer.json(), "x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert answer.headers["x-request-id"] == made


def test_head_has_no_body_and_the_next_answer_is_its_own(gate: Gateway) -> None:
    parts = urlsplit(gate.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    for _ in range(3):
        connection.request("HEAD", f"{GAMMA}/bytes?count=100")
        assert connection.getresponse().read() == b""
        connection.request("GET", f"{GAMMA}/echo")
        assert json.loads(connection.getresponse().read())["name"] == "gamma"
    connection.close()


def test_events_pass_one_by_one(gate: Gateway) -> None:
    # Half a day's, of which the first are here in a moment: none waits for the others.
    with gate.client.stream("GET", f"{GAMMA}/events?count=1000000&seconds=0.05") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = filter(None, answer.iter_lines())
        assert [next(lines) for _ in range(5)] == [f"data: {number}" for number in range(5)]


def test_a_client_that_leaves_takes_its_request_with_it(gate: Gateway) -> None:
    def told() -> dict[str, Any]:
        found: dict[str, Any] = gate.get(f"{GAMMA}/calls").json()
        return found

    before = told()["left"]
    parts = urlsplit(gate.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
        slept = told()["calls"].get("/sleep", 0)
        asked = f"GET {GAMMA}/sleep?seconds=600 HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        line.sendall(asked.encode())
        until(lambda: told()["calls"].get("/sleep", 0) > slept)  # it has arrived there
    with gate.client.stream("GET", f"{GAMMA}/events?count=10000&seconds=0.05") as answer:
        next(answer.iter_lines())
    until(lambda: told()["left"] >= before + 2)


def test_a_redirect_into_the_system_comes_back_through_the_gateway(gate: Gateway) -> None:
    answer = gate.get(f"{GAMMA}/redirect?to=/next", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{GAMMA}/next")
    assert answer.headers.get_list("set-cookie") == [f"own=1; Path={GAMMA}/; SameSite=lax"]
    answer = gate.get(f"{GAMMA}/redirect?to=http://elsewhere.example/", follow_redirects=False)
    assert answer.headers["location"] == "http://elsewhere.example/"


@pytest.mark.parametrize(
    "path",
    [
        *("/../x", "/a/../../bul/x", "/%2e%2e/x", "/..%2fx", "/.%2E/x", "/a/..", "/./x", "/..\\x"),
        *("/..;/x", "/%2e.%3bx/y"),
    ],
)
def test_a_path_cannot_step_out_of_its_system(gate: Gateway, path: str) -> None:
    request = f"GET {GAMMA}{path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"
    answer = raw(gate, request.encode())
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b'"system":"gamma"' in answer


def test_an_unknown_system_is_named_with_those_there_are(gate: Gateway) -> None:
    answer = gate.get("/api/v1/gama/echo")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["system"] == "gama"
    assert "did you mean gamma?" in answer.json()["detail"]
    assert "export-ia" in gate.get("/api/v1/nothing-like-it").json()["detail"]


def test_other_sites_and_other_names_are_refused(gate: Gateway) -> None:
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ):
        answer = gate.get(f"{GAMMA}/echo", headers=headers)
        assert answer.status_code == status
        assert answer.json()["system"] == "gamma"


def test_a_body_beyond_the_limit_is_refused_before_and_in_the_middle(tmp_path: Path) -> None:
    with (
        system(tmp_path, "gamma") as url,
        gateway(tmp_path, {"gamma": {"url": url, "max_body_mb": 1}}) as gate,
    ):
        body = b"x" * ((1 << 20) + 1)
        for content in (
            body,
            (body[start : start + 100_000] for start in range(0, len(body), 100_000)),
        ):
            answer = gate.client.post(f"{GAMMA}/echo", content=content)
            assert answer.status_code == 413
            assert answer.json()["system"] == "gamma"
        assert gate.client.post(f"{GAMMA}/echo", content=body[1:]).json()["size"] == 1 << 20
        assert gate.statistics("gamma")["circuit"] == "closed"


def test_a_loop_is_seen_and_ends(tmp_path: Path) -> None:
    port = free_port()
    systems = {
        "self": {"url": f"http://127.0.0.1:{port}/api/v1/self"},
        "other": {"url": f"http://127.0.0.1:{port}"},
    }
    with gateway(tmp_path, systems, port=port) as gate:
        answer = gate.get("/api/v1/self/x")
        assert answer.status_code == 502
        assert "been here before" in answer.json()["detail"]
        assert answer.json()["system"] == "self"
        far = {"Via": ", ".join(f"1.1 proxy{n}" for n in range(16))}
        assert gate.get("/api/v1/other/healthz", headers=far).status_code == 502
        assert gate.get("/api/v1/other/healthz").status_code == 200


def test_a_base_path_of_a_system_is_put_before(tmp_path: Path) -> None:
    with (
        system(tmp_path, "gamma") as url,
        gateway(tmp_path, {"gamma": {"url": f"{url}/base", "path": "/g"}}) as gate,
    ):
        assert gate.get("/g/x?y").json()["path"] == "/base/x"
        assert gate.get("/g").json()["path"] == "/base/"
        assert gate.get("/gx").status_code == 404


def test_a_stop_ends_what_is_under_way_and_then_the_process(tmp_path: Path) -> None:
    with system(tmp_path, "gamma") as url, gateway(tmp_path, {"gamma": {"url": url}}) as gate:
        with gate.client.stream("GET", f"{GAMMA}/events?count=20&seconds=0.05") as answer:
            lines = answer.iter_lines()
            next(lines)
            gate.running.terminate()
            assert sum(bool(line) for line in lines) == 19
        assert gate.running.wait(60) == 0


def test_a_configuration_is_shown_without_serving(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "blatam_kv", "gateway", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "/api/v1/export-ia" in done.stdout
    (tmp_path / "bad.json").write_text("{")
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "bad.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not valid JSON" in done.stderr
