"""The dashboards that are shipped: they are what their code makes, and every curve has data.

Grafana itself is in no package that the tests could install. What it would ask, a real Prometheus
is asked here, of a real service under traffic.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from gateway_servers import Gateway, gateway, system
from nginx_server import free_port
from prometheus_server import ROOT, Prometheus, prometheus
from test_server_process import asked, completed, serving

from blatam_kv.client import Client

GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = {
    path.name: json.loads(path.read_text())
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
WINDOW = "10s"


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a board, without the lines between them."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def expressions(*, devices: bool | None = None) -> Iterator[tuple[str, str, str]]:
    """Each panel's title, what it asks, and the job that its board is of. devices: whether of the board
    of devices, None for all."""
    for board in BOARDS.values():
        if devices is not None and devices != (board["uid"] == "blatam-kv-devices"):
            continue
        job = "gateway" if board["uid"] == "blatam-kv-gateway" else "bul"
        for panel in panels(board):
            for target in panel["targets"]:
                yield panel["title"], target["expr"], job


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Any:  # Any: a module outside the package
    monkeypatch.syspath_prepend(str(GRAFANA))
    return importlib.import_module("boards")


def test_the_files_are_what_the_code_makes(boards: Any) -> None:
    made = {f"{board.uid}.json": boards.rendered(board) for board in boards.BOARDS}
    assert made.keys() == BOARDS.keys(), "run: python deploy/grafana/boards.py"
    for name, text in made.items():
        there = (GRAFANA / "dashboards" / name).read_text()
        assert there == text, "run: python deploy/grafana/boards.py"


def test_boards_are_legible() -> None:
    titles = [board["title"] for board in BOARDS.values()]
    assert "BUL KV Cache Metrics" in titles  # the original's
    assert len(set(titles)) == len({board["uid"] for board in BOARDS.values()}) == len(BOARDS) == 6
    for board in BOARDS.values():
        assert [variable["name"] for variable in board["templating"]["list"]] == [
            *("datasource", "instance")
        ]
        seen = set()
        for panel in panels(board):
            assert panel["title"] not in seen
            seen.add(panel["title"])
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    for board in BOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not taken & cells, panel["title"]
            taken |= cells


def test_rates_are_over_grafanas_own_interval_and_nodes_can_be_chosen() -> None:
    for title, expression, job in expressions():
        assert set(re.findall(r"\[(.*?)\]", expression)) <= {"$__rate_interval"}, title
        selectors = re.findall(r"\{(.*?)\}", expression)
        assert selectors, title
        assert all(f'job="{job}", instance=~"$instance"' in each for each in selectors), title


def test_provisioning_names_the_folder_and_the_source() -> None:
    (source,) = (GRAFANA / "provisioning" / "datasources").glob("*.yml")
    assert yaml.safe_load(source.read_text())["datasources"][0]["type"] == "prometheus"
    (provider,) = (GRAFANA / "provisioning" / "dashboards").glob("*.yml")
    assert yaml.safe_load(provider.read_text())["providers"][0]["type"] == "file"


@contextmanager
def traffic(client: Client, gateway: Gateway) -> Iterator[None]:
    """Documents new and known, chats, refusals, and through the gateway a system that answers and one
    that does not; more of them for the body of the ``with``."""
    done = threading.Event()
    refused = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(number: int) -> None:
        task = asked(client, f"Plan de negocio {number // 4}")
        assert completed(client, task)
        for format in ("html", "markdown"):
            client.request("GET", f"/task/{task}/documents?format={format}")
        # The beginning is longer than a block of tokens, so that it is looked up and found.
        content = f"{'Un plan de negocio para una panadería con obrador propio. ' * 8}{number}"
        chat = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
        assert client.request("POST", "/v1/chat/completions", chat).status == 200
        with pytest.raises(urllib.error.HTTPError):
            refused.open(f"{client.url}/stats", timeout=30)
        for path in ("gamma/echo", "export-ia/echo", "gateway/requests"):
            with suppress(urllib.error.HTTPError):
                refused.open(f"{gateway.url}/api/v1/{path}", timeout=30)

    def go_on() -> None:
        number = 0
        while not done.wait(0.05):
            ask(number)
            number += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_every_curve_of_every_panel_has_data(tmp_path: Path) -> None:
    for name in ("prometheus", "gateway"):
        (tmp_path / name).mkdir()
    flags = ("--cache-persistence", "on", "--kv-disk-mb", "64")
    environ = {"BUL_BACKUP_ENABLED": "true"}
    with ExitStack() as opened:
        _, client = opened.enter_context(serving(*flags, data_dir=tmp_path / "data", **environ))
        systems: dict[str, dict[str, object]] = {
            "bul": {"url": client.url},
            "gamma": {"url": opened.enter_context(system(tmp_path, "gamma"))},
            "export-ia": {"url": f"http://127.0.0.1:{free_port()}", "failures": 1_000_000},
        }
        gate = opened.enter_context(gateway(tmp_path / "gateway", systems, health_seconds=0.5))
        server = opened.enter_context(
            prometheus(
                tmp_path / "prometheus",
                target=client.url.removeprefix("http://"),
                gateway=gate.url.removeprefix("http://"),
            )
        )
        opened.enter_context(traffic(client, gate))
        every_curve_has_data(server, devices=False)


def every_curve_has_data(server: Prometheus, *, devices: bool) -> None:
    for title, expression, _ in expressions(devices=devices):
        asked = expression.replace("$__rate_interval", WINDOW).replace("$instance", ".*")
        found = server.wait_for(f"({asked}) >= -1")  # which NaN is not
        assert all(math.isfinite(value) for _, value in found), title
