"""What docs/BUL.md says of endpoints, settings and metrics is what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bul_fakes import Scripted, running

from blatam_kv.bul.service import Service
from blatam_kv.config import VARIABLES, Settings
from blatam_kv.server.bul import doors
from blatam_kv.server.progress import ProgressDesk

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "BUL.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cell by cell."""
    body = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def service() -> Iterator[Service]:
    with running(Scripted()) as service:
        yield service


def test_every_endpoint_of_the_page_is_there_with_its_scope(service: Service) -> None:
    watching = ProgressDesk(service, None)  # type: ignore[arg-type]  # nobody asks for a ticket
    everything = [*doors(service), *watching.doors()]
    there = {f"{door.method} {door.path}": door for door in everything}
    rows = table("Endpoints")
    assert len(rows) == 23
    for endpoint, scope, _ in rows:
        found = there[endpoint.strip("`")]
        assert found.scope is not None
        assert f"`{found.scope.value}`" == scope, endpoint


def test_every_setting_of_the_page_has_its_default() -> None:
    for name, default, _ in table("Settings"):
        value = getattr(Settings(), VARIABLES[name.strip("`")].field)
        assert default == (str(value).lower() if isinstance(value, bool) else f"{value:g}"), name


def test_every_metric_of_the_page_is_exported(service: Service) -> None:
    text = service.metrics.expose()[0].decode()
    declared = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    for cells in table("Metrics"):
        assert re.match(r"`(\w+)", cells[0])[1] in declared, cells  # type: ignore[index]  # matches
