"""``blatam-kv migrate``: from the original's caches to this version, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blatam_kv import __version__
from blatam_kv.migrate import Migration, Version, down, status, up


def migrate_status(folder: Path, *, as_json: bool) -> int:
    """What a folder holds, and what to do next."""
    found, migration = status(folder)
    if as_json:
        report: dict[str, Any] = {
            "folder": str(folder),
            "version": found.version,
            "code": __version__,
            "configs": list(found.configs),
            "environment": found.environment,
            "data": list(found.data),
            "others": len(found.others),
            "migrated": None if migration is None else _row(migration),
        }
        print(json.dumps(report, ensure_ascii=False))
        return 0
    print(f"{folder}: {found.version}; the code is blatam-kv {__version__}")
    for name in (*found.configs, *([found.environment] if found.environment else ())):
        print(f"  settings  {name}")
    for name in found.data:
        print(f"  data      {name}")
    if migration is not None:
        print(f"  migrated from {migration.version} on {migration.when:%Y-%m-%d}")
        print(f"  the old files are in {migration.before}")
        print(f"next: blatam-kv migrate down {folder}, if you want to go back")
    elif found.version in (Version.V1, Version.V2):
        print(f"next: blatam-kv migrate up {folder} --dry-run")
    return 0


def migrate_up(
    folder: Path,
    *,
    database: str | None,
    dry_run: bool,
    disk_bytes: int | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """All steps, or none."""
    shown = _bars if not (quiet or as_json) else (lambda items, what: items)
    done = up(folder, database=database, dry_run=dry_run, disk_bytes=disk_bytes, progress=shown)
    if as_json:
        print(json.dumps({**_row(done), "dry_run": dry_run}, ensure_ascii=False))
        return 0
    verb = "would be" if dry_run else "are"
    print(f"1 backup     {len(done.files)} files {verb} kept in {done.before}")
    print(f"2 code       {done.version} of the original -> blatam-kv {__version__}")
    print(
        f"3 settings   {sum(bool(each.becomes) for each in done.settings)} of {len(done.settings)}"
    )
    for each in done.settings:
        became = each.becomes or "left out"
        note = f" ({each.note})" if each.note else ""
        print(f"             {each.name} = {each.value!r}: {became}{note}")
    print(f"4 data       {done.entries} entries, {done.replaced} of them replaced by later files")
    if done.database:
        print(f"             {done.database} was read and is as it was")
    print("5 verify     every entry was read back and compared")
    print("nothing was changed" if dry_run else f"go back with: blatam-kv migrate down {folder}")
    return 0


def migrate_down(folder: Path, *, dry_run: bool, as_json: bool) -> int:
    """Back to what was there before."""
    undone, where = down(folder, dry_run=dry_run)
    if as_json:
        print(json.dumps({**_row(undone), "undone": str(where), "dry_run": dry_run}))
        return 0
    if dry_run:
        print(f"{folder} would be {undone.version} again: {len(undone.files)} files are untouched")
        return 0
    print(f"{folder} is {undone.version} again, {len(undone.files)} files byte for byte")
    print(f"what the migration had made is in {where}")
    print("reinstall the original's code; to come back to this one later:")
    print(f"  {undone.reinstall}")
    return 0


def _row(migration: Migration) -> dict[str, Any]:
    return {
        "folder": str(migration.folder),
        "from": migration.version,
        "code": migration.code,
        "when": migration.when.isoformat(),
        "before": str(migration.before),
        "entries": migration.entries,
        "replaced": migration.replaced,
        "files": len(migration.files),
        "database": migration.database or None,
        "settings": {
            each.name: {"becomes": each.becomes, "note": each.note} for each in migration.settings
        },
    }


def _bars(items: Iterable[Any], what: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc=what, unit="", file=sys.stderr, disable=None, leave=False)
