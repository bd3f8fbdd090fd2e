"""The power fails after every call, with some of what was not synced lost, torn or out of order.

The oracle is the list of all states that a dict went through: what opens afterwards is one of them,
whole, and not older than the last that was acknowledged as durable.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tier_fakes import (
    KEYS,
    Values,
    after,
    contents,
    key_of,
    open_tier,
    perform,
    record_of,
    script,
)
from tier_recorder import Change, RecordingFiles, losses, replay, torn, uncertain

# Every how many calls the power fails: in CI a share of them, moved by the seed; all with ./run soak.
EVERY = 1 if os.environ.get("BLATAM_KV_SOAK") else 5


class Life(NamedTuple):
    """changes: all calls. ends: after how many of them each step was done. states: the dict then;
    durable: as far as it was acknowledged as durable, an index of states."""

    changes: list[Change]
    ends: list[int]
    states: list[Values]
    durable: list[int]

    def window(self, cut: int) -> Sequence[Values]:
        """The states that may be found after so many calls, if only unsynced ones are lost."""
        done = max(sum(end <= cut for end in self.ends) - 1, 0)
        return self.states[self.durable[done] : done + 2]


def lived(path: Path) -> Life:
    """Three sessions of puts and deletions over a few small segments, closed in between."""
    files = RecordingFiles(path)
    life = Life(files.changes, [0], [{}], [0])
    for start in (0, 20, 40):
        with open_tier(path, files=files) as tier:
            for step in script(60)[start : start + 20]:
                perform(tier, step)
                life.ends.append(len(files.changes))
                life.states.append(after(life.states[-1], step))
                last = len(life.states) - 1
                life.durable.append(last if step[3] else life.durable[-1])
    return life


def found_in(path: Path) -> Values:
    """What a reader finds, then what a writer finds, who must be able to go on."""
    with open_tier(path, read_only=True) as tier:
        seen = contents(tier, KEYS)
    with open_tier(path) as tier:
        assert contents(tier, KEYS) == seen
        tier.put_many([record_of(11, b"new")])
    with open_tier(path) as tier:
        assert contents(tier, KEYS) == seen | {key_of(11): b"new"}
    shutil.rmtree(path)
    return seen


def test_a_power_cut_between_any_two_calls_leaves_a_state_that_was(tmp_path: Path) -> None:
    life = lived(tmp_path / "life")
    for cut in range(1, len(life.changes) + 1):
        replay(life.changes[:cut], tmp_path / "cut")
        done = max(sum(end <= cut for end in life.ends) - 1, 0)
        assert found_in(tmp_path / "cut") in life.states[done : done + 2], cut


@pytest.mark.parametrize("seed", [0, 1])
def test_a_power_cut_that_loses_what_was_not_synced_keeps_what_was_durable(
    tmp_path: Path, seed: int
) -> None:
    life, chance = lived(tmp_path / "life"), random.Random(seed)
    tried = 0
    for cut in range(1 + seed * EVERY // 2, len(life.changes) + 1, EVERY):
        changes = life.changes[:cut]
        for lost in losses(changes, chance):
            replay(changes, tmp_path / "cut", lost=lost)
            assert found_in(tmp_path / "cut") in life.window(cut), (cut, sorted(lost))
            tried += 1
    assert tried > 100


def test_a_torn_write_leaves_a_state_that_was(tmp_path: Path) -> None:
    """Where later records reached the disk and the torn one's body did not, its key is a miss."""
    life, chance = lived(tmp_path / "life"), random.Random(2)
    tried = 0
    for cut in range(1, len(life.changes) + 1, EVERY):
        changes = life.changes[:cut]
        open_writes = [at for at in uncertain(changes) if changes[at].call == "write"]
        for at in open_writes[-2:]:
            others = {other for other in open_writes if other != at and chance.random() < 0.5}
            key = changes[at].second[56:88]  # of a record; of another write no key at all
            window = list(life.window(cut))
            window += [{k: v for k, v in state.items() if k != key} for state in window]
            for part in torn(changes[at]):
                for lost in (set[int](), others):
                    replay(changes, tmp_path / "cut", lost=lost, instead=(at, part))
                    assert found_in(tmp_path / "cut") in window, (cut, at, part)
                    tried += 1
    assert tried > 50


def test_a_power_cut_at_every_byte_of_a_write_leaves_a_state_that_was(tmp_path: Path) -> None:
    life = lived(tmp_path / "life")
    changes = life.changes
    writes = [at for at, change in enumerate(changes) if change.call == "write"]
    last = next(at for at in reversed(writes) if "seg" in changes[at].path)
    header = next(
        at for at in reversed(writes) if "seg" in changes[at].path and not changes[at].first
    )
    document = next(at for at in reversed(writes) if "json" in changes[at].path)
    for at in (last, header, document):
        _, name, offset, data = changes[at]
        path = tmp_path / f"cut{at}"
        replay(changes[:at], path)
        for size in range(len(data)):
            with (path / name).open("r+b") as file:
                file.seek(offset)
                file.write(data[:size])
            with open_tier(path, read_only=True) as tier:
                found = contents(tier, KEYS)
            assert found in life.states
            if size % 32 == 0:
                shutil.copytree(path, tmp_path / "copy")
                assert found_in(tmp_path / "copy") == found


def test_what_was_evicted_and_then_deleted_stays_away(tmp_path: Path) -> None:
    """A removed segment whose removal is lost would bring back what was deleted afterwards."""
    path = tmp_path / "life"
    files = RecordingFiles(path)
    deleted = key_of(0)
    with open_tier(path, files=files, segment_bytes=16 << 10) as tier:
        number = 0
        while number < 3000 and (number < 100 or tier.contains_many([deleted])[0]):
            tier.put_many([record_of(number, bytes(1000))])
            number += 1
        assert tier.delete_many([deleted]) == 0
    end = len(files.changes)
    for lost in losses(files.changes[:end], random.Random(3)):
        replay(files.changes[:end], tmp_path / "cut", lost=lost)
        with open_tier(tmp_path / "cut", read_only=True) as tier:  # a writer would evict it again
            assert tier.get_many([deleted]) == [None]
        shutil.rmtree(tmp_path / "cut")


def test_the_recorder_tells_what_is_certain() -> None:
    changes = [
        Change("write", "a", 0, b"1"),
        Change("write", "b", 0, b"2"),
        Change("sync", "a"),
        Change("write", "a", 1, b"3"),
        Change("replace", "x/new", "x/old"),
        Change("remove", "y/z"),
        Change("sync folder", "y"),
    ]
    assert uncertain(changes) == [1, 3, 4]
    assert {1, 3, 4} in list(losses(changes, random.Random(0)))
    pieces = list(torn(Change("write", "a", 500, bytes(range(100)))))
    assert [(part.first, part.second) for part in pieces] == [
        (500, bytes(range(12))),
        (512, bytes(range(12, 100))),
    ]
