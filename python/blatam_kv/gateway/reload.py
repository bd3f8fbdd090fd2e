"""The configuration file, watched: what changes in it holds from then on, without a restart.

A file that cannot be understood changes nothing; that it could not, and why, is in the log and in
the statistics until it can.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from blatam_kv.errors import Error
from blatam_kv.gateway.configuration import Configuration, load
from blatam_kv.gateway.systems import Systems

log = logging.getLogger("blatam_kv.gateway")

_EVERY_SECONDS = 1.0
# These are taken when the gateway starts.
_AT_START = ("host", "port", "log_level", "allowed_hosts", "trusted_proxies", "recent")


class Watch:
    """Follows a file; None never changes. error: why it holds no longer what the file says."""

    def __init__(self, file: Path | None, environ: Mapping[str, str], systems: Systems) -> None:
        self._file = file
        self._environ = environ
        self._systems = systems
        self._seen = self._look()
        try:  # without the flags, which the file cannot change
            self._said = load(file, environ)
        except Error:
            self._said = systems.configuration
        self.loaded = time.time()
        self.error: str | None = None

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            if self._look() != self._seen:
                self.reload()

    def reload(self) -> bool:
        """Read the file now; False if it is not to be used."""
        self._seen = self._look()
        try:
            found = load(self._file, self._environ)
            self._systems.replace(self._as_started(found))
        except Error as error:
            self.error = str(error)
            log.error("the configuration is not used, the old one holds on: %s", error)
            return False
        self.error, self.loaded = None, time.time()
        log.warning("configuration read: %s", ", ".join(self._systems.by_name))
        return True

    def _as_started(self, found: Configuration) -> Configuration:
        now, said = self._systems.configuration, self._said
        changed = [name for name in _AT_START if getattr(found, name) != getattr(said, name)]
        if changed:
            log.warning("to change %s, start the gateway again", ", ".join(changed))
        return replace(found, **{name: getattr(now, name) for name in _AT_START})

    def _look(self) -> tuple[int, ...]:
        if self._file is None:
            return ()
        try:
            status = self._file.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ino, status.st_size)

    def described(self) -> dict[str, object]:
        """For ``GET /statistics``."""
        return {
            "file": None if self._file is None else str(self._file),
            "loaded_at": round(self.loaded, 3),
            "error": self.error,
        }
