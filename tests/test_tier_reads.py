"""Records as views of mapped files, MACs, and folders on network file systems."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from tier_fakes import FastFiles, contents, key_of, open_tier, record_of

from blatam_kv import ConfigError, TierUnavailable
from blatam_kv.tiers import disk
from blatam_kv.tiers.files import Mapped, MappedFile
from blatam_kv.tiers.mounts import network_kind
from blatam_kv.tiers.windows import MAX_WINDOWS

# ---- borrowed records ---------------------------------------------------------------------------


def test_borrowed_records_are_those_that_get_many_gives(tmp_path: Path) -> None:
    keys = [key_of(number) for number in range(40)]
    with open_tier(tmp_path) as tier:
        tier.put_many(record_of(n, bytes([n]) * (n * 13), tokens=bytes(4 * n)) for n in range(30))
        owned = tier.get_many(keys)
        with tier.borrow_many(keys) as borrowed:
            assert borrowed == owned
            assert all(type(record.payload) is bytes for record in owned if record)
        for record in borrowed:
            if record is not None:
                with pytest.raises(ValueError, match="released"):
                    bytes(record.payload)


def test_what_still_looks_at_a_borrowed_record_keeps_it(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=100_000) as tier:
        tier.put_many([record_of(1, b"x" * 5000)])
        with tier.borrow_many([key_of(1)]) as (record,):
            assert record is not None
            array = np.frombuffer(record.payload, np.uint8)
    assert array.tobytes() == b"x" * 5000


def test_a_borrowed_record_outlives_its_segment(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        tier.put_many([record_of(1, b"x" * 5000)])
        with tier.borrow_many([key_of(1)]) as (record,):
            for number in range(10, 1200):
                tier.put_many([record_of(number, bytes(1000))])
            assert record is not None
            assert record.payload == b"x" * 5000
        assert not (tmp_path / "entries" / "0000000001.seg").exists()


def test_a_dropped_segment_is_not_kept_by_its_mapping(tmp_path: Path) -> None:
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:
        for number in range(1200):
            tier.put_many([record_of(number, bytes(1000))])
            tier.get_many([key_of(number)])
        mapped = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}/entries/" in mapped
    assert "seg (deleted)" not in mapped


def test_the_head_is_read_as_it_grows(tmp_path: Path) -> None:
    with open_tier(tmp_path, disk_bytes=16 << 20, segment_bytes=1 << 20) as tier:
        for number in range(300):
            tier.put_many([record_of(number, number.to_bytes(2, "little") * 2000)])
            assert contents(tier, [key_of(number)])[key_of(number)][:2] == number.to_bytes(
                2, "little"
            )


class Unmapped(FastFiles):
    """A file system that cannot map files, or an old kernel that cannot say what it read."""

    def __init__(self, error: int | None) -> None:
        self.error = error

    def map(self, fd: int, size: int) -> Mapped:
        if self.error is not None:
            raise OSError(self.error, "no mapping")
        return Unpopulated(fd, size)


class Unpopulated(MappedFile):
    def view(self, offset: int, size: int) -> memoryview | None:
        return None


@pytest.mark.parametrize("error", [errno.ENODEV, None])
def test_where_files_cannot_be_mapped_they_are_read(tmp_path: Path, error: int | None) -> None:
    with open_tier(tmp_path, files=Unmapped(error)) as tier:
        tier.put_many(record_of(number, bytes([number]) * 100) for number in range(20))
        keys = [key_of(number) for number in range(20)]
        assert contents(tier, keys) == {key: bytes([key[0]]) * 100 for key in keys}


class Watched(MappedFile):
    """Looks only where the file has something: the kernel may keep more, and touching that kills."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd, size)
        self.path = Path(f"/proc/self/fd/{fd}").readlink()

    def view(self, offset: int, size: int) -> memoryview | None:
        assert offset + size <= self.path.stat().st_size
        return super().view(offset, size)


class Watching(FastFiles):
    def map(self, fd: int, size: int) -> Mapped:
        return Watched(fd, size)


@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_behind_the_end_of_a_cut_file_is_touched(tmp_path: Path, read_only: bool) -> None:
    values = {key_of(number): bytes([number]) * 20_000 for number in range(8)}
    with open_tier(tmp_path / "store", segment_bytes=64 << 10) as tier:
        tier.put_many([record_of(key[0], value) for key, value in values.items()])
    for name in sorted(path.name for path in (tmp_path / "store" / "entries").iterdir()):
        size = (tmp_path / "store" / "entries" / name).stat().st_size
        for kept in (100, 20_200, size - 5000, size - 1):
            shutil.copytree(tmp_path / "store", tmp_path / "copy")
            os.truncate(tmp_path / "copy" / "entries" / name, kept)
            with open_tier(
                tmp_path / "copy", segment_bytes=64 << 10, files=Watching(), read_only=read_only
            ) as tier:
                found = contents(tier, list(values))
                assert found.items() < values.items()
                assert contents(tier, list(values)) == found
                if not read_only:
                    for number in range(8):  # what is written now lies there as well
                        tier.put_many([record_of(number, b"new")])
                        assert contents(tier, [key_of(number)]) == {key_of(number): b"new"}
            shutil.rmtree(tmp_path / "copy")


def test_a_mapped_file_says_what_it_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    files = FastFiles()
    fd = files.open(path, 0)
    mapped = files.map(fd, 1 << 20)
    files.close(fd)
    assert bytes(mapped.view(0, 5000) or b"") == b"x" * 5000
    assert mapped.view(4000, 5000) is None  # into a page that is not there
    assert mapped.view(8192, 100) is None
    assert mapped.view(1 << 20, 1) is None
    with path.open("ab") as file:
        file.write(b"y" * 5000)
    assert bytes(mapped.view(5000, 5000) or b"") == b"y" * 5000


def test_more_segments_than_windows_are_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_WINDOWS > 16
    monkeypatch.setattr("blatam_kv.tiers.windows.MAX_WINDOWS", 3)
    with open_tier(tmp_path) as tier:
        tier.put_many(record_of(number, bytes([number]) * 700) for number in range(30))
        keys = [key_of(number) for number in range(30)]
        for _ in range(2):
            assert contents(tier, keys) == {key: bytes([key[0]]) * 700 for key in keys}


def test_borrowing_threads_see_whole_records_beside_a_writer(tmp_path: Path) -> None:
    wrong: list[object] = []
    with open_tier(tmp_path, segment_bytes=16 << 10) as tier:

        def look(seed: int) -> None:
            try:
                for at in range(300):
                    with tier.borrow_many([key_of((at * seed) % 40)]) as (record,):
                        if record is not None and len(set(bytes(record.payload))) != 1:
                            wrong.append(record.key)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in (3, 7)]
        for thread in threads:
            thread.start()
        for at in range(1500):
            tier.put_many([record_of(at % 40, bytes([1 + at % 200]) * 1000)])
        for thread in threads:
            thread.join()
    assert not wrong


# ---- a MAC --------------------------------------------------------------------------------------

SECRET = b"a secret of sixteen bytes or more"


def test_only_the_holder_of_the_key_is_believed(tmp_path: Path) -> None:
    with open_tier(tmp_path, mac_key=SECRET) as tier:
        tier.put_many([record_of(1, b"one"), record_of(2, b"")])
        assert contents(tier, [key_of(1)]) == {key_of(1): b"one"}
    with open_tier(tmp_path) as tier:  # who has no key takes it as it is, and writes without
        assert contents(tier, [key_of(1)]) == {key_of(1): b"one"}
        tier.put_many([record_of(3, b"forged")])
    with open_tier(tmp_path, mac_key=SECRET) as tier:
        keys = [key_of(number) for number in (1, 2, 3)]
        assert contents(tier, keys) == {key_of(1): b"one", key_of(2): b""}
        assert tier.stats().damaged == 1
    with open_tier(tmp_path, mac_key=SECRET + b"!") as tier:
        assert contents(tier, keys) == {}


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 65, "a text of many letters"])
def test_a_mac_key_that_is_none_is_refused(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(ConfigError, match="mac_key"):
        open_tier(tmp_path / "store", mac_key=key)
    assert not (tmp_path / "store").exists()


# ---- network file systems -----------------------------------------------------------------------

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:50 / /data rw,relatime - nfs4 server:/export rw,vers=4.2
31 30 0:51 / /data/local rw - xfs /dev/vdb rw
32 22 0:52 / /with\\040space rw - fuse.sshfs me@there: rw
33 22 0:53 / /twice rw - nfs server:/a rw
34 22 0:54 / /twice rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", ""),
        ("/database/x", ""),
        ("/data", "nfs4"),
        ("/data/cache/x", "nfs4"),
        ("/data/local/cache", ""),
        ("/with space/cache", "fuse.sshfs"),
        ("/twice/cache", ""),
    ],
)
def test_the_deepest_mount_says_what_a_folder_is_on(path: str, kind: str) -> None:
    assert network_kind(Path(path), MOUNTS) == kind
    assert network_kind(Path(path), MOUNTS + "\nnot a line\n - \n") == kind


def test_a_folder_on_a_network_is_opened_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "network_kind", lambda path: "nfs4")
    with pytest.warns(UserWarning, match="nfs4, a network file system"):
        tier = open_tier(tmp_path)
    with tier:
        assert tier.stats().network == "nfs4"
    monkeypatch.setattr(disk, "network_kind", lambda path: "")
    with open_tier(tmp_path) as tier:
        assert tier.stats().network == ""


def test_a_disk_that_fails_under_a_mapping_is_a_miss(tmp_path: Path) -> None:
    class Failing(Unmapped):
        broken = False

        def read(self, fd: int, size: int, offset: int) -> bytes:
            if self.broken:
                raise OSError(errno.EIO, "bad sector")
            return super().read(fd, size, offset)

    files = Failing(None)
    with open_tier(tmp_path, files=files) as tier:
        tier.put_many([record_of(1, b"one")])
        files.broken = True
        assert tier.get_many([key_of(1)]) == [None]
        assert tier.stats().failures == {"input/output error": 1}
        files.broken = False
        assert contents(tier, [key_of(1)]) == {key_of(1): b"one"}


def test_running_out_of_descriptors_is_said_by_name(tmp_path: Path) -> None:
    class Exhausted(FastFiles):
        def open(self, path: Path | str, flags: int) -> int:
            if str(path).endswith(".seg") and armed:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().open(path, flags)

    armed = False
    with open_tier(tmp_path, files=Exhausted()) as tier:
        tier.put_many([record_of(1, b"one")])
        armed = True
        with pytest.raises(TierUnavailable, match="Too many open files"):
            tier.get_many([key_of(1)])
        armed = False
        assert contents(tier, [key_of(1)]) == {key_of(1): b"one"}
