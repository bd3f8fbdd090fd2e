"""What of a header section travels on, and what the gateway adds.

Header names are lower case, as ASGI has them. Nothing here looks at values it does not own: order,
repetition and spelling stay, so that what a signature covers arrives as it left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from blatam_kv.gateway.wire import Headers
from blatam_kv.server.prefix import is_path

# Between two neighbours only (RFC 9110, 7.6.1), and Expect, which the server here has answered.
_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate"),
        *(b"proxy-authorization", b"proxy-authentication-info", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"expect", b"http2-settings"),
    )
)
# Who a request is from is proved by its key. What merely says so goes nowhere.
_CLAIMS = frozenset(
    (b"x-tenant", b"x-tenant-id", b"x-blatam-tenant", b"x-authenticated-user", b"x-remote-user")
)
_FORWARDED = frozenset(
    (
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"x-forwarded-port", b"x-forwarded-prefix", b"x-real-ip"),
    )
)
# Told anew of every request.
_ANEW = frozenset((b"host", b"content-length", b"x-request-id"))
# What is dropped in one look: of a trusted proxy, and of anybody else.
_OF_PROXIES = _HOP | _CLAIMS | _ANEW
_OF_OTHERS = _OF_PROXIES | _FORWARDED
_SIGNED = frozenset((b"signature", b"signature-input", b"content-digest"))
_OUR_KEY = re.compile(rb"(?:bearer\s+)?bkv_", re.IGNORECASE)

_COOKIE_PATH = re.compile(rb"(;\s*path\s*=\s*)(/[^;]*)", re.IGNORECASE)

SESSION_COOKIE = b"blatam_kv_session"
MOST_HOPS = 16


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The header fields that Connection says are hop by hop."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(word.strip().lower() for word in value.split(b","))
    return frozenset(named)


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The fields that are meant for the other end."""
    return _without(headers, _HOP)


def to_system(headers: Sequence[tuple[bytes, bytes]], *, believed: bool) -> Headers:
    """A client's fields without claims of who it is, without those that are told anew of every request
    (Host, Content-Length, X-Request-ID), and, unless it is a trusted proxy (believed), without what it
    says it forwards for."""
    return _without(headers, _OF_PROXIES if believed else _OF_OTHERS)


def _without(headers: Sequence[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """Fields but for these, which those of the hop are among, and for those that Connection names."""
    kept = [pair for pair in headers if pair[0] not in dropped]
    if len(kept) != len(headers) and (named := named_by_connection(headers) - _HOP):
        return [pair for pair in kept if pair[0] not in named]
    return kept


def without_ours(headers: Headers) -> Headers:
    """Fields without what opens doors here: keys, signatures and the page's cookie. Credentials of
    the system's own stay."""
    kept: Headers = []
    for name, value in headers:
        if name in _SIGNED or (
            name in (b"x-api-key", b"authorization") and _OUR_KEY.match(value.strip())
        ):
            continue
        if name == b"cookie" and SESSION_COOKIE in value:
            parts = [part.strip() for part in value.split(b";")]
            value = b"; ".join(
                part for part in parts if part.partition(b"=")[0].strip() != SESSION_COOKIE
            )
            if not value:
                continue
        kept.append((name, value))
    return kept


def forwarded_for(
    headers: Headers, *, address: str, scheme: str, host: bytes, taken_off: bytes
) -> Headers:
    """The fields that say whom the gateway asks for, after those of proxies before it. taken_off: what
    the system does not see of the path."""
    before, earlier, prefixes = b"", b"", []
    kept: Headers = []
    known = set()
    for pair in headers:
        name, value = pair
        if name not in _FORWARDED:
            kept.append(pair)
        elif name == b"x-forwarded-for":
            before = value if not before else before + b", " + value
        elif name == b"forwarded":
            earlier += value + b", "
        elif name == b"x-forwarded-prefix":
            prefixes.append(value.decode("latin-1").rstrip("/"))
        else:
            known.add(name)
            kept.append(pair)
    if len(prefixes) == 1 and is_path(prefixes[0]):
        taken_off = prefixes[0].encode() + taken_off
    client = address.encode("latin-1", "replace")
    kept.append((b"x-forwarded-for", before + b", " + client if before else client))
    if b"x-forwarded-proto" not in known:
        kept.append((b"x-forwarded-proto", scheme.encode()))
    if b"x-forwarded-host" not in known:
        kept.append((b"x-forwarded-host", host))
    if taken_off:
        kept.append((b"x-forwarded-prefix", taken_off))
    quoted = b'"[%b]"' % client if b":" in client else client
    element = b'for=%b;host="%b";proto=%b' % (quoted or b"unknown", host, scheme.encode())
    kept.append((b"forwarded", earlier + element))
    return kept


def hops(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The names in Via, in order."""
    names = []
    for name, value in headers:
        if name == b"via":
            for element in value.split(b","):
                words = element.split()
                if len(words) > 1:
                    names.append(words[1])
    return names


def back_through(location: bytes, *, base: str, mount: str) -> bytes:
    """A redirect's target as the client can reach it: what points into the system leads through the
    gateway, what points elsewhere stays, and what a system that reads X-Forwarded-Prefix has put right
    itself."""
    text = location.decode("latin-1")
    found, own = urlsplit(text), urlsplit(base)
    inside = own.path.rstrip("/")
    if found.netloc:
        if (found.scheme or own.scheme, found.netloc) != (own.scheme, own.netloc):
            return location
    elif found.scheme or not text.startswith("/"):
        return location
    if not found.path.startswith(f"{inside}/") or f"{found.path}/".startswith(f"{mount}/"):
        return location
    rest = found.path[len(inside) :]
    query = f"?{found.query}" if found.query else ""
    fragment = f"#{found.fragment}" if found.fragment else ""
    return f"{mount}{rest}{query}{fragment}".encode("latin-1")


def is_within(address: str, networks: Sequence[object]) -> bool:
    """Whether an address lies in one of some networks."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)  # type: ignore[operator]  # ip networks


def without_session(headers: Headers, *, mount: str) -> Headers:
    """An answer's fields without cookies in the name of the page's session, and with the others kept
    to the system that set them."""
    kept: Headers = []
    for name, value in headers:
        if name == b"set-cookie":
            if value.partition(b"=")[0].strip() == SESSION_COOKIE:
                continue
            value = _COOKIE_PATH.sub(rb"\1" + mount.encode() + rb"\2", value)
        kept.append((name, value))
    return kept
