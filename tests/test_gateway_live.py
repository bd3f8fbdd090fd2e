"""What lasts longer than a request: WebSockets, and a configuration that changes under way."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import until as wait_until
from gateway_servers import Gateway, both, gateway, system
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

TALK = "/api/v1/gamma/talk"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with both(tmp_path_factory.mktemp("live")) as found:
        yield found


def talk(gate: Gateway, path: str = TALK, **options: Any) -> ClientConnection:
    url = gate.url.replace("http", "ws", 1) + path
    opened: ClientConnection = connect(url, proxy=None, compression=None, **options)
    return opened


def test_messages_pass_both_ways_as_they_are(gate: Gateway) -> None:
    with talk(gate) as socket:
        for message in ("é", b"\x00\xff", "", b"", "x" * 1_000_000, b"y" * 1_000_000):
            socket.send(message)
            assert socket.recv() == message


def test_subprotocols_are_agreed_on_by_the_two_ends(gate: Gateway) -> None:
    with talk(gate, subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "one"
    with talk(gate) as socket:
        assert socket.subprotocol is None


def test_each_end_hears_how_the_other_closed(gate: Gateway) -> None:
    with talk(gate) as socket:
        socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "bye")
    # The client hears of the end before the gateway is done with it.
    wait_until(lambda: gate.get("/systems/gamma").json()["under_way"] == 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/gamma/echo", 403),
        ("/api/v1/export-ia/close-at-once", 502),
        ("/api/v1/gamma/../x", 400),
    ],
)
def test_a_refused_handshake_is_refused_here_too(gate: Gateway, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, talk(gate, path):
        pass
    assert refused.value.response.status_code == status


def test_another_site_s_page_cannot_talk(gate: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused, talk(gate, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_a_websocket_is_one_of_the_connections_that_a_system_may_have(tmp_path: Path) -> None:
    with (
        system(tmp_path, "gamma") as gamma,
        gateway(tmp_path, {"gamma": {"url": gamma, "connections": 1}}) as gate,
    ):
        with talk(gate):
            with pytest.raises(InvalidStatus) as refused, talk(gate):
                pass
            assert refused.value.response.status_code == 503
        until(gate, "/api/v1/gamma/echo", 200)
        with talk(gate) as socket:
            socket.send("again")
            assert socket.recv() == "again"


# ---- the configuration --------------------------------------------------------------------------


def rewritten(gate: Gateway, systems: dict[str, dict[str, object]], **own: object) -> None:
    document = {"gateway": {"port": 0, "health_seconds": 3600, **own}, "systems": systems}
    gate.file.write_text(json.dumps(document))


def until(gate: Gateway, path: str, status: int) -> None:
    wait_until(lambda: gate.get(path).status_code == status)


def test_a_changed_file_holds_without_a_restart_and_a_bad_one_does_not(tmp_path: Path) -> None:
    with system(tmp_path, "gamma") as gamma, system(tmp_path, "other") as other:
        systems: dict[str, dict[str, object]] = {"gamma": {"url": gamma}}
        with gateway(tmp_path, systems) as gate:

            def error() -> str:
                return str(gate.get("/statistics").json()["configuration"]["error"] or "")

            assert gate.get("/api/v1/other/echo").status_code == 404
            with gate.client.stream("GET", "/api/v1/gamma/events?count=100&seconds=0.05") as answer:
                lines = answer.iter_lines()
                next(lines)
                rewritten(gate, {"other": {"url": other}})
                until(gate, "/api/v1/other/echo", 200)
                assert gate.get("/api/v1/gamma/echo").status_code == 404
                assert sum(bool(line) for line in lines) == 99  # what was under way goes on
            for text in ('{"systems": ', '{"systems": {"other": {"ulr": "x"}}}'):
                gate.file.write_text(text)
                gate.running.send_signal(signal.SIGHUP)
                wait_until(error)
                assert str(gate.file) in error()
                assert gate.get("/api/v1/other/echo").status_code == 200
                assert "the old one holds on" in gate.log
            gate.file.unlink()
            gate.running.send_signal(signal.SIGHUP)
            assert gate.get("/api/v1/other/echo").status_code == 200
            rewritten(gate, {"other": {"url": other}, "gamma": {"url": gamma}}, host="0.0.0.0")
            until(gate, "/api/v1/gamma/echo", 200)
            assert gate.get("/statistics").json()["configuration"]["error"] is None
            assert "to change host, start the gateway again" in gate.log


def test_what_did_not_change_keeps_its_history(tmp_path: Path) -> None:
    with (
        system(tmp_path, "gamma") as gamma,
        system(tmp_path, "other") as other,
        gateway(tmp_path, {"gamma": {"url": gamma}}) as gate,
    ):
        gate.client.post("/systems/gamma/health-check", headers=gate.key)
        before = len(gate.get("/systems/gamma").json()["checks"])
        rewritten(gate, {"gamma": {"url": gamma}, "other": {"url": other}})
        gate.running.send_signal(signal.SIGHUP)
        until(gate, "/api/v1/other/echo", 200)
        assert len(gate.get("/systems/gamma").json()["checks"]) >= before > 0


def test_checks_run_by_themselves(tmp_path: Path) -> None:
    with (
        system(tmp_path, "gamma") as gamma,
        gateway(tmp_path, {"gamma": {"url": gamma}}, health_seconds=0.1) as gate,
    ):
        wait_until(lambda: len(gate.get("/systems/gamma").json()["checks"]) >= 3)
