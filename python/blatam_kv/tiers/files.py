"""Every call of the operating system that the disk tier makes, so that tests can make it fail."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from blatam_kv._core import Mapping
from blatam_kv.errors import Unavailable
from blatam_kv.record import Bytes

# A failed open for one of these says nothing about the file.
OUR_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

# Of pwritev(2).
_MOST_PIECES = 1024
# Of renameat2(2).
_HERE = -100
_RENAME_EXCHANGE = 2


class Mapped(Protocol):
    """A file in memory, for as long as a view of it lives."""

    def view(self, offset: int, size: int) -> memoryview | None:
        """Bytes of it, which the file must have, if they can be read now; None if a call of
        ``Files.read`` must say why not."""
        ...


class Files(Protocol):
    """The calls; all raise OSError. Descriptors are never inherited by an executed program."""

    def make_folder(self, path: Path) -> None:
        """A folder, with those above it, unless it is there."""

    def names(self, folder: Path) -> list[str]:
        """What lies in it, in any order."""
        ...

    def open(self, path: Path | str, flags: int) -> int:
        """A descriptor. flags: as of ``os.open``; a new file is its owner's alone."""
        ...

    def close(self, fd: int) -> None:
        """End a descriptor."""

    def size(self, fd: int) -> int:
        """Bytes that the file has now."""
        ...

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        ...

    def map(self, fd: int, size: int) -> Mapped:
        """The first ``size`` bytes, which may be more than there are now."""
        ...

    def write(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        """Write pieces one after the other; the bytes written, which may be fewer than were given."""
        ...

    def cut(self, fd: int, size: int) -> None:
        """Give the file this size: what lies behind is gone, what was missing is zeros."""

    def sync(self, fd: int) -> None:
        """Return when what was written, and the size, would survive a power cut."""

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder would."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, over another if there is one, at once."""

    def exchange(self, one: Path, other: Path) -> None:
        """Each takes the other's name, at once. OSError with ENOSYS or EINVAL where that cannot be."""

    def link(self, source: Path, target: Path) -> None:
        """A second name, which must be free, for a file."""

    def remove(self, path: Path) -> None:
        """Take a file's name away."""

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock, which ends with the descriptor; False if another holds it."""
        ...

    def random(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
        ...


class MappedFile:
    """A real one."""

    def __init__(self, fd: int, size: int) -> None:
        self._mapping = Mapping(fd, size)
        self._bytes = memoryview(self._mapping)

    def view(self, offset: int, size: int) -> memoryview | None:
        """Bytes of it, if the disk has delivered them."""
        there = self._mapping.populate(offset, size)
        return self._bytes[offset : offset + size] if there else None


class SystemFiles:
    """Those of the operating system."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        return [entry.name for entry in folder.iterdir()]

    def open(self, path: Path | str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = os.pread(fd, size, offset)
        while 0 < len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
            data += more
        return data

    def map(self, fd: int, size: int) -> Mapped:
        return MappedFile(fd, size)

    def write(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        return os.pwritev(fd, pieces, offset)

    def cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def exchange(self, one: Path, other: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            renameat2 = libc.renameat2
        except AttributeError:
            raise OSError(errno.ENOSYS, "this libc has no renameat2") from None
        names = os.fsencode(one), os.fsencode(other)
        if renameat2(_HERE, names[0], _HERE, names[1], _RENAME_EXCHANGE) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(one), None, str(other))

    def link(self, source: Path, target: Path) -> None:
        target.hardlink_to(source)

    def remove(self, path: Path) -> None:
        path.unlink()

    def lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def random(self, size: int) -> bytes:
        return os.urandom(size)


def write_all(files: Files, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
    """Write every byte; returns where they end. What a failure leaves behind is for the caller."""
    left = [memoryview(piece).cast("B") for piece in pieces]
    left = [view for view in left if view.nbytes]
    while left:
        written = files.write(fd, left[:_MOST_PIECES], offset)
        if written <= 0:
            raise OSError(errno.EIO, "a write wrote nothing")
        offset += written
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if written:
            left[0] = left[0][written:]
    return offset


def replace_file(
    files: Files, path: Path, pieces: Sequence[Bytes], *, durable: bool = True
) -> None:
    """Put a new file in place of the old one, at once: whoever opens it finds one or the other,
    and after a power cut too if durable."""
    new = path.with_name(f"{path.name}.new")
    try:
        fd = files.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(files, fd, pieces, 0)
            if durable:
                files.sync(fd)
        finally:
            files.close(fd)
        files.replace(new, path)
    except BaseException:
        with suppress(OSError):
            files.remove(new)
        raise
    if durable:
        files.sync_folder(path.parent)


def reason_of(error: OSError) -> Unavailable:
    """The reason that an error of the operating system gives a tier."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return Unavailable.NO_SPACE
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return Unavailable.READ_ONLY
        case errno.EMFILE | errno.ENFILE:
            return Unavailable.TOO_MANY_FILES
        case errno.ENOENT | errno.ENOTDIR:
            return Unavailable.MISSING
        case _:
            return Unavailable.IO_ERROR
