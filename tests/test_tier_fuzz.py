"""Whatever bytes lie where a file of ours should lie: an answer or a typed error, never a crash."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tier_fakes import KEYS, contents, open_tier, record_of

from blatam_kv import CorruptRecord, Unsupported
from blatam_kv._core import Places
from blatam_kv.record import mend, pack, unpack
from blatam_kv.tiers import manifest
from blatam_kv.tiers.checkpoint import Covered, read_checkpoint, write_checkpoint
from blatam_kv.tiers.files import SystemFiles
from blatam_kv.tiers.index import Index, Place
from blatam_kv.tiers.manifest import Manifest
from blatam_kv.tiers.segment import (
    SegmentHeader,
    pack_segment_header,
    segment_number,
    unpack_segment_header,
)

STORE = bytes(range(16))


def variants(whole: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, and a whole one with a piece of it replaced by others."""
    size = len(whole)
    spliced = st.builds(
        lambda start, skip, insert: whole[:start] + insert + whole[start + skip :],
        st.integers(0, size),
        st.integers(0, size),
        st.binary(max_size=80),
    )
    return st.binary(max_size=600) | spliced


RECORD = b"".join(pack(record_of(1, b"payload" * 9, tokens=bytes(12))))
MANIFEST = manifest.encode(Manifest(STORE, (1, 2, 3), {"model": "m"}))
HEADER = pack_segment_header(SegmentHeader(STORE, 2, 1, 1024, 5))


@given(variants(RECORD))
def test_a_record_is_what_was_packed_or_corrupt(data: bytes) -> None:
    try:
        record = unpack(data)
    except CorruptRecord:
        return
    assert b"".join(pack(record)) == data


@given(variants(MANIFEST))
@example(b'{"checksum": "00000000", "format": 1}')
@example(b"[" * 100_000)
@example(b'{"checksum": {}}')
def test_a_manifest_is_what_was_encoded_or_none(data: bytes) -> None:
    try:
        found = manifest.decode(data)
    except Unsupported:
        return
    assert found is None or manifest.encode(found) == data


@given(variants(HEADER))
def test_a_segment_header_is_what_was_packed_or_mended_or_none(data: bytes) -> None:
    found = unpack_segment_header(data)
    assert found is None or pack_segment_header(found) in (data, mend(data))


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,12}\.seg", fullmatch=True))
def test_a_segment_name_means_one_number(name: str) -> None:
    number = segment_number(name)
    assert number is None or name == f"{number:010d}.seg"


@given(st.binary(max_size=600), st.integers(0, 1 << 30), st.integers(0, 1 << 31))
def test_the_index_takes_whole_records_from_any_bytes(data: bytes, offset: int, more: int) -> None:
    places, end = Places(), offset + more
    reached = places.take(data, 1, offset, end)
    assert offset <= reached <= end
    if not places.load(data):
        assert len(places) <= len(data) // 128


def checkpoint() -> bytes:
    index = Index()
    for number in range(3):
        index.set(KEYS[number], Place(2, 64 + 128 * number, 128))
    with TemporaryDirectory() as folder:
        write_checkpoint(SystemFiles(), Path(folder), STORE, [Covered(2, 1024)], index.save())
        return (Path(folder) / "index").read_bytes()


CHECKPOINT = checkpoint()


@given(variants(CHECKPOINT))
def test_a_checkpoint_is_what_was_written_or_none(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "index").write_bytes(data)
        found = read_checkpoint(SystemFiles(), Path(folder), STORE)
    assert (found is None) == (data != CHECKPOINT)


@settings(max_examples=60)
@given(st.data())
def test_a_store_of_any_bytes_opens_and_goes_on(data: st.DataObject) -> None:
    """The cache starts with what it can believe, empty if need be, and works."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "entries").mkdir()
        for name, whole in (
            ("metadata.json", MANIFEST),
            ("index", CHECKPOINT),
            ("lock", b"1\n"),
            ("entries/0000000001.seg", HEADER + RECORD),
            ("entries/0000000002.seg", HEADER + RECORD),
            ("entries/0000000007.seg", HEADER + RECORD),
        ):
            if data.draw(st.booleans()):
                (path / name).write_bytes(data.draw(variants(whole)))
        with open_tier(path) as tier:
            tier.get_many(KEYS)
            tier.put_many([record_of(2, b"new")])
        with open_tier(path) as tier:
            assert contents(tier, [KEYS[2]]) == {KEYS[2]: b"new"}
