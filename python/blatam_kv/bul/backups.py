"""Backups while the service runs: when they are due, one store after the other, by a thread of their own.

What goes wrong is said by the log, the metrics and the health, and is tried again sooner; it never
reaches a request. When the next one is due follows from the newest backup on disk, so a service that is
restarted more often than it makes backups makes them all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from blatam_kv.backup import backups, create, key_from_file, prune
from blatam_kv.blocks import KVStore
from blatam_kv.bul import answers
from blatam_kv.bul.pipeline import Answer
from blatam_kv.config import Settings
from blatam_kv.errors import Error
from blatam_kv.metrics import BackupsSnapshot
from blatam_kv.record import Bytes
from blatam_kv.shelf import Shelf
from blatam_kv.tiers.files import SystemFiles, reason_of
from blatam_kv.truthgpt import prefixes

log = logging.getLogger("blatam_kv.bul")

FOLDER = "backups"  # in the data directory, unless the settings name another place
# After a failure the next try comes in so small a part of the interval.
_RETRY_SHARE = 0.1


def folders_of(
    settings: Settings, *, shelf: Shelf[Answer] | None, blocks: KVStore | None
) -> dict[str, Path]:
    """The folders that this service writes, by what they hold."""
    folders = {}
    if shelf is not None:
        folders["answers"] = answers.folder(settings)
    if blocks is not None and not blocks.read_only and blocks.stats().tier is not None:
        folders["blocks"] = settings.data_dir / prefixes.FOLDER
    return folders


class _Stopped(Exception):  # not an error: the service stops
    """The backup that was being made is given up."""


class _StoppableFiles(SystemFiles):
    """Reads and writes until the service stops."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if self._stop.is_set():
            raise _Stopped
        return super().read(fd, size, offset)

    def write(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        if self._stop.is_set():
            raise _Stopped
        return super().write(fd, pieces, offset)


class Backups:
    """Backs up stores as the settings say. Safe from any thread; close it when done.

    folders: of the stores, by name; the backups of each are in a folder of that name. Does nothing unless
    ``settings.backup_enabled``. clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        folders: Mapping[str, Path],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._folders, self._clock = settings, dict(folders), clock
        self.root = settings.backup_dir or settings.data_dir / FOLDER
        self._wanted = settings.backup_enabled and bool(self._folders)
        self._every = settings.backup_interval_hours * 3600.0
        self._stop = threading.Event()
        self._files = _StoppableFiles(self._stop)
        self._lock = threading.Lock()  # guards what follows
        self._failing = ""
        self._last = self._bytes = self._seconds = 0.0
        self._made = self._failed = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if that is wanted and there is anything to back up."""
        if self._wanted:
            self._thread = threading.Thread(target=self._run, name="bul-backups", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; a backup that is being made is given up and leaves nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def make_due(self) -> float:
        """Make a backup of each store if it is time; returns the seconds until it is again.

        A failure is logged and counted, never raised.
        """
        try:
            wait = self._newest() + self._every - self._clock()
            if wait <= 0:
                self._make()
                wait = self._every
        except _Stopped:
            return self._every
        except (Error, OSError) as error:
            log.error("no backup was made: %s", error)
            return self._failed_by(error)
        except Exception as error:  # a thread that dies of it would be silent from then on
            log.exception("no backup was made, for a reason that nobody thought of")
            return self._failed_by(error)
        with self._lock:
            self._failing = ""
        return min(wait, self._every)

    def snapshot(self) -> BackupsSnapshot | None:
        """For the exporter; None where no backups are made."""
        if not self._wanted:
            return None
        with self._lock:
            return BackupsSnapshot(
                last_timestamp=self._last,
                last_seconds=self._seconds,
                last_bytes=int(self._bytes),
                made=self._made,
                failed=self._failed,
            )

    def health(self) -> str:
        """One line."""
        if not self._wanted:
            return "nothing on disk to back up" if self._settings.backup_enabled else "off"
        with self._lock:
            last = datetime.fromtimestamp(self._last, UTC) if self._last else None
            when = f"the last one is of {last:%Y-%m-%d %H:%M:%S} UTC" if last else "none yet"
            return f"failing: {self._failing}; {when}" if self._failing else when

    # ---- inside ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(max(0.0, self.make_due())):
            pass

    def _newest(self) -> float:
        """When the store was backed up whose last backup is the oldest, 0 where one was never."""
        newest = []
        for name in self._folders:
            found = backups(self.root / name, files=self._files)
            newest.append(found[-1].created.timestamp() if found else 0.0)
        with self._lock:
            self._last = min(newest)
        return min(newest)

    def _make(self) -> None:
        settings = self._settings
        secret = None
        if settings.backup_key_file is not None:
            secret = key_from_file(settings.backup_key_file)
        began = time.perf_counter()
        made = [
            create(
                folder,
                self.root / name,
                compress=settings.backup_compress,
                secret=secret,
                clock=self._now,
                files=self._files,
            )
            for name, folder in self._folders.items()
        ]
        with self._lock:
            self._last = made[0].created.timestamp()
            self._bytes = sum(backup.file_size for backup in made)
            self._seconds = time.perf_counter() - began
            self._made += 1
        log.info("backup: %s, verified", ", ".join(str(backup.path) for backup in made))
        for name in self._folders:
            prune(
                self.root / name,
                keep=settings.backup_keep,
                days=settings.backup_retention_days,
                clock=self._now,
                files=self._files,
            )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self._clock()), UTC)

    def _failed_by(self, error: Exception) -> float:
        """Count a failure; returns the seconds until the next try. Whoever reads the health is told
        the kind of it only: a message may hold paths."""
        reason = reason_of(error) if isinstance(error, OSError) else type(error).__name__
        with self._lock:
            self._failed += 1
            self._failing = reason
        return self._every * _RETRY_SHARE
