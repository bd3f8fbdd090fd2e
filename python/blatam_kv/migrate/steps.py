"""The steps of a migration: back up, code, settings, data, verify, and then all at once or not at all.

Everything new is made in a folder beside the old one. When it is verified the two exchange names, and
the old folder, untouched, is the backup. So at every moment one whole version has the name, and going
back is exchanging names again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from blatam_kv._core import __version__
from blatam_kv.errors import CorruptRecord, Damage, InvalidRequest, Unsupported
from blatam_kv.migrate.entries import entries_of
from blatam_kv.migrate.found import CONFIG, RECORD, STORE, Found, Version, look
from blatam_kv.migrate.settings import Setting, migrate_settings, written
from blatam_kv.record import Record
from blatam_kv.tiers import DiskTier
from blatam_kv.tiers.files import Files, SystemFiles, replace_file
from blatam_kv.tiers.snapshot import snapshot

FORMAT = 1
# What a row takes beside its value.
_ROW_BYTES = 1024
_UNFINISHED = "unfinished"
# Progress(items, what): the same items, shown as they pass.
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did, or would do. before: the old folder's name now. entries: that are in the
    store; replaced: that a later one with the same key replaced. files: digests of the old folder's
    files, by which going back knows that it is untouched. database: the one that was read, without its
    password, "" for none; going back has nothing to do there."""

    folder: Path
    version: Version
    code: str
    when: datetime
    before: Path
    settings: tuple[Setting, ...]
    entries: int
    replaced: int
    files: dict[str, str]
    database: str = ""

    @property
    def reinstall(self) -> str:
        """How to get the code back that wrote this version."""
        return f"pip install 'blatam-kv=={self.code}'"


def status(folder: str | Path) -> tuple[Found, Migration | None]:
    """What is in a folder, and the migration that made it, if one did.

    Raises Unsupported, with the command that installs it, for data of newer code.
    """
    found = look(folder)
    if found.version is Version.CURRENT:
        for store in (found.folder, found.folder / STORE):
            if (store / "entries").is_dir():
                snapshot(SystemFiles(), store)
    return found, _read(found.folder) if (found.folder / RECORD).exists() else None


def up(
    folder: str | Path,
    *,
    database: str | None = None,
    dry_run: bool = False,
    disk_bytes: int | None = None,
    progress: Progress = lambda items, what: items,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0),
    files: Files | None = None,
) -> Migration:
    """Bring a folder of the original to this version.

    database: a PostgreSQL URL whose table cache_entries comes along, after the folder's files; it is
    read and stays as it is. disk_bytes: the new store's bound; by default four times what the old data
    takes, at least 64 MiB.
    dry_run: do everything but the last step, and leave nothing. Raises InvalidRequest if there is
    nothing to migrate, Unsupported for a file or a database that cannot be read as plain data,
    OSError; the folder is then as it was.
    """
    files, folder = files or SystemFiles(), Path(folder).absolute()
    found, _ = status(folder)
    if found.version is Version.NOTHING and database is not None:
        found = replace(found, version=Version.V2)  # databases came with it
    if found.version in (Version.CURRENT, Version.NOTHING):
        raise InvalidRequest(
            f"{folder} holds {found.version}: there is nothing to migrate", field="folder"
        )
    table = None
    if database is not None:
        from blatam_kv.migrate.database import Database

        table = Database(database)
    when = clock()
    fresh = folder.with_name(f"{folder.name}.migrating")
    before = _free_name(folder, f"before_{when:%Y%m%d_%H%M%S}")
    _clear(files, fresh, before)
    files.make_folder(fresh)
    try:
        (fresh / _UNFINISHED).touch()
        digests = {name: _digest(folder / name) for name in progress(_files(folder), "backup")}
        document, settings = migrate_settings(found)
        written(document, fresh / CONFIG)
        for name in found.others:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, fresh / name)
        size = sum((folder / name).stat().st_size for name in found.data)
        extent = None if table is None else table.extent()
        size += 0 if extent is None else extent.bytes + _ROW_BYTES * extent.rows
        bound = disk_bytes or max(64 << 20, 4 * size)
        sources: dict[str, Callable[[], Iterable[Record]]] = {
            name: partial(entries_of, folder, name) for name in found.data
        }
        if table is not None:
            sources[table.name] = lambda: table
        taken, kept = _migrate_data(
            files, sources, fresh / STORE, bound, progress, version=found.version
        )
        migration = Migration(
            folder=folder,
            version=found.version,
            code=__version__,
            when=when,
            before=before,
            settings=tuple(settings),
            entries=len(kept),
            replaced=taken - len(kept),
            files=digests,
            database="" if table is None else table.name,
        )
        _write(files, migration, fresh)
        _verify(files, fresh / STORE, kept, progress)
        if {name: _digest(folder / name) for name in _files(folder)} != digests:
            raise InvalidRequest(
                f"{folder} changed meanwhile; stop what writes there first", field="folder"
            )
        if table is not None and table.extent() != extent:
            raise InvalidRequest(
                f"{table.name} changed meanwhile; stop what writes there first", field="database"
            )
        if dry_run:
            shutil.rmtree(fresh)
            return migration
        files.remove(fresh / _UNFINISHED)
        files.sync_folder(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _exchange(files, fresh, folder)
    files.replace(fresh, before)
    files.sync_folder(folder.parent)
    return migration


def down(
    folder: str | Path, *, dry_run: bool = False, files: Files | None = None
) -> tuple[Migration, Path]:
    """Go back to what was there before ``up``, byte for byte; returns the migration that was undone and
    where its result lies now. Raises InvalidRequest if there was none or the old files changed."""
    files, folder = files or SystemFiles(), Path(folder).absolute()
    if not (folder / RECORD).exists():
        raise InvalidRequest(f"{folder} was not made by a migration", field="folder")
    migration = _read(folder)
    old = folder.with_name(migration.before.name)
    if not old.is_dir():
        raise InvalidRequest(f"{old} is not there; restore it from a backup", field="folder")
    now = {name: _digest(old / name) for name in _files(old)}
    if now != migration.files:
        changed = sorted(
            name
            for name in now.keys() | migration.files
            if now.get(name) != migration.files.get(name)
        )
        raise InvalidRequest(f"{old / changed[0]} is not what it was", field="folder")
    undone = _free_name(folder, "undone")
    if not dry_run:
        _exchange(files, folder, old)
        files.replace(old, undone)
        files.sync_folder(folder.parent)
    return migration, undone


# ---- the parts ----------------------------------------------------------------------------------


def _migrate_data(
    files: Files,
    sources: Mapping[str, Callable[[], Iterable[Record]]],
    store: Path,
    bound: int,
    progress: Progress,
    *,
    version: Version,
) -> tuple[int, dict[bytes, bytes]]:
    """Put every entry into a new store; returns how many, and a digest of each that counts."""
    taken, kept = 0, dict[bytes, bytes]()
    with DiskTier(store, disk_bytes=bound, tags={"migrated": version}, files=files) as tier:
        for name, records in sources.items():
            for record in progress(records(), name):
                if tier.put_many([record]) != 1:
                    raise Unsupported(
                        f"{name} has an entry too large for a store of {bound} bytes; give more "
                        "with --disk-bytes"
                    )
                kept[record.key] = hashlib.blake2b(record.payload).digest()
                taken += 1
        tier.sync()
        if tier.stats().evicted:
            raise Unsupported(
                f"the entries take more than {bound} bytes; give more with --disk-bytes"
            )
    return taken, kept


def _verify(files: Files, store: Path, kept: dict[bytes, bytes], progress: Progress) -> None:
    with DiskTier(store, read_only=True, files=files) as tier:
        if len(tier) != len(kept):
            raise CorruptRecord(Damage.TRUNCATED)
        for key, digest in progress(kept.items(), "verify"):
            record = tier.get_many([key])[0]
            if record is None or hashlib.blake2b(record.payload).digest() != digest:
                raise CorruptRecord(Damage.BODY)


def _exchange(files: Files, one: Path, other: Path) -> None:
    try:
        files.exchange(one, other)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        # Where names cannot be exchanged at once: three steps, and for a moment no version.
        aside = _free_name(other, "aside")
        files.replace(other, aside)
        files.replace(one, other)
        files.replace(aside, one)


def _clear(files: Files, fresh: Path, before: Path) -> None:
    """What was interrupted: a new folder that is not whole goes; a whole one is the old version, which
    only lacks its name."""
    if not fresh.exists():
        return
    if (fresh / _UNFINISHED).exists():
        shutil.rmtree(fresh)
    else:
        files.replace(fresh, before.with_name(before.name + "_interrupted"))


def _free_name(folder: Path, word: str) -> Path:
    path, again = folder.with_name(f"{folder.name}.{word}"), 1
    while path.exists():
        again += 1
        path = folder.with_name(f"{folder.name}.{word}_{again}")
    return path


def _files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _write(files: Files, migration: Migration, folder: Path) -> None:
    document = {
        "format": FORMAT,
        "version": migration.version,
        "code": migration.code,
        "when": migration.when.isoformat(),
        "before": migration.before.name,
        "settings": [
            {
                "name": each.name,
                "value": repr(each.value),
                "source": each.source,
                "becomes": each.becomes,
                "note": each.note,
            }
            for each in migration.settings
        ],
        "entries": migration.entries,
        "replaced": migration.replaced,
        "files": migration.files,
        "database": migration.database,
    }
    data = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    replace_file(files, folder / RECORD, [data])


def _read(folder: Path) -> Migration:
    path = folder / RECORD
    try:
        document = json.loads(path.read_bytes())
        if document["format"] > FORMAT:
            raise Unsupported(
                f"{path} was written by blatam-kv {document['code']}, which is newer than this one "
                f"({__version__}); install it with: pip install 'blatam-kv=={document['code']}'"
            )
        return Migration(
            folder=folder,
            version=Version(document["version"]),
            code=document["code"],
            when=datetime.fromisoformat(document["when"]),
            before=folder.with_name(Path(document["before"]).name),
            settings=tuple(Setting(**each) for each in document["settings"]),
            entries=document["entries"],
            replaced=document["replaced"],
            files=document["files"],
            database=document.get("database", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, Unsupported):
            raise
        raise InvalidRequest(f"{path} is damaged: {error}", field="folder") from error
