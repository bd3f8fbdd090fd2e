"""The one binary record: how an entry looks on disk and on the wire. Specified in docs/FORMAT.md.

A record is a header of 128 bytes, the token ids of its block, and its payload, both filled up to a
multiple of 64 bytes. The header carries a checksum of itself and one of all that follows it, so
that an index can be built from headers alone, and a value is believed only after both agree.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from typing import NamedTuple

from blatam_kv._core import blake2b, crc32c, read_record
from blatam_kv.errors import ConfigError, CorruptRecord, Damage, EntryTooLarge, InvalidRequest

Bytes = bytes | bytearray | memoryview

MAGIC = b"\x89BKV"
VERSION = 1
HEADER_BYTES = 128
ALIGNMENT = 64
DIGEST_BYTES = 32
MAX_TOKENS = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 30
NO_TAGS = bytes(DIGEST_BYTES)
# The MAC, filled to ALIGNMENT.
MAC_BYTES = 64

_FIELDS = struct.Struct("<4sHBBQIIQQ16s32s32s4x")
# Where in a record its tags are, for who looks for these alone.
TAGS_AT = slice(88, 120)
_CHECKSUM = struct.Struct("<I")
_CODEC = re.compile(r"[a-z0-9_]{1,16}")
_CODEC_FIELD = re.compile(rb"[a-z0-9_]{1,16}\0*")
_MAX_TIME = (1 << 64) - 1
_HAS_MAC = 1
_MAC_PERSON = b"blatamkv-mac-v1"


class Kind(IntEnum):
    """What a record is."""

    RESPONSE = 1
    BLOCK = 2  # keys and values of a run of tokens
    TOMBSTONE = 3  # its key was deleted


@dataclass(frozen=True, slots=True)
class Record:
    """One entry, self-describing.

    key: 32-byte digest it is found by. tags: 32-byte digest of all that must agree before the
    payload means anything (model, tokenizer, dtype, layout, LoRA, tenant), computed by the caller.
    codec: how the payload is encoded, 1 to 16 of ``a-z 0-9 _``. tokens: ids of the block as
    little-endian uint32, to be compared on a hit; empty for a response. created_us, expires_us:
    microseconds since 1970, 0 for "never" in the latter.

    payload and tokens may be any contiguous buffer; of a record that was read they are read-only
    views of what was read, without a copy.
    """

    key: bytes
    kind: Kind
    payload: Bytes = b""
    tags: bytes = NO_TAGS
    codec: str = "raw"
    tokens: Bytes = b""
    created_us: int = 0
    expires_us: int = 0

    def owned(self) -> Record:
        """The same with payload and tokens in memory of its own."""
        return Record(
            self.key,
            self.kind,
            bytes(self.payload),
            self.tags,
            self.codec,
            bytes(self.tokens),
            self.created_us,
            self.expires_us,
        )

    def expired(self, now_us: float) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_us <= now_us


class Header(NamedTuple):
    """The fields of a header whose checksum agreed and whose lengths are within limits."""

    kind: Kind
    payload_bytes: int
    token_count: int
    body_checksum: int
    created_us: int
    expires_us: int
    codec: bytes
    key: bytes
    tags: bytes
    has_mac: bool

    @property
    def record_bytes(self) -> int:
        """Bytes of the whole record, header included."""
        return record_bytes(self.token_count, self.payload_bytes, has_mac=self.has_mac)


def record_bytes(token_count: int, payload_bytes: int, *, has_mac: bool = False) -> int:
    """Bytes of a record with so many tokens and so large a payload."""
    body = filled(4 * token_count) + filled(payload_bytes)
    return HEADER_BYTES + body + (MAC_BYTES if has_mac else 0)


def filled(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def packed_bytes(record: Record, *, has_mac: bool = False) -> int:
    """Bytes that the record will take."""
    tokens, payload = memoryview(record.tokens).nbytes, memoryview(record.payload).nbytes
    return record_bytes(tokens // 4, payload, has_mac=has_mac)


def pack(record: Record, *, mac_key: bytes | None = None) -> list[Bytes]:
    """The record's bytes in pieces, for ``writev`` or ``b"".join``; the payload is not copied.

    mac_key: 16 to 64 bytes; the record then ends with a MAC that only its holder can make. Raises
    InvalidRequest for a field that the format cannot hold, EntryTooLarge for a payload beyond
    MAX_PAYLOAD_BYTES.
    """
    check(record)
    tokens = memoryview(record.tokens).cast("B")
    payload = memoryview(record.payload).cast("B")
    pieces: list[Bytes] = []
    if tokens:
        pieces.append(bytes(tokens) + _padding(tokens.nbytes))
    if payload:
        pieces.append(payload)
        if padding := _padding(payload.nbytes):
            pieces.append(padding)
    body_checksum = 0
    for piece in pieces:
        body_checksum = crc32c(piece, body_checksum)
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        record.kind,
        0 if mac_key is None else _HAS_MAC,
        payload.nbytes,
        tokens.nbytes // 4,
        body_checksum,
        record.created_us,
        record.expires_us,
        record.codec.encode(),
        record.key,
        record.tags,
    )
    pieces.insert(0, seal(fields))
    if mac_key is not None:
        pieces.append(_mac(b"".join(pieces), mac_key) + bytes(MAC_BYTES - DIGEST_BYTES))
    return pieces


def check(record: Record) -> None:
    """Raise what ``pack`` would."""
    for name, digest in (("key", record.key), ("tags", record.tags)):
        if not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES:
            raise InvalidRequest(f"{name} must be a digest of {DIGEST_BYTES} bytes", field=name)
    if record.kind not in _KINDS:
        raise InvalidRequest(f"kind must be a Kind, not {record.kind!r}", field="kind")
    if not _is_codec(record.codec):
        raise InvalidRequest(
            f"codec must be 1 to 16 characters of a-z, 0-9 and _, not {record.codec!r}",
            field="codec",
        )
    size = memoryview(record.tokens).nbytes
    if size % 4 or size > 4 * MAX_TOKENS:
        raise InvalidRequest(
            f"tokens must be at most {MAX_TOKENS} little-endian uint32, not {size} bytes",
            field="tokens",
        )
    for name, time in (("created_us", record.created_us), ("expires_us", record.expires_us)):
        if not 0 <= time <= _MAX_TIME:
            raise InvalidRequest(f"{name} must be from 0 to 2**64 - 1", field=name)
    size = memoryview(record.payload).nbytes
    if size > MAX_PAYLOAD_BYTES:
        raise EntryTooLarge(f"a payload holds at most {MAX_PAYLOAD_BYTES} bytes, not {size}")


def unpack_header(block: Bytes) -> Header:
    """The header at the beginning of a buffer. Raises CorruptRecord.

    Nothing beyond the header is looked at, so its record may still turn out damaged.
    """
    view = memoryview(block)[:HEADER_BYTES]
    if len(view) < HEADER_BYTES:
        raise CorruptRecord(Damage.TRUNCATED)
    if not is_sealed(view):
        raise CorruptRecord(Damage.MAGIC if view[:4] != MAGIC else Damage.HEADER)
    magic, version, kind, flags, payload_bytes, token_count, body, *rest = _FIELDS.unpack(view[:-4])
    created_us, expires_us, codec, key, tags = rest
    if magic != MAGIC:
        raise CorruptRecord(Damage.MAGIC)
    if version != VERSION:
        raise CorruptRecord(Damage.VERSION)
    if kind not in _KINDS:
        raise CorruptRecord(Damage.KIND)
    if flags & ~_HAS_MAC:
        raise CorruptRecord(Damage.FLAGS)
    if payload_bytes > MAX_PAYLOAD_BYTES or token_count > MAX_TOKENS:
        raise CorruptRecord(Damage.LIMITS)
    return Header(
        _KINDS[kind],
        payload_bytes,
        token_count,
        body,
        created_us,
        expires_us,
        codec,
        key,
        tags,
        flags == _HAS_MAC,
    )


def unpack(record: Bytes, *, mac_key: bytes | None = None) -> Record:
    """The record that fills a buffer, header and body verified; payload and tokens are views of it.

    mac_key: the record must have a MAC made with it. Without one a MAC is not looked at. Raises
    CorruptRecord for whatever differs by as little as a bit from what ``pack`` made.
    """
    view = memoryview(record).toreadonly().cast("B")
    header = unpack_header(view)
    if len(view) != header.record_bytes:
        excess = len(view) > header.record_bytes
        raise CorruptRecord(Damage.EXCESS if excess else Damage.TRUNCATED)
    if header.has_mac:
        view, mac = view[:-MAC_BYTES], view[-MAC_BYTES:]
    if crc32c(view[HEADER_BYTES:]) != header.body_checksum:
        raise CorruptRecord(Damage.BODY)
    if mac_key is not None and not (header.has_mac and _agrees(mac, view, mac_key)):
        raise CorruptRecord(Damage.MAC)
    codec = _codec_name(header.codec)
    if codec is None:
        raise CorruptRecord(Damage.CODEC)
    tokens_end = HEADER_BYTES + 4 * header.token_count
    payload_start = HEADER_BYTES + filled(4 * header.token_count)
    return Record(
        key=header.key,
        kind=header.kind,
        payload=view[payload_start : payload_start + header.payload_bytes],
        tags=header.tags,
        codec=codec,
        tokens=view[HEADER_BYTES:tokens_end],
        created_us=header.created_us,
        expires_us=header.expires_us,
    )


def unpack_owned(record: Bytes, *, mac_key: bytes | None = None) -> Record:
    """As ``unpack``, with payload and tokens in memory of their own; reads each byte once."""
    if mac_key is None:
        fields = read_record(record)
        if fields is not None and (codec := _codec_name(fields[4])) is not None:
            key, kind, payload, tags, _, tokens, created_us, expires_us = fields
            return Record(key, _KINDS[kind], payload, tags, codec, tokens, created_us, expires_us)
    return unpack(record, mac_key=mac_key).owned()


# ---- blocks that carry their own checksum -------------------------------------------------------


def seal(block: Bytes) -> bytes:
    """The block with its CRC-32C behind it."""
    return bytes(block) + _CHECKSUM.pack(crc32c(block))


def is_sealed(block: memoryview) -> bool:
    """Whether the last four bytes are the checksum of those before."""
    checksum: int = _CHECKSUM.unpack(block[-4:])[0]
    return crc32c(block[:-4]) == checksum


def mend(block: Bytes) -> bytes | None:
    """The sealed block that differs from this one in exactly one bit, if there is one.

    CRC-32C tells any two blocks of up to 655 bytes apart that differ in fewer than six bits, so
    the answer is unique, and it is wrong only if five bits flipped at once. Good enough to learn
    whose record is damaged and where the next one begins; never to serve it.
    """
    mended = bytearray(block)
    stored: int = _CHECKSUM.unpack(mended[-4:])[0]
    bit = _syndromes(len(mended) - 4).get(crc32c(mended[:-4]) ^ stored)
    if bit is None:
        return None
    mended[bit // 8] ^= 1 << bit % 8
    return bytes(mended)


@cache
def _syndromes(size: int) -> dict[int, int]:
    """By how a sealed block's checksum is off, the one flipped bit that does it. A CRC is linear:
    what a bit changes depends on its place only."""
    intact = crc32c(bytes(size))
    table = {1 << bit: 8 * size + bit for bit in range(32)}
    for bit in range(8 * size):
        flipped = bytearray(size)
        flipped[bit // 8] = 1 << bit % 8
        table[crc32c(flipped) ^ intact] = bit
    return table


# ---- what only the holder of a key can make ----------------------------------------------------


def checked_mac_key(key: bytes) -> bytes:
    """The key, if it can be one. Raises ConfigError."""
    if not isinstance(key, bytes) or not 16 <= len(key) <= 64:
        raise ConfigError("mac_key must be 16 to 64 secret bytes")
    return key


def _mac(record: Bytes, key: bytes) -> bytes:
    return blake2b(record, key=key, person=_MAC_PERSON)


def _agrees(mac: memoryview, record: memoryview, key: bytes) -> bool:
    from hmac import compare_digest  # it loads OpenSSL, which most processes do without

    return compare_digest(mac, _mac(record, key) + bytes(MAC_BYTES - DIGEST_BYTES))


# ---- small parts --------------------------------------------------------------------------------

_KINDS = {kind.value: kind for kind in Kind}


@lru_cache(maxsize=64)  # there are few codecs, and this is on every read
def _codec_name(field: bytes) -> str | None:
    return field.rstrip(b"\0").decode() if _CODEC_FIELD.fullmatch(field) else None


@lru_cache(maxsize=64)
def _is_codec(name: str) -> bool:
    return _CODEC.fullmatch(name) is not None


def _padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)
