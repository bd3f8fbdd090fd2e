"""A PostgreSQL server of the tests' own: no port, a folder that goes away, nothing kept."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")


def binary(name: str) -> str:
    """One of the server's programs, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    assert path, (
        f"{name} is missing; Debian's package postgresql brings it (./run test asks for it)"
    )
    return path


class Postgres:
    """A running server; ``database()`` makes an empty one in it and returns its URL."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._settings = (*_FAST, *options)
        self.made = 0
        # The server refuses to run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._options: dict[str, Any] = self._user | quiet | {"cwd": folder}
        init = [binary("initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres"]
        init += ["-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(init, check=True, **self._options)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [binary("postgres"), "-D", str(self.folder / "data"), "-h", ""]
        command += ["-k", str(self.folder)]
        for option in self._settings:
            command += ["-c", option]
        self._process = subprocess.Popen(command, **self._options)
        ready = [binary("pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, "the server ended at once"
            time.sleep(0.01)

    def kill(self) -> None:
        """End all of its processes without a word, as a crash would."""
        every = self._stopped()
        for pid in every:
            os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        # The others are not ours to wait for; the next server would find their memory in use.
        while any(_state(pid) not in "ZX" for pid in every):
            time.sleep(0.01)
        for path in (*self.folder.glob(".s.PGSQL*"), self.folder / "data" / "postmaster.pid"):
            path.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let it hear and not answer, with every process that it has by now."""
        self._stopped()

    def thaw(self) -> None:
        """Let it go on."""
        for pid in (*self._children(), self._process.pid):
            with suppress(ProcessLookupError):  # of one that ran, and has ended meanwhile
                os.kill(pid, signal.SIGCONT)

    def _stopped(self) -> list[int]:
        """All of its processes, which stand still now."""
        parent = self._process.pid
        os.kill(parent, signal.SIGSTOP)
        while _state(parent) != "T":  # until then it may make another one
            time.sleep(0.001)
        children = self._children()
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        return [*children, parent]

    def _children(self) -> list[int]:
        parent = self._process.pid
        return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))

    def stop(self) -> None:
        """End it at once; who is connected is cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def database(self) -> str:
        """The URL of a new, empty database."""
        self.made += 1
        name = f"test{self.made}"
        create = [binary("createdb"), "-h", str(self.folder), "-U", "postgres", name]
        subprocess.run(create, check=True)
        return f"postgresql://postgres:s3cret@/{name}?host={self.folder}"


def _state(pid: int) -> str:
    """What Linux says a process does; X once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextmanager
def postgres(*options: str) -> Iterator[Postgres]:
    """A server for the body of a ``with``; options are those of its configuration."""
    # Directly below the system's folder: a socket's path is short, and the server's user may enter.
    folder = Path(tempfile.mkdtemp(prefix="blatam-pg-"))
    server = Postgres(folder, *options)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
