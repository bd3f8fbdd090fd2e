"""``blatam-kv backup``: copies of a cache, made beside the running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blatam_kv.backup import (
    Backup,
    backups,
    create,
    key_from_file,
    prune,
    restore,
    restore_tagged,
    verify,
)
from blatam_kv.errors import ConfigError
from blatam_kv.record import DIGEST_BYTES


def create_backup(
    source: Path,
    root: Path,
    *,
    compress: bool,
    key_file: Path | None,
    keep: int | None,
    days: float | None,
    as_json: bool,
) -> int:
    """Make a backup, verify it, then let old ones go."""
    made = create(source, root, compress=compress, secret=_secret(key_file))
    gone = prune(root, keep=keep, days=days)
    if as_json:
        print(json.dumps({**_row(made), "removed": [str(path) for path in gone]}))
        return 0
    print(f"{made.path}: {_sizes(made)}, verified")
    for path in gone:
        print(f"removed {path}")
    return 0


def list_backups(root: Path, *, as_json: bool) -> int:
    """Every backup, oldest first."""
    found = backups(root)
    if as_json:
        print(json.dumps([_row(backup) for backup in found]))
    elif not found:
        print(f"no backups in {root}")
    for backup in [] if as_json else found:
        print(f"{backup.path.name:26} {backup.created:%Y-%m-%d %H:%M:%S} UTC  {_sizes(backup)}")
    return 0


def verify_backup(path: Path, *, key_file: Path | None, as_json: bool) -> int:
    """Read every byte."""
    whole = verify(path, secret=_secret(key_file))
    if as_json:
        print(json.dumps(_row(whole)))
        return 0
    unread = whole.encryption is not None and key_file is None
    print(f"{path}: {_sizes(whole)}, whole" + (" (what is encrypted was not read)" * unread))
    return 0


def restore_backup(
    path: Path, target: Path, *, tags: str | None, key_file: Path | None, as_json: bool
) -> int:
    """Put a backup in a cache's place, or some of its records into the cache."""
    if tags is not None:
        count = restore_tagged(path, target, _tags(tags), secret=_secret(key_file))
        if as_json:
            print(json.dumps({"restored": str(target), "records": count}))
        else:
            print(f"{count} records of {path.name} are in {target} again")
        return 0
    old = restore(path, target, secret=_secret(key_file))
    if as_json:
        print(json.dumps({"restored": str(target), "before": None if old is None else str(old)}))
        return 0
    print(f"{target} is what {path.name} holds")
    if old is not None:
        print(f"what was there before is {old}; remove it when you no longer need it")
    return 0


def _tags(text: str) -> bytes:
    try:
        tags = bytes.fromhex(text)
    except ValueError:
        tags = b""
    if len(tags) != DIGEST_BYTES:
        raise ConfigError(f"--tags takes {2 * DIGEST_BYTES} hexadecimal digits, not {text!r}")
    return tags


def _secret(key_file: Path | None) -> bytes | None:
    return None if key_file is None else key_from_file(key_file)


def _row(backup: Backup) -> dict[str, Any]:
    return {
        "path": str(backup.path),
        "created": backup.created.isoformat(),
        "version": backup.version,
        "segments": len(backup.copies),
        "linked": backup.linked,
        "bytes": backup.size,
        "file_bytes": backup.file_size,
        "compressed": backup.compressed,
        "encrypted": backup.encryption is not None,
        "tags": dict(backup.tags),
    }


def _sizes(backup: Backup) -> str:
    said = f"{len(backup.copies)} segments, {backup.size} bytes"
    if backup.file_size != backup.size:
        said += f" in {backup.file_size}"
    if backup.linked:
        said += f", {backup.linked} segments shared with the backup before"
    return said + (", encrypted" if backup.encryption is not None else "")
