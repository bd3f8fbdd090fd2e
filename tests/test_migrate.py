"""From the original's files and back: every entry, every setting, byte for byte, whatever fails."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_backup import FaultyEverything
from tier_fakes import FastFiles, open_tier, record_of

from blatam_kv import Error, InvalidRequest, TierUnavailable, Unsupported, cli
from blatam_kv.config import STRATEGIES, load
from blatam_kv.migrate import Version, down, look, status, steps, up
from blatam_kv.migrate.entries import key_of, unfold
from blatam_kv.tiers import DiskTier

DATA = Path(__file__).parent / "data" / "original"
Captured = pytest.CaptureFixture[str]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the original's folders."""

    def copied(version: str) -> Path:
        path = tmp_path / version
        shutil.copytree(DATA / version, path)
        return path

    return copied


def tree(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def entry(store: Path, key: str) -> tuple[dict[str, Any], bytes]:
    with DiskTier(store, read_only=True) as tier:
        record = tier.get_many([key_of(key)])[0]
        assert record is not None, key
        return unfold(record)


# ---- version 1 ----------------------------------------------------------------------------------


def test_version_1_comes_over_whole(folder: Callable[[str], Path]) -> None:
    path = folder("v1")
    found = look(path)
    assert found.version is Version.V1
    assert found.data == ("cache_state.pkl", "old_cache.pkl")
    assert found.others == ("notes.txt",)
    before = tree(path)
    done = up(path, clock=lambda: NOW, files=FastFiles())
    assert done.entries == 5
    assert done.replaced == 1  # "plan", which both pickles have
    store = path / "cache"
    assert json.loads(entry(store, "plan")[1]) == "Un plan de negocio"
    assert json.loads(entry(store, "5f4dcc3b")[1]) == {
        "result": "texto",
        "latency": 0.25,
        "tokens": [1, 2, 3],
    }
    assert json.loads(entry(store, "raw")[1]) == {"bytes": "0001"}
    assert json.loads(entry(store, "when")[1]) == "2025-10-31 12:00:00"
    about, data = entry(store, "7")
    assert about == {"key": "7", "file": "old_cache.pkl"}
    from safetensors.numpy import load as arrays

    assert arrays(data)["value"].tolist() == [[0, 1, 2], [3, 4, 5]]
    settings = load(file=path / "blatam-kv.json", environ={})
    strategy = "adaptive" if "adaptive" in STRATEGIES else "lfu"  # which is what it did
    assert (settings.cache_strategy, settings.api_port) == (strategy, 8012)
    became = {each.name: (each.becomes, each.note) for each in done.settings}
    assert became["KV_CACHE_STRATEGY"][0] == "KV_CACHE_STRATEGY"
    assert "max_memory_mb" in became["KV_CACHE_SIZE"][1]
    assert became["KV_CACHE_ENABLE_PREFETCH"][0] == ""
    assert "do-not-copy" not in (path / "blatam-kv.json").read_text()
    assert "do-not-copy" not in (path / "migration.json").read_text()
    assert (path / "notes.txt").read_text() == "kept as they are\n"
    assert done.before == path.with_name("v1.before_20261125_120000")
    assert tree(done.before) == before


def test_version_2_comes_over_whole(folder: Callable[[str], Path]) -> None:
    path = folder("v2")
    assert look(path).version is Version.V2
    done = up(path, files=FastFiles())
    store = path / "cache"
    from safetensors.numpy import load as arrays

    _, data = entry(store, "0")
    tensors = arrays(data)
    assert tensors["value.key"].shape == (1, 2, 3, 4)
    assert (tensors["value.value"] == 0.5).all()
    assert json.loads(entry(store, "text")[1]) == "documento"
    assert json.loads(entry(store, "q1")[1]) == "una respuesta"
    assert entry(store, "q1")[0]["session_id"] == "s1"
    assert json.loads(entry(store, "q2")[1]) == {"title": "Plan"}
    with DiskTier(store, read_only=True) as tier:
        record = tier.get_many([key_of("q2")])[0]
        assert record is not None
        assert datetime.fromtimestamp(record.created_us / 1e6, UTC).hour == 13
    assert done.entries == 5
    settings = load(file=path / "blatam-kv.json", environ={})
    assert settings.cache_strategy == "lfu"
    assert settings.cache_max_memory_mb == 512
    assert settings.cache_ttl == 1800


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_going_back_restores_every_byte(folder: Callable[[str], Path], version: str) -> None:
    path = folder(version)
    before = tree(path)
    up(path, files=FastFiles())
    migrated = tree(path)
    assert status(path)[0].version is Version.CURRENT
    undone, where = down(path, files=FastFiles())
    assert tree(path) == before
    assert tree(where) == migrated
    assert undone.reinstall.startswith("pip install 'blatam-kv==")
    up(path, files=FastFiles())  # and on again
    assert status(path)[0].version is Version.CURRENT


def test_a_dry_run_changes_nothing(folder: Callable[[str], Path]) -> None:
    path = folder("v1")
    before = tree(path.parent)
    planned = up(path, dry_run=True, clock=lambda: NOW, files=FastFiles())
    assert tree(path.parent) == before
    assert up(path, clock=lambda: NOW, files=FastFiles()) == planned
    migrated = tree(path.parent)
    down(path, dry_run=True, files=FastFiles())
    assert tree(path.parent) == migrated


# ---- failing calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_migration_that_fails_at_any_call_leaves_one_version_that_opens(
    tmp_path: Path, persistent: bool
) -> None:
    """Failing from then on is what a crash looks like from the disk."""
    path, kept = tmp_path / "data", tmp_path / "kept"
    kept.mkdir()
    database = sqlite3.connect(kept / "c.db")
    database.execute("CREATE TABLE cache_entries (key TEXT, value TEXT)")
    database.execute("INSERT INTO cache_entries VALUES ('k', 'v')")
    database.commit()
    database.close()
    (kept / "config.json").write_text('{"kv_cache_size": 1}')
    shutil.copytree(kept, path)
    call, seen = 0, set()
    while True:
        call += 1
        files = FaultyEverything(call, errno.EIO, persistent=persistent)
        failed = False
        try:
            up(path, files=files)
        except (OSError, Error):
            failed = True
        version = status(path)[0].version
        seen.add(version)
        if version is Version.CURRENT:
            assert json.loads(entry(path / "cache", "k")[1]) == "v"
        else:
            assert failed
            assert tree(path) == tree(kept)
        assert any(
            tree(beside) == tree(kept)
            for beside in tmp_path.iterdir()
            if beside.name.startswith("data")
        )
        if version is not Version.CURRENT:
            up(path, files=FastFiles())  # goes on from there
            assert status(path)[0].version is Version.CURRENT
        for beside in tmp_path.iterdir():
            if beside.name.startswith("data"):
                shutil.rmtree(beside)
        shutil.copytree(kept, path)
        if files.calls < call:
            break
    assert seen == {Version.V1, Version.CURRENT}
    assert call > 30


# ---- refusals -----------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch owned",)


def evil_pickles() -> list[Any]:
    stacked = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned!\x85R."
    return [
        pytest.param(pickle.dumps({"a": Evil()}, 2), id="a global"),
        pytest.param(pickle.dumps({"a": Evil()}, 4), id="a stacked global"),
        pytest.param(stacked, id="written by hand"),
        pytest.param(b"cos\nsystem\n(S'touch owned'\ntR.", id="text"),
        pytest.param(b"(S'touch owned'\nios\nsystem\n.", id="inst"),
        pytest.param(b"\x80\x02\x82\x01.", id="an extension"),
        pytest.param(b"P0\n.", id="a persistent id"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80\x04\x95\xff\xff\xff\xff", id="cut"),
        pytest.param(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", id="a length of 2**63"),
        pytest.param(pickle.dumps({"a": [[]]})[:-1], id="no end"),
        pytest.param(b"(" * 5000 + b"l" * 5000 + b".", id="deep"),
        pytest.param(pickle.dumps({"a": object}), id="a class"),
    ]


@pytest.mark.parametrize("data", evil_pickles())
def test_a_pickle_that_is_more_than_data_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data"
    path.mkdir()
    (path / "cache.pkl").write_bytes(data)
    before = tree(tmp_path)
    with pytest.raises(Unsupported, match=r"cache\.pkl"):
        up(path, files=FastFiles())
    assert tree(tmp_path) == before


def test_a_pt_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "data"
    path.mkdir()
    torch.save({"a": Evil()}, path / "cache.pt")
    with pytest.raises(Unsupported, match="plain data"):
        up(path, files=FastFiles())
    assert not (tmp_path / "owned").exists()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["data"]


def test_what_cannot_be_migrated_is_named(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, message in ((empty, "nothing to migrate"), (tmp_path / "x", "not a folder")):
        with pytest.raises(InvalidRequest, match=message):
            up(path)
    with open_tier(tmp_path / "store") as tier:
        tier.put_many([record_of(1, b"x")])
    with pytest.raises(InvalidRequest, match="nothing to migrate"):
        up(tmp_path / "store")
    with pytest.raises(InvalidRequest, match="not made by a migration"):
        down(tmp_path / "store")
    path = folder("v1")
    (path / "x.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(Unsupported, match=r"x\.db"):
        up(path, files=FastFiles())
    (path / "x.db").unlink()
    (path / "big.pkl").write_bytes(pickle.dumps({"big": "x" * 3_000_000}))
    with pytest.raises(Unsupported, match="--disk-bytes"):
        up(path, disk_bytes=1 << 20, files=FastFiles())


def test_old_files_that_changed_are_not_gone_back_to(folder: Callable[[str], Path]) -> None:
    path = folder("v1")
    done = up(path, files=FastFiles())
    (done.before / "notes.txt").write_text("changed")
    migrated = tree(path)
    with pytest.raises(InvalidRequest, match=r"notes\.txt is not what it was"):
        down(path)
    shutil.rmtree(done.before)
    with pytest.raises(InvalidRequest, match="restore it from a backup"):
        down(path)
    assert tree(path) == migrated


def test_data_of_newer_code_is_left_alone(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder("v1")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "FORMAT", 2)
        patch.setattr(steps, "__version__", "9.9.9")
        up(path, files=FastFiles())
    for call in (status, up, down):
        with pytest.raises(Unsupported, match=r"pip install 'blatam-kv==9\.9\.9'"):
            call(path)


# ---- the command --------------------------------------------------------------------------------


def test_the_command_goes_up_and_down(folder: Callable[[str], Path], capsys: Captured) -> None:
    path = folder("v1")
    before = tree(path)

    def said(*arguments: str) -> str:
        assert cli.main(["migrate", *arguments]) == 0
        return capsys.readouterr().out

    assert "v1.x" in said("status", str(path))
    assert "nothing was changed" in said("up", str(path), "--dry-run", "--quiet")
    report = said("up", str(path), "--quiet")
    assert "do-not-copy" not in report
    for word in ("backup", "code", "settings", "data", "verify", "5 entries"):
        assert word in report
    shown = json.loads(said("status", str(path), "--json"))
    assert shown["version"] == "current"
    assert shown["migrated"]["entries"] == 5
    assert "would be v1.x again" in said("down", str(path), "--dry-run")
    assert "pip install 'blatam-kv==" in said("down", str(path))
    assert tree(path) == before
    assert json.loads(said("up", str(path), "--json"))["from"] == "v1.x"
    assert json.loads(said("down", str(path), "--json"))["files"] == len(before)
    assert cli.main(["migrate", "down", str(path)]) == 2
    assert "not made by a migration" in capsys.readouterr().err


def test_a_store_that_a_writer_holds_is_still_looked_at(tmp_path: Path) -> None:
    with open_tier(tmp_path / "store") as tier:
        tier.put_many([record_of(1, b"x")])
        assert status(tmp_path / "store")[0].version is Version.CURRENT
        with pytest.raises(TierUnavailable):
            open_tier(tmp_path / "store")
