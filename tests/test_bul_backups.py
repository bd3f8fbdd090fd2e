"""Backups made by the service: at their time, whole, kept as long as asked, and a failure harms nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, running
from test_bul_service import finished, submit
from test_server_process import serving
from tier_fakes import open_tier, record_of

from blatam_kv.backup import backups, restore, verify
from blatam_kv.bul.backups import Backups
from blatam_kv.config import Settings
from blatam_kv.tiers import DiskTier

HOUR = 3600.0
START = 1_800_000_000.0


class Life:
    """A store, its schedule, and a clock that goes when told to."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.now = START
        self.folder = folder
        self.settings = replace(
            Settings(), data_dir=folder, backup_enabled=True, backup_keep=3, **settings
        )
        with open_tier(folder / "answers") as tier:
            tier.put_many([record_of(1, b"one")])
        self.begin()

    def begin(self) -> None:
        """As the service does when it starts."""
        stores = {"answers": self.folder / "answers"}
        self.schedule = Backups(self.settings, stores, clock=lambda: self.now)

    def names(self) -> list[str]:
        root = self.folder / "backups" / "answers"
        return sorted(path.name for path in root.iterdir()) if root.exists() else []


def test_backups_are_made_when_due_and_as_many_are_kept_as_asked(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.schedule.health() == "none yet"
    assert life.schedule.make_due() == 6 * HOUR  # there was none
    life.now += HOUR
    assert life.schedule.make_due() == 5 * HOUR
    assert len(life.names()) == 1
    for _ in range(4):
        life.now += 6 * HOUR
        life.schedule.make_due()
    assert len(life.names()) == 3
    newest = backups(tmp_path / "backups" / "answers")[-1]
    assert newest.created.timestamp() == life.now
    verify(newest.path)
    seen = life.schedule.snapshot()
    assert seen is not None
    assert (seen.made, seen.failed, seen.last_timestamp) == (5, 0, life.now)
    assert seen.last_bytes == newest.file_size
    assert life.schedule.health() == f"the last one is of {newest.created:%Y-%m-%d %H:%M:%S} UTC"


def test_old_ones_go_by_age_as_well(tmp_path: Path) -> None:
    life = Life(tmp_path, backup_retention_days=1.0)
    life.schedule.make_due()
    life.now += 30 * HOUR
    life.schedule.make_due()
    assert len(life.names()) == 1


def test_a_service_that_restarts_often_is_backed_up_all_the_same(tmp_path: Path) -> None:
    life = Life(tmp_path)
    made = []
    for _ in range(10):
        life.begin()
        life.schedule.make_due()
        made.append(len(life.names()))
        life.now += 2 * HOUR
    assert made == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_a_failure_is_said_and_tried_again_sooner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path)
    (tmp_path / "backups").write_text("not a folder")
    assert life.schedule.make_due() == 0.6 * HOUR
    assert life.schedule.health() == "failing: not there; none yet"
    assert str(tmp_path) in caplog.text  # and in nothing that a tenant may read
    seen = life.schedule.snapshot()
    assert seen is not None
    assert (seen.made, seen.failed) == (0, 1)
    (tmp_path / "backups").unlink()
    life.schedule.make_due()
    assert life.schedule.health().startswith("the last one is of")


def test_what_nobody_thought_of_does_not_end_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("blatam_kv.bul.backups.create", lambda *a, **k: 1 // 0)
        assert life.schedule.make_due() == 0.6 * HOUR
    assert "ZeroDivisionError" in life.schedule.health()
    life.schedule.make_due()
    assert len(life.names()) == 1


def test_a_stop_gives_up_the_backup_that_is_being_made(tmp_path: Path) -> None:
    life = Life(tmp_path)
    files = life.schedule._files
    write = type(files).write

    class Stopping(type(files)):  # type: ignore[misc]  # mypy does not know classes as values
        def write(self, *arguments: Any) -> int:
            written: int = write(self, *arguments)
            life.schedule._stop.set()
            return written

    files.__class__ = Stopping
    life.schedule.make_due()
    life.schedule.close()
    assert life.names() == []
    seen = life.schedule.snapshot()
    assert seen is not None
    assert seen.failed == 0  # nobody is to be called for it


def test_they_are_compressed_and_encrypted_as_asked(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    life = Life(tmp_path, backup_compress=True, backup_key_file=tmp_path / "key")
    life.schedule.make_due()
    made = backups(tmp_path / "backups" / "answers")[0]
    assert made.compressed
    assert made.encryption is not None
    life.settings.backup_key_file.unlink()  # type: ignore[union-attr]
    life.now += 6 * HOUR
    life.schedule.make_due()
    assert life.schedule.health().startswith("failing: ConfigError; the last one is of")


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_service_makes_them_while_it_answers(tmp_path: Path) -> None:
    options = {"data_dir": tmp_path, "backup_enabled": True, "backup_interval_hours": 0.05 / HOUR}
    with running(Scripted(), **options, backup_keep=100) as service:
        answer = finished(service, submit(service, "bread")).answer
        assert service.shelf is not None
        service.shelf._tier.flush()
        seen = service.backups.snapshot()
        assert seen is not None
        eventually(lambda: (now := service.backups.snapshot()) and now.made > seen.made + 1)
        health = service.reports.cache_health()["components"]
        assert isinstance(health, dict)
        assert health["backups"].startswith("the last one is of ")
        text = service.metrics.expose()[0].decode()
        assert 'kv_cache_backups_total{outcome="error"} 0.0' in text
        assert re.search(r"^kv_cache_last_backup_timestamp_seconds 1[.\d]{9}", text, re.MULTILINE)
    newest = backups(tmp_path / "backups" / "answers")[-1]
    restore(newest.path, tmp_path / "new" / "answers")
    with running(Scripted(), data_dir=tmp_path / "new") as service:
        again = submit(service, "bread")
        assert (again.cache, again.answer) == ("hit", answer)


def test_a_failing_backup_harms_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    options = {"data_dir": tmp_path / "data", "backup_dir": tmp_path / "file" / "backups"}
    with running(Scripted(), backup_enabled=True, **options) as service:
        eventually(lambda: (now := service.backups.snapshot()) and now.failed)
        assert finished(service, submit(service, "bread")).status == "completed"
        assert submit(service, "bread").cache == "hit"
        assert 'kv_cache_backups_total{outcome="error"} 1.0' in service.metrics.expose()[0].decode()


def test_none_are_made_unless_asked_for(tmp_path: Path) -> None:
    with running(Scripted(), data_dir=tmp_path) as service:
        health = service.reports.cache_health()["components"]
        assert isinstance(health, dict)
        assert health["backups"] == "off"
        assert b"backup" not in service.metrics.expose()[0]
    assert not (tmp_path / "backups").exists()


def test_backups_of_a_service_that_is_killed_are_whole(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    flags = ("--backup-enabled", "on", "--backup-interval-hours", "0.00001", "--backup-dir")
    with serving(*flags, str(root), data_dir=tmp_path / "data") as (process, client):
        assert client.request("POST", "/query", {"query": "bread"}).status in (200, 202)
        eventually(lambda: len(backups(root / "answers")) > 2 and len(backups(root / "blocks")) > 2)
        process.kill()
        process.wait()
    for name in ("answers", "blocks"):
        for each in backups(root / name):
            verify(each.path)
    newest = backups(root / "answers")[-1]
    restore(newest.path, tmp_path / "restored")
    with DiskTier(tmp_path / "restored", read_only=True) as tier:
        assert tier.stats().holes == tier.stats().damaged == 0
