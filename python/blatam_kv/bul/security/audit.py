"""The audit log: who was refused and why, and what was done with administrators' rights.

JSON, one event a line, in ``audit.log`` of the data directory; files of 10 MiB, five of them. Never
written: a key, a signature, a query, an answer. What is served as usual is not an event.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

log = logging.getLogger("blatam_kv.audit")

FILE = "audit.log"
_FILE_BYTES, _FILES = 10 << 20, 5
_LONGEST = 200


class AuditLog:
    """Appends events. Safe from any thread. folder: None keeps nothing (for tests, in process).

    A disk that fails is said once to the program's log; the service goes on.
    """

    def __init__(self, folder: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._failed = False
        self._handler: RotatingFileHandler | None = None
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / FILE
            path.touch(mode=0o600)
            self._handler = RotatingFileHandler(
                path, maxBytes=_FILE_BYTES, backupCount=_FILES - 1, encoding="utf-8"
            )
            self._handler.setFormatter(logging.Formatter("%(message)s"))
            self._handler.handleError = self._on_failure  # type: ignore[method-assign]

    def write(self, event: str, **fields: str | int) -> None:
        """Append an event with its time."""
        if self._handler is None:
            return
        now = self._clock()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        short = {
            name: value[:_LONGEST] if isinstance(value, str) else value
            for name, value in fields.items()
        }
        line = json.dumps({"time": when, "event": event, **short})
        record = logging.LogRecord("blatam_kv.audit", logging.INFO, "", 0, line, None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            self._handler.close()

    def _on_failure(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            log.error("the audit log cannot be written; the service goes on without it")
