"""Reading a backup: whether it is whole, and putting it in a store's place."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from blatam_kv.backup.folder import Backup, Copy, read, remove_folder
from blatam_kv.backup.sealing import CHUNK_BYTES, Key, key_of, opened
from blatam_kv.errors import BackupDamaged, ConfigError, InvalidRequest
from blatam_kv.tiers import DiskTier
from blatam_kv.tiers.files import Files, SystemFiles, write_all
from blatam_kv.tiers.lock import take_lock
from blatam_kv.tiers.manifest import Manifest, write_manifest
from blatam_kv.tiers.segment import segment_name

# While this lies in it, a folder that is being restored is not whole.
_UNFINISHED = "unfinished"


def context_of(store: str, number: int, size: int) -> bytes:
    """What an encrypted file is bound to."""
    return f"{store} {number} {size}".encode()


def verify(path: str | Path, *, secret: bytes | None = None, files: Files | None = None) -> Backup:
    """Read every byte of a backup and compare it with the manifest; returns it.

    Of an encrypted one, without its secret, only the files are verified, not what they hold. Raises
    BackupDamaged, naming what differs.
    """
    files = files or SystemFiles()
    backup = read(files, Path(path))
    whole = backup.encryption is None or secret is not None
    key = key_of(secret, backup.encryption, backup.path) if whole else None
    there = {f"entries/{name}" for name in _names(files, backup.path / "entries")}
    if extra := sorted(there - {copy.file for copy in backup.copies}):
        raise BackupDamaged(f"{backup.path} has a file that it does not list: {extra[0]}")
    for copy in backup.copies:
        _verify_file(files, backup, copy)
        if whole:
            for _ in _content(files, backup, copy, key):
                pass
    return backup


def restore(
    path: str | Path,
    target: str | Path,
    *,
    secret: bytes | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    files: Files | None = None,
) -> Path | None:
    """Put a backup in the place of the store in ``target``; returns where the old one lies now.

    The old store stays where it is, and in order, until the new one is written, synced and verified
    beside it; then the two change names at once. It is then called ``target.before_...`` and is for
    the caller to remove. Raises TierUnavailable if the store is being written, BackupDamaged,
    ConfigError, OSError; the store is then as it was.
    """
    files, target = files or SystemFiles(), Path(target).absolute()
    backup = read(files, Path(path))
    key = key_of(secret, backup.encryption, backup.path)
    files.make_folder(target.parent)
    fresh = target.with_name(f"{target.name}.restoring")
    before = _free_name(target, clock())
    _clear(files, fresh, before)
    with _held(files, target):
        _write_store(files, backup, key, fresh)
        DiskTier(fresh, read_only=True, files=files).close()  # it opens
        files.remove(fresh / _UNFINISHED)
        files.sync_folder(fresh)
        if not target.exists():
            files.replace(fresh, target)
            files.sync_folder(target.parent)
            return None
        _take_place(files, fresh, target, before)
        return before


def restore_tagged(
    path: str | Path,
    target: str | Path,
    tags: bytes,
    *,
    disk_bytes: int | None = None,
    secret: bytes | None = None,
    mac_key: bytes | None = None,
    files: Files | None = None,
) -> int:
    """Put a backup's records with these tags, one tenant's for example, back into a store whose other
    records are left alone; returns how many. A record replaces the store's with its key.

    disk_bytes: the store's bound, by default as much as both take four times over, at least 1 GiB.
    mac_key: as the store is opened with. Raises what ``restore`` does, and InvalidRequest for a record
    that does not fit.
    """
    files, target = files or SystemFiles(), Path(target).absolute()
    backup = read(files, Path(path))
    key = key_of(secret, backup.encryption, backup.path)
    files.make_folder(target.parent)
    with TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.tagged-") as folder:
        whole = Path(folder) / "store"
        _write_store(files, backup, key, whole)
        if disk_bytes is None:
            held = sum(file.stat().st_size for file in target.glob("entries/*.seg"))
            disk_bytes = max(1 << 30, 4 * (held + backup.size))
        with (
            DiskTier(whole, read_only=True, mac_key=mac_key, files=files) as old,
            DiskTier(target, disk_bytes=disk_bytes, mac_key=mac_key, files=files) as tier,
        ):
            stored = 0
            for name in old.keys_tagged(tags):
                (record,) = old.get_many([name])
                if record is not None and tier.put_many([record]) != 1:
                    raise InvalidRequest(
                        f"a record is too large for a cache of {disk_bytes} bytes",
                        field="disk_bytes",
                    )
                stored += record is not None
            tier.sync()
    return stored


def _take_place(files: Files, fresh: Path, target: Path, before: Path) -> None:
    try:
        files.exchange(fresh, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        # A file system that cannot do it in one step. Between the two the target is not there.
        files.replace(target, before)
        files.replace(fresh, target)
    else:
        files.replace(fresh, before)
    files.sync_folder(target.parent)


def _clear(files: Files, fresh: Path, before: Path) -> None:
    """What a restoring left that was interrupted: a new store that is not whole goes; anything else
    may be the old one, and is kept under its later name."""
    if not fresh.exists():
        return
    if (fresh / _UNFINISHED).exists():
        remove_folder(files, fresh)
    else:
        files.replace(fresh, before.with_name(before.name + "_interrupted"))


def _free_name(target: Path, now: datetime) -> Path:
    stem = f"{target.name}.before_{now:%Y%m%d_%H%M%S}"
    path, again = target.with_name(stem), 1
    while path.exists():
        again += 1
        path = target.with_name(f"{stem}_{again}")
    return path


@contextmanager
def _held(files: Files, target: Path) -> Iterator[None]:
    """The writer's lock of a store, if there is one. Raises TierUnavailable if it is being written,
    ConfigError if what is there is something else."""
    if not target.exists():
        yield
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / "entries").is_dir()):
        raise ConfigError(f"{target} is not a cache; restore into another folder")
    fd = take_lock(files, target)
    try:
        yield
    finally:
        files.close(fd)


def _write_store(files: Files, backup: Backup, key: Key | None, folder: Path) -> None:
    entries = folder / "entries"
    files.make_folder(folder)
    with _created(files, folder / _UNFINISHED):
        pass
    files.make_folder(entries)
    for copy in backup.copies:
        _verify_file(files, backup, copy)
        with _created(files, entries / segment_name(copy.number)) as fd:
            end = 0
            for chunk in _content(files, backup, copy, key):
                end = write_all(files, fd, [chunk], end)
            files.sync(fd)
    files.sync_folder(entries)
    numbers = tuple(copy.number for copy in backup.copies)
    manifest = Manifest(bytes.fromhex(backup.store), numbers, dict(backup.tags))
    write_manifest(files, folder, manifest)


@contextmanager
def _created(files: Files, path: Path) -> Iterator[int]:
    fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        yield fd
    finally:
        files.close(fd)


def _names(files: Files, folder: Path) -> list[str]:
    try:
        return files.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


class _File:
    """A backup's file as a source."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd, self._at = files, fd, 0

    def read(self, size: int) -> bytes:
        data = self._files.read(self._fd, size, self._at)
        self._at += len(data)
        return data


@contextmanager
def _source(files: Files, backup: Backup, copy: Copy) -> Iterator[_File]:
    try:
        fd = files.open(backup.path / copy.file, os.O_RDONLY)
    except FileNotFoundError:
        raise BackupDamaged(f"{backup.path} lacks {copy.file}") from None
    try:
        yield _File(files, fd)
    finally:
        files.close(fd)


def _verify_file(files: Files, backup: Backup, copy: Copy) -> None:
    digest, size = hashlib.blake2b(digest_size=32), 0
    with _source(files, backup, copy) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    if (size, digest.hexdigest()) != (copy.file_size, copy.file_digest):
        raise BackupDamaged(f"{backup.path / copy.file} is damaged: it is not what was written")


def _content(files: Files, backup: Backup, copy: Copy, key: Key | None) -> Iterator[bytes]:
    """A segment's bytes, verified by the time the last is given."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    context = context_of(backup.store, copy.number, copy.size)
    with _source(files, backup, copy) as source:
        for chunk in opened(source, compressed=backup.compressed, key=key, context=context):
            size += len(chunk)
            if size > copy.size:
                break
            digest.update(chunk)
            yield chunk
    if (size, digest.hexdigest()) != (copy.size, copy.digest):
        raise BackupDamaged(f"{backup.path / copy.file} does not hold what was copied into it")
