"""docs/DEVICES.md keeps its word: its commands parse, its examples run, its alert and board are there."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted
from device_fakes import Machine

from blatam_kv import devices
from blatam_kv.cli.parser import make_parser
from blatam_kv.truthgpt.protocol import Message, Sampling

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "DEVICES.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_of_the_page_is_one() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = block.replace("\\\n", " ").strip().splitlines()
    assert len(commands) == 4
    for command in commands:
        make_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_the_balancers_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3, 0.45, 0.2, 0.15])
    machine.now = time.monotonic()  # the clock that the example's balancer has
    monkeypatch.setattr(devices, "NvmlMonitor", lambda: machine)
    served: list[str] = []
    names: dict[str, Any] = {
        "try_it": lambda gpu: None, "tokens": 500, "digests_of_blocks": [b"one", b"two"],
        "serve_on": served.append,
    }  # fmt: skip
    exec(EXAMPLES[0], names)
    (seen,) = [each for each in names["balancer"].snapshots() if each.gpu == served[0]]
    assert (seen.routed, seen.in_flight) == (1, 0)


def test_the_example_of_replicas_runs() -> None:
    names: dict[str, Any] = {
        "one": Scripted(), "other": Scripted(), "monitor": Machine([0.1, 0.2]),
        "messages": [Message("user", "a plan")], "sampling": Sampling(),
    }  # fmt: skip
    exec(EXAMPLES[1], names)
    assert len(names["one"].calls) + len(names["other"].calls) == 1


def test_what_the_page_names_of_the_monitoring_is_there() -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert "alert: DeviceOutOfRotation\n" in alerts
    board = ROOT / "deploy" / "grafana" / "dashboards" / "blatam-kv-devices.json"
    assert '"title": "BUL devices"' in board.read_text()
