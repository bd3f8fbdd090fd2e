"""Requests that the service sends where a caller says: to public addresses only, once, in time.

A caller who may name a URL could make the service ask its own network for things the caller cannot
reach. So the name is resolved once, every address it has must be public, and the connection goes to
the address that was looked at, not to what the name means a moment later. Redirects are not
followed, nothing of the answer but its status is read, and a clock ends what takes too long.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from blatam_kv.errors import Error, InvalidRequest

MAX_URL_CHARS = 2_000
CONNECT_SECONDS, TOTAL_SECONDS = 5.0, 10.0
# Addresses of a name that are tried, where the first does not answer.
_MOST_ADDRESSES = 3
_VISIBLE = re.compile(r"[\x21-\x7e]+")
# IPv6 that carries an IPv4 address along, which may be anyone's: NAT64, 6to4, Teredo.
_CARRIERS = tuple(
    IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
_Address = IPv4Address | IPv6Address
# (host, port) → what socket.getaddrinfo answers.
Resolve = Callable[[str, int], Sequence[str]]


class Undelivered(Error, RuntimeError):
    """It did not arrive. final: it never will."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart; path with its query."""

    secure: bool
    host: str
    port: int
    path: str


def target(url: str) -> Target:
    """The parts of a URL that may be called. Raises ValueError with the fix."""
    if len(url) > MAX_URL_CHARS or not _VISIBLE.fullmatch(url):
        raise ValueError(f"must be a URL of at most {MAX_URL_CHARS:,} visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("must be a URL such as https://example.org/done")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("must be a URL without a name, password or #fragment")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, parts.hostname, port or (443 if secure else 80), path)


def is_public(address: _Address) -> bool:
    """Whether it is an address of the internet, and nobody's own network."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _CARRIERS) or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _getaddrinfo(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """Sends POST requests. allowed: networks that may be called though they are not public.

    total_seconds: of one request, from the connection to the status.
    """

    def __init__(
        self,
        allowed: Sequence[str] = (),
        *,
        resolve: Resolve = _getaddrinfo,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._allowed = tuple(ip_network(text) for text in allowed)
        self._resolve = resolve
        self._seconds = total_seconds

    def check(self, url: str, *, field: str) -> None:
        """Raises InvalidRequest for what is no URL, or names an address that may not be called."""
        try:
            host = target(url).host
            address = ip_address(host)
        except ValueError as error:
            if "appear to be" in str(error):  # a name; what it means is seen when it is called
                return
            raise InvalidRequest(str(error), field=field) from None
        if not self._may(address):
            raise InvalidRequest(f"{host} is not a public address", field=field)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send; returns once the other side has taken it. Raises Undelivered."""
        where = target(url)
        connection = self._connected(where, self._addresses(where))
        late = threading.Event()
        clock = threading.Timer(self._seconds, _hang_up, [connection, late])
        clock.daemon = True
        clock.start()
        try:
            if isinstance(connection, _Secure):
                connection.greet()
            connection.request("POST", where.path, body, dict(headers))
            status = connection.getresponse().status
            if late.is_set():  # headers that were cut off look like headers that ended
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as error:
            if late.is_set() or isinstance(error, TimeoutError):  # the socket has as long
                raise Undelivered(f"took longer than {self._seconds:g} seconds") from None
            raise Undelivered(_reason(error)) from None
        finally:
            clock.cancel()
            connection.close()
        if 300 <= status < 400:
            raise Undelivered(f"was answered {status}; redirects are not followed")
        if not 200 <= status < 300:
            raise Undelivered(f"was answered {status}", final=status == 410)

    def _may(self, address: _Address) -> bool:
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return is_public(address) or any((inner or address) in each for each in self._allowed)

    def _addresses(self, where: Target) -> list[str]:
        try:
            found = list(self._resolve(where.host, where.port))
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"{where.host} cannot be resolved ({_reason(error)})") from None
        for text in found:
            # One bad address is enough: who answers so cannot be trusted with the others.
            if not self._may(ip_address(text.partition("%")[0])):
                raise Undelivered(f"{where.host} is not at a public address", final=True)
        if not found:
            raise Undelivered(f"{where.host} has no address")
        return found[:_MOST_ADDRESSES]

    def _connected(self, where: Target, addresses: Sequence[str]) -> http.client.HTTPConnection:
        reason = ""
        for address in addresses:
            try:
                sock = socket.create_connection(
                    (address, where.port), timeout=min(CONNECT_SECONDS, self._seconds)
                )
                sock.settimeout(self._seconds)
                kind = _Secure if where.secure else http.client.HTTPConnection
                connection = kind(where.host, where.port, timeout=self._seconds)
                # It connects by itself only where it has none.
                connection.sock = _covered(sock, where.host) if where.secure else sock
            except OSError as error:
                reason = _reason(error)
                continue
            return connection
        raise Undelivered(f"{where.host} cannot be reached ({reason})")


class _Secure(http.client.HTTPConnection):
    """One whose socket speaks TLS, once it has greeted."""

    default_port = 443

    def greet(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.do_handshake()


def _covered(sock: socket.socket, host: str) -> ssl.SSLSocket:
    """The socket for TLS with the name that was asked for. The handshake comes under the clock, which
    hangs up on the socket that is in its place by then."""
    context = ssl.create_default_context()
    return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


def _hang_up(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()  # before the other thread wakes up and asks
    sock = connection.sock  # looked at once: that thread may just be closing it
    with suppress(OSError):
        if sock is not None:
            # Not TLS's own, which would take the session away under the other thread's hands.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
