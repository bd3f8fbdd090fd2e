"""File layers for the disk tier's tests: one that records, one that fails, and small records."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blatam_kv import TierUnavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier, Tier
from blatam_kv.tiers.files import SystemFiles

DISK_BYTES = 1 << 20
SEGMENT_BYTES = 1 << 10

Values = dict[bytes, bytes]


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def record_of(number: int, payload: bytes, **fields: Any) -> Record:
    return Record(key_of(number), Kind.RESPONSE, payload, **fields)


class FastFiles(SystemFiles):
    """Without waiting for the disk: nothing here pulls the plug for real."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


def open_tier(path: Path, **options: Any) -> DiskTier:
    defaults: dict[str, Any] = {
        "disk_bytes": DISK_BYTES,
        "segment_bytes": SEGMENT_BYTES,
        "files": FastFiles(),
    }
    return DiskTier(path, **defaults | options)


def contents(tier: Tier, keys: Sequence[bytes]) -> Values:
    """What the tier answers for keys."""
    return {
        key: bytes(record.payload)
        for key, record in zip(keys, tier.get_many(keys), strict=True)
        if record is not None
    }


def disk_use(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# ---- failing ------------------------------------------------------------------------------------


class FaultyFiles(FastFiles):
    """Fails at its ``at``-th call, and if persistent at all later ones, with an errno.

    A write that fails has written half before.
    """

    def __init__(self, at: int, error: int, *, persistent: bool) -> None:
        self.at, self.error, self.persistent = at, error, persistent
        self.calls = 0
        self.armed = True
        self.failed_in: list[str] = []

    def fails(self, call: str) -> bool:
        self.calls += 1
        due = self.calls >= self.at if self.persistent else self.calls == self.at
        if due and self.armed:
            self.failed_in.append(call)
        return due and self.armed

    def fail(self) -> OSError:
        return OSError(self.error, os.strerror(self.error))

    def _checked(self, call: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.fails(call):
            raise self.fail()
        return function(*arguments)

    def make_folder(self, path: Path) -> None:
        self._checked("make_folder", super().make_folder, path)

    def names(self, folder: Path) -> list[str]:
        names: list[str] = self._checked("names", super().names, folder)
        return names

    def open(self, path: Path | str, flags: int) -> int:
        fd: int = self._checked("open", super().open, path, flags)
        return fd

    def size(self, fd: int) -> int:
        size: int = self._checked("size", super().size, fd)
        return size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data: bytes = self._checked("read", super().read, fd, size, offset)
        return data

    def write(self, fd: int, pieces: Sequence[Any], offset: int) -> int:
        if self.fails("write"):
            data = b"".join(bytes(piece) for piece in pieces)
            super().write(fd, [data[: len(data) // 2]], offset)
            raise self.fail()
        return super().write(fd, pieces, offset)

    def cut(self, fd: int, size: int) -> None:
        self._checked("cut", super().cut, fd, size)

    def sync(self, fd: int) -> None:
        self._checked("sync", super().sync, fd)

    def sync_folder(self, folder: Path) -> None:
        self._checked("sync_folder", super().sync_folder, folder)

    def replace(self, source: Path, target: Path) -> None:
        self._checked("replace", super().replace, source, target)

    def remove(self, path: Path) -> None:
        self._checked("remove", super().remove, path)


ERRNOS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)


# ---- a scripted life ----------------------------------------------------------------------------

Step = tuple[str, int, bytes, bool]  # put or delete, key, payload, durable


def script(steps: int) -> list[Step]:
    """Puts, overwrites and deletes over a few keys, some durable; every payload differs."""
    made: list[Step] = []
    for at in range(steps):
        if at % 5 == 3:
            made.append(("delete", at * 3 % 7, b"", False))
        else:
            made.append(("put", at * 5 % 11, f"value {at} ".encode() * (1 + at % 9), at % 4 == 1))
    return made


def perform(tier: DiskTier, step: Step) -> None:
    call, number, payload, durable = step
    if call == "put":
        tier.put_many([record_of(number, payload)], durable=durable)
    else:
        tier.delete_many([key_of(number)])


def after(values: Values, step: Step) -> Values:
    """The model: what a dict holds after the step."""
    call, number, payload, _ = step
    changed = dict(values)
    changed.pop(key_of(number), None)
    return changed | ({key_of(number): payload} if call == "put" else {})


KEYS = [key_of(number) for number in range(12)]


class Expected:
    """What may be answered for each key, where calls may fail without saying how far they came."""

    def __init__(self) -> None:
        self.allowed: dict[bytes, set[bytes | None]] = {key: {None} for key in KEYS}
        self.refused = 0

    def perform(self, tier: DiskTier, step: Step) -> None:
        key = key_of(step[1])
        new = step[2] if step[0] == "put" else None
        try:
            perform(tier, step)
        except TierUnavailable:
            self.refused += 1
            self.allowed[key] = self.allowed[key] | {new}
        else:
            self.allowed[key] = {new}

    def check(self, tier: DiskTier, *, misses: Sequence[object]) -> None:
        for key in KEYS:
            try:
                record = tier.get_many([key])[0]
            except TierUnavailable:
                continue
            answer = None if record is None else bytes(record.payload)
            assert answer in self.allowed[key] or (answer is None and misses)
