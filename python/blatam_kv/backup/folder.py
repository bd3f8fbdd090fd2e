"""A backup's folder: its name, its manifest. Specified in docs/FORMAT.md, section 6."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blatam_kv._core import crc32c
from blatam_kv.errors import BackupDamaged, Unsupported
from blatam_kv.tiers.files import Files, SystemFiles, replace_file

FORMAT = 1
NAME = "backup.json"
PARTIAL = ".partial"
_FOLDER = re.compile(r"cache_\d{8}_\d{6}(_\d+)?")
_STEM = "cache_%Y%m%d_%H%M%S"
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """One segment in a backup.

    number, size, sealed: as in the store. digest: BLAKE2b-256 of those bytes. file: its name under
    the backup, file_size and file_digest of what lies there, which is compressed or encrypted if
    the backup is.
    """

    number: int
    size: int
    sealed: bool
    digest: str
    file: str
    file_size: int
    file_digest: str


@dataclass(frozen=True, slots=True)
class Encryption:
    """How the key is made from the secret, and a sign by which a wrong secret is told."""

    salt: str
    sign: str


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup. path: its folder. created: UTC. version: of the blatam-kv that wrote it. store,
    tags: the store's id and words. copies: its segments, oldest first. linked: how many of them are
    the files of an earlier backup."""

    path: Path
    created: datetime
    version: str
    store: str
    tags: Mapping[str, str]
    copies: tuple[Copy, ...]
    compressed: bool
    encryption: Encryption | None
    linked: int

    @property
    def size(self) -> int:
        """Bytes of the store in it."""
        return sum(copy.size for copy in self.copies)

    @property
    def file_size(self) -> int:
        """Bytes of its files, those that it shares with other backups included."""
        return sum(copy.file_size for copy in self.copies)


def new_folder(root: Path, now: datetime) -> Path:
    """The name of the next backup; two within a second are told apart by a number."""
    stem = now.strftime(_STEM)
    path, again = root / stem, 1
    while path.exists():
        again += 1
        path = root / f"{stem}_{again}"
    return path


def backups(root: str | Path, *, files: Files | None = None) -> list[Backup]:
    """Every whole backup under a folder, oldest first. Raises BackupDamaged for one whose manifest
    cannot be read, Unsupported for one of a newer build."""
    files = files or SystemFiles()
    try:
        names = files.names(Path(root))
    except FileNotFoundError:
        return []
    found = [read(files, Path(root) / name) for name in sorted(names) if _FOLDER.fullmatch(name)]
    return sorted(found, key=lambda backup: (backup.created, backup.path))


def read(files: Files, path: Path) -> Backup:
    """The backup in a folder. Raises BackupDamaged, Unsupported."""
    try:
        fd = files.open(path / NAME, os.O_RDONLY)
        try:
            data = files.read(fd, _MAX_MANIFEST_BYTES, 0)
        finally:
            files.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        raise BackupDamaged(f"{path} is not a backup: it has no {NAME}") from None
    try:
        document = json.loads(data)
        exact = _dump(document) == data  # one document for each manifest
        checksum = document.pop("checksum")
        if not exact or checksum != _checksum(document):
            raise BackupDamaged(f"{path / NAME} is damaged: its checksum differs")
        if document["format"] > FORMAT:
            raise Unsupported(
                f"{path} has format {document['format']}, this build reads up to {FORMAT}: "
                f"install blatam-kv {document['version']} or newer"
            )
        return _backup(path, document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, (BackupDamaged, Unsupported)):
            raise
        raise BackupDamaged(f"{path / NAME} is damaged: {error}") from error


def write(files: Files, backup: Backup) -> None:
    """Put the manifest into the backup's folder."""
    document: dict[str, Any] = {  # as json has it
        "format": FORMAT,
        "created": backup.created.isoformat(),
        "version": backup.version,
        "store": backup.store,
        "tags": dict(backup.tags),
        "copies": [asdict(copy) for copy in backup.copies],
        "compressed": backup.compressed,
        "encryption": None if backup.encryption is None else asdict(backup.encryption),
        "linked": backup.linked,
    }
    whole = {"checksum": _checksum(document), **document}
    replace_file(files, backup.path / NAME, [_dump(whole)])


def remove_folder(files: Files, path: Path) -> None:
    """A backup's folder or a store's, with the files that such have."""
    for folder in (path / "entries", path):
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in files.names(folder):
                if name != "entries":
                    files.remove(folder / name)
            folder.rmdir()


def _backup(path: Path, document: Mapping[str, Any]) -> Backup:
    encryption = document["encryption"]
    return Backup(
        path=path,
        created=datetime.fromisoformat(document["created"]).astimezone(UTC),
        version=document["version"],
        store=document["store"],
        tags=document["tags"],
        copies=tuple(_copy(path, copy) for copy in document["copies"]),
        compressed=document["compressed"],
        encryption=None if encryption is None else Encryption(**encryption),
        linked=document["linked"],
    )


def _copy(path: Path, document: Mapping[str, Any]) -> Copy:
    copy = Copy(**document)
    # A manifest may come from anywhere; what it names lies in its folder.
    if Path(copy.file).parts != ("entries", Path(copy.file).name) or ".." in copy.file:
        raise BackupDamaged(f"{path / NAME} names a file outside: {copy.file!r}")
    return copy


def _dump(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def _checksum(document: Mapping[str, Any]) -> str:
    return f"{crc32c(_dump(document)):08x}"
