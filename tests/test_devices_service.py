"""A node whose model runs on several devices, over HTTP: what is written, told and shown of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bul_fakes import Scripted, running, until
from device_fakes import Machine
from device_node import Node, node
from test_server_process import asked, completed

from blatam_kv import cli

SEED = (0.30, 0.45, 0.20, 0.15)  # the original's picture


@pytest.fixture
def bul(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path, Machine(SEED, [0.5, 0.6, 0.4, 0.3])) as found:
        yield found


def devices(node: Node) -> dict[str, dict[str, object]]:
    told = node.client.request("GET", "/api/v1/devices").json("devices")["devices"]
    return {each["gpu"]: each for each in told}


def samples(node: Node, name: str) -> dict[str, float]:
    text = node.client.request("GET", "/metrics").content.decode()
    found = re.findall(rf'^kv_cache_gpu_{name}{{gpu="(\w+)"}} (\S+)$', text, re.MULTILINE)
    return {gpu: float(value) for gpu, value in found}


def test_documents_are_written_by_the_least_busy_device_and_cached_for_all(bul: Node) -> None:
    task = asked(bul.client, "Plan de negocio")
    assert completed(bul.client, task)
    assert [gpu for gpu, model in bul.models.items() if model.calls] == ["3"]
    assert completed(bul.client, asked(bul.client, "Plan de negocio"))
    assert sum(len(model.calls) for model in bul.models.values()) == 1


def test_each_device_has_writers_of_its_own(bul: Node) -> None:
    assert len(bul.service.writers) == 4 * bul.settings.max_concurrent_tasks
    with running(Scripted()) as alone:
        assert len(alone.writers) == bul.settings.max_concurrent_tasks
        assert alone.devices() == ()


def test_a_document_whose_device_fails_is_written_by_another(bul: Node) -> None:
    bul.models["3"].lost = True
    assert completed(bul.client, asked(bul.client, "Plan de negocio"))
    assert bul.models["2"].calls
    assert not devices(bul)["3"]["in_rotation"]
    ready = bul.client.request("GET", "/readyz")
    assert (ready.status, ready.json("checks")["checks"]["devices"]) == (200, "degraded")
    health = bul.client.request("GET", "/api/v1/kv-cache/health").json("components")
    assert health["components"]["gpu"] == "3 of 4 devices in the rotation"
    assert samples(bul, "in_rotation") == {"0": 1, "1": 1, "2": 1, "3": 0}
    bul.models["3"].lost = False
    bul.machine.now += 100.0
    until(lambda: devices(bul)["3"]["in_rotation"])
    assert bul.client.request("GET", "/readyz").json("checks")["checks"]["devices"] == "ok"


def test_a_device_that_fails_in_the_middle_costs_a_document_one_try(bul: Node) -> None:
    bul.models["3"].lost_after_first = True
    task = asked(bul.client, "Plan de negocio")
    assert completed(bul.client, task)
    assert [gpu for gpu, model in bul.models.items() if model.calls] == ["2", "3"]


def test_what_metrics_and_the_interface_tell_is_the_same(bul: Node) -> None:
    for number in range(5):
        assert completed(bul.client, asked(bul.client, f"Plan {number}"))
    until(lambda: samples(bul, "utilization_ratio") == dict(zip("0123", SEED, strict=True)))
    told = devices(bul)
    names = {
        "utilization_ratio": "utilization", "memory_used_bytes": "used_bytes",
        "memory_bytes": "total_bytes", "in_flight": "in_flight", "queued_tokens": "queued_tokens",
        "in_flight_tokens": "in_flight_tokens", "routed_total": "routed",
        "saved_tokens_total": "saved_tokens", "failures_total": "failures",
    }  # fmt: skip
    for sample, field in names.items():
        assert samples(bul, sample) == {gpu: each[field] for gpu, each in told.items()}
    assert sum(samples(bul, "routed_total").values()) == 5


def test_a_device_that_is_read_no_more_has_no_utilisation(bul: Node) -> None:
    until(lambda: len(samples(bul, "utilization_ratio")) == 4)
    bul.machine.broken = {"1"}
    until(lambda: not devices(bul)["1"]["in_rotation"])
    bul.machine.now += 60.0
    until(lambda: samples(bul, "utilization_ratio").keys() == {"0", "2", "3"})


# ---- blatam-kv devices --url --------------------------------------------------------------------


def command(node: Node, *flags: str) -> int:
    folder = str(node.settings.data_dir)
    return cli.main(["devices", "--url", node.client.url, "--data-dir", folder, *flags])


def test_the_command_asks_a_running_service(bul: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(bul, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["gpu"] for each in report["devices"]] == ["0", "1", "2", "3"]
    assert command(bul) == 0
    assert "in_rotation" in capsys.readouterr().out


def test_watched_it_asks_again_and_again(bul: Node, capsys: pytest.CaptureFixture[str]) -> None:
    bul.models["3"].lost = True
    completed(bul.client, asked(bul.client, "Plan de negocio"))
    assert command(bul, "--watch", "--count", "2", "--interval", "0.05") == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[:4]] == [
        ["0", "in"], ["1", "in"], ["2", "in"], ["3", "out"],
    ]  # fmt: skip
    assert len(lines) == 8


def test_where_nobody_serves_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--url", "http://127.0.0.1:9"]) == 3
    assert cli.main(["devices", "--url", "http://127.0.0.1:9", "--watch"]) == 3
