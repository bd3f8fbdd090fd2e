"""Which systems there are, where they are and how they are asked: a YAML or JSON file.

    gateway: {health_seconds: 15, trusted_proxies: [10.0.0.0/8]}
    defaults: {first_byte_seconds: 120}
    systems:
      bul: {url: "http://127.0.0.1:8002"}
      gamma: {url: "http://10.0.0.7:8003", idle_seconds: 30}

Without a file, and for what the file does not say, the original's five systems are at their original
ports on this machine. A name that nobody knows is an error with a suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blatam_kv.config import LOG_LEVELS, did_you_mean, parse_file
from blatam_kv.errors import ConfigError

OWN_PATH = "/api/v1/gateway"
CREDENTIALS = ("keep", "strip", "sign")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_MOUNT = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What may stand in a request line.
_VISIBLE = re.compile(r"[!-~]+").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system. url: where it is. path: under which it is reached here.

    strip: whether path is taken off before it is asked. host: "own" names it by its URL, "keep"
    passes the client's on. credentials: "keep" passes keys and signatures on untouched, "strip"
    takes off those that open doors here, "sign" checks them here and signs with key_id and the
    64 hexadecimal digits in key_file instead.

    connect_seconds: to take a connection. first_byte_seconds: to begin an answer. idle_seconds: of
    silence in the middle of one. total_seconds: for all of it, None without a limit. keep_seconds:
    that a connection is kept. connections: requests under way at a time. attempts: tries of a
    request that can be repeated safely. failures in a row open its circuit for open_seconds.
    """

    name: str
    url: str
    path: str = ""
    strip: bool = True
    host: str = "own"
    credentials: str = "strip"
    key_id: str | None = None
    key_file: Path | None = None
    health: str = "/health"
    connect_seconds: float = 1.0
    first_byte_seconds: float = 310.0
    idle_seconds: float = 60.0
    total_seconds: float | None = None
    keep_seconds: float = 4.0
    connections: int = 1024
    max_body_mb: int = 50
    attempts: int = 3
    failures: int = 5
    open_seconds: float = 5.0

    @property
    def mount(self) -> str:
        """The path under which it is reached."""
        return self.path or f"/api/v1/{self.name}"

    @property
    def base(self) -> str:
        """The path of its URL, without a slash at the end."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def authority(self) -> str:
        """The host of its URL, with the port."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All of it. health_seconds: between two rounds of health checks; recent: requests kept."""

    systems: tuple[System, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    log_level: str = "info"
    health_seconds: float = 15.0
    health_timeout_seconds: float = 5.0
    recent: int = 1000
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = field(default=())


# BUL knows the path it has here, so that what a client signed arrives as it was signed.
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "content-redundancy": {"url": "http://127.0.0.1:8001"},
    "bul": {
        "url": "http://127.0.0.1:8002",
        "strip": False,
        "host": "keep",
        "credentials": "keep",
        "health": "/readyz",
    },
    "gamma": {"url": "http://127.0.0.1:8003"},
    "business-agents": {"url": "http://127.0.0.1:8004"},
    "export-ia": {"url": "http://127.0.0.1:8005"},
}
# The original's variables, for the systems of the same names.
ENDPOINTS = {
    "CONTENT_REDUNDANCY_ENDPOINT": "content-redundancy",
    "BUL_ENDPOINT": "bul",
    "GAMMA_APP_ENDPOINT": "gamma",
    "BUSINESS_AGENTS_ENDPOINT": "business-agents",
    "EXPORT_IA_ENDPOINT": "export-ia",
}
_HEALTH_INTERVAL, _REQUEST_TIMEOUT = "HEALTH_CHECK_INTERVAL", "REQUEST_TIMEOUT"

Reader = Callable[[object], Any]


def _seconds(value: object) -> float:
    try:
        found = float(value) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        found = -1.0
    if isinstance(value, bool) or not 0 < found < 1e7:
        raise ValueError("must be a number of seconds above 0")
    return found


def _perhaps_seconds(value: object) -> float | None:
    return None if value in (None, "none") else _seconds(value)


def _whole(low: int, high: int) -> Reader:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}")
        return value

    return read


def _choice(*allowed: str) -> Reader:
    def read(value: object) -> str:
        if value not in allowed:
            hint = did_you_mean(str(value)[:80], allowed)
            raise ValueError(f"must be one of {', '.join(allowed)}{hint}")
        return str(value)

    return read


def _matching(pattern: re.Pattern[str], what: str) -> Reader:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"must be {what}")
        return value

    return read


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _url(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or "@" in parts.netloc or not _VISIBLE(text):
        raise ValueError("must look like http://127.0.0.1:8003, without user, query or fragment")
    return text.rstrip("/")


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not _VISIBLE(value):
        raise ValueError("must be a path that begins with /, with %20 for a space")
    return value


def _file(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("must name a file")
    return Path(value).expanduser()


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _networks(value: object) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(text)) for text in _texts(value))
    except ValueError:
        raise ValueError("must be a list of networks such as 10.0.0.0/8") from None


_SYSTEM: Mapping[str, Reader] = {
    "url": _url,
    "path": _matching(_MOUNT, "a path such as /api/v1/gamma, without a slash at the end"),
    "strip": _switch,
    "host": _choice("own", "keep"),
    "credentials": _choice(*CREDENTIALS),
    "key_id": _matching(_KEY_ID, "the id of a key"),
    "key_file": _file,
    "health": _path,
    "connect_seconds": _seconds,
    "first_byte_seconds": _seconds,
    "idle_seconds": _seconds,
    "total_seconds": _perhaps_seconds,
    "keep_seconds": _seconds,
    "connections": _whole(1, 100_000),
    "max_body_mb": _whole(0, 100_000),
    "attempts": _whole(1, 10),
    "failures": _whole(1, 1_000_000),
    "open_seconds": _seconds,
}
_GATEWAY: Mapping[str, Reader] = {
    "host": _matching(re.compile(r"[0-9A-Za-z:.]+"), "an address to listen on"),
    "port": _whole(0, 65535),
    "log_level": _choice(*LOG_LEVELS),
    "health_seconds": _seconds,
    "health_timeout_seconds": _seconds,
    "recent": _whole(1, 100_000),
    "allowed_hosts": _texts,
    "trusted_proxies": _networks,
}
assert _SYSTEM.keys() == {each.name for each in fields(System)} - {"name"}
assert _GATEWAY.keys() == {each.name for each in fields(Configuration)} - {"systems"}


def load(file: Path | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration of a file, or the default one; the environment goes before both.

    Raises ConfigError with the place, the name and the fix.
    """
    document: object = {} if file is None else parse_file(file)
    place = "" if file is None else f"{file}: "
    sections = _section(document, ("gateway", "defaults", "systems"), place=place, where="the file")
    own = _values(sections.get("gateway"), _GATEWAY, place=place, where="gateway")
    common = _values(sections.get("defaults"), _SYSTEM, place=place, where="defaults")
    named: dict[str, object] = dict.fromkeys(DEFAULTS)
    if "systems" in sections:
        named = _named(sections["systems"], place=place)
    systems = {}
    for name, said in named.items():
        where = f"systems.{name}"
        values = {**common, **DEFAULTS.get(name, {}), **_values(said, _SYSTEM, place, where)}
        if "url" not in values:
            raise ConfigError(f"{place}{where} needs a url, where the system is")
        systems[name] = System(name=name, **values)
    systems = _from_environment(systems, own, environ)
    found = Configuration(systems=tuple(systems.values()), **own)
    _check(found, place)
    return found


def _named(value: object, *, place: str) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{place}systems must hold at least one system by its name")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{place}systems: {str(name)[:80]!r} is no name; use a-z, 0-9 and -")
    return value


def _section(value: object, known: tuple[str, ...], *, place: str, where: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{place}{where} must hold names and values, not {type(value).__name__}")
    for name in value:
        if name not in known:
            hint = did_you_mean(str(name)[:80], known) or f"; there are {', '.join(known)}"
            raise ConfigError(f"{place}{where} has no {str(name)[:80]!r}{hint}")
    return value


def _values(value: object, readers: Mapping[str, Reader], place: str, where: str) -> dict[str, Any]:
    found = {}
    for name, said in _section(value, tuple(readers), place=place, where=where).items():
        try:
            found[name] = readers[name](said)
        except ValueError as error:
            raise ConfigError(f"{place}{where}.{name} {error}, not {repr(said)[:60]}") from None
    return found


def _from_environment(
    systems: dict[str, System], own: dict[str, Any], environ: Mapping[str, str]
) -> dict[str, System]:
    try:
        for variable, name in ENDPOINTS.items():
            if variable in environ:
                where = variable
                if name not in systems:
                    raise ValueError(f"names a system that the configuration leaves out: {name}")
                systems[name] = replace(systems[name], url=_url(environ[variable]))
        where = _HEALTH_INTERVAL
        if where in environ:
            own["health_seconds"] = _seconds(environ[where])
        where = _REQUEST_TIMEOUT
        if where in environ:
            seconds = _seconds(environ[where])
            return {
                name: replace(each, first_byte_seconds=seconds) for name, each in systems.items()
            }
    except ValueError as error:
        raise ConfigError(f"environment variable {where} {error}") from None
    return systems


def _check(found: Configuration, place: str) -> None:
    mounts: dict[str, str] = {}
    for system in found.systems:
        where = f"{place}systems.{system.name}"
        for mount, other in mounts.items():
            if system.mount == mount:
                raise ConfigError(f"{where} has the path of {other}, {mount}; give it another")
        if f"{system.mount}/".startswith(f"{OWN_PATH}/") or f"{OWN_PATH}/".startswith(
            f"{system.mount}/"
        ):
            raise ConfigError(f"{where} cannot have the path {system.mount}; that is the gateway's")
        mounts[system.mount] = system.name
        if system.credentials == "sign" and not (system.key_id and system.key_file):
            raise ConfigError(f"{where} signs, so it needs key_id and key_file")
