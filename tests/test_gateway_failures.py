"""Systems that are down, slow, or lie: an error that names them, others unaffected, nothing kept."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from bul_fakes import until
from gateway_servers import Gateway, gateway, hostile, system

BAD = "/api/v1/export-ia"
# The same system, waited for as long as an answer's pieces may be apart, and hardly at all.
PATIENT, HASTY = "/api/v1/patient", "/api/v1/hasty"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("failures")
    with ExitStack() as stack:
        bad: dict[str, object] = {"url": stack.enter_context(hostile(folder))}
        bad["failures"] = 1_000_000
        systems: dict[str, dict[str, object]] = {
            "gamma": {"url": stack.enter_context(system(folder, "gamma"))},
            "export-ia": bad,
            "patient": {**bad, "idle_seconds": 3.0},
            "hasty": {**bad, "first_byte_seconds": 0.5, "idle_seconds": 0.5},
        }
        yield stack.enter_context(gateway(folder, systems))


@pytest.fixture(autouse=True)
def others_are_unaffected(gate: Gateway) -> Iterator[None]:
    yield
    assert gate.get("/api/v1/gamma/echo").json()["name"] == "gamma"
    assert gate.get(f"{BAD}/fine").text == "fine"


def refused(answer: httpx.Response, status: int, name: str = "export-ia") -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["system"] == name
    assert f"the system {name} " in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    detail: str = problem["detail"]
    return detail


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/close-at-once", 502, "without an answer"),
        ("/reset", 502, "without an answer"),
        ("/two-lengths", 502, "not HTTP"),
        ("/not-http", 502, "not HTTP"),
        ("/upgrade", 502, "switched protocols"),
        ("/endless-header", 502, "beyond 64 KiB"),
        ("/many-headers", 502, "beyond 64 KiB"),
    ],
)
def test_what_is_no_answer_is_an_error_that_names_the_system(
    gate: Gateway, path: str, status: int, detail: str
) -> None:
    for method in ("POST", "GET"):
        assert detail in refused(gate.client.request(method, BAD + path), status)


def test_a_system_that_says_nothing_is_given_up(gate: Gateway) -> None:
    for method in ("POST", "GET"):
        answer = gate.client.request(method, f"{HASTY}/silent")
        assert "did not begin to answer within 0.5 seconds" in refused(answer, 504, "hasty")


@pytest.mark.parametrize(
    "path", [f"{BAD}/short", f"{BAD}/short-chunked", f"{BAD}/bad-chunk", f"{HASTY}/stops"]
)
def test_an_answer_that_breaks_off_is_broken_off(gate: Gateway, path: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        gate.get(path)


def test_both_framings_at_once_are_no_answer(gate: Gateway) -> None:
    answer = gate.get(f"{BAD}/both-framings")
    assert answer.status_code == 502 or answer.text == "fine"


def test_more_than_was_announced_is_nobody_s_answer(gate: Gateway) -> None:
    for _ in range(5):
        assert gate.get(f"{BAD}/long").text == "fine"
        assert gate.get(f"{BAD}/fine").text == "fine"


def test_what_is_unusual_but_right_passes(gate: Gateway) -> None:
    assert gate.get(f"{BAD}/interim").text == "fine"
    assert gate.get(f"{BAD}/until-close").text == "all of it"
    answer = gate.client.post(f"{BAD}/early", content=b"x" * 1_000_000)
    assert (answer.status_code, answer.text) == (413, "large")


def test_a_slow_answer_that_goes_on_is_not_given_up(gate: Gateway) -> None:
    assert len(gate.get(f"{PATIENT}/drips").text) == 40  # 0.1 seconds between two, 4 in all


def test_an_endless_answer_goes_at_the_client_s_pace_and_takes_no_memory(gate: Gateway) -> None:
    parts = urlsplit(gate.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
        line.sendall(f"GET {BAD}/endless HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        line.recv(1000)
        before = memory(gate)
        time.sleep(1.0)
        assert memory(gate) - before < 32 << 20


def test_a_client_that_takes_nothing_gives_its_place_back(tmp_path: Path) -> None:
    with hostile(tmp_path) as bad:
        settings = {"url": bad, "connections": 1, "idle_seconds": 0.2}
        with gateway(tmp_path, {"export-ia": settings}) as gate:
            parts = urlsplit(gate.url)
            with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
                line.sendall(f"GET {BAD}/endless HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
                assert line.recv(12) == b"HTTP/1.1 200"
                deadline = time.monotonic() + 30
                while gate.get(f"{BAD}/fine").status_code != 200:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)


def memory(gate: Gateway) -> int:
    for line in Path(f"/proc/{gate.running.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError


def test_a_kept_connection_that_was_closed_is_no_error(gate: Gateway) -> None:
    bad = json.loads(gate.file.read_text())["systems"]["export-ia"]["url"]

    def closed() -> int:
        return int(httpx.get(f"{bad}/closed", trust_env=False).text)

    for _ in range(5):
        before = closed()
        assert gate.get(f"{BAD}/once").text == "fine"
        until(lambda before=before: closed() > before)  # type: ignore[misc]
        assert gate.get("/healthz").status_code == 200  # and the gateway has heard of it
        assert gate.client.post(f"{BAD}/fine", content=b"x").text == "fine"


def test_only_what_is_safe_is_sent_again(tmp_path: Path) -> None:
    counted: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.4)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        systems = {"gamma": {"url": url, "attempts": 3, "failures": 100}}
        stop = threading.Event()

        def hang_up() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    counted.append(connection.recv(65536))

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            with gateway(tmp_path, systems, health_timeout_seconds=0.2) as gate:
                for method, headers, times in (
                    ("GET", {}, 3),
                    ("PUT", {}, 3),
                    ("DELETE", {}, 3),
                    ("POST", {}, 1),
                    ("PATCH", {}, 1),
                    ("POST", {"Idempotency-Key": "1"}, 3),
                ):
                    path = f"/{method}{len(headers)}"
                    answer = gate.client.request(
                        method, f"/api/v1/gamma{path}", headers=headers, content=b"x"
                    )
                    assert answer.status_code == 502
                    seen = [each for each in counted if path.encode() in each.split(b"\r\n")[0]]
                    assert len(seen) == times, method
                assert gate.statistics("gamma")["retries"] == 2 * 4
        finally:
            stop.set()
            thread.join()


def test_a_system_that_is_down_is_soon_not_asked_and_asked_again_when_it_is_up(
    tmp_path: Path,
) -> None:
    with socket.socket() as listener, system(tmp_path, "gamma") as url:
        listener.bind(("127.0.0.1", 0))  # and nobody listens
        down = {"url": f"http://127.0.0.1:{listener.getsockname()[1]}", "failures": 3}
        down |= {"open_seconds": 0.5, "attempts": 1}
        with gateway(tmp_path, {"gamma": {"url": url}, "export-ia": down}) as gate:
            for _ in range(3):
                assert "cannot be reached" in refused(gate.get(f"{BAD}/x"), 502)
            while (answer := gate.get(f"{BAD}/x")).status_code == 502:
                pass  # so late that one was let try again
            refused(answer, 503)
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert gate.statistics("export-ia")["circuit"] == "open"
            assert gate.get("/api/v1/gamma/echo").status_code == 200
            listener.listen()

            def once() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup")

            thread = threading.Thread(target=once)
            thread.start()
            while (answer := gate.get(f"{BAD}/x")).status_code == 503:
                time.sleep(0.05)
            assert answer.text == "up"
            thread.join()
            assert gate.statistics("export-ia")["circuit"] == "closed"


def test_clients_of_openai_s_protocol_get_its_form_of_errors(gate: Gateway) -> None:
    answer = gate.client.post(f"{BAD}/v1/x/../y")
    assert answer.status_code in (400, 404)
    answer = gate.get(f"{BAD}/close-at-once")
    assert answer.json()["system"] == "export-ia"
    down = gate.client.post(
        "/api/v1/export-ia/v1/chat/completions", headers={"Host": "evil.example"}
    )
    assert down.status_code == 421
    assert "message" in down.json()["error"]
