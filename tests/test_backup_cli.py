"""``blatam-kv backup``: what it prints, and with which status it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tier_fakes import KEYS, Values, contents, open_tier, record_of

from blatam_kv import cli

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with open_tier(tmp_path / "store") as tier:
        tier.put_many(record_of(number, bytes([number]) * 300) for number in range(10))
    return tmp_path / "store"


def values(path: Path) -> Values:
    with open_tier(path, read_only=True) as tier:
        return contents(tier, KEYS)


def test_a_cache_goes_there_and_back(store: Path, tmp_path: Path, capsys: Captured) -> None:
    root, key = str(tmp_path / "backups"), tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    sealing = ["--key-file", str(key)]
    expected = values(store)
    assert cli.main(["backup", "create", str(store), root, "--compress", *sealing]) == 0
    said = capsys.readouterr().out
    assert "10 segments" not in said
    assert "encrypted, verified" in said
    assert cli.main(["backup", "list", root, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["encrypted"]
    assert row["compressed"]
    assert row["linked"] == 0
    with open_tier(store) as tier:
        tier.delete_many(KEYS)
    assert cli.main(["backup", "restore", row["path"], str(store), *sealing]) == 0
    assert "store.before_" in capsys.readouterr().out
    assert values(store) == expected
    assert cli.main(["backup", "verify", row["path"], *sealing]) == 0
    assert capsys.readouterr().out.strip().endswith("encrypted, whole")
    assert cli.main(["backup", "verify", row["path"]]) == 0
    assert "was not read" in capsys.readouterr().out
    assert cli.main(["backup", "verify", row["path"], "--json", *sealing]) == 0
    assert json.loads(capsys.readouterr().out) == row
    assert cli.main(["backup", "restore", row["path"], str(tmp_path / "x"), "--json"]) == 2
    assert "--key-file" in capsys.readouterr().err


def test_old_backups_go_after_the_new_one_is_whole(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = str(tmp_path / "backups")
    assert cli.main(["backup", "list", root]) == 0
    assert "no backups" in capsys.readouterr().out
    paths = []
    for _ in range(3):
        assert cli.main(["backup", "create", str(store), root, "--keep", "2", "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        paths.append(made["path"])
    assert made["removed"] == paths[:1]
    assert made["linked"] > 0
    assert cli.main(["backup", "list", root]) == 0
    said = capsys.readouterr().out
    assert [Path(path).name for path in paths[1:]] == [
        line.split()[0] for line in said.splitlines()
    ]
    assert "shared with the backup before" in said


def test_only_some_records_are_restored(store: Path, tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["backup", "create", str(store), str(tmp_path / "b"), "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["path"]
    command = ["backup", "restore", path, str(store), "--tags"]
    with open_tier(store) as tier:
        tier.delete_many(KEYS[:2])
    assert cli.main([*command, "00" * 32]) == 0
    assert "10 records of" in capsys.readouterr().out
    assert len(values(store)) == 10
    assert cli.main([*command, "11" * 32, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 0
    assert cli.main([*command, "00"]) == 2
    assert "--tags takes 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["create", "nowhere", "backups"], 1, "not a cache"),
        (["create", "store", "backups", "--keep", "0"], 2, "keep"),
        (["create", "store", "backups", "--key-file", "missing"], 2, "cannot read"),
        (["create", "store", "store/lock"], 1, "File exists"),
        (["verify", "store"], 1, "not a backup"),
        (["restore", "nowhere", "store"], 1, "not a backup"),
    ],
)
def test_what_cannot_be_done_is_said(
    store: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = values(store)
    assert cli.main(["backup", *arguments]) == status
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert values(store) == before


def test_a_backup_that_is_damaged_ends_with_1(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert cli.main(["backup", "create", str(store), str(tmp_path / "b"), "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    file = next((path / "entries").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert cli.main(["backup", "verify", str(path)]) == 1
    assert f"{file} is damaged" in capsys.readouterr().err
