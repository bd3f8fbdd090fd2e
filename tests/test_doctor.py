"""What ``doctor`` says of the data directory and its keys, and that it changes neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blatam_kv import cli
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.master import FILE, load_master
from blatam_kv.cli.doctor import examine
from blatam_kv.config import Settings


def examined(folder: Path) -> Any:  # Any: a report of many types
    return examine(Settings(data_dir=folder))


def test_a_new_directory_has_no_secret_and_doctor_makes_none(tmp_path: Path) -> None:
    keys = examined(tmp_path / "new")["keys"]
    assert keys["secret"] == "made at the first start"
    assert (keys["mode"], keys["keys"], keys["reason"]) == (None, 0, None)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_counted_by_what_they_are_good_for(tmp_path: Path) -> None:
    now = 1_000_000.0
    ring = KeyRing(tmp_path, load_master(tmp_path), clock=lambda: now)
    ring.create("old", days=1)  # long over
    now = 2e9 * 2
    ring.create("acme")
    ring.rotate(ring.create("acme").key.key_id)
    ring.revoke(ring.create("gone").key.key_id)
    report = examined(tmp_path)
    assert report["keys"] == {
        "secret": str(tmp_path / FILE),
        "mode": "0600",
        "tenants": 1,
        "keys": 5,
        "working": 3,
        "verify_only": 1,
        "expired": 1,
        "revoked": 1,
        "reason": None,
    }
    assert report["data_dir"]["exists"]
    assert report["data_dir"]["free_bytes"] > 0


def test_a_secret_that_others_can_read_is_a_problem_with_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_master(tmp_path)
    (tmp_path / FILE).chmod(0o640)
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["keys"]["mode"] == "0640"
    (problem,) = report["problems"]
    assert "chmod 600" in problem


def test_a_weak_configured_secret_is_a_problem_and_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUL_HMAC_SECRET", "changeme" * 8)
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "can be guessed" in json.loads(text)["problems"][0]
    assert "changeme" not in text
