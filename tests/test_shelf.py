"""A cache on a shelf: beside a dict through restarts, warm after each, and alive without its disk."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tier_fakes import KEYS, FastFiles, key_of, open_tier

from blatam_kv import Cache
from blatam_kv.errors import Unavailable
from blatam_kv.shelf import Shelf
from blatam_kv.tiers import DiskTier


def shelf_at(path: Path, *, capacity: int = 4, policy: str = "lru", **options: Any) -> Shelf[str]:
    cache: Cache[bytes, str] = Cache(
        capacity=capacity, policy=policy, ttl=options.get("ttl"), clock=options.get("clock")
    )
    disk = open_tier(
        path,
        segment_bytes=64 << 10,  # what a policy learned takes 16 KiB
        files=options.pop("files", FastFiles()),
        clock=options.get("clock") or (lambda: 1000.0),
    )
    options.setdefault("clock", lambda: 1000.0)
    return Shelf(cache, disk, codec="text", encode=str.encode, decode=bytes.decode, **options)


class ShelfMachine(RuleBasedStateMachine):
    """Puts, deletions, time and restarts; memory is smaller than what is kept."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.now = 1000.0
        self.model: dict[bytes, tuple[str, float]] = {}
        self.count = 0
        self.shelf = self.opened()

    def opened(self) -> Shelf[str]:
        return shelf_at(Path(self.folder.name), ttl=10.0, clock=lambda: self.now)

    @rule(number=st.integers(0, 11))
    def put(self, number: int) -> None:
        self.count += 1
        self.shelf.put(key_of(number), f"value {self.count}")
        self.model[key_of(number)] = f"value {self.count}", self.now + 10

    @rule(number=st.integers(0, 11))
    def delete(self, number: int) -> None:
        self.shelf.delete(key_of(number))
        self.model.pop(key_of(number), None)

    @rule()
    def clear(self) -> None:
        self.shelf.clear()
        self.model.clear()

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.shelf.close()
        self.shelf = self.opened()

    @invariant()
    def they_agree(self) -> None:
        for key in KEYS:
            value, end = self.model.get(key, (None, 0.0))
            assert self.shelf.get(key) == (value if self.now < end else None)

    def teardown(self) -> None:
        if hasattr(self, "shelf"):
            self.shelf.close()
            self.folder.cleanup()


TestShelfMachine = ShelfMachine.TestCase
TestShelfMachine.settings = settings(max_examples=25, stateful_step_count=15)


def in_memory(shelf: Shelf[str]) -> set[bytes]:
    return set(shelf._cache.keys())


def test_a_restart_is_warm(tmp_path: Path) -> None:
    first = shelf_at(tmp_path)
    for number in range(8):
        first.put(key_of(number), f"value {number}")
    first.get(key_of(5))
    held = in_memory(first)
    first.close()
    second = shelf_at(tmp_path)
    assert second.warmed == 4
    assert in_memory(second) == held
    hits = second._cache.stats().hits
    for key in held:
        assert second.get(key) == f"value {key[0]}"
    assert second._cache.stats().hits == hits + 4
    second.close()


@pytest.mark.parametrize(("policy", "first_out"), [("lru", 1), ("lfu", 3)])
def test_order_and_uses_outlive_a_restart(tmp_path: Path, policy: str, first_out: int) -> None:
    """Entry 1 was used most and longest ago, 3 least and last."""
    shelf = shelf_at(tmp_path, capacity=3, policy=policy)
    for number, uses in ((1, 9), (2, 5), (3, 1)):
        shelf.put(key_of(number), "x")
        for _ in range(uses):
            shelf.get(key_of(number))
    shelf.close()
    shelf = shelf_at(tmp_path, capacity=3, policy=policy)
    shelf.put(key_of(4), "new")
    assert in_memory(shelf) == {key_of(n) for n in (1, 2, 3, 4) if n != first_out}
    shelf.close()


def test_pins_outlive_a_restart(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    shelf.put(key_of(1), "pinned")
    assert shelf.pin(key_of(1))
    assert not shelf.pin(key_of(2))
    shelf.close()
    shelf = shelf_at(tmp_path)
    for number in range(10, 30):
        shelf.put(key_of(number), "x")
    assert key_of(1) in in_memory(shelf)
    assert shelf.unpin(key_of(1))
    assert not shelf.unpin(key_of(1))
    shelf.close()
    shelf = shelf_at(tmp_path)
    assert shelf._cache.stats().pinned == 0
    shelf.close()


def test_pinning_twice_is_pinning_once(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    shelf.put(key_of(1), "pinned")
    assert shelf.pin(key_of(1))
    assert shelf.pin(key_of(1))
    assert shelf.unpin(key_of(1))
    assert shelf._cache.stats().pinned == 0
    shelf.close()


def test_a_pin_ends_with_its_entry_and_is_not_the_next_one_s(tmp_path: Path) -> None:
    now = 1000.0
    shelf = shelf_at(tmp_path, ttl=10.0, clock=lambda: now)
    shelf.put(key_of(1), "pinned")
    shelf.pin(key_of(1))
    now += 20
    assert shelf.get(key_of(1)) is None
    shelf.put(key_of(1), "again")
    shelf.close()
    shelf = shelf_at(tmp_path, ttl=10.0, clock=lambda: now)
    assert shelf.get(key_of(1)) == "again"
    assert shelf._cache.stats().pinned == 0
    shelf.close()


def test_a_pin_outlives_a_kill(tmp_path: Path) -> None:
    """What is on disk at any moment after the pin has it; nothing is closed."""
    shelf = shelf_at(tmp_path / "a")
    shelf.put(key_of(1), "pinned")
    shelf.pin(key_of(1))
    shelf._tier.flush()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shelf.unpin(key_of(1))
    shelf._tier.flush()
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    shelf.close()
    for name, pinned in (("b", 1), ("c", 0)):
        later = shelf_at(tmp_path / name)
        assert later._cache.stats().pinned == pinned
        later.close()


def scanned(shelf: Shelf[str], chance: random.Random) -> None:
    """Some keys that are used again and again among many that are used once."""
    for at in range(4000):
        hot = chance.random() < 0.6
        key = key_of(chance.randrange(20) if hot else 1000 + at)
        if shelf._cache.get(key) is None:
            shelf._cache.put(key, "x")
            shelf._use(key)


def test_what_the_policy_learned_outlives_a_restart(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, capacity=32, policy="adaptive")
    empty = shelf._cache.save_policy()
    scanned(shelf, random.Random(1))
    for key in list(shelf._cache):
        shelf.keep(key, "x")
    learned = shelf._cache.save_policy()
    report = shelf._cache.stats().learned
    assert learned != empty
    assert report is not None
    shelf.close()
    shelf = shelf_at(tmp_path, capacity=32, policy="adaptive")
    assert shelf.warmed == 32
    assert shelf._cache.save_policy() == learned
    again = shelf._cache.stats().learned
    assert again is not None
    assert (again.leader, again.pattern) == (report.leader, report.pattern)
    shelf.close()


def test_another_policy_starts_anew_with_the_same_entries(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, policy="adaptive")
    shelf.put(key_of(1), "x")
    shelf.close()
    shelf = shelf_at(tmp_path, policy="lru")
    assert shelf.warmed == 1
    assert shelf.get(key_of(1)) == "x"
    shelf.close()


def test_what_expired_meanwhile_stays_away_and_the_rest_keeps_its_time(tmp_path: Path) -> None:
    now = 1000.0

    def clock() -> float:
        return now

    shelf = shelf_at(tmp_path, ttl=10.0, clock=clock)
    shelf.put(key_of(1), "old")
    now += 6
    shelf.put(key_of(2), "young")
    shelf.close()
    now += 6
    shelf = shelf_at(tmp_path, ttl=10.0, clock=clock)
    assert shelf.warmed == 1
    assert shelf.get(key_of(1)) is None
    assert shelf.get(key_of(2)) == "young"
    now += 5
    assert shelf.get(key_of(2)) is None
    shelf.close()


def test_a_value_that_no_longer_decodes_is_a_miss(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    shelf.put(key_of(1), "text")
    shelf.close()

    def decode(data: bytes) -> str:
        raise ValueError("another version's")

    disk = open_tier(tmp_path, segment_bytes=16 << 10)
    other = Shelf[str](Cache(capacity=4), disk, codec="text", encode=str.encode, decode=decode)
    assert other.get(key_of(1)) is None
    assert other.failures == 2  # at the opening and now
    other.close()


class Breakable(FastFiles):
    error = 0

    def write(self, fd: int, pieces: Any, offset: int) -> int:
        if self.error:
            raise OSError(self.error, "broken")
        return super().write(fd, pieces, offset)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENOSPC, Unavailable.NO_SPACE),
        (errno.EIO, Unavailable.IO_ERROR),
        (errno.EROFS, Unavailable.READ_ONLY),
        (errno.EMFILE, Unavailable.TOO_MANY_FILES),
    ],
)
def test_the_cache_goes_on_in_memory_and_says_so(
    tmp_path: Path, error: int, reason: Unavailable
) -> None:
    files = Breakable()
    shelf = shelf_at(tmp_path, files=files)
    shelf.put(key_of(1), "before")
    shelf._tier.flush()
    assert shelf.failing is None
    files.error = error
    shelf.put(key_of(1), "during")
    shelf._tier.flush()
    assert shelf.get(key_of(1)) == "during"
    assert shelf.failing is reason
    assert shelf.failures == 1
    files.error = 0
    shelf.put(key_of(2), "after")
    shelf._tier.flush()
    assert shelf.failing is None
    shelf.close()


def test_two_kinds_of_values_do_not_mix(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    shelf.put(key_of(1), "text")
    shelf.close()
    disk: DiskTier = open_tier(tmp_path, segment_bytes=16 << 10)
    encode: Callable[[int], bytes] = lambda value: bytes([value])  # noqa: E731
    other = Shelf[int](Cache(capacity=4), disk, codec="int", encode=encode, decode=lambda d: d[0])
    assert other.get(key_of(1)) is None
    other.put(key_of(2), 7)
    other.clear()
    other.close()
    shelf = shelf_at(tmp_path)
    assert shelf.get(key_of(1)) == "text"
    shelf.close()


def test_threads_never_see_an_older_value_nor_a_deleted_one(tmp_path: Path) -> None:
    """Each thread has its own key; memory has room for one of four, so values go up and down."""
    wrong: list[object] = []
    shelf = shelf_at(tmp_path, capacity=1)

    def work(number: int) -> None:
        try:
            key = key_of(number)
            for at in range(200):
                shelf.put(key, f"{number} {at}")
                shelf.get(key_of((number + 1) % 4))
                if shelf.get(key) != f"{number} {at}":
                    wrong.append((number, at))
                if at % 5 == 0:
                    shelf.delete(key)
                    if shelf.get(key) is not None:
                        wrong.append((number, at, "deleted"))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shelf.close()
    assert not wrong
