"""A Prometheus of the tests' own: any free port, a folder that goes away, and its API."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEPLOYED = ROOT / "deploy" / "prometheus"
# What a wait for a scrape or a rule may take before it counts as failed; a busy machine needs some.
PATIENCE_SECONDS = 60.0
_ADDRESS = re.compile(r'msg="Listening on" address=(\S+)')


def binary(name: str) -> str:
    """A program of Debian's package prometheus."""
    path = shutil.which(name)
    assert path, (
        f"{name} is missing; Debian's package prometheus brings it (./run test asks for it)"
    )
    return path


def promtool(*arguments: str, cwd: Path, text: bytes = b"") -> str:
    """What promtool says; fails where it found something."""
    done = subprocess.run(
        [binary("promtool"), *arguments], cwd=cwd, input=text, capture_output=True, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Prometheus:
    """The API of a running server."""

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}/api/v1/"
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, **options: str) -> Any:  # Any: whatever that endpoint answers
        """The data of an answer."""
        query = urllib.parse.urlencode(options)
        try:
            reply = self._open(f"{self._base}{path}?{query}", timeout=PATIENCE_SECONDS)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{options}: {error.read().decode()}") from error
        with reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The value of each series now."""
        found = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def wait_for(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression finds, as soon as that is something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"nothing came for {expression}"
            time.sleep(0.1)
        return found

    def alert(self, name: str) -> dict[str, Any]:
        """The one of this name that is active. Whatever else a busy machine may have set off."""
        found = self.get("alerts")["alerts"]
        (alert,) = (each for each in found if each["labels"]["alertname"] == name)
        return dict(alert)


@contextmanager
def prometheus(
    folder: Path, *, target: str, gateway: str | None = None, seconds: float = 0.5
) -> Iterator[Prometheus]:
    """A server with the configuration that is shipped, scraping ``target``, a service, and a gateway
    every so many seconds.

    The alerts fire at once, and windows of minutes are of seconds: nobody waits for a test.
    """
    for shipped in DEPLOYED.glob("*.yml"):
        text = shipped.read_text().replace("127.0.0.1:8002", target)
        gateways = "[]" if gateway is None else f'["{gateway}"]'
        text = text.replace('["127.0.0.1:8000"]', gateways)
        text = re.sub(r"for: \d+m", "for: 0s", text)
        text = text.replace("[5m]", "[10s]").replace(": 15s", f": {round(1000 * seconds)}ms")
        (folder / shipped.name).write_text(text)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                binary("prometheus"),
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--storage.tsdb.retention.time=2h",
                "--web.listen-address=127.0.0.1:0",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        said = ""
        # The one line comes before the other or after it.
        while (
            "Server is ready to receive web requests" not in said or _ADDRESS.search(said) is None
        ):
            said = log.read_text()
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Prometheus(_ADDRESS.findall(said)[0])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_SECONDS)
