"""One service at a time in a data directory, and the name under which it finds its work again.

Two would both go on with the tasks that are left. The name stays with the directory, so that several
nodes can share one database and each resumes its own.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blatam_kv.errors import ConfigError, Error

FILE = "node"


class DirectoryInUse(Error, RuntimeError):
    """Another service runs in the data directory."""


@contextmanager
def instance(data_dir: Path) -> Iterator[str]:
    """The node's name; the directory is this process's until the body ends, however it ends.

    Raises DirectoryInUse, and ConfigError for a directory that cannot be written.
    """
    path = data_dir / FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path} ({error.strerror}); choose another place with BUL_DATA_DIR or "
            "--data-dir"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryInUse(
                f"another service runs in {data_dir}; stop it, or give this one a directory of its "
                "own with --data-dir"
            ) from error
        name = file.read().strip()
        if not name:
            name = uuid.uuid4().hex
            file.write(f"{name}\n")
            file.flush()
        yield name
