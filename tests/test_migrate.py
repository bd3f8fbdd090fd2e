"""From the original's files and back: every entry, every setting, byte for byte, whatever fails."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_server import Postgres, postgres
from psycopg.types.json import Jsonb
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


# ---- PostgreSQL ---------------------------------------------------------------------------------

ROWS = [
    ("q1", "a newer answer", "2026-01-02T10:00:00+00:00", None, None),  # the folder has one, too
    ("pg1", '{"title": "Plan", "score": 0.1000000000000000055}', None, "s1", {"area": "legal"}),
    ("pg2", "texto con ñ y \U0001f680", "2026-01-01T00:00:00+02:00", None, {"n": [1, None]}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def filled_database(server: Postgres, *, value: str = "TEXT", rows: int = 0) -> str:
    """A database as the original's v2.0 left it, and its URL."""
    url = server.database()
    with psycopg.connect(url) as connection:
        connection.execute(
            f"CREATE TABLE cache_entries (key VARCHAR(255) PRIMARY KEY, value {value}, created_at "
            "TIMESTAMPTZ, accessed_at TIMESTAMPTZ, session_id VARCHAR(255), metadata JSONB)"
        )
        insert = "INSERT INTO cache_entries VALUES (%s, %s, %s, NULL, %s, %s)"
        for key, text, created, session, about in ROWS if value == "TEXT" else ROWS[1:2]:
            connection.execute(insert, (key, text, created, session, Jsonb(about)))
        connection.execute(
            "INSERT INTO cache_entries (key, value) SELECT 'many' || n, to_json(n)::text::"
            f"{value} FROM generate_series(1, {rows}) AS n"
        )
    return url


def everything(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT *, xmin FROM cache_entries ORDER BY key").fetchall()


def test_a_database_comes_along_and_stays_as_it_is(
    folder: Callable[[str], Path], server: Postgres
) -> None:
    path, url = folder("v2"), filled_database(server, rows=1000)
    rows = everything(url)
    planned = up(path, database=url, dry_run=True, clock=lambda: NOW, files=FastFiles())
    assert look(path).version is Version.V2
    done = up(path, database=url, clock=lambda: NOW, files=FastFiles())
    assert done == planned
    assert (done.entries, done.replaced) == (1007, 1)  # q1 of the folder
    store = path / "cache"
    about, data = entry(store, "q1")
    assert json.loads(data) == "a newer answer"
    assert about["created_at"] == "2026-01-02T10:00:00+00:00"
    about, data = entry(store, "pg1")
    assert data == ROWS[1][1].encode()  # to the last digit
    assert about["metadata"] == {"area": "legal"}
    assert about["session_id"] == "s1"
    assert json.loads(entry(store, "pg2")[1]) == ROWS[2][1]
    assert json.loads(entry(store, "many1000")[1]) == 1000
    with DiskTier(store, read_only=True) as tier:
        record = tier.get_many([key_of("pg2")])[0]
        assert record is not None
        assert datetime.fromtimestamp(record.created_us / 1e6, UTC).hour == 22
    migration = status(path)[1]
    assert migration is not None
    assert migration.database == done.database
    down(path, files=FastFiles())
    assert everything(url) == rows  # not a row was touched
    for said in (done.database, (path.parent / "v2.undone" / "migration.json").read_text()):
        assert "s3cret" not in said
        assert "postgresql://postgres@" in said


@pytest.mark.parametrize("kind", ["JSONB", "JSON", "BYTEA"])
def test_every_type_of_value_comes_over(tmp_path: Path, server: Postgres, kind: str) -> None:
    path = tmp_path / "empty"
    path.mkdir()
    url = filled_database(server, value="JSONB" if kind == "BYTEA" else kind)
    with psycopg.connect(url) as connection:
        if kind == "BYTEA":
            connection.execute(
                "ALTER TABLE cache_entries ALTER value TYPE BYTEA USING value::text::bytea"
            )
    assert up(path, database=url, files=FastFiles()).entries == 1
    value = entry(path / "cache", "pg1")[1]
    if kind == "BYTEA":
        value = bytes.fromhex(json.loads(value)["bytes"])
    assert b"0.1000000000000000055" in value
    assert json.loads(value)["title"] == "Plan"


def test_rows_that_come_meanwhile_stop_it(folder: Callable[[str], Path], server: Postgres) -> None:
    path, url = folder("v2"), filled_database(server)
    before = tree(path)

    def meddling(items: Any, what: str) -> Any:
        yield from items
        if what == "verify":
            with psycopg.connect(url) as connection:
                connection.execute("INSERT INTO cache_entries (key, value) VALUES ('x', 'y')")

    with pytest.raises(InvalidRequest, match="changed meanwhile"):
        up(path, database=url, progress=meddling, files=FastFiles())
    assert tree(path.parent) == {f"v2/{name}": data for name, data in before.items()}


def test_the_progress_knows_how_many_rows_there_are(
    folder: Callable[[str], Path], server: Postgres
) -> None:
    sizes = {}

    def noted(items: Any, what: str) -> Any:
        sizes[what] = len(items) if hasattr(items, "__len__") else None
        return items

    url = filled_database(server)
    up(folder("v2"), database=url, dry_run=True, progress=noted, files=FastFiles())
    assert [size for what, size in sizes.items() if what.startswith("postgresql")] == [3]


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite:///x.db", "must look like postgresql://"),
        ("s3cret", "must look like postgresql://"),
        ("postgresql://u:s3cret@/x?host=/nowhere", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_had_is_said_without_its_password(
    folder: Callable[[str], Path], url: str, hint: str, capsys: Captured
) -> None:
    path = folder("v2")
    before = tree(path.parent)
    assert cli.main(["migrate", "up", str(path), "--database", url, "--quiet"]) in (1, 2)
    said = capsys.readouterr().err
    assert hint in said
    assert "s3cret" not in said
    assert tree(path.parent) == before


def test_a_database_without_the_table_is_refused(tmp_path: Path, server: Postgres) -> None:
    with pytest.raises(Unsupported, match="has no table cache_entries"):
        up(tmp_path, database=server.database(), files=FastFiles())


def test_the_command_takes_a_database_along(
    folder: Callable[[str], Path], server: Postgres, capsys: Captured
) -> None:
    path, url = folder("v2"), filled_database(server)
    command = ["migrate", "up", str(path), "--database", url, "--quiet"]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "was read and is as it was" in said
    assert said.endswith("nothing was changed\n")
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 7


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
