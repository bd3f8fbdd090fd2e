"""Which names this service answers to.

A service that listens on this machine only answers to this machine's names and to those it is told:
a web page elsewhere can make the user's own browser call 127.0.0.1, and then names the page's host.
One that listens elsewhere answers to any name unless it is told which; callers prove themselves by
keys, which no page has.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from blatam_kv.bul.security.keys import Network
from blatam_kv.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Hosts:
    """What ``Host`` and ``Origin`` may be. bound: the address that the service listens on.

    names: further host names, without ports. Raises ConfigError for what cannot be a name.
    """

    def __init__(self, bound: str, names: Sequence[str] = ()) -> None:
        for name in names:
            if not _NAME.fullmatch(name) and not _is_address(name):
                raise ConfigError(f"allowed_hosts: {name!r} is not a host name; leave out the port")
        self._names = frozenset(name.lower() for name in names)
        self._any = not names and not is_loopback(bound)
        # Callers name the same few hosts again and again.
        self.take = lru_cache(maxsize=256)(self._take)

    def _take(self, authority: str) -> bool:
        """Whether ``host``, ``host:port`` or ``[v6]:port`` is one of ours."""
        host = host_of(authority)
        if host is None:
            return False
        return self._any or host in self._names or host == "localhost" or is_loopback(host)

    def take_origin(self, origin: str) -> bool:
        """Whether an ``Origin`` header names a page served by us."""
        scheme, _, authority = origin.partition("://")
        return scheme in ("http", "https") and self.take(authority)


def host_of(authority: str) -> str | None:
    """The host of an authority, in lower case; None if it is not one."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or not _is_address(host):
            return None
        port = port.removeprefix(":") if port.startswith(":") or not port else "x"
    else:
        host, _, port = authority.partition(":")
        if not _NAME.fullmatch(host):
            return None
    return None if port and not port.isdecimal() else host.lower()


def is_loopback_authority(authority: str) -> bool:
    """Whether it names this machine."""
    host = host_of(authority)
    return host is not None and (host == "localhost" or is_loopback(host))


def bind_address(host: str) -> str:
    """The address to listen on. Raises ConfigError for what is not one."""
    if host.lower() == "localhost":
        return "127.0.0.1"
    if _is_address(host):
        return host
    raise ConfigError(
        f"--host {host} is not an address; use 127.0.0.1 for this machine only, 0.0.0.0 for all IPv4 "
        "networks, :: for all"
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of some networks."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def is_loopback(host: str) -> bool:
    """Whether it is an address that only this machine can reach."""
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
