"""``bench --http``: traffic that a running service counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_server_process import serving

from blatam_kv import cli


def test_traffic_is_what_the_service_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(data_dir=tmp_path) as (_, client):
        flags = ["--http", client.url, "--data-dir", str(tmp_path), "--seconds", "1.5", "--json"]
        assert cli.main(["bench", *flags, "--connections", "2"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["requests"] == sum(told["statuses"].values()) > 0
        assert told["failures"] == {}
        assert client.request("GET", "/tasks").json()["total"] <= told["requests"]
        counted = client.request("GET", "/stats").json()
        assert counted["total_tasks"] == told["requests"]


@pytest.mark.parametrize(
    ("flags", "status", "hint"),
    [
        (["--seconds", "0"], 2, "--seconds takes"),
        (["--connections", "0"], 2, "--connections takes"),
        ([], 3, "no service answers"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    status: int,
    hint: str,
) -> None:
    command = ["bench", "--http", "http://127.0.0.1:9", "--data-dir", str(tmp_path), *flags]
    assert cli.main(command) == status
    assert hint in capsys.readouterr().err
