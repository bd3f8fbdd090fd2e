"""What a disk may hold after the power failed: the calls that reached it, and some of the others.

A write is certain once its file was synced after it, a new name once its folder was. Until then each
may or may not have happened, in any order, and a write may have happened in part, sector by sector.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tier_fakes import FastFiles

SECTOR = 512
# Of what is uncertain at a moment, so many last calls are lost or kept one by one.
REORDERED = 4


class Change(NamedTuple):
    """One call: path is relative to the store; first and second are its other arguments."""

    call: str
    path: str
    first: Any = None
    second: Any = None


class RecordingFiles(FastFiles):
    """Notes every change, and every sync."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: list[Change] = []
        self.paths: dict[int, str] = {}

    def note(self, call: str, path: str, first: Any = None, second: Any = None) -> None:
        self.changes.append(Change(call, path, first, second))

    def name(self, path: Path | str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.note("folder", self.name(path))

    def open(self, path: Path | str, flags: int) -> int:
        fd = super().open(path, flags)
        self.paths[fd] = self.name(path)
        if flags & os.O_CREAT:
            self.note("create", self.name(path), bool(flags & os.O_TRUNC))
        return fd

    def write(self, fd: int, pieces: Sequence[Any], offset: int) -> int:
        written = super().write(fd, pieces, offset)
        data = b"".join(bytes(piece) for piece in pieces)[:written]
        self.note("write", self.paths[fd], offset, data)
        return written

    def cut(self, fd: int, size: int) -> None:
        super().cut(fd, size)
        self.note("cut", self.paths[fd], size)

    def sync(self, fd: int) -> None:
        self.note("sync", self.paths[fd])

    def sync_folder(self, folder: Path) -> None:
        self.note("sync folder", self.name(folder))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.note("replace", self.name(source), self.name(target))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.note("remove", self.name(path))


def uncertain(changes: Sequence[Change]) -> list[int]:
    """Which of the changes need not have reached the disk. Making a file or a folder counts as
    certain: what is in it, or its name elsewhere, is what matters here."""
    written: dict[str, list[int]] = {}  # by file
    named: dict[str, list[int]] = {}  # by folder
    for at, (call, path, _, _) in enumerate(changes):
        if call in ("write", "cut"):
            written.setdefault(path, []).append(at)
        elif call == "sync":
            written.pop(path, None)
        elif call in ("replace", "remove"):
            named.setdefault(Path(path).parent.as_posix(), []).append(at)
        elif call == "sync folder":
            named.pop(path, None)
    return sorted(at for group in (*written.values(), *named.values()) for at in group)


def losses(changes: Sequence[Change], chance: random.Random) -> Iterator[set[int]]:
    """Sets of changes that may all be lost together: none, all, each of the last alone, all but
    each of the last, and a random one."""
    open_ones = uncertain(changes)
    yield set()
    if not open_ones:
        return
    yield set(open_ones)
    last = open_ones[-REORDERED:]
    if len(open_ones) > 1:
        for at in last:
            yield {at}
            yield set(open_ones) - {at}
        yield {at for at in open_ones if chance.random() < 0.5}


def torn(change: Change) -> Iterator[Change]:
    """A write of which only some sectors arrived: the first ones, the last ones, every other one."""
    if change.call != "write" or len(change.second) <= 1:
        return
    offset, data = change.first, change.second
    cut = SECTOR - offset % SECTOR
    for keep in (range(0, cut), range(cut, len(data))):
        if 0 < len(keep) < len(data):
            yield change._replace(first=offset + keep.start, second=data[keep.start : keep.stop])


def replay(
    changes: Sequence[Change],
    root: Path,
    *,
    lost: Collection[int] = (),
    instead: tuple[int, Change] | None = None,
) -> None:
    """Make a folder as those changes leave it, without the lost ones and with one replaced."""
    root.mkdir()
    for at, change in enumerate(changes):
        if instead is not None and at == instead[0]:
            change = instead[1]
        if at not in lost:
            _apply(change, root)


def _apply(change: Change, root: Path) -> None:
    call, path, first, second = change
    file = root / path
    if call == "folder":
        file.mkdir(parents=True, exist_ok=True)
    elif call == "create":
        if first and file.exists():
            file.write_bytes(b"")
        file.touch()
    elif call == "write" and file.exists():
        with file.open("r+b") as target:
            target.seek(first)
            target.write(second)
    elif call == "cut" and file.exists():
        os.truncate(file, first)
    elif call == "replace" and file.exists():
        file.replace(root / first)
    elif call == "remove":
        file.unlink(missing_ok=True)
