"""What the native index of prefixes makes of arguments; its behaviour is tested in tests/cpp."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest

from blatam_kv._core import PrefixIndex

ROOT, LAST = bytes(32), bytes(range(32))
NAMES = [bytes([number]) * 32 for number in range(1, 6)]


def weights(*sizes: int) -> array[int]:
    return array("Q", sizes)


@pytest.fixture
def index() -> PrefixIndex:
    return PrefixIndex(10, "lru")


def test_slots_come_as_flat_numbers(index: PrefixIndex) -> None:
    old, slots, evicted = index.add(LAST, ROOT, True, b"".join(NAMES[:3]), weights(1, 2, 3))
    assert old == 0
    assert memoryview(slots).cast("I").tolist() == [0, 1, 2]
    assert evicted == b""
    assert index.find(memoryview(b"".join(NAMES))) == slots
    assert (index.entries, index.used_bytes, index.capacity_bytes, index.pinned) == (3, 6, 10, 2)
    assert index.memory_bytes > 0
    assert index.add(LAST, NAMES[4], False, NAMES[3], weights(1)) == (0, b"", b"")
    assert index.add(LAST, ROOT, True, NAMES[0], weights(1)) == (1, slots[:4], b"")
    _, _, evicted = index.add(LAST, NAMES[0], False, NAMES[3], weights(5))
    assert memoryview(evicted).cast("I").tolist() == [2]
    assert index.resize(3) != b""
    assert index.remove(NAMES[0]) == 0
    assert index.remove(NAMES[2]) is None


def test_nothing_asked_is_nothing_found(index: PrefixIndex) -> None:
    assert index.find(b"") == b""
    index.use(LAST, b"")
    assert index.add(LAST, ROOT, True, b"", weights()) == (0, b"", b"")
    assert index.followers(ROOT, True, 3) == index.followers(NAMES[0], False, 3) == b""
    assert not index.pin(NAMES[0])
    assert not index.unpin(NAMES[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: PrefixIndex(0, "lru"), "at least 1"),
        (lambda index: PrefixIndex(1, "best"), "unknown policy"),
        (lambda index: index.find(bytes(33)), "32 bytes, one behind the other"),
        (lambda index: index.use(LAST, bytes(31)), "32 bytes, one behind the other"),
        (lambda index: index.use(b"", b""), "a digest of 32 bytes"),
        (lambda index: index.pin(bytes(64)), "a digest of 32 bytes"),
        (lambda index: index.remove(b""), "a digest of 32 bytes"),
        (lambda index: index.add(LAST, ROOT, True, NAMES[0], weights()), "as many as names"),
        (
            lambda index: index.add(LAST, ROOT, True, NAMES[0], array("I", [1, 2])),
            "64-bit integers",
        ),
        (lambda index: index.add(LAST, b"", True, NAMES[0], weights(1)), "a digest of 32 bytes"),
        (lambda index: index.resize(0), "at least 1"),
    ],
)
def test_what_is_not_a_name_or_a_weight_is_refused(
    index: PrefixIndex, call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.entries == 0
