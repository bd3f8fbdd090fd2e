"""Services, a gateway and sample systems for the length of a demo: processes, each on a free port."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blatam_kv.cli.remote import connect
from blatam_kv.client import Client, Unreachable
from blatam_kv.config import load
from blatam_kv.errors import Error

START_SECONDS = 120.0
# Of the source; an installed package has none.
_SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "upstream.py"


class DemoFailed(Error, RuntimeError):
    """The demo could not show what it is there to show."""


@contextmanager
def service(config: Path | None, *, data_dir: Path, answers: bool = True) -> Iterator[Client]:
    """``blatam-kv serve`` on a free port; yields a client, then stops it and wants status 0.

    answers: whether they outlive it.

    Raises DemoFailed with the end of what it said.
    """
    command = [sys.executable, "-m", "blatam_kv", "serve", "--port", "0", "--host", "127.0.0.1"]
    command += ["--log-level", "warning", "--data-dir", str(data_dir)]
    if not answers:
        command += ["--cache-persistence", "off"]
    if config is not None:
        command += ["--config", str(config)]
    settings = load(file=config, flags={"data_dir": data_dir})
    with _process(command) as url, connect(url, settings) as client:
        yield client


@contextmanager
def gateway(systems: Mapping[str, str], *, data_dir: Path) -> Iterator[str]:
    """``blatam-kv gateway`` on a free port in front of systems, by name their URLs; yields its URL.

    Raises DemoFailed with the end of what it said.
    """
    file = data_dir / "gateway.json"
    own = {"port": 0, "log_level": "error"}
    named = {name: {"url": url} for name, url in systems.items()}
    file.write_text(json.dumps({"gateway": own, "systems": named}))
    command = [sys.executable, "-m", "blatam_kv", "gateway", "--config", str(file)]
    with _process([*command, "--data-dir", str(data_dir)]) as url:
        yield url


def samples_are_here() -> bool:
    """Whether ``sample`` can start one."""
    return _SAMPLE.is_file()


@contextmanager
def sample(name: str) -> Iterator[str]:
    """The sample system under a name, on a free port; yields its URL, then stops it and wants status 0.

    Raises DemoFailed with the end of what it said.
    """
    with _process([sys.executable, str(_SAMPLE), "--name", name, "--port", "0"]) as url:
        yield url


@contextmanager
def _process(command: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        # Told to stop, the demo must not leave its service behind.
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield _url(process, log)
            process.send_signal(signal.SIGTERM)
            if status := process.wait(START_SECONDS):
                raise DemoFailed(f"the service ended with status {status}\n{_tail(log)}")
        except Unreachable as error:
            raise DemoFailed(f"the service stopped answering\n{_tail(log)}") from error
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"the service did not stop\n{_tail(log)}") from error
        finally:
            process.kill()
            process.communicate()
            signal.signal(signal.SIGTERM, previous)


def _url(process: subprocess.Popen[bytes], log: Any) -> str:
    """The address the service prints when it is ready. log: its standard error, any file."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline().decode() if ready else ""
    found = re.search(r"http://\S+", line)
    if found is None:
        raise DemoFailed(f"the service did not start\n{_tail(log)}")
    return found[0]


def _tail(log: Any) -> str:
    log.seek(0)
    text: str = log.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-20:])
