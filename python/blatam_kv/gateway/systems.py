"""The systems as they run: each with its connections, its circuit, its checks. Replaced while it runs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from blatam_kv.errors import ConfigError
from blatam_kv.gateway.breaker import Breaker
from blatam_kv.gateway.configuration import Configuration, System
from blatam_kv.gateway.pool import Pool
from blatam_kv.signature import KEY_BYTES

# Health checks of a system that are remembered.
_HISTORY = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One health check. status: of the answer, None if there was none."""

    at: float
    well: bool
    status: int | None
    seconds: float
    detail: str

    def described(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "at": round(self.at, 3),
            "status": "healthy" if self.well else "unhealthy",
            "http_status": self.status,
            "milliseconds": round(1000 * self.seconds, 3),
            "detail": self.detail,
        }


class Upstream:
    """One system at work. key: what it is signed to with, where the gateway signs."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.pool = Pool(
            system.url,
            most=system.connections,
            keep_seconds=system.keep_seconds,
            connect_seconds=system.connect_seconds,
        )
        self.breaker = Breaker(
            failures=system.failures, seconds=system.open_seconds, clock=time.monotonic
        )
        self.history: deque[Check] = deque(maxlen=_HISTORY)
        self.checked = self.checked_unwell = 0
        self.key = _key(system.name, system.key_file) if system.credentials == "sign" else None
        self.mount = system.mount.encode()
        # What a system does not see of a path here.
        self.taken_off = self.mount if system.strip else b""
        self.base = b"" if not system.strip else system.base.encode()
        self.authority = system.authority.encode()

    def target(self, raw_path: bytes, query: bytes) -> bytes:
        """What a path here is called there, with its query."""
        path = raw_path
        if self.system.strip:
            path = self.base + (raw_path[len(self.mount) :] or b"/")
        return path + b"?" + query if query else path

    def health_target(self) -> bytes:
        """What a health check asks for."""
        return f"{self.system.base}{self.system.health}".encode()

    def found(self, check: Check) -> None:
        """Note what a check found."""
        self.history.append(check)
        self.checked += 1
        self.checked_unwell += not check.well
        if check.well:
            self.breaker.looks_well()

    @property
    def well(self) -> bool | None:
        """What the last check found; None before the first."""
        return self.history[-1].well if self.history else None

    def described(self) -> dict[str, object]:
        """For ``GET /systems``."""
        system = self.system
        last = self.history[-1] if self.history else None
        return {
            "name": system.name,
            "url": system.url,
            "path": system.mount,
            "status": "unknown" if last is None else "healthy" if last.well else "unhealthy",
            "circuit": self.breaker.state,
            "under_way": self.pool.in_use,
            "idle_connections": self.pool.idle,
            "last_check": None if last is None else last.described(),
        }


def _key(name: str, file: Path | None) -> bytes:
    assert file is not None
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not hexadecimal digits"
        raise ConfigError(f"systems.{name}.key_file {file} cannot be used ({reason})") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"systems.{name}.key_file {file} must hold a signing key of {2 * KEY_BYTES} "
            "hexadecimal digits, as `blatam-kv keys create` shows it"
        )
    return key


class Systems:
    """All of them, found by the path of a request. Used in the loop's thread."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.by_name: dict[str, Upstream] = {}
        self._mounts: list[tuple[bytes, Upstream]] = []
        self.replace(configuration)

    def replace(self, configuration: Configuration) -> None:
        """Go on with another configuration. What did not change keeps its connections, circuit and
        history; requests under way end as they began. Raises ConfigError and changes nothing."""
        made = {}
        for system in configuration.systems:
            old = self.by_name.get(system.name)
            made[system.name] = (
                old if old is not None and old.system == system else Upstream(system)
            )
        gone = [each for name, each in self.by_name.items() if made.get(name) is not each]
        self.configuration, self.by_name = configuration, made
        # The longest first: one path may lie within another.
        self._mounts = sorted(
            ((each.mount + b"/", each) for each in made.values()),
            key=lambda pair: len(pair[0]),
            reverse=True,
        )
        for each in gone:
            each.pool.close()

    def find(self, raw_path: bytes) -> Upstream | None:
        """The system whose path a request's path begins with."""
        for prefix, upstream in self._mounts:
            if raw_path.startswith(prefix) or raw_path == prefix[:-1]:
                return upstream
        return None

    def close(self) -> None:
        """Close every kept connection."""
        for each in self.by_name.values():
            each.pool.close()
