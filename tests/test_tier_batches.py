"""Many records put at once: as one after the other, in fewer writes, whatever fails in the middle."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tier_fakes import KEYS, SEGMENT_BYTES, FastFiles, contents, key_of, open_tier, record_of
from tier_recorder import RecordingFiles, replay

from blatam_kv import InvalidRequest, TierUnavailable
from blatam_kv.record import Kind, Record

# Some that several segments are needed for, some that fill one, and one that fits none.
SIZES = st.sampled_from([0, 1, 64, 200, 500, SEGMENT_BYTES - 192, SEGMENT_BYTES])


def records_of(pairs: Sequence[tuple[int, int]]) -> list[Record]:
    return [
        record_of(number, bytes([at % 256]) * size, created_us=at)
        for at, (number, size) in enumerate(pairs)
    ]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(KEYS) - 1), SIZES), max_size=30))
def test_a_batch_is_as_one_put_after_the_other(pairs: list[tuple[int, int]]) -> None:
    records = records_of(pairs)
    with TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        with open_tier(one, clock=float) as a, open_tier(other, clock=float) as b:
            assert a.put_many(records) == sum(b.put_many([record]) for record in records)
            assert contents(a, KEYS) == contents(b, KEYS)
            assert a.keys() == b.keys()
            assert (a.stats().puts, a.stats().refused) == (b.stats().puts, b.stats().refused)
        with open_tier(one, read_only=True) as a, open_tier(other, read_only=True) as b:
            assert contents(a, KEYS) == contents(b, KEYS)
        names = [path.name for path in sorted((one / "entries").iterdir())]
        for name in names:  # byte for byte, but for the store's id and the times of segments
            first, second = ((each / "entries" / name).read_bytes()[64:] for each in (one, other))
            assert first == second


def test_an_iterator_may_hand_out_one_buffer_again_and_again(tmp_path: Path) -> None:
    buffer = bytearray(100)

    def filled() -> Iterator[Record]:
        for number in range(8):
            buffer[:] = bytes([number]) * 100
            yield Record(key_of(number), Kind.RESPONSE, memoryview(buffer))

    with open_tier(tmp_path) as tier:
        assert tier.put_many(filled()) == 8
        assert contents(tier, KEYS) == {key_of(n): bytes([n]) * 100 for n in range(8)}
        assert tier.stats().damaged == 0


class Counting(FastFiles):
    """Counts writes to segments, and refuses those from ``fail_at`` on."""

    writes = 0
    fail_at = 1 << 30

    def write(self, fd: int, pieces: Any, offset: int) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".seg" and offset:
            self.writes += 1
            if self.writes >= self.fail_at:
                raise OSError(errno.ENOSPC, "full")
        return super().write(fd, pieces, offset)


def test_a_batch_takes_few_writes(tmp_path: Path) -> None:
    files = Counting()
    with open_tier(tmp_path, segment_bytes=64 << 10, files=files) as tier:
        tier.put_many([record_of(number, b"x") for number in range(300)])
        assert files.writes == 2
        assert len(tier) == 300


def test_a_wrong_record_in_a_batch_leaves_those_before_it(tmp_path: Path) -> None:
    with open_tier(tmp_path) as tier:
        wrong = Record(b"short", Kind.RESPONSE)
        with pytest.raises(InvalidRequest, match="key"):
            tier.put_many([record_of(1, b"one"), wrong, record_of(2, b"two")])
        assert contents(tier, KEYS) == {key_of(1): b"one"}


def test_a_write_that_fails_in_a_batch_leaves_whole_segments_of_it(tmp_path: Path) -> None:
    batch = [record_of(number, bytes([number]) * 300) for number in range(9)]  # two a segment
    whole = {key_of(number): bytes([number]) * 300 for number in range(9)}
    for fail_at in range(1, 6):
        files = Counting()
        files.fail_at = fail_at
        with open_tier(tmp_path / "store", files=files) as tier:
            with pytest.raises(TierUnavailable, match="full"):
                tier.put_many(batch)
            found = contents(tier, KEYS)
            assert found.items() <= whole.items()
            assert len(found) == tier.stats().puts == 2 * (fail_at - 1)
            files.fail_at = 1 << 30
            assert tier.put_many(batch) == 9  # and again, when there is room
            assert contents(tier, KEYS) == whole
        shutil.rmtree(tmp_path / "store")


def test_a_power_cut_in_a_batch_leaves_its_first_records_whole(tmp_path: Path) -> None:
    """Cut at every 16th byte of the write, without a sync."""
    files = RecordingFiles(tmp_path / "life")
    batch = [record_of(number, bytes([number]) * 40) for number in range(5)]
    with open_tier(tmp_path / "life", files=files) as tier:
        begun = len(files.changes)
        tier.put_many(batch)
        written = len(files.changes)
    (at,) = range(begun, written)  # one write
    _, name, offset, data = files.changes[at]
    for size in range(0, len(data) + 1, 16):
        replay(files.changes[:at], tmp_path / "cut")
        with (tmp_path / "cut" / name).open("r+b") as file:
            file.seek(offset)
            file.write(data[:size])
        with open_tier(tmp_path / "cut") as tier:
            whole = size * len(batch) // len(data)
            assert contents(tier, KEYS) == {key_of(n): bytes([n]) * 40 for n in range(whole)}
        shutil.rmtree(tmp_path / "cut")
