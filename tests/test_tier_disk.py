"""The disk tier beside a dict, reopened at random; its bound, its lock, its readers, its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tier_fakes import (
    DISK_BYTES,
    KEYS,
    SEGMENT_BYTES,
    FastFiles,
    Values,
    contents,
    disk_use,
    key_of,
    open_tier,
    record_of,
)

from blatam_kv import ConfigError, InvalidRequest, TierUnavailable, Unsupported
from blatam_kv.errors import Unavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier, manifest
from blatam_kv.tiers.index import Index, Place

NUMBERS = st.integers(0, len(KEYS) - 1)


class DiskMachine(RuleBasedStateMachine):
    """Random operations with reopening in between; tier, reader and dict agree at each step."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.now = 1000.0
        self.model: dict[bytes, Record] = {}
        self.tier = self.opened()
        self.reader = self.opened(read_only=True)
        self.seen: Values = {}
        self.puts = 0

    def opened(self, **options: Any) -> DiskTier:
        return open_tier(self.path, clock=lambda: self.now, **options)

    def values(self) -> Values:
        return {
            key: bytes(record.payload)
            for key, record in self.model.items()
            if not record.expired(self.now * 1e6)
        }

    @rule(
        number=NUMBERS,
        size=st.integers(0, 700),
        tokens=st.integers(0, 20),
        ttl=st.none() | st.integers(1, 5),
        durable=st.booleans(),
    )
    def put(self, number: int, size: int, tokens: int, ttl: int | None, durable: bool) -> None:
        self.puts += 1
        record = record_of(
            number,
            self.puts.to_bytes(4, "little") * (size // 4),
            tokens=bytes(4 * tokens),
            created_us=self.puts,
            expires_us=int((self.now + ttl) * 1e6) if ttl else 0,
        )
        self.model[record.key] = record
        assert self.tier.put_many([record], durable=durable) == 1

    @rule(number=NUMBERS)
    def put_too_large(self, number: int) -> None:
        self.model.pop(key_of(number), None)
        assert self.tier.put_many([record_of(number, bytes(SEGMENT_BYTES))]) == 0

    @rule(numbers=st.lists(NUMBERS, max_size=3, unique=True))
    def delete(self, numbers: list[int]) -> None:
        known = [self.model.pop(key_of(number), None) is not None for number in numbers]
        assert self.tier.delete_many([key_of(number) for number in numbers]) == sum(known)

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        self.tier.close()
        self.tier = self.opened()

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        assert contents(self.reader, KEYS) == self.values()

    @rule()
    def reopen_the_reader(self) -> None:
        self.reader.close()
        self.reader = self.opened(read_only=True)
        assert contents(self.reader, KEYS) == self.values()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def whole_record(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(sorted(self.model.values(), key=lambda r: r.key)))
        expected = None if record.expired(self.now * 1e6) else record
        assert self.tier.get_many([record.key]) == [expected]

    @invariant()
    def they_agree(self) -> None:
        assert contents(self.tier, KEYS) == self.values()
        assert self.tier.contains_many(KEYS) == [key in self.model for key in KEYS]
        assert len(self.tier) == len(self.model)
        assert self.tier.stats().damaged == self.tier.stats().holes == 0
        assert disk_use(self.path) <= DISK_BYTES

    def teardown(self) -> None:
        if hasattr(self, "tier"):
            self.tier.close()
            self.reader.close()
            self.folder.cleanup()


TestDiskMachine = DiskMachine.TestCase
TestDiskMachine.settings = settings(max_examples=60, stateful_step_count=30)


# ---- the bound ----------------------------------------------------------------------------------


class MeasuredFiles(FastFiles):
    """Looks at the folder after every change."""

    def __init__(self, path: Path) -> None:
        self.path, self.most = path, 0

    def write(self, fd: int, pieces: Sequence[Any], offset: int) -> int:
        written = super().write(fd, pieces, offset)
        self.most = max(self.most, disk_use(self.path))
        return written


@pytest.mark.parametrize("segment_bytes", [16 << 10, 100_000, 195_000])
def test_the_bound_holds_after_every_write(tmp_path: Path, segment_bytes: int) -> None:
    files = MeasuredFiles(tmp_path)
    with open_tier(tmp_path, segment_bytes=segment_bytes, files=files) as tier:
        for number in range(1000):
            payload = number.to_bytes(4, "little") * (number * 37 % 2000)
            tier.put_many([record_of(number, payload)])
            for back in (0, 20, 100):  # what is read gets second chances
                record = tier.get_many([key_of(number - back if number > back else 0)])[0]
                if record is not None:
                    value = int.from_bytes(record.key, "little")
                    assert record.payload == value.to_bytes(4, "little") * (value * 37 % 2000)
        stats = tier.stats()
    assert DISK_BYTES // 4 < files.most <= DISK_BYTES
    assert stats.evicted > 500
    assert stats.kept > 0
    assert stats.entries == 1000 - stats.evicted


def test_what_is_read_outlives_what_is_not(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        hot = [key_of(number) for number in range(4)]
        for number in range(3000):
            tier.put_many([record_of(number, bytes([number % 256]) * 1000)])
            tier.get_many(hot)
        found = contents(tier, hot)
        assert found == {key: bytes([key[0]]) * 1000 for key in hot}
        assert not tier.contains_many([key_of(500)])[0]


def test_a_smaller_bound_is_kept_from_the_opening_on(tmp_path: Path) -> None:
    large = {"disk_bytes": 8 << 20, "segment_bytes": 1 << 20}
    with open_tier(tmp_path, **large) as tier:
        tier.put_many(record_of(number, bytes(1000)) for number in range(5000))
    assert disk_use(tmp_path) > DISK_BYTES
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        assert disk_use(tmp_path) <= DISK_BYTES
        tier.put_many(record_of(number, bytes(800)) for number in range(2000))
        assert disk_use(tmp_path) <= DISK_BYTES


def test_deleted_keys_stay_away_when_segments_leave(tmp_path: Path) -> None:
    for at in range(6):
        with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
            tier.put_many(record_of(n, bytes(600)) for n in range(at * 500, at * 500 + 500))
            tier.get_many([key_of(n) for n in range(at * 500, at * 500 + 500, 3)])
            assert tier.delete_many([key_of(n) for n in range(at * 500, at * 500 + 500, 2)]) == 250
        with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
            assert not any(tier.contains_many([key_of(n) for n in range(0, at * 500 + 500, 2)]))


# ---- who may open it ----------------------------------------------------------------------------


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


OPEN = "import sys; from blatam_kv.tiers import DiskTier; DiskTier(sys.argv[1], disk_bytes=1<<20)"


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with open_tier(tmp_path):
        done = python(OPEN, tmp_path)
        assert f"is being written by process {os.getpid()}" in done.stderr
        assert "read_only=True" in done.stderr
        with pytest.raises(TierUnavailable) as caught:
            open_tier(tmp_path)
        assert caught.value.reason is Unavailable.IN_USE
    assert python(OPEN, tmp_path).returncode == 0


def test_the_lock_dies_with_its_process_even_if_a_child_lives(tmp_path: Path) -> None:
    program = (
        f"{OPEN.replace('; DiskTier(', '; tier = DiskTier(')}\n"
        "import os\n"
        "reading, writing = os.pipe()\n"
        "if child := os.fork():\n"
        "    print(child, flush=True)\n"
        "    os.read(reading, 1)\n"  # the child has passed its fork hooks
        "    os._exit(0)\n"
        "os.write(writing, b'x')\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.wait() == 0
        os.kill(child, 0)  # lives
        open_tier(tmp_path).close()
        assert parent.stdin is not None
        parent.stdin.close()


def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from blatam_kv.tiers import DiskTier\n"
        "from blatam_kv import TierUnavailable\n"
        "from blatam_kv.record import Kind, Record\n"
        "tier = DiskTier(sys.argv[1], disk_bytes=1 << 20)\n"
        "record = Record(bytes(32), Kind.RESPONSE, b'mine')\n"
        "if (child := os.fork()) == 0:\n"
        "    for call in (lambda: tier.get_many([bytes(32)]), lambda: tier.put_many([record])):\n"
        "        try:\n"
        "            call()\n"
        "        except TierUnavailable as error:\n"
        "            assert 'forked' in str(error)\n"
        "        else:\n"
        "            os._exit(1)\n"
        "    tier.close()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert tier.put_many([record]) == 1\n"
        "assert tier.get_many([bytes(32)])[0].payload == b'mine'\n"
        "tier.close()\n"
    )
    done = python(program, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_reader_beside_a_writer_sees_new_records_after_refresh(tmp_path: Path) -> None:
    with open_tier(tmp_path) as writer, open_tier(tmp_path, read_only=True) as reader:
        for number in range(200):
            writer.put_many([record_of(number, bytes([number]) * 300)])
            assert reader.get_many([key_of(number)]) == [None]
            reader.refresh()
            assert contents(reader, [key_of(number)]) == {key_of(number): bytes([number]) * 300}
        writer.delete_many([key_of(199)])
        reader.refresh()
        assert reader.get_many([key_of(199)]) == [None]
        for call in (lambda: reader.put_many([record_of(1, b"")]), reader.sync):
            with pytest.raises(TierUnavailable, match="read-only"):
                call()


def test_a_reader_survives_what_the_writer_drops(tmp_path: Path) -> None:
    with (
        open_tier(tmp_path, segment_bytes=16 << 10) as writer,
        open_tier(tmp_path, segment_bytes=16 << 10, read_only=True) as reader,
    ):
        for number in range(3000):
            writer.put_many([record_of(number, number.to_bytes(4, "little") * 200)])
            if number % 100 == 0:
                reader.refresh()
            key = key_of(number * 7919 % (number + 1))
            for value in contents(reader, [key]).values():
                assert value == key[:4] * 200
        reader.refresh()
        assert len(reader) == len(writer)
        assert reader.stats().holes == 0


def test_a_reader_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(TierUnavailable) as caught:
        open_tier(tmp_path / "nowhere", read_only=True)
    assert caught.value.reason is Unavailable.MISSING


def test_a_reader_needs_no_bound(tmp_path: Path) -> None:
    with open_tier(tmp_path) as writer:
        writer.put_many([record_of(1, b"x")])
    with DiskTier(tmp_path, read_only=True) as reader:
        assert contents(reader, KEYS) == {key_of(1): b"x"}
        assert reader.stats().disk_bytes is None


# ---- many at once -------------------------------------------------------------------------------


def test_threads_that_wait_for_the_disk_share_fsyncs(tmp_path: Path) -> None:
    class SlowSync(FastFiles):
        """An fsync that lasts until eight others wait, or no more will come."""

        def __init__(self) -> None:
            self.syncs = 0

        def sync(self, fd: int) -> None:
            self.syncs += 1
            gate.wait(0.05)

    gate = threading.Event()
    files = SlowSync()
    with open_tier(tmp_path, segment_bytes=100_000, files=files) as tier:
        before = files.syncs
        threads = [
            threading.Thread(
                target=lambda n=n: tier.put_many([record_of(n, b"x" * 100)], durable=True)
            )
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tier) == 16
        assert 1 <= files.syncs - before < 16


def test_threads_get_put_and_delete_without_a_wrong_answer(tmp_path: Path) -> None:
    wrong: list[object] = []
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:

        def work(seed: int) -> None:
            try:
                for at in range(400):
                    number = (at * 31 + seed * 17) % 50
                    if at % 3 == 0:
                        value = (number * 1000 + at).to_bytes(4, "little") * 250
                        tier.put_many([record_of(number, value)])
                    elif at % 31 == 1:
                        tier.delete_many([key_of(number)])
                    for value in contents(tier, [key_of(number)]).values():
                        mark = int.from_bytes(value[:4], "little")
                        if mark // 1000 != number or value != value[:4] * 250:
                            wrong.append((number, mark))
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert tier.stats().damaged == 0
        assert disk_use(tmp_path) <= DISK_BYTES


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    open_tier(tmp_path).close()
    before = descriptors()
    for _ in range(5):
        with open_tier(tmp_path) as tier, open_tier(tmp_path, read_only=True) as reader:
            tier.put_many(record_of(number, bytes(500)) for number in range(50))
            reader.refresh()
            contents(reader, [key_of(number) for number in range(50)])
            with pytest.raises(TierUnavailable):
                open_tier(tmp_path)
    assert descriptors() == before


# ---- words about the store ----------------------------------------------------------------------


def test_tags_are_kept_until_they_are_replaced(tmp_path: Path) -> None:
    with open_tier(tmp_path, tags={"model": "ñ"}) as tier:
        assert tier.tags == {"model": "ñ"}
    with open_tier(tmp_path) as tier:
        assert tier.tags == {"model": "ñ"}
        tier.set_tags({"layout": "x"})
    with open_tier(tmp_path, read_only=True) as tier:
        assert tier.tags == {"layout": "x"}
    with open_tier(tmp_path, tags={}) as tier:
        assert tier.tags == {}


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    open_tier(tmp_path).close()
    document = tmp_path / "metadata.json"
    newer = manifest.decode(document.read_bytes())
    assert newer is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "FORMAT", 2)
        document.write_bytes(manifest.encode(newer))
    before = document.read_bytes()
    for read_only in (False, True):
        with pytest.raises(Unsupported, match="format 2"):
            open_tier(tmp_path, read_only=read_only)
    assert document.read_bytes() == before


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"disk_bytes": 1000}, ConfigError),
        ({"disk_bytes": None}, ConfigError),
        ({"disk_bytes": 1 << 60, "segment_bytes": None}, ConfigError),
        ({"disk_bytes": "1GiB"}, TypeError),
        ({"disk_bytes": True}, TypeError),
        ({"segment_bytes": 10}, ConfigError),
        ({"segment_bytes": DISK_BYTES}, ConfigError),
        ({"segment_bytes": 1.5}, TypeError),
        ({"tags": {"a": 1}}, ConfigError),
        ({"tags": {"a": "x" * 20_000}}, ConfigError),
    ],
)
def test_an_option_out_of_range_is_named_and_nothing_is_made(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        open_tier(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_wrong_records_are_refused_and_closed_is_closed(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    with pytest.raises(ConfigError, match="delete_many"):
        tier.put_many([Record(key_of(1), Kind.TOMBSTONE)])
    with pytest.raises(InvalidRequest, match="key"):
        tier.put_many([replace(record_of(1, b""), key=b"short")])
    tier.close()
    tier.close()
    for call in (
        lambda: tier.get_many(KEYS),
        lambda: tier.contains_many(KEYS),
        lambda: tier.delete_many(KEYS),
        lambda: tier.put_many([]),
        tier.refresh,
    ):
        with pytest.raises(TierUnavailable) as caught:
            call()
        assert caught.value.reason is Unavailable.CLOSED


def test_the_largest_record_fits_and_one_byte_more_does_not(tmp_path: Path) -> None:
    room = SEGMENT_BYTES - 64 - 128
    with open_tier(tmp_path) as tier:
        assert tier.put_many([record_of(1, bytes(room)), record_of(2, bytes(room + 1))]) == 1
        assert contents(tier, KEYS) == {key_of(1): bytes(room)}
        assert tier.stats().refused == 1


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    open_tier(tmp_path).close()
    for name in ("notes.txt", "0.seg", "1.seg", "x.seg", "0000000001.seg.bak", "-000000001.seg"):
        (tmp_path / "entries" / name).write_text("mine")
    with open_tier(tmp_path) as tier:
        tier.put_many([record_of(1, b"x")])
    with open_tier(tmp_path) as tier:
        assert contents(tier, KEYS) == {key_of(1): b"x"}
    assert (tmp_path / "entries" / "1.seg").read_text() == "mine"


def test_a_late_reader_changes_nothing_in_the_index() -> None:
    index, key = Index(), key_of(1)
    old, new = Place(1, 64, 192), Place((1 << 40) - 1, (1 << 30) - 192, 192)
    index.set(key, old)
    index.use(key, old)
    assert index.was_used(key)
    index.set(key, new)
    index.use(key, old)
    assert index.get(key) == new
    assert not index.was_used(key)
    assert not index.forget(key, old)
    index.use(key, new)
    assert index.forget(key, new)
    assert len(index) == 0


def test_every_index_entry_takes_at_most_64_bytes(tmp_path: Path) -> None:
    with open_tier(tmp_path, disk_bytes=64 << 20, segment_bytes=8 << 20) as tier:
        tier.put_many(record_of(number, b"") for number in range(20_000))
        stats = tier.stats()
        assert stats.entries == 20_000
        assert stats.index_bytes <= 64 * 20_000 + (64 << 10)
