"""The one secret of an installation. All others are derived from it and stored nowhere.

It is made when first needed, 256 bits in a file that only its owner can read, and shared by every
command that uses the same data directory. A secret given by configuration takes its place, unless
it is one that others could guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import struct
from pathlib import Path

from blatam_kv.bul.security.private import write_first
from blatam_kv.config import Secret
from blatam_kv.errors import ConfigError

FILE = "master.secret"
_BYTES = 32
_HEX = re.compile(r"[0-9a-fA-F]{64}")
# Words that stand in examples and tutorials; a secret with one in it is not one.
_KNOWN = re.compile(
    r"change[-_ ]?me|change[-_ ]?this|your[-_ ]|secret[-_ ]?key|password|example|default|"
    r"hmac[-_ ]?secret|dev[-_ ]?secret|test[-_ ]?secret|sk-1234|12345678|abcdefgh|qwerty",
    re.IGNORECASE,
)
_FEWEST_CHARS, _FEWEST_DISTINCT = 32, 12
_FIX = "make one with: openssl rand -hex 32; or leave it unset, and one is made and kept"


class Master:
    """The secret, able to derive keys and nothing else. Never shows itself."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def derive(self, purpose: str, *fields: str) -> bytes:
        """32 bytes for a purpose and what it concerns: HMAC-SHA-256 over length-framed fields."""
        message = purpose.encode()
        for field in fields:
            text = field.encode()
            message += struct.pack(">I", len(text)) + text
        return hmac.digest(self._secret, message, "sha256")

    def tenant_salt(self, tenant: str) -> bytes:
        """What keys all digests of a tenant."""
        return self.derive("blatam-kv/tenant-salt/v1", tenant)

    def __repr__(self) -> str:
        return "<Master>"


def load_master(data_dir: Path, configured: Secret | None = None) -> Master:
    """The configured secret, else the data directory's, made now if there is none.

    Raises ConfigError for a weak one, for a file that others may read, and for one that cannot be
    read or written.
    """
    if configured is not None:
        return Master(_checked(configured.reveal()))
    path = data_dir / FILE
    try:
        text = _read(path)
        if text is None:
            write_first(path, secrets.token_hex(_BYTES) + "\n")
            text = _read(path)
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror or error}") from error
    if text is None or not _HEX.fullmatch(text):
        raise ConfigError(
            f"{path} does not hold 64 hexadecimal digits. If it is damaged, restore it from a backup; "
            "with a new one all keys must be made anew"
        )
    return Master(bytes.fromhex(text))


def _read(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise ConfigError(f"others can read {path}; close it with: chmod 600 {path}")
        return file.read(1000).strip()


def _checked(text: str) -> bytes:
    if len(text) < _FEWEST_CHARS:
        raise ConfigError(f"the HMAC secret has {len(text)} characters, too few; {_FIX}")
    if _KNOWN.search(text) or len(set(text)) < _FEWEST_DISTINCT:
        raise ConfigError(f"the HMAC secret can be guessed; {_FIX}")
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    return hashlib.blake2b(text.encode(), digest_size=_BYTES, person=b"blatamkv-master").digest()
