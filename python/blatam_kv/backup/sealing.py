"""How a segment becomes a backup's file and back: compressed with zstd, encrypted with AES-256-GCM.

An encrypted file is a header of 32 bytes (magic, version, a salt of 16 bytes, a nonce prefix of 7)
and frames of 1 MiB, each with its tag of 16 bytes. Every file has a key of its own, made from the
backup's key and its salt. The nonce is the prefix, the frame's number and whether it is the last, so
frames can be neither lost, repeated nor reordered; and each is bound to the segment it belongs to, so
files cannot be swapped. (The construction is STREAM: Hoang, Reyhanitabar, Rogaway, Vizár 2015.)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from blatam_kv._core import blake2b
from blatam_kv.backup.folder import Encryption
from blatam_kv.errors import BackupDamaged, ConfigError, MissingExtra

CHUNK_BYTES = 1 << 20
_TAG_BYTES = 16
_MAGIC = b"\x89BKE"
_HEADER = struct.Struct("<4sH2x16s7sx")
_PERSON = b"blatamkv-backup1"
_LEVEL = 3
# What scrypt costs: 16 MiB and about 50 ms, once a command.
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 << 20}


class Source(Protocol):
    """Where bytes come from: at most ``size`` a call, none at the end."""

    def read(self, size: int) -> bytes: ...


class Key:
    """A backup's key. secret: of any length from 16 bytes on."""

    def __init__(self, secret: bytes, salt: bytes) -> None:
        import hashlib

        self.salt = salt
        self._key = hashlib.scrypt(secret, salt=salt, dklen=32, **_SCRYPT)

    @property
    def description(self) -> Encryption:
        """For the manifest."""
        sign = blake2b(b"sign", key=self._key, person=_PERSON)[:8]
        return Encryption(self.salt.hex(), sign.hex())

    def for_file(self, salt: bytes) -> bytes:
        """The key of one file."""
        return blake2b(salt, key=self._key, person=_PERSON)


def key_from_file(path: str | Path) -> bytes:
    """The secret in a file, without the newline at its end. Raises ConfigError if it is no secret."""
    try:
        secret = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from error
    if len(secret) < 16:
        raise ConfigError(
            f"the key file {path} holds {len(secret)} bytes; at least 16 are needed, for example "
            "from: openssl rand -hex 32"
        )
    return secret


def key_of(secret: bytes | None, encryption: Encryption | None, path: Path) -> Key | None:
    """The key that opens a backup. Raises ConfigError for a missing or wrong secret."""
    if encryption is None:
        return None
    if secret is None:
        raise ConfigError(f"{path} is encrypted; give its key file with --key-file")
    key = Key(secret, bytes.fromhex(encryption.salt))
    if key.description != encryption:
        raise ConfigError(f"{path} was encrypted with another key than the one given")
    return key


def suffix(*, compressed: bool, encrypted: bool) -> str:
    """What a file's name ends with."""
    return (".zst" if compressed else "") + (".enc" if encrypted else "")


def sealed(
    chunks: Iterable[bytes], *, compressed: bool, key: Key | None, context: bytes
) -> Iterator[bytes]:
    """A segment's bytes as a backup's file has them. context: what the file is."""
    if compressed:
        chunks = _compress(chunks)
    if key is not None:
        chunks = _encrypt(chunks, key, context)
    return iter(chunks)


def opened(source: Source, *, compressed: bool, key: Key | None, context: bytes) -> Iterator[bytes]:
    """The segment's bytes. Raises BackupDamaged, never more than a chunk at a time in memory."""
    if key is not None:
        source = _Chunks(_decrypt(source, key, context))
    if compressed:
        return _decompress(source)
    return iter(lambda: source.read(CHUNK_BYTES), b"")


def _zstandard() -> Any:  # the library has no types of its own
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", extra="backup") from error
    return zstandard


def _compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = _zstandard().ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    for chunk in chunks:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def _decompress(source: Source) -> Iterator[bytes]:
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(source)
    while True:
        try:
            chunk: bytes = reader.read(CHUNK_BYTES)
        except zstandard.ZstdError as error:
            raise BackupDamaged(f"a compressed file is damaged: {error}") from error
        if not chunk:
            return
        yield chunk


def _cipher(key: bytes) -> Any:  # as above
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra("cryptography", extra="backup") from error
    return AESGCM(key)


def _nonce(prefix: bytes, frame: int, last: bool) -> bytes:
    return prefix + frame.to_bytes(4, "big") + bytes([last])


def _encrypt(chunks: Iterable[bytes], key: Key, context: bytes) -> Iterator[bytes]:
    salt, prefix = os.urandom(16), os.urandom(7)
    cipher = _cipher(key.for_file(salt))
    yield _HEADER.pack(_MAGIC, 1, salt, prefix)
    frame, waiting = 0, bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > CHUNK_BYTES:
            whole = bytes(waiting[:CHUNK_BYTES])
            yield cipher.encrypt(_nonce(prefix, frame, False), whole, context)
            frame += 1
            del waiting[:CHUNK_BYTES]
    yield cipher.encrypt(_nonce(prefix, frame, True), bytes(waiting), context)


def _decrypt(source: Source, key: Key, context: bytes) -> Iterator[bytes]:
    from cryptography.exceptions import InvalidTag

    whole = _Whole(source)
    header = whole.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise BackupDamaged("an encrypted file ends too early")
    magic, version, salt, prefix = _HEADER.unpack(header)
    if (magic, version) != (_MAGIC, 1):
        raise BackupDamaged("an encrypted file does not begin like one")
    cipher = _cipher(key.for_file(salt))
    frame, waiting = 0, whole.read(CHUNK_BYTES + _TAG_BYTES)
    while True:
        after = whole.read(CHUNK_BYTES + _TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(prefix, frame, not after), waiting, context)
        except (InvalidTag, ValueError) as error:
            raise BackupDamaged("an encrypted file is damaged, cut or another's") from error
        if not after:
            return
        frame, waiting = frame + 1, after


class _Whole:
    """Reads what was asked for, unless the source ends."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        while len(data) < size and (more := self._source.read(size - len(data))):
            data += more
        return data


class _Chunks:
    """A source of what an iterator yields."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def read(self, size: int) -> bytes:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left = chunk
        data, self._left = self._left[:size], self._left[size:]
        return data
