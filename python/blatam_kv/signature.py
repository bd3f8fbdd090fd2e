"""Signed requests: one fixed profile of HTTP Message Signatures (RFC 9421), ``blatam-kv-1``.

HMAC-SHA-256 over method, authority, path, query and, where there is a body, its type and its SHA-256
(Content-Digest, RFC 9530), in this order and no other, with a time and a nonce. The profile being
fixed, verifying is one regular expression and one comparison: there is nothing to negotiate.

``sign`` makes the three headers; ``Claim.read`` takes them apart, ``Claim.proves`` judges.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from blatam_kv.errors import InvalidRequest

TAG = "blatam-kv-1"
WINDOW_SECONDS = 300
KEY_BYTES = 32

_BARE = '"@method" "@authority" "@path" "@query"'
_WITH_BODY = _BARE + ' "content-type" "content-digest"'
# What a server asks for in its 401 (RFC 9421, 5.1).
ACCEPT = f'sig1=({_WITH_BODY});created;keyid;alg="hmac-sha256";nonce;tag="{TAG}"'

_INPUT = re.compile(
    rf"sig1=(?P<params>\((?P<components>{re.escape(_BARE)}|{re.escape(_WITH_BODY)})\)"
    r";created=(?P<created>[0-9]{1,12})(?:;expires=(?P<expires>[0-9]{1,12}))?"
    r';keyid="(?P<key_id>[A-Za-z0-9._-]{1,64})";alg="hmac-sha256"'
    rf';nonce="(?P<nonce>[A-Za-z0-9+/=_-]{{8,64}})";tag="{re.escape(TAG)}")'
)
_SIGNATURE = re.compile(r"sig1=:(?P<mac>[A-Za-z0-9+/]{43}=):")


Keyed = hmac.HMAC


def keyed(key: bytes) -> Keyed:
    """A key ready to verify with: what only depends on it is computed once, which is most of what
    verifying a short text costs."""
    return hmac.new(key, digestmod="sha256")


class BadSignature(ValueError):
    """The headers are not one signature of this profile. The text is for logs, not for callers."""


def content_digest(body: bytes) -> str:
    """The value of Content-Digest for a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


# Tuples, made for every request: a frozen dataclass costs five times as much to fill.
class Parts(NamedTuple):
    """What of a request is signed, as it travels. query: with its ``?``, which stands alone too.

    content_type and content_digest are None where there is no body.
    """

    method: str
    authority: str
    path: str
    query: str
    content_type: str | None = None
    content_digest: str | None = None

    def base(self, params: str) -> bytes:
        """The signature base (RFC 9421, 2.5)."""
        lines = [
            f'"@method": {self.method}',
            f'"@authority": {self.authority.lower()}',
            f'"@path": {self.path}',
            f'"@query": {self.query}',
        ]
        if self.content_digest is not None:
            lines.append(f'"content-type": {self.content_type}')
            lines.append(f'"content-digest": {self.content_digest}')
        lines.append(f'"@signature-params": {params}')
        return "\n".join(lines).encode()


def sign(
    method: str,
    url: str,
    *,
    key_id: str,
    key: bytes,
    body: bytes | None = None,
    content_type: str = "application/json",
    created: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers to send with a request: Content-Type and -Digest for a body, and the signature.

    created: Unix seconds, now by default; servers take it for WINDOW_SECONDS and a nonce once.
    Raises InvalidRequest for a URL without a host, or a key that is not KEY_BYTES long.
    """
    if len(key) != KEY_BYTES:
        raise InvalidRequest(f"a signing key has {KEY_BYTES} bytes, not {len(key)}", field="key")
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if parts.hostname is None or default is None:
        raise InvalidRequest(
            f"needs a URL such as http://host:8002/query, not {url!r}", field="url"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    headers = {}
    if body is not None:
        headers = {"Content-Type": content_type, "Content-Digest": content_digest(body)}
    params = (
        f"({_BARE if body is None else _WITH_BODY});created={created or int(time.time())}"
        f';keyid="{key_id}";alg="hmac-sha256";nonce="{nonce or secrets.token_urlsafe(16)}";tag="{TAG}"'
    )
    signed = Parts(
        method=method.upper(),
        authority=host if parts.port in (None, default) else f"{host}:{parts.port}",
        path=parts.path or "/",
        query=f"?{parts.query}",
        content_type=headers.get("Content-Type"),
        content_digest=headers.get("Content-Digest"),
    )
    if not _INPUT.fullmatch(f"sig1={params}"):
        raise InvalidRequest("the key id or the nonce has characters that cannot be sent")
    mac = base64.b64encode(hmac.digest(key, signed.base(params), "sha256")).decode()
    return headers | {"Signature-Input": f"sig1={params}", "Signature": f"sig1=:{mac}:"}


class Claim(NamedTuple):
    """A signature as it came, believed by nobody yet. created, expires: Unix seconds."""

    key_id: str
    nonce: str
    created: int
    expires: int | None
    with_body: bool
    params: str
    mac: bytes

    @classmethod
    def read(cls, inputs: Sequence[str], signatures: Sequence[str]) -> Self:
        """From all values of the headers Signature-Input and Signature. Raises BadSignature."""
        if len(inputs) != 1 or len(signatures) != 1:
            raise BadSignature("there must be one Signature-Input and one Signature")
        found, signature = _INPUT.fullmatch(inputs[0]), _SIGNATURE.fullmatch(signatures[0])
        if found is None or signature is None:
            raise BadSignature(f"the headers are not of the profile {TAG}")
        params, components, created, expires, key_id, nonce = found.groups()
        return cls(
            key_id=key_id,
            nonce=nonce,
            created=int(created),
            expires=None if expires is None else int(expires),
            with_body=components == _WITH_BODY,
            params=params,
            mac=base64.b64decode(signature[1]),
        )

    def timely(self, now: float) -> bool:
        """Whether it was made about now and has not expired."""
        if self.expires is not None and self.expires < now:
            return False
        return abs(now - self.created) <= WINDOW_SECONDS

    def proves(self, parts: Parts, key: Keyed) -> bool:
        """Whether the holder of the key signed exactly these parts. Takes the same time if not."""
        mac = key.copy()
        mac.update(parts.base(self.params))
        return hmac.compare_digest(mac.digest(), self.mac)
