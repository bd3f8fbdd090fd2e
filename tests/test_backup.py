"""Backups: what comes back is what was there, or an error; and at every failing call the old store."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tier_fakes import KEYS, FastFiles, FaultyFiles, Values, contents, key_of, open_tier, record_of

from blatam_kv import BackupDamaged, ConfigError, TierUnavailable, Unsupported
from blatam_kv.backup import (
    backups,
    create,
    key_from_file,
    prune,
    restore,
    restore_tagged,
    sealing,
    verify,
)
from blatam_kv.backup.folder import Backup
from blatam_kv.errors import Unavailable
from blatam_kv.tiers import DiskTier

SECRET = b"correct horse battery staple"
KINDS = [
    pytest.param({}, id="plain"),
    pytest.param({"compress": True}, id="zstd"),
    pytest.param({"secret": SECRET}, id="encrypted"),
    pytest.param({"compress": True, "secret": SECRET}, id="zstd and encrypted"),
]


def at(second: int) -> Callable[[], datetime]:
    return lambda: datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=second)


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt is slow on purpose, and here asked for at every step."""
    monkeypatch.setitem(sealing._SCRYPT, "n", 16)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A few segments, a deleted key and a replaced one, and a model's name."""
    path = tmp_path / "store"
    with open_tier(path, tags={"model": "m"}) as tier:
        tier.put_many(record_of(number, bytes([number]) * 300) for number in range(10))
        tier.put_many([record_of(3, b"replaced")])
        tier.delete_many([key_of(4)])
    return path


def values(path: Path) -> Values:
    with open_tier(path, read_only=True) as tier:
        assert tier.stats().holes == tier.stats().damaged == 0
        return contents(tier, KEYS)


def tree(path: Path) -> dict[str, bytes]:
    """Every file but the lock and the checkpoint, which are no part of what is stored."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("lock", "index")
    }


# ---- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_restored_is_what_was_there(
    store: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    secret = kind.get("secret")
    backup = create(store, tmp_path / "backups", clock=at(0), files=FastFiles(), **kind)
    assert backup.path == tmp_path / "backups" / "cache_20261125_120000"
    assert verify(backup.path, secret=secret) == backup
    assert backups(tmp_path / "backups") == [backup]
    assert restore(backup.path, tmp_path / "new", secret=secret, files=FastFiles()) is None
    assert tree(tmp_path / "new") == tree(store)
    assert values(tmp_path / "new") == values(store)
    with open_tier(tmp_path / "new") as tier:
        assert tier.tags == {"model": "m"}
    stored = b"".join(tree(backup.path).values())
    assert (bytes([7]) * 300 in stored) == (not kind)


def test_segments_of_all_sizes_come_back(tmp_path: Path) -> None:
    chance = random.Random(0)
    with open_tier(tmp_path / "store", disk_bytes=64 << 20, segment_bytes=4 << 20) as tier:
        for number, size in enumerate([0, 1, (1 << 20) - 192, 1 << 20, (1 << 20) + 1, 3 << 20]):
            tier.put_many([record_of(number, chance.randbytes(size))])
        expected = contents(tier, KEYS)
    for kind in ({"compress": True, "secret": SECRET}, {"secret": SECRET}):
        backup = create(tmp_path / "store", tmp_path / "backups", files=FastFiles(), **kind)
        target = tmp_path / f"new{len(kind)}"
        restore(backup.path, target, secret=SECRET, files=FastFiles())
        assert values(target) == expected


def test_the_old_store_is_kept_beside_the_restored_one(store: Path, tmp_path: Path) -> None:
    backup = create(store, tmp_path / "backups", files=FastFiles())
    with open_tier(store) as tier:
        tier.put_many([record_of(3, b"after the backup")])
    now = tree(store)
    old = restore(backup.path, store, clock=at(0), files=FastFiles())
    assert old == tmp_path / "store.before_20261125_120000"
    assert tree(old) == now
    assert values(store)[key_of(3)] == b"replaced"
    again = restore(backup.path, store, clock=at(0), files=FastFiles())
    assert again == tmp_path / "store.before_20261125_120000_2"


def test_where_names_cannot_be_exchanged_two_steps_do(store: Path, tmp_path: Path) -> None:
    class OldFiles(FastFiles):
        def exchange(self, one: Path, other: Path) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    backup = create(store, tmp_path / "backups", files=FastFiles())
    now = tree(store)
    old = restore(backup.path, store, files=OldFiles())
    assert old is not None
    assert tree(old) == tree(store) == now


# ---- beside a writer ----------------------------------------------------------------------------


def test_a_backup_beside_a_writer_is_a_state_that_was(tmp_path: Path) -> None:
    """The n-th put writes n under key n % 5, so the values of a state are five successive ones."""
    done = threading.Event()
    with open_tier(tmp_path / "store", disk_bytes=64 << 20, segment_bytes=16 << 10) as tier:
        tier.put_many(record_of(n, n.to_bytes(4, "little")) for n in range(5))

        def write() -> None:
            n = 5
            while not done.is_set():
                tier.put_many([record_of(n % 5, n.to_bytes(4, "little") * 50)])
                n += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            made = [
                create(tmp_path / "store", tmp_path / "backups", files=FastFiles())
                for _ in range(8)
            ]
        finally:
            done.set()
            thread.join()
    last = 4
    for backup in made:
        target = tmp_path / backup.path.name
        restore(backup.path, target, files=FastFiles())
        with DiskTier(target, read_only=True) as tier:
            found = sorted(
                int.from_bytes(value[:4], "little") for value in contents(tier, KEYS[:5]).values()
            )
            assert tier.stats().holes == 0
        assert found == list(range(found[0], found[0] + 5))
        assert found[-1] >= last
        last = found[-1]
    assert last > 5


def test_segments_that_leave_meanwhile_are_left_out(tmp_path: Path) -> None:
    store = tmp_path / "store"

    class Leaving(FastFiles):
        opened = 0

        def open(self, path: Path | str, flags: int) -> int:
            if "/store/entries/" in str(path):
                self.opened += 1
                if self.opened == segments + 3:  # the second copy of a segment begins
                    for name in sorted((store / "entries").iterdir())[:3]:
                        name.unlink()
            return super().open(path, flags)

    with open_tier(store) as tier:
        tier.put_many(record_of(number, bytes([number]) * 700) for number in range(10))
    expected = values(store)
    segments = len(list((store / "entries").iterdir()))
    backup = create(store, tmp_path / "backups", files=Leaving())
    assert len(backup.copies) == segments - 3
    restore(backup.path, tmp_path / "new", files=FastFiles())
    assert values(tmp_path / "new").items() < expected.items()


# ---- increments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_did_not_change_is_linked(store: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    root = tmp_path / "backups"
    first = create(store, root, clock=at(0), files=FastFiles(), **kind)
    assert first.linked == 0
    with open_tier(store) as tier:
        tier.put_many([record_of(11, b"more" * 100)])
    expected = values(store)
    second = create(store, root, clock=at(1), files=FastFiles(), **kind)
    sealed = [copy for copy in first.copies if copy.sealed]
    assert second.linked == len(sealed) > 1
    for copy in sealed:
        assert (first.path / copy.file).samefile(second.path / copy.file)
    segments = {file.stat().st_ino for file in (store / "entries").iterdir()}
    for backup in (first, second):
        assert segments.isdisjoint(file.stat().st_ino for file in backup.path.rglob("*"))
    shutil.rmtree(first.path)
    restore(second.path, tmp_path / "new", secret=kind.get("secret"), files=FastFiles())
    assert values(tmp_path / "new") == expected


def test_nothing_is_linked_across_kinds_keys_and_stores(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "backups"
    create(store, root, clock=at(0), files=FastFiles())
    assert create(store, root, compress=True, clock=at(1), files=FastFiles()).linked == 0
    assert create(store, root, secret=SECRET, clock=at(2), files=FastFiles()).linked == 0
    with pytest.raises(ConfigError, match="another key"):
        create(store, root, secret=SECRET + b"!", clock=at(3), files=FastFiles())
    shutil.rmtree(store)
    with open_tier(store) as tier:
        tier.put_many(record_of(number, b"another store" * 30) for number in range(10))
    assert create(store, root, secret=SECRET, clock=at(4), files=FastFiles()).linked == 0
    assert len(backups(root)) == 4


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_to_a_backup_is_named(
    store: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    secret = kind.get("secret")
    backup = create(store, tmp_path / "backups", files=FastFiles(), **kind)
    names = [*(copy.file for copy in backup.copies), "backup.json"]
    before = tree(store)
    chance = random.Random(1)

    def check() -> None:
        with pytest.raises(BackupDamaged):
            verify(backup.path, secret=secret)
        with pytest.raises(BackupDamaged):
            restore(backup.path, store, secret=secret, files=FastFiles())
        assert tree(store) == before

    for name in names:
        file = backup.path / name
        good = file.read_bytes()
        for byte in (0, len(good) // 2, len(good) - 1, *chance.sample(range(len(good)), 2)):
            bad = bytearray(good)
            bad[byte] ^= 1 << chance.randrange(8)
            file.write_bytes(bad)
            check()
        for size in (0, len(good) - 1, chance.randrange(len(good))):
            file.write_bytes(good[:size])
            check()
        file.unlink()
        check()
        file.write_bytes(good)
    first, second = (backup.path / copy.file for copy in backup.copies[:2])
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    check()
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    assert verify(backup.path, secret=secret) == backup
    (backup.path / "entries" / "extra").write_bytes(b"")
    with pytest.raises(BackupDamaged, match="extra"):
        verify(backup.path)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_manifest_that_agrees_with_wrong_files_does_not_help(
    store: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    """Files swapped together with their digests: what they hold is still another segment."""
    from blatam_kv.backup import folder

    backup = create(store, tmp_path / "backups", files=FastFiles(), **kind)
    copies = list(backup.copies)
    for name in ("file", "file_size", "file_digest"):
        a, b = getattr(copies[0], name), getattr(copies[1], name)
        copies[0] = _replaced(copies[0], name, b)
        copies[1] = _replaced(copies[1], name, a)
    folder.write(FastFiles(), _replaced(backup, "copies", tuple(copies)))
    with pytest.raises(BackupDamaged):
        verify(backup.path, secret=kind.get("secret"))


def _replaced(thing: Any, name: str, value: object) -> Any:
    from dataclasses import replace

    return replace(thing, **{name: value})


def test_a_manifest_cannot_name_a_file_outside(store: Path, tmp_path: Path) -> None:
    from blatam_kv.backup import folder

    backup = create(store, tmp_path / "backups", files=FastFiles())
    for name in ("../../store/metadata.json", "/etc/passwd", "entries/../backup.json", "x"):
        copies = (_replaced(backup.copies[0], "file", name), *backup.copies[1:])
        folder.write(FastFiles(), _replaced(backup, "copies", copies))
        with pytest.raises(BackupDamaged, match="outside"):
            verify(backup.path)


def test_a_newer_backup_is_left_alone(store: Path, tmp_path: Path) -> None:
    from blatam_kv.backup import folder

    backup = create(store, tmp_path / "backups", files=FastFiles())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "FORMAT", 2)
        folder.write(FastFiles(), backup)
    with pytest.raises(Unsupported, match="format 2"):
        restore(backup.path, tmp_path / "new")


def test_files_are_verified_without_the_secret(store: Path, tmp_path: Path) -> None:
    backup = create(store, tmp_path / "backups", secret=SECRET, files=FastFiles())
    assert verify(backup.path) == backup
    for secret, message in ((None, "--key-file"), (SECRET + b"!", "another key")):
        with pytest.raises(ConfigError, match=message):
            restore(backup.path, tmp_path / "new", secret=secret)
    assert not (tmp_path / "new").exists()


# ---- failing calls ------------------------------------------------------------------------------


class FaultyEverything(FaultyFiles):
    """Also the calls that only backups make."""

    def exchange(self, one: Path, other: Path) -> None:
        self._checked("exchange", super().exchange, one, other)

    def link(self, source: Path, target: Path) -> None:
        self._checked("link", super().link, source, target)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_backup_that_fails_at_any_call_leaves_no_half(
    store: Path, tmp_path: Path, persistent: bool
) -> None:
    root = tmp_path / "backups"
    first = create(store, root, clock=at(0), files=FastFiles())
    with open_tier(store) as tier:
        tier.put_many([record_of(11, b"more" * 100)])
    before = tree(store)
    call = 0
    while True:
        call += 1
        files = FaultyEverything(call, errno.ENOSPC, persistent=persistent)
        with suppress(OSError, TierUnavailable):
            create(store, root, clock=at(call), files=files)
        assert tree(store) == before
        for backup in backups(root):
            assert verify(backup.path) == backup
        prune(root)
        assert {path.name[:6] for path in root.iterdir()} == {"cache_"}
        assert not list(root.glob("*.partial"))
        for backup in backups(root):
            if backup.path != first.path:
                shutil.rmtree(backup.path)
        if files.calls < call:
            break
    assert call > 50


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_restoring_that_fails_at_any_call_leaves_one_store_that_opens(
    store: Path, tmp_path: Path, persistent: bool
) -> None:
    """Failing from then on is what a crash looks like from the disk."""
    backup = create(store, tmp_path / "backups", files=FastFiles())
    old = values(store)
    with open_tier(store) as tier:
        tier.put_many([record_of(3, b"newer than the backup")])
    new = values(store)
    kept = tmp_path / "kept"
    shutil.copytree(store, kept)
    call, seen = 0, set()
    while True:
        call += 1
        files = FaultyEverything(call, errno.EIO, persistent=persistent)
        failed = False
        try:
            restore(backup.path, store, clock=at(call), files=files)
        except (OSError, TierUnavailable):
            failed = True
        found = values(store)
        assert found == old if not failed else found in (old, new)
        seen.add(found == old)
        # Nothing of the store that was there is lost, whatever it is called now.
        beside = [path for path in tmp_path.iterdir() if path.name.startswith("store")]
        assert any(tree(path) == tree(kept) for path in beside)
        restore(backup.path, store, files=FastFiles())  # goes on from there
        assert values(store) == old
        assert (
            any(
                tree(path) == tree(kept)
                for path in tmp_path.iterdir()
                if path.name.startswith("store.before")
            )
            or found == old
        )
        for path in tmp_path.iterdir():
            if path.name.startswith("store"):
                shutil.rmtree(path)
        shutil.copytree(kept, store)
        if files.calls < call:
            break
    assert seen == {True, False}
    assert call > 50


# ---- retention ----------------------------------------------------------------------------------


def test_old_backups_go_by_count_and_by_age(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "backups"
    day = 86_400
    made = [create(store, root, clock=at(n * day), files=FastFiles()) for n in range(6)]

    def left() -> list[Backup]:
        return backups(root)

    assert prune(root, files=FastFiles()) == []
    assert prune(root, keep=5, files=FastFiles()) == [made[0].path]
    assert prune(root, days=3, clock=at(5 * day), files=FastFiles()) == [made[1].path]
    assert left() == made[2:]
    assert prune(root, keep=3, days=0.5, clock=at(100 * day), files=FastFiles()) == [
        backup.path for backup in made[2:5]
    ]
    assert left() == made[5:]  # the newest stays, however old
    for backup in left():
        verify(backup.path)
    for wrong in ({"keep": 0}, {"days": 0}, {"days": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            prune(root, **wrong)  # type: ignore[arg-type]


def test_two_backups_within_a_second_have_two_names(store: Path, tmp_path: Path) -> None:
    made = [create(store, tmp_path, clock=at(0), files=FastFiles()) for _ in range(3)]
    assert [backup.path.name for backup in made] == [
        "cache_20261125_120000",
        "cache_20261125_120000_2",
        "cache_20261125_120000_3",
    ]
    assert len(backups(tmp_path)) == 3


# ---- one tenant ---------------------------------------------------------------------------------


def test_one_tenants_records_come_back_and_the_others_stay(tmp_path: Path) -> None:
    mine, other, store = bytes([1]) * 32, bytes([2]) * 32, tmp_path / "store"
    with open_tier(store) as tier:
        tier.put_many(record_of(n, b"mine" * n, tags=mine) for n in range(3))
        tier.put_many(record_of(n, b"other", tags=other) for n in range(3, 6))
    backup = create(store, tmp_path / "backups", secret=SECRET, files=FastFiles())
    with open_tier(store) as tier:
        tier.delete_many([key_of(0), key_of(4)])
        tier.put_many([record_of(1, b"spoilt", tags=mine), record_of(5, b"newer", tags=other)])
        expected = contents(tier, KEYS)
    restored = restore_tagged(backup.path, store, mine, secret=SECRET, files=FastFiles())
    assert restored == 3
    back = {key_of(n): b"mine" * n for n in range(3)}
    assert values(store) == expected | back
    assert restore_tagged(backup.path, store, bytes(32), secret=SECRET, files=FastFiles()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "store"]
    with open_tier(store), pytest.raises(TierUnavailable):
        restore_tagged(backup.path, store, mine, secret=SECRET, files=FastFiles())


# ---- refusals -----------------------------------------------------------------------------------


def test_a_store_that_is_being_written_is_not_replaced(store: Path, tmp_path: Path) -> None:
    backup = create(store, tmp_path / "backups", files=FastFiles())
    with open_tier(store), pytest.raises(TierUnavailable) as caught:
        restore(backup.path, store)
    assert caught.value.reason is Unavailable.IN_USE
    assert not (tmp_path / "store.restoring").exists()


def test_a_folder_that_is_no_store_is_neither_copied_nor_replaced(
    store: Path, tmp_path: Path
) -> None:
    backup = create(store, tmp_path / "backups", files=FastFiles())
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("ten years")
    with pytest.raises(ConfigError, match="not a cache"):
        restore(backup.path, home)
    assert (home / "thesis.txt").read_text() == "ten years"
    for path in (home, tmp_path / "nowhere"):
        with pytest.raises(TierUnavailable, match="not a cache"):
            create(path, tmp_path / "backups")
    with pytest.raises(BackupDamaged, match="not a backup"):
        restore(home, tmp_path / "new")
    assert backups(tmp_path / "nowhere") == []


def test_a_key_file_holds_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(SECRET + b"\n")
    assert key_from_file(file) == SECRET
    file.write_bytes(b"short\n")
    with pytest.raises(ConfigError, match="openssl"):
        key_from_file(file)
    with pytest.raises(ConfigError, match="cannot read"):
        key_from_file(tmp_path / "nothing")


def test_a_manifest_says_what_it_lists(store: Path, tmp_path: Path) -> None:
    """As docs/FORMAT.md has it, read without any of our code."""
    backup = create(store, tmp_path / "backups", files=FastFiles())
    document = json.loads((backup.path / "backup.json").read_bytes())
    assert document["format"] == 1
    for copy in document["copies"]:
        data = (backup.path / copy["file"]).read_bytes()
        assert len(data) == copy["size"] == copy["file_size"]
        assert hashlib.blake2b(data, digest_size=32).hexdigest() == copy["digest"]
