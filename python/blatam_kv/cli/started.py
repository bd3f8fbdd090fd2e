"""The real service for the length of a demo: its own process, on a free port."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blatam_kv.cli.remote import connect
from blatam_kv.client import Client, Unreachable
from blatam_kv.config import load
from blatam_kv.errors import Error

START_SECONDS = 120.0


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
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        # Told to stop, the demo must not leave its service behind.
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            settings = load(file=config, flags={"data_dir": data_dir})
            with connect(_url(process, log), settings) as client:
                yield client
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
