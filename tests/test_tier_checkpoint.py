"""The index: beside a dict, filled by windows as by single records, and kept in a checkpoint."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tier_fakes import (
    DISK_BYTES,
    KEYS,
    FastFiles,
    contents,
    disk_use,
    key_of,
    open_tier,
    record_of,
)
from tier_recorder import RecordingFiles, uncertain

from blatam_kv.record import Kind, Record, pack
from blatam_kv.tiers import checkpoint
from blatam_kv.tiers.checkpoint import read_checkpoint
from blatam_kv.tiers.files import replace_file
from blatam_kv.tiers.index import Index, Place
from blatam_kv.tiers.segment import scan, walk

# ---- what the native index makes of a segment's bytes, and what Python makes of them -------------

PIECES = st.one_of(
    st.builds(
        lambda number, size, tokens, mac: b"".join(
            pack(
                Record(key_of(number), Kind.RESPONSE, bytes(size), tokens=bytes(4 * tokens)),
                mac_key=bytes(16) if mac else None,
            )
        ),
        st.integers(0, 5),
        st.integers(0, 300),
        st.integers(0, 20),
        st.booleans(),
    ),
    st.integers(0, 5).map(lambda number: b"".join(pack(Record(key_of(number), Kind.TOMBSTONE)))),
    st.binary(max_size=140),
)


class Window(FastFiles):
    """A file that is a text in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 8 * 1500), max_size=2))
def test_windows_are_indexed_as_their_records_one_by_one(
    pieces: list[bytes], flips: list[int]
) -> None:
    data = bytearray(b"".join(pieces))
    for bit in flips:
        if bit // 8 < len(data):
            data[bit // 8] ^= 1 << bit % 8
    files = Window(bytes(data))
    expected: dict[bytes, Place] = {}
    end = 0
    for offset, header, intact in scan(files, 0, 0, len(data)):
        end = offset + header.record_bytes
        if intact and header.kind is not Kind.TOMBSTONE:
            expected[header.key] = Place(3, offset, header.record_bytes)
        else:
            expected.pop(header.key, None)
    index = Index()

    def mended(found: Any) -> None:
        if found.intact:
            assert found.header.kind is not Kind.TOMBSTONE
            index.set(found.header.key, Place(3, found.offset, found.header.record_bytes))
        else:
            index.forget(found.header.key)

    reached = walk(
        files, 0, 0, len(data), lambda data, at, end: index.take(data, 3, at, end), mended
    )
    assert reached == end
    assert dict(index.in_order()) == expected


# ---- reopening ----------------------------------------------------------------------------------


class CountingFiles(FastFiles):
    """Counts the bytes read of segments."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.read_bytes += len(data)
        return data


def filled_store(path: Path, **options: Any) -> None:
    with open_tier(path, segment_bytes=16 << 10, **options) as tier:
        for number in range(600):
            tier.put_many([record_of(number, number.to_bytes(2, "little") * 400)])
        tier.delete_many([key_of(number) for number in range(0, 600, 3)])
        tier.put_many([record_of(599, b"replaced")])


NUMBERS = [key_of(number) for number in range(700)]


def test_a_store_reopens_from_its_checkpoint_as_from_its_segments(tmp_path: Path) -> None:
    filled_store(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "index").unlink()
    quick, slow = CountingFiles(), CountingFiles()
    with (
        open_tier(tmp_path / "a", segment_bytes=16 << 10, files=quick) as a,
        open_tier(tmp_path / "b", segment_bytes=16 << 10, files=slow) as b,
    ):
        assert quick.read_bytes * 4 < slow.read_bytes
        assert len(a) == len(b) > 100
        assert contents(a, NUMBERS) == contents(b, NUMBERS)
        assert a.stats().holes == b.stats().holes == 0


def test_what_was_written_after_the_checkpoint_counts(tmp_path: Path) -> None:
    filled_store(tmp_path)
    kept = (tmp_path / "index").read_bytes()
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        tier.put_many([record_of(599, b"newer"), record_of(601, b"new")])
        tier.delete_many([key_of(598)])
        for number in range(610, 640):
            tier.put_many([record_of(number, bytes(1000))])
        expected = contents(tier, NUMBERS)
    for old in (kept, (tmp_path / "index").read_bytes()):
        (tmp_path / "index").write_bytes(old)
        with open_tier(tmp_path, read_only=True) as tier:
            assert contents(tier, NUMBERS) == expected
            assert tier.stats().holes == 0


def test_a_checkpoint_older_than_evictions_is_still_right(tmp_path: Path) -> None:
    filled_store(tmp_path)
    kept = (tmp_path / "index").read_bytes()
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        for number in range(1200):
            tier.put_many([record_of(number % 300, bytes([number % 256]) * 1000)])
            tier.get_many([key_of(597)])
        expected = contents(tier, NUMBERS)
        assert tier.stats().evicted > 100
    for old in (kept, None):
        (tmp_path / "index").unlink()
        if old is not None:
            (tmp_path / "index").write_bytes(old)
        with open_tier(tmp_path, read_only=True) as tier:
            assert contents(tier, NUMBERS) == expected


def test_a_record_that_was_read_is_kept_after_a_restart(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        tier.put_many([record_of(1, b"hot"), record_of(2, b"cold")])
        tier.get_many([key_of(1)])
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        for number in range(10, 1500):
            tier.put_many([record_of(number, bytes(900))])
            if tier.stats().kept:
                break
        assert tier.contains_many([key_of(1), key_of(2)]) == [True, False]


def test_a_checkpoint_that_does_not_fit_the_segments_is_not_used(tmp_path: Path) -> None:
    filled_store(tmp_path / "a")
    filled_store(tmp_path / "b")
    with open_tier(tmp_path / "a", read_only=True) as tier:
        expected = contents(tier, NUMBERS)
        store = tier._log._manifest.store if tier._log._manifest else b""
    own = (tmp_path / "a" / "index").read_bytes()
    found = read_checkpoint(FastFiles(), tmp_path / "a", store)
    assert found is not None
    assert found.covered[-1].size > 64
    segments = sorted((tmp_path / "a" / "entries").iterdir())
    for other in (
        (tmp_path / "b" / "index").read_bytes(),  # another store's
        own[:-1],
        own + b"\0",
        own[:64],
        b"",
        bytes(len(own)),
    ):
        (tmp_path / "a" / "index").write_bytes(other)
        with open_tier(tmp_path / "a", read_only=True) as tier:
            assert contents(tier, NUMBERS) == expected
    (tmp_path / "a" / "index").write_bytes(own)
    segments[3].unlink()  # one in the middle: a hole
    with open_tier(tmp_path / "a", read_only=True) as tier:
        assert tier.stats().holes == 1
        assert contents(tier, NUMBERS).items() <= expected.items()


def test_no_entry_of_a_checkpoint_is_believed_beyond_its_limits() -> None:
    index = Index()
    index.set(key_of(1), Place(1, 64, 128))
    good = bytes(index.save())
    for at, value in ((32, 0), (40, 65), (44, 64), (40, 1 << 30)):
        bad = bytearray(good)
        struct.pack_into("<I", bad, at, value)
        assert not Index().load(bad)
    assert not Index().load(good[:-1])
    other = Index()
    assert other.load(good)
    assert other.in_order() == [(key_of(1), Place(1, 64, 128))]


def test_a_hole_keeps_a_checkpoint_from_being_written(tmp_path: Path) -> None:
    filled_store(tmp_path)
    segments = sorted((tmp_path / "entries").iterdir())
    bad = bytearray(segments[2].read_bytes())
    bad[64 : 64 + 40] = bytes(40)
    segments[2].write_bytes(bad)
    (tmp_path / "index").unlink()
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        assert tier.stats().holes == 1
        tier.put_many([record_of(1, b"x")])
    assert not (tmp_path / "index").exists()


def test_the_checkpoint_keeps_to_its_share_of_the_bound(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        for number in range(20_000):
            tier.put_many([record_of(number, b"")])
        assert len(tier) * 48 > DISK_BYTES // 32
    assert not (tmp_path / "index").exists()
    assert disk_use(tmp_path) <= DISK_BYTES


def test_a_checkpoint_is_written_while_the_store_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def noted(*arguments: Any, **options: Any) -> None:
        written.append(sum(len(piece) for piece in arguments[2]))
        replace_file(*arguments, **options)

    monkeypatch.setattr(checkpoint, "replace_file", noted)
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        for number in range(500):
            tier.put_many([record_of(number, bytes(900))])
        assert 5 < len(written) < 40
        assert sum(written) < 500 * 1024 / 4
    with open_tier(tmp_path) as tier:
        assert len(contents(tier, KEYS)) <= len(KEYS)


def test_a_checkpoint_is_put_in_place_after_all_that_it_covers_was_synced(tmp_path: Path) -> None:
    """Else a power cut could leave one that leads past a durable value to a lost one."""
    files = RecordingFiles(tmp_path / "store")
    with open_tier(tmp_path / "store", segment_bytes=16 << 10, files=files) as tier:
        for number in range(200):
            tier.put_many([record_of(number % 90, bytes(900))])
    changes = files.changes
    placed = [
        at
        for at, change in enumerate(changes)
        if change.call == "replace" and change.first == "index"
    ]
    assert len(placed) > 3  # as the store grew, and at the end
    assert placed[-1] > max(at for at, change in enumerate(changes) if change.call == "write") - 4
    for at in placed:
        unsynced = [changes[each].path for each in uncertain(changes[:at])]
        assert not [path for path in unsynced if path.endswith(".seg")], at
