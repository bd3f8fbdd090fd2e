"""What a service tells systemd: that it is ready, that it lives, that it ends; and nothing while it is paused."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_server_process import serving

from blatam_kv.server import life

PATIENCE_SECONDS = 60.0
UNIT = Path(__file__).resolve().parent.parent / "deploy" / "systemd" / "blatam-kv@.service"


class Systemd:
    """What hears."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind(path)
        self.line.settimeout(PATIENCE_SECONDS)

    def hears(self) -> str:
        """The next word."""
        return self.line.recv(100).decode()

    def until(self, word: str) -> list[str]:
        """What comes up to a word."""
        words = [self.hears()]
        while words[-1] != word:
            words.append(self.hears())
        return words

    def nothing_more(self) -> bool:
        """Hear what has been said; whether then nothing comes for a while."""
        self.line.setblocking(False)
        try:
            while self.hears():
                pass
        except BlockingIOError:
            pass
        self.line.settimeout(1.0)
        try:
            self.hears()
        except TimeoutError:
            return True
        finally:
            self.line.settimeout(PATIENCE_SECONDS)
        return False


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory() as folder:  # a short path, as such sockets want
        here = Systemd(f"{folder}/notify")
        yield here
        here.line.close()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_service_says_that_it_lives_until_it_is_paused_and_that_it_ends(systemd: Systemd) -> None:
    with serving(NOTIFY_SOCKET=systemd.path, WATCHDOG_USEC="300000") as (process, _):
        assert systemd.hears() == "READY=1"
        assert [systemd.hears() for _ in range(5)] == ["WATCHDOG=1"] * 5
        process.send_signal(signal.SIGSTOP)
        while state_of(process.pid) != "T":
            time.sleep(0.01)
        assert systemd.nothing_more()
        process.send_signal(signal.SIGCONT)
        assert systemd.hears() == "WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        assert set(systemd.until("STOPPING=1")[:-1]) <= {"WATCHDOG=1"}
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "5000000"}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None),  # another process is meant
    ],
)
def test_how_long_a_sign_may_be_missing_is_what_systemd_says(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert life._seconds() == seconds


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/at/all", "@nobody-listens"])
def test_where_nobody_hears_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    life.stopping()
    assert life.begin() is None


def test_an_abstract_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0blatam-kv-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@blatam-kv-test-{os.getpid()}")
        life.stopping()
        assert line.recv(100) == b"STOPPING=1"


def test_the_unit_listens_and_ends_what_is_silent_without_asking_it() -> None:
    unit = UNIT.read_text()
    for line in ("Type=notify", "WatchdogSignal=SIGKILL", "Restart=on-failure"):
        assert f"\n{line}\n" in unit
    assert re.search(r"\nWatchdogSec=\d+s\n", unit)
    assert "AF_UNIX" in unit
