"""The binary record: exact round trips, and an error for every flipped bit and every cut."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv import CorruptRecord, EntryTooLarge, InvalidRequest
from blatam_kv._core import crc32c
from blatam_kv.errors import Damage
from blatam_kv.record import (
    ALIGNMENT,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TOKENS,
    Kind,
    Record,
    mend,
    pack,
    packed_bytes,
    seal,
    unpack,
    unpack_header,
    unpack_owned,
)

FORMAT = Path(__file__).resolve().parent.parent / "docs" / "FORMAT.md"
KEY = bytes(range(32))
EXAMPLE = Record(
    key=KEY,
    kind=Kind.BLOCK,
    payload=b"payload",
    tags=bytes(range(100, 132)),
    codec="int4_kc",
    tokens=struct.pack("<3I", 1, 2, 0xFFFFFFFF),
    created_us=1_764_000_000_000_000,
    expires_us=1_764_000_060_000_000,
)

digests = st.binary(min_size=32, max_size=32)
times = st.integers(0, 2**64 - 1)
records = st.builds(
    Record,
    key=digests,
    kind=st.sampled_from(Kind),
    payload=st.binary(max_size=300),
    tags=digests,
    codec=st.from_regex(r"[a-z0-9_]{1,16}", fullmatch=True),
    tokens=st.binary(max_size=64).map(lambda data: data[: len(data) // 4 * 4]),
    created_us=times,
    expires_us=times,
)


SECRET = bytes(range(40))


def packed(record: Record, mac_key: bytes | None = None) -> bytes:
    return b"".join(pack(record, mac_key=mac_key))


def reference(record: Record, mac_key: bytes | None = None) -> bytes:
    """The table of docs/FORMAT.md, field by field."""

    def filled(data: bytes) -> bytes:
        while len(data) % 64:
            data += b"\0"
        return data

    body = filled(bytes(record.tokens)) + filled(bytes(record.payload))
    header = b"\x89BKV"
    header += (1).to_bytes(2, "little")
    header += bytes([record.kind, 0 if mac_key is None else 1])
    header += len(record.payload).to_bytes(8, "little")
    header += (len(record.tokens) // 4).to_bytes(4, "little")
    header += crc32c(body).to_bytes(4, "little")
    header += record.created_us.to_bytes(8, "little")
    header += record.expires_us.to_bytes(8, "little")
    header += record.codec.encode().ljust(16, b"\0")
    header += record.key + record.tags + bytes(4)
    record_bytes = header + crc32c(header).to_bytes(4, "little") + body
    if mac_key is not None:
        person = b"blatamkv-mac-v1"
        mac = hashlib.blake2b(record_bytes, digest_size=32, key=mac_key, person=person)
        record_bytes += mac.digest() + bytes(32)
    return record_bytes


@given(records, st.none() | st.binary(min_size=16, max_size=64))
def test_a_record_comes_back_as_it_was(record: Record, mac_key: bytes | None) -> None:
    data = packed(record, mac_key)
    assert data == reference(record, mac_key)
    has_mac = mac_key is not None
    size = packed_bytes(record, has_mac=has_mac)
    assert len(data) == size == unpack_header(data).record_bytes
    assert len(data) % ALIGNMENT == 0
    assert unpack(data, mac_key=mac_key) == unpack(data) == record
    assert unpack(data).owned() == unpack_owned(data, mac_key=mac_key) == record


@pytest.mark.parametrize("mac_key", [None, SECRET])
def test_every_flipped_bit_is_an_error(mac_key: bytes | None) -> None:
    data = bytearray(packed(EXAMPLE, mac_key))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord) as caught:
            unpack(data, mac_key=mac_key)
        assert isinstance(caught.value.reason, Damage)
        with pytest.raises(CorruptRecord) as again:
            unpack_owned(data, mac_key=mac_key)
        assert again.value.reason is caught.value.reason
        data[bit // 8] ^= 1 << bit % 8
    assert unpack(data, mac_key=mac_key) == EXAMPLE


def test_a_record_of_another_key_or_of_none_is_an_error() -> None:
    for data in (packed(EXAMPLE), packed(EXAMPLE, SECRET[1:])):
        with pytest.raises(CorruptRecord) as caught:
            unpack(data, mac_key=SECRET)
        assert caught.value.reason is Damage.MAC


@pytest.mark.parametrize("mac_key", [None, SECRET])
def test_every_cut_is_an_error(mac_key: bytes | None) -> None:
    data = packed(EXAMPLE, mac_key)
    for size in range(len(data)):
        with pytest.raises(CorruptRecord) as caught:
            unpack(data[:size])
        assert caught.value.reason is Damage.TRUNCATED
    with pytest.raises(CorruptRecord) as caught:
        unpack(data + b"\0")
    assert caught.value.reason is Damage.EXCESS


@given(st.binary(max_size=400))
def test_anything_else_is_an_error(data: bytes) -> None:
    for call in (unpack, unpack_owned):
        with pytest.raises(CorruptRecord):
            call(data)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, (192 << 10) - 1, 192 << 10, 500_000])
def test_a_record_is_copied_whole_and_checked_to_its_last_byte(size: int) -> None:
    record = dataclasses.replace(EXAMPLE, payload=random.Random(size).randbytes(size))
    data = bytearray(packed(record))
    assert unpack_owned(data) == record
    assert type(unpack_owned(data).payload) is bytes
    for at in {HEADER_BYTES, HEADER_BYTES + 64, len(data) // 2, len(data) - 1} & set(
        range(HEADER_BYTES, len(data))
    ):
        data[at] ^= 1
        with pytest.raises(CorruptRecord):
            unpack_owned(data)
        data[at] ^= 1


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
def test_a_spliced_record_is_an_error(insert: bytes, start: int, skip: int) -> None:
    data = packed(EXAMPLE)
    spliced = data[:start] + insert + data[start + skip :]
    if spliced != data:
        with pytest.raises(CorruptRecord):
            unpack(spliced)


@pytest.mark.parametrize(
    ("offset", "field", "reason"),
    [
        (0, b"\x88BKV", Damage.MAGIC),
        (4, b"\2\0", Damage.VERSION),
        (6, b"\0", Damage.KIND),
        (6, b"\4", Damage.KIND),
        (7, b"\2", Damage.FLAGS),
        (7, b"\1", Damage.TRUNCATED),
        (8, struct.pack("<Q", MAX_PAYLOAD_BYTES + 1), Damage.LIMITS),
        (8, b"\xff" * 8, Damage.LIMITS),
        (16, struct.pack("<I", MAX_TOKENS + 1), Damage.LIMITS),
        (8, struct.pack("<Q", MAX_PAYLOAD_BYTES), Damage.TRUNCATED),
        (40, b"a/b" + bytes(13), Damage.CODEC),
        (40, b"a\0b" + bytes(13), Damage.CODEC),
        (40, bytes(16), Damage.CODEC),
    ],
)
def test_a_well_sealed_header_with_a_wrong_field_is_refused(
    offset: int, field: bytes, reason: Damage
) -> None:
    data = packed(EXAMPLE)
    fields = bytearray(data[: HEADER_BYTES - 4])
    fields[offset : offset + len(field)] = field
    with pytest.raises(CorruptRecord) as caught:
        unpack(seal(fields) + data[HEADER_BYTES:])
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": b"short"}, InvalidRequest),
        ({"key": "k" * 32}, InvalidRequest),
        ({"tags": bytes(33)}, InvalidRequest),
        ({"kind": 9}, InvalidRequest),
        ({"codec": ""}, InvalidRequest),
        ({"codec": "RAW"}, InvalidRequest),
        ({"codec": "x" * 17}, InvalidRequest),
        ({"codec": "raw\n"}, InvalidRequest),
        ({"tokens": b"abc"}, InvalidRequest),
        ({"tokens": bytes(4 * MAX_TOKENS + 4)}, InvalidRequest),
        ({"created_us": -1}, InvalidRequest),
        ({"expires_us": 2**64}, InvalidRequest),
    ],
)
def test_a_field_that_does_not_fit_is_named(
    changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(changes))):
        pack(dataclasses.replace(EXAMPLE, **changes))  # type: ignore[arg-type]


def test_a_payload_beyond_the_limit_is_too_large() -> None:
    vast = memoryview(bytearray(1)).cast("B")
    record = dataclasses.replace(EXAMPLE, payload=memoryview(bytearray(MAX_PAYLOAD_BYTES + 1)))
    with pytest.raises(EntryTooLarge, match="at most"):
        pack(record)
    assert unpack(packed(dataclasses.replace(EXAMPLE, payload=vast))).payload == b"\0"


def test_reading_copies_nothing() -> None:
    data = bytearray(packed(EXAMPLE))
    read = unpack(data)
    assert isinstance(read.payload, memoryview)
    assert read.payload.obj is data
    assert read.payload.readonly


def test_packing_copies_no_payload() -> None:
    payload = bytearray(b"p" * ALIGNMENT)
    pieces = pack(Record(KEY, Kind.RESPONSE, payload))
    assert memoryview(pieces[1]).obj is payload


def test_a_payload_of_wider_items_is_taken_by_its_bytes() -> None:
    payload = memoryview(bytearray(16)).cast("Q")
    assert unpack(packed(Record(KEY, Kind.RESPONSE, payload))).payload == bytes(16)


def test_one_flipped_bit_of_a_header_is_found_and_two_are_not_mended_wrongly() -> None:
    header = packed(EXAMPLE)[:HEADER_BYTES]
    damaged = bytearray(header)
    for bit in range(8 * len(header)):
        damaged[bit // 8] ^= 1 << bit % 8
        assert mend(damaged) == header
        damaged[0] ^= 0x81 if bit // 8 else 0x7E
        assert mend(damaged) is None
        damaged = bytearray(header)
    assert mend(bytes(HEADER_BYTES)) is None


def test_the_example_of_the_specification_is_this_record() -> None:
    text = FORMAT.read_text()
    block = text[text.index("```hex\n") + 7 :].partition("```")[0]
    lines = [line.partition("  ;")[0] for line in block.splitlines()]
    data = bytes.fromhex("".join(re.sub(r"^[0-9a-f]{4}:", "", line) for line in lines))
    assert data == packed(EXAMPLE)
    assert unpack(data) == EXAMPLE
