"""What docs/GATEWAY.md says of settings, endpoints and metrics is what is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from blatam_kv.gateway.configuration import OWN_PATH, Configuration, System
from blatam_kv.gateway.desk import INDEX
from blatam_kv.gateway.journal import Journal

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "GATEWAY.md").read_text()


def first_cells(heading: str) -> set[str]:
    body = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_setting_is_on_the_page() -> None:
    known = {each.name for each in fields(System)} | {each.name for each in fields(Configuration)}
    assert first_cells("Configuration") == known - {"name", "systems"}


def test_every_endpoint_is_on_the_page() -> None:
    there = {name.replace(OWN_PATH, "") for name in INDEX if OWN_PATH in name}
    assert first_cells("Endpoints") - {"POST /systems/route"} == there


def test_every_metric_is_on_the_page() -> None:
    text = Journal(version="0", recent=1).expose()[0].decode()
    declared = set(re.findall(r"^# TYPE (gateway_\w+) ", text, re.MULTILINE))
    named = {name.partition("{")[0] for name in first_cells("Metrics")}
    assert named == declared - {"gateway_build_info"}
