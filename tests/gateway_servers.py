"""Gateways and systems as processes of their own, for tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from blatam_kv.bul.security import open_keys
from blatam_kv.config import Settings

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def process(
    *command: str, log: Path, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the URL that its first line names; killed at the end if it still runs."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | environ,
        ) as running,
    ):
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, (line, log.read_text())
            yield running, found[0]
        finally:
            running.kill()


class Gateway:
    """A running gateway, and a client with a key for everything."""

    def __init__(self, running: subprocess.Popen[str], url: str, folder: Path) -> None:
        self.running = running
        self.url = url
        self.folder = folder
        self.file = folder / "gateway.json"
        self.keys = open_keys(Settings(data_dir=folder / "data"))
        self.admin = self.keys.create("acme", role="admin")
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=30)
        self.key = {"X-API-Key": self.admin.api_key}

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def statistics(self, system: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/v1/gateway/statistics").json()["systems"][system]
        return found


@contextmanager
def gateway(
    folder: Path, systems: Mapping[str, Mapping[str, object]], **own: object
) -> Iterator[Gateway]:
    """A gateway in front of these systems, its keys and its log in the folder."""
    own = {"port": 0, "health_seconds": 3600, **own}
    file = folder / "gateway.json"
    file.write_text(json.dumps({"gateway": own, "systems": systems}))
    command = ["-m", "blatam_kv", "gateway", "--config", str(file)]
    command += ["--data-dir", str(folder / "data")]
    log = folder / "gateway.log"
    with process(*command, log=log) as (running, url):
        made = Gateway(running, url, folder)
        with made.client:
            yield made
        if running.poll() is None:
            running.terminate()
            assert running.wait(60) == 0, made.log
        assert "Traceback" not in made.log


@contextmanager
def system(folder: Path, name: str) -> Iterator[str]:
    """The example system, by its URL."""
    command = [str(ROOT / "examples" / "upstream.py"), "--name", name, "--port", "0"]
    with process(*command, log=folder / f"{name}.log") as (_, url):
        yield url


@contextmanager
def hostile(folder: Path) -> Iterator[str]:
    """The system that misbehaves, by its URL."""
    command = [str(ROOT / "tests" / "gateway_hostile.py")]
    with process(*command, log=folder / "hostile.log") as (_, url):
        yield url


@contextmanager
def both(folder: Path, **settings: object) -> Iterator[Gateway]:
    """A gateway with one system that is well (gamma) and one that is not (export-ia)."""
    with ExitStack() as stack:
        good = stack.enter_context(system(folder, "gamma"))
        bad = stack.enter_context(hostile(folder))
        systems: dict[str, dict[str, object]] = {
            "gamma": {"url": good},
            "export-ia": {"url": bad, **settings},
        }
        yield stack.enter_context(gateway(folder, systems))
