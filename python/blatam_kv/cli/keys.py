"""``keys`` and ``sign``: who may ask, and a signature by hand."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.security.keys import Key, NewKey
from blatam_kv.cli.report import show
from blatam_kv.config import Settings
from blatam_kv.errors import InvalidRequest
from blatam_kv.signature import sign as signed

SIGNING_KEY = "BLATAM_KV_SIGNING_KEY"


def create(
    settings: Settings,
    tenant: str,
    *,
    role: str,
    networks: list[str],
    rate: int | None,
    days: float | None,
    as_json: bool,
) -> int:
    """Make a key; its secrets are shown this once."""
    keys = open_keys(settings)
    return _show_new(
        keys.create(tenant, role=role, networks=tuple(networks), rate=rate, days=days), as_json
    )


def rotate(settings: Settings, key_id: str, *, overlap_seconds: float, as_json: bool) -> int:
    """A successor; the old key works on for a while."""
    return _show_new(open_keys(settings).rotate(key_id, overlap_seconds=overlap_seconds), as_json)


def revoke(settings: Settings, key_id: str, *, as_json: bool) -> int:
    """End a key; a running service follows within a second."""
    key = open_keys(settings).revoke(key_id)
    if as_json:
        show(_described(key), as_json=True)
    else:
        print(f"key {key.key_id} of {key.tenant} is revoked")
    return 0


def list_keys(settings: Settings, *, as_json: bool) -> int:
    """Every key, without its secrets."""
    keys = [_described(key) for key in open_keys(settings).all()]
    if as_json:
        show({"keys": keys}, as_json=True)
    elif not keys:
        print("no keys yet; make one with: blatam-kv keys create --tenant NAME")
    else:
        print(f"{'key':<13} {'tenant':<20} {'role':<8} {'state':<12} {'created':<17} works until")
        for key in keys:
            end = "for ever" if key["not_after"] is None else _when(key["not_after"])
            print(
                f"{key['key_id']:<13} {key['tenant']:<20} {key['role']:<8} {key['state']:<12} "
                f"{_when(key['created']):<17} {end}"
            )
    return 0


def sign(
    method: str, url: str, *, key_id: str, data: str | None, content_type: str, as_json: bool
) -> int:
    """Print the headers of a signed request, one a line, as ``curl -H @-`` takes them."""
    text = os.environ.get(SIGNING_KEY, "")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidRequest(
            f"{SIGNING_KEY} must hold the signing key, 64 hexadecimal digits, as `keys create` "
            "printed it"
        )
    body = None if data is None else _data(data)
    headers = signed(method, url, key_id=key_id, key=key, body=body, content_type=content_type)
    if as_json:
        show(headers, as_json=True)
    else:
        for name, value in headers.items():
            print(f"{name}: {value}")
    return 0


def _data(text: str) -> bytes:
    """The body: a text, ``@FILE``, or ``@-`` for standard input."""
    if text == "@-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {text[1:]}: {error.strerror}", field="data") from error


def _show_new(made: NewKey, as_json: bool) -> int:
    secrets = {"api_key": made.api_key, "signing_key": made.signing_key.hex()}
    described = _described(made.key)
    if as_json:
        show(described | secrets, as_json=True)
    else:
        print(f"key {made.key.key_id} of {made.key.tenant}, role {made.key.role}")
        print(f"  API key      {secrets['api_key']}")
        print(f"  signing key  {secrets['signing_key']}")
        print("Keep them now: they are not shown again.")
    return 0


def _described(key: Key) -> dict[str, object]:
    fields = asdict(key)
    del fields["api_key_digest"]
    return fields


def _when(seconds: object) -> str:
    assert isinstance(seconds, int)
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(seconds))
