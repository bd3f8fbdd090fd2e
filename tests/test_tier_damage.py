"""Flipped bits, cuts, lost and swapped files, failing calls: the last value or a miss."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tier_fakes import (
    ERRNOS,
    KEYS,
    Expected,
    FastFiles,
    FaultyFiles,
    Values,
    contents,
    key_of,
    open_tier,
    record_of,
    script,
)

from blatam_kv import TierUnavailable
from blatam_kv.errors import Unavailable
from blatam_kv.record import HEADER_BYTES
from blatam_kv.tiers.files import Mapped
from blatam_kv.tiers.segment import SEGMENT_HEADER_BYTES

SEGMENTS = ["entries/0000000001.seg", "entries/0000000002.seg"]
HEAD = SEGMENTS[1]


@pytest.fixture(params=["with the checkpoint", "without"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two segments: a replaced value and a deleted one in the first, their ends in the second."""
    path = tmp_path / "store"
    with open_tier(path, tags={"model": "m"}) as tier:
        tier.put_many(
            [
                record_of(1, b"one"),
                record_of(2, b"first two"),
                record_of(3, b"three", tokens=bytes(8)),
                record_of(4, b"gone"),
                record_of(5, b""),  # 64 + 192 + 192 + 256 + 192 + 128 = 1024
                record_of(2, b"second two"),
            ]
        )
        tier.delete_many([key_of(4)])
        tier.put_many([record_of(6, b"six")])
        assert sorted(file.name for file in (path / "entries").iterdir()) == [
            Path(name).name for name in SEGMENTS
        ]
    if request.param == "without":
        (path / "index").unlink()
    return path


STORED = {
    key_of(1): b"one",
    key_of(2): b"second two",
    key_of(3): b"three",
    key_of(5): b"",
    key_of(6): b"six",
}


def answers(path: Path) -> tuple[Values, Any]:
    with open_tier(path, read_only=True) as tier:
        return contents(tier, KEYS), tier.stats()


def check_value_or_miss(found: Values) -> None:
    assert found.items() <= STORED.items()


def reopened(path: Path) -> Values:
    """What a writer finds; it must be able to write, and to find the same after that."""
    with open_tier(path) as tier:
        found = contents(tier, KEYS)
        tier.put_many([record_of(11, b"new")])
    with open_tier(path) as tier:
        assert contents(tier, KEYS) == found | {key_of(11): b"new"}
        tier.delete_many([key_of(11)])
    return found


@contextmanager
def flipped(file: Path, bit: int) -> Iterator[None]:
    with file.open("r+b", buffering=0) as raw:
        raw.seek(bit // 8)
        byte = raw.read(1)[0]
        raw.seek(bit // 8)
        raw.write(bytes([byte ^ 1 << bit % 8]))
        yield
        raw.seek(bit // 8)
        raw.write(bytes([byte]))


# ---- flipped bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SEGMENTS, "metadata.json", "index"])
def test_a_flipped_bit_costs_one_entry_at_most(store: Path, name: str) -> None:
    file = store / name
    if not file.exists():
        return
    good = file.read_bytes()
    for bit in range(8 * len(good)):
        with flipped(file, bit):
            found, stats = answers(store)
        check_value_or_miss(found)
        lost = len(STORED) - len(found)
        assert lost <= (0 if name not in SEGMENTS or bit // 8 < SEGMENT_HEADER_BYTES else 1)
        assert stats.damaged >= lost
        assert stats.holes == 0


def test_a_damaged_record_is_counted_once_and_the_key_can_be_put_again(store: Path) -> None:
    file = store / HEAD
    bad = bytearray(file.read_bytes())
    bad[SEGMENT_HEADER_BYTES + HEADER_BYTES] ^= 4  # in the payload of the second two
    file.write_bytes(bad)
    with open_tier(store) as tier:
        assert tier.contains_many([key_of(2)]) == [True]
        for _ in range(3):
            assert tier.get_many([key_of(2)]) == [None]
        assert tier.contains_many([key_of(2)]) == [False]
        assert tier.stats().damaged == 1
        tier.put_many([record_of(2, b"third two")])
    with open_tier(store) as tier:
        assert contents(tier, [key_of(2)]) == {key_of(2): b"third two"}


def test_garbage_anywhere_is_value_or_miss(store: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for at in range(300):
        copy = tmp_path / f"copy{at}"
        shutil.copytree(store, copy)
        file = copy / chance.choice([*SEGMENTS, "metadata.json"])
        bad = bytearray(file.read_bytes())
        start = chance.randrange(len(bad))
        size = chance.choice([2, 4, 64, 200, 512])
        size = min(size, len(bad) - start)
        fill = chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)])
        bad[start : start + size] = fill
        file.write_bytes(bad)
        if file.name == Path(HEAD).name and not (copy / "index").exists():
            # As after a power cut: some earlier state.
            assert any(answers(copy)[0].items() <= state.items() for state in prefixes())
        else:
            check_value_or_miss(answers(copy)[0])
        reopened(copy)
        shutil.rmtree(copy)


def prefixes() -> Iterator[Values]:
    """The states of the store as its second segment grew."""
    state = {key_of(1): b"one", key_of(2): b"first two", key_of(3): b"three", key_of(4): b"gone"}
    state[key_of(5)] = b""
    yield dict(state)
    state[key_of(2)] = b"second two"
    yield dict(state)
    del state[key_of(4)]
    yield dict(state)
    state[key_of(6)] = b"six"
    yield state


# ---- cuts, lost and swapped files ---------------------------------------------------------------


def test_a_cut_head_is_an_earlier_state_whole(store: Path) -> None:
    """Or, where a checkpoint tells what had been there, today's values as far as they are there."""
    good = (store / HEAD).read_bytes()
    states = list(prefixes())
    known = (store / "index").exists()
    for size in range(SEGMENT_HEADER_BYTES, len(good) + 1):
        (store / HEAD).write_bytes(good[:size])
        found, stats = answers(store)
        assert found.items() <= STORED.items() if known else found in states
        assert len(found) >= 3  # what lies in the first segment and was not replaced
        assert stats.holes == 0
    for size in range(SEGMENT_HEADER_BYTES):  # a header once acknowledged is gone
        (store / HEAD).write_bytes(good[:size])
        assert answers(store)[0] == {}


def test_a_cut_sealed_segment_takes_all_before_with_it(store: Path) -> None:
    """Or, where a checkpoint tells where everything was, what is cut off."""
    good = (store / SEGMENTS[0]).read_bytes()
    known = (store / "index").exists()
    later = {key_of(2): b"second two", key_of(6): b"six"}
    for size in range(len(good)):
        (store / SEGMENTS[0]).write_bytes(good[:size])
        found, stats = answers(store)
        if known and size >= SEGMENT_HEADER_BYTES:
            assert later.items() <= found.items() <= STORED.items()
            assert key_of(1) in found or size < 64 + 192
            assert key_of(3) not in found or size > 64 + 3 * 192  # behind two others
            assert stats.holes == 0
        else:
            assert found == later
            assert stats.holes == 1


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_writer_goes_on_behind_a_cut_segment(store: Path, tmp_path: Path, name: str) -> None:
    good = (store / name).read_bytes()
    for size in range(SEGMENT_HEADER_BYTES, len(good), 37):
        copy = tmp_path / "copy"
        shutil.copytree(store, copy)
        (copy / name).write_bytes(good[:size])
        first = reopened(copy)
        assert reopened(copy) == first
        if (copy / "index").exists() and name == HEAD:
            (copy / "index").unlink()  # what is missing stays missing when nothing tells of it
            assert answers(copy)[0].items() <= first.items()
        shutil.rmtree(copy)


def test_a_cut_manifest_is_rebuilt(store: Path) -> None:
    file = store / "metadata.json"
    good = file.read_bytes()
    for size in range(len(good)):
        file.write_bytes(good[:size])
        assert answers(store)[0] == STORED
    assert reopened(store) == STORED
    file.unlink()
    assert answers(store)[0] == reopened(store) == STORED


def test_a_manifest_that_cannot_be_read_does_not_stop_the_open(store: Path) -> None:
    file = store / "metadata.json"
    good = file.read_bytes()

    class Failing(FastFiles):
        def read(self, fd: int, size: int, offset: int) -> bytes:
            if Path(f"/proc/self/fd/{fd}").readlink().name == "metadata.json":
                raise OSError(errno.EIO, "bad sector")
            return super().read(fd, size, offset)

    with open_tier(store, files=Failing()) as tier:
        assert contents(tier, KEYS) == STORED
    assert answers(store)[0] == STORED
    file.unlink()
    file.mkdir()  # not even a file
    with open_tier(store) as tier:
        assert contents(tier, KEYS) == STORED
        assert tier.stats().failures
    file.rmdir()
    file.write_bytes(good)
    assert reopened(store) == STORED


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_lost_segment_brings_nothing_back(store: Path, name: str) -> None:
    (store / name).unlink()
    found = reopened(store)
    check_value_or_miss(found)
    assert key_of(4) not in found
    assert answers(store)[0] == found  # nor later, when new segments stand in its place


def test_swapped_and_foreign_segments_are_value_or_miss(store: Path, tmp_path: Path) -> None:
    first, second = (store / name for name in SEGMENTS)
    good = first.read_bytes(), second.read_bytes()
    first.write_bytes(good[1])
    second.write_bytes(good[0])
    check_value_or_miss(answers(store)[0])
    first.write_bytes(good[0])
    second.write_bytes(good[0])
    check_value_or_miss(answers(store)[0])
    other = tmp_path / "other"
    with open_tier(other) as tier:
        tier.put_many([record_of(1, b"foreign")])
    for target in (first, second, store / "entries" / "0000000003.seg"):
        first.write_bytes(good[0])
        second.write_bytes(good[1])
        shutil.copy(other / SEGMENTS[0], target)
        check_value_or_miss(answers(store)[0])
        (store / "metadata.json").unlink(missing_ok=True)
        check_value_or_miss(answers(store)[0])


def test_a_record_inside_a_payload_is_never_found(tmp_path: Path) -> None:
    with open_tier(tmp_path) as tier:
        tier.put_many([record_of(1, b"forged")])
    forged = (tmp_path / SEGMENTS[0]).read_bytes()[SEGMENT_HEADER_BYTES:]
    store = tmp_path / "store"
    with open_tier(store) as tier:
        tier.put_many([record_of(2, forged), record_of(3, b"three")])
    file = store / SEGMENTS[0]
    bad = bytearray(file.read_bytes())
    bad[SEGMENT_HEADER_BYTES + 8 : SEGMENT_HEADER_BYTES + 40] = bytes(32)
    file.write_bytes(bad)
    assert answers(store)[0] == {key_of(3): b"three"}  # the checkpoint knows where it lies
    (store / "index").unlink()
    assert answers(store)[0] == {}


def test_remains_of_a_failed_write_are_never_found(tmp_path: Path) -> None:
    with open_tier(tmp_path / "forger") as tier:
        tier.put_many([record_of(9, b"forged")])
    forged = (tmp_path / "forger" / SEGMENTS[0]).read_bytes()[SEGMENT_HEADER_BYTES:]
    store = tmp_path / "store"
    files = FaultyFiles(10**9, ERRNOS[0], persistent=False)
    with open_tier(store, segment_bytes=4096, files=files) as tier:
        files.at = files.calls + 1
        with pytest.raises(TierUnavailable):  # half of it is written, the forged record included
            tier.put_many([record_of(1, bytes(64) + forged + bytes(1000))])
        assert files.failed_in == ["write"]
        tier.put_many([record_of(2, b"ends where the forged one began")])
    assert answers(store)[0].keys() == {key_of(2)}


def test_a_record_that_lies_where_anothers_lay_is_a_miss(tmp_path: Path) -> None:
    with open_tier(tmp_path) as tier:
        tier.put_many([record_of(1, b"one"), record_of(2, b"two")])
        file = tmp_path / SEGMENTS[0]
        good = file.read_bytes()
        start, middle = SEGMENT_HEADER_BYTES, (SEGMENT_HEADER_BYTES + len(good)) // 2
        file.write_bytes(good[:start] + good[middle:] + good[start:middle])
        assert contents(tier, KEYS) == {}
        assert tier.stats().damaged == 2


# ---- failing calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", ERRNOS)
def test_any_failing_call_is_a_typed_error_and_never_a_wrong_value(
    tmp_path: Path, error: int, persistent: bool
) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / f"at{at}"
        files = FaultyFiles(at, error, persistent=persistent)
        expected = Expected()
        holes = refused = 0
        for start in (0, 15):
            try:
                tier = open_tier(path, files=files)
            except TierUnavailable:
                continue
            for step in script(30)[start : start + 15]:
                expected.perform(tier, step)
            expected.check(tier, misses=files.failed_in)
            stats = tier.stats()
            holes += stats.holes
            assert sum(stats.failures.values()) >= (expected.refused > refused)
            refused = expected.refused
            try:
                tier.close()
            except TierUnavailable:
                assert files.failed_in
        files.armed = False
        with open_tier(path) as tier:
            holes += tier.stats().holes
            expected.check(tier, misses=["hole"] * holes)
            tier.put_many([record_of(1, b"after all")])
            assert contents(tier, [key_of(1)]) == {key_of(1): b"after all"}
        shutil.rmtree(path)
        if files.calls < at:
            break
    assert at > 100


def test_a_full_disk_may_pass_and_a_failed_fsync_does_not(tmp_path: Path) -> None:
    full, failing = ERRNOS[:2]
    files = FaultyFiles(10**9, full, persistent=True)
    with open_tier(tmp_path, files=files) as tier:
        tier.put_many([record_of(1, b"one")])
        files.at = 0
        with pytest.raises(TierUnavailable) as caught:
            tier.put_many([record_of(2, b"two")])
        assert caught.value.reason is Unavailable.NO_SPACE
        files.armed = False
        assert tier.stats().failing in (Unavailable.NO_SPACE, Unavailable.IO_ERROR)
    files = FaultyFiles(10**9, full, persistent=False)
    with open_tier(tmp_path, files=files) as tier:
        files.at = files.calls + 1
        with pytest.raises(TierUnavailable, match="No space left"):
            tier.put_many([record_of(2, b"two")])
        assert tier.stats().failing is Unavailable.NO_SPACE
        assert contents(tier, KEYS) == {key_of(1): b"one"}
        assert tier.put_many([record_of(2, b"two")]) == 1
        assert tier.stats().failing is None
        files.error, files.at = failing, files.calls + 2
        with pytest.raises(TierUnavailable) as caught:
            tier.put_many([record_of(3, b"three")], durable=True)
        assert caught.value.reason is Unavailable.IO_ERROR
        for _ in range(2):
            with pytest.raises(TierUnavailable, match="open it anew"):
                tier.put_many([record_of(4, b"four")])
        assert contents(tier, [key_of(2)]) == {key_of(2): b"two"}
        assert tier.stats().failing is Unavailable.IO_ERROR


def test_a_record_that_could_not_be_read_does_not_come_back_after_its_deletion(
    store: Path,
) -> None:
    class Flaky(FastFiles):
        """Reads a wrong byte once, as a bad cable does."""

        wrong = True

        def map(self, fd: int, size: int) -> Mapped:
            raise OSError(errno.ENODEV, "no mapping")

        def read(self, fd: int, size: int, offset: int) -> bytes:
            data = super().read(fd, size, offset)
            if self.wrong and size == 256:  # no window of headers is so small
                self.wrong = False
                return data[:-1] + b"?"
            return data

    with open_tier(store, files=Flaky()) as tier:
        assert tier.get_many([key_of(3)]) == [None]
        tier.delete_many([key_of(3)])
    (store / "index").unlink(missing_ok=True)
    assert answers(store)[0] == {key: value for key, value in STORED.items() if key != key_of(3)}
