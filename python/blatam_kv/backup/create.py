"""Making a backup beside a running writer, and letting old ones go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blatam_kv._core import __version__
from blatam_kv.backup.folder import (
    PARTIAL,
    Backup,
    Copy,
    Encryption,
    backups,
    new_folder,
    remove_folder,
    write,
)
from blatam_kv.backup.restore import context_of, verify
from blatam_kv.backup.sealing import CHUNK_BYTES, Key, key_of, sealed, suffix
from blatam_kv.errors import BackupDamaged, ConfigError
from blatam_kv.tiers.files import Files, SystemFiles, write_all
from blatam_kv.tiers.segment import segment_name
from blatam_kv.tiers.snapshot import Part, snapshot


def now_utc() -> datetime:
    """The time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def create(
    source: str | Path,
    root: str | Path,
    *,
    compress: bool = False,
    secret: bytes | None = None,
    clock: Callable[[], datetime] = now_utc,
    files: Files | None = None,
) -> Backup:
    """Copy the store in ``source`` into a new folder ``cache_YYYYMMDD_HHMMSS`` under ``root``.

    A writer may go on meanwhile: the backup is a state that the store was in. Sealed segments that
    the newest backup has already are linked, not copied; none is ever linked with the store itself.
    compress: with zstd. secret: encrypt with AES-256-GCM under a key made from it. Everything is
    read back and verified before the folder takes its name; whatever goes wrong before leaves none.

    Raises TierUnavailable if ``source`` is no store, OSError, BackupDamaged if what was written
    does not read back, MissingExtra, ConfigError for a secret that is not that of the last backup.
    """
    files, source, root = files or SystemFiles(), Path(source), Path(root)
    if secret is not None and len(secret) < 16:
        raise ConfigError("a secret has at least 16 bytes")
    now = snapshot(files, source)
    files.make_folder(root)
    before = _newest(files, root)
    encryption, key = _key(secret, before)
    made = clock()
    path = new_folder(root, made)
    partial = path.with_name(path.name + PARTIAL)
    files.make_folder(partial / "entries")
    try:
        earlier = _linkable(before, now.store.hex(), compress, encryption)
        copies, linked = [], 0
        for part in now.parts:
            old = earlier.get((part.number, part.size))
            if old is not None and before is not None and part.sealed and old.sealed:
                files.link(before.path / old.file, partial / old.file)
                copies.append(old)
                linked += 1
                continue
            copy = _copy(files, source, partial, part, now.store, compress, key)
            if copy is None:  # it left; with it all before, as far as what the backup holds goes
                copies.clear()
                linked = 0
                continue
            copies.append(copy)
        kept = {copy.file for copy in copies}
        for name in files.names(partial / "entries"):
            if f"entries/{name}" not in kept:
                files.remove(partial / "entries" / name)
        files.sync_folder(partial / "entries")
        backup = Backup(
            path=partial,
            created=made,
            version=__version__,
            store=now.store.hex(),
            tags=now.tags,
            copies=tuple(copies),
            compressed=compress,
            encryption=encryption,
            linked=linked,
        )
        write(files, backup)
        verify(partial, secret=secret, files=files)
        files.replace(partial, path)
    except BaseException:
        remove_folder(files, partial)
        raise
    files.sync_folder(root)
    return replace(backup, path=path)


def prune(
    root: str | Path,
    *,
    keep: int | None = None,
    days: float | None = None,
    clock: Callable[[], datetime] = now_utc,
    files: Files | None = None,
) -> list[Path]:
    """Remove backups beyond the newest ``keep`` and those older than ``days``, never the newest one.

    Returns what was removed. What they share with others stays with the others. Also removes what
    an interrupted ``create`` left behind.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"keep must be at least 1, not {keep}")
    if days is not None and days <= 0:
        raise ConfigError(f"days must be above 0, not {days}")
    files, root = files or SystemFiles(), Path(root)
    found = backups(root, files=files)
    gone = [] if keep is None else found[:-keep]
    if days is not None:
        limit = clock() - timedelta(days=days)
        gone += [each for each in found[:-1] if each.created < limit and each not in gone]
    for backup in gone:
        # Under its name it is whole or not there.
        dying = backup.path.with_name(backup.path.name + PARTIAL)
        files.replace(backup.path, dying)
    with suppress(FileNotFoundError):
        for name in files.names(root):
            if name.startswith("cache_") and name.endswith(PARTIAL):
                remove_folder(files, root / name)
    return [backup.path for backup in gone]


def _newest(files: Files, root: Path) -> Backup | None:
    try:
        found = backups(root, files=files)
    except BackupDamaged:  # nothing to link with; it is for `verify` to complain
        return None
    return found[-1] if found else None


def _key(secret: bytes | None, before: Backup | None) -> tuple[Encryption | None, Key | None]:
    """The last backup's key if it has one, so that files can be shared; else a new one."""
    if secret is None:
        return None, None
    if before is not None and before.encryption is not None:
        return before.encryption, key_of(secret, before.encryption, before.path)
    key = Key(secret, os.urandom(16))
    return key.description, key


def _linkable(
    before: Backup | None, store: str, compress: bool, encryption: Encryption | None
) -> Mapping[tuple[int, int], Copy]:
    if before is None:
        return {}
    if (before.store, before.compressed, before.encryption) != (store, compress, encryption):
        return {}
    return {(copy.number, copy.size): copy for copy in before.copies}


def _copy(
    files: Files,
    source: Path,
    target: Path,
    part: Part,
    store: bytes,
    compress: bool,
    key: Key | None,
) -> Copy | None:
    """Copy a segment; None if it left the store meanwhile."""
    try:
        fd = files.open(source / "entries" / segment_name(part.number), os.O_RDONLY)
    except FileNotFoundError:
        return None
    digest, file_digest = (hashlib.blake2b(digest_size=32) for _ in range(2))

    def content() -> Iterator[bytes]:
        at = 0
        while at < part.size:
            chunk = files.read(fd, min(CHUNK_BYTES, part.size - at), at)
            if not chunk:
                raise BackupDamaged(
                    f"segment {part.number} of {source} is shorter than it was; look after the disk"
                )
            digest.update(chunk)
            at += len(chunk)
            yield chunk

    name = segment_name(part.number) + suffix(compressed=compress, encrypted=key is not None)
    context = context_of(store.hex(), part.number, part.size)
    try:
        out = files.open(target / "entries" / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            end = 0
            for chunk in sealed(content(), compressed=compress, key=key, context=context):
                file_digest.update(chunk)
                end = write_all(files, out, [chunk], end)
            files.sync(out)
        finally:
            files.close(out)
    finally:
        files.close(fd)
    return Copy(
        number=part.number,
        size=part.size,
        sealed=part.sealed,
        digest=digest.hexdigest(),
        file=f"entries/{name}",
        file_size=end,
        file_digest=file_digest.hexdigest(),
    )
