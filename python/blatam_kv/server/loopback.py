"""Only this machine, until the service can tell callers apart.

Two doors are watched: the address the server binds, and the ``Host`` and ``Origin`` a request
claims. The second matters because a web page elsewhere can make the user's own browser call
127.0.0.1; the browser then names the page's host, and that is refused.
"""

from __future__ import annotations

import ipaddress

from blatam_kv.errors import ConfigError

WHY = "this version has no authentication yet, so it serves only this machine"


def loopback_address(host: str) -> str:
    """The address to bind for ``host``. Raises ConfigError for one that others can reach."""
    if host.lower() == "localhost":
        return "127.0.0.1"
    if _is_loopback_address(host):
        return host
    raise ConfigError(
        f"--host {host} is refused: {WHY}. Use --host 127.0.0.1; from another machine, forward "
        "the port, for example: ssh -L 8002:127.0.0.1:8002 THIS_MACHINE"
    )


def is_loopback_authority(authority: str) -> bool:
    """Whether ``host``, ``host:port`` or ``[v6]:port`` names this machine."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        port = port.removeprefix(":") if bracket else "x"
    else:
        host, _, port = authority.partition(":")
    if port and not port.isdecimal():
        return False
    return host.lower() == "localhost" or _is_loopback_address(host)


def is_loopback_origin(origin: str) -> bool:
    """Whether an ``Origin`` header names a page served by this machine."""
    scheme, _, authority = origin.partition("://")
    return scheme in ("http", "https") and is_loopback_authority(authority)


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
