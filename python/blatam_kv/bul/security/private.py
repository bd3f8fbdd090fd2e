"""Small files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_first(path: Path, text: str) -> None:
    """Write a file unless it is there by now: of many who do, all find the first one's."""
    with _written(path, text) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        _sync(path.parent)


def replace(path: Path, text: str) -> None:
    """Write a file in the place of the one that is there."""
    with _written(path, text) as temporary:
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def _written(path: Path, text: str) -> Iterator[Path]:
    """A file with this text beside ``path``, safe on the disk; gone after the body."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
