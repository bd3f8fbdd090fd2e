"""Kills a writer again and again and looks at what it left: ``python kill_loop.py KILLS SEED FOLDER``.

A process of its own that forks the writers, so that a kill costs milliseconds. What was to be expected
is in memory that both share: which step was begun, which was done, and whether the writer is in the
middle of a call that changes the disk. Most writers kill themselves there, after half of a write has
been written or just before or after a call; the others are killed by the clock.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tier_fakes import KEYS, FastFiles, Values, after, contents, key_of, open_tier, perform, script

from blatam_kv.tiers import WriteBehind

STEPS = 200_000
OPTIONS: dict[str, Any] = {"disk_bytes": 64 << 20, "segment_bytes": 16 << 10}
# begun, done: steps; inside: whether a call is under way.
_STATE = struct.Struct("<QQQ")
_SESSION = 40  # steps until a writer closes the tier and opens it again


class Shared:
    """What outlives the writer."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _STATE.size)

    @property
    def begun(self) -> int:
        return int(_STATE.unpack_from(self._memory)[0])

    @property
    def done(self) -> int:
        return int(_STATE.unpack_from(self._memory)[1])

    @property
    def inside(self) -> bool:
        return bool(_STATE.unpack_from(self._memory)[2])

    def set(self, place: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * place, value)


class DeadlyFiles(FastFiles):
    """Kills its process at the ``at``-th call that changes something; never if that is 0."""

    def __init__(self, shared: Shared, at: int, chance: random.Random) -> None:
        self.shared, self.at, self.chance = shared, at, chance
        self.calls = 0

    def _deadly(self, call: Any, *arguments: Any) -> Any:
        self.calls += 1
        self.shared.set(2, 1)
        if self.calls == self.at and self.chance.random() < 0.5:
            self._die()
        answer = call(*arguments)
        if self.calls == self.at:
            self._die()
        self.shared.set(2, 0)
        return answer

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(self, fd: int, pieces: Sequence[Any], offset: int) -> int:
        if self.calls + 1 == self.at:
            self.shared.set(2, 1)
            data = b"".join(bytes(piece) for piece in pieces)
            super().write(fd, [data[: self.chance.randrange(len(data) + 1)]], offset)
            self._die()
        written: int = self._deadly(super().write, fd, pieces, offset)
        return written

    def cut(self, fd: int, size: int) -> None:
        self._deadly(super().cut, fd, size)

    def sync(self, fd: int) -> None:
        self._deadly(super().sync, fd)

    def sync_folder(self, folder: Path) -> None:
        self._deadly(super().sync_folder, folder)

    def replace(self, source: Path, target: Path) -> None:
        self._deadly(super().replace, source, target)

    def remove(self, path: Path) -> None:
        self._deadly(super().remove, path)


def write(path: Path, start: int, steps: Sequence[Any], files: DeadlyFiles, behind: bool) -> None:
    """Live from step ``start`` on until killed."""
    shared, at = files.shared, start
    while True:
        tier: Any = open_tier(path, files=files, **OPTIONS)
        if behind:
            tier = WriteBehind(tier, queue_bytes=2000)
        for _ in range(_SESSION):
            shared.set(0, at + 1)
            perform(tier, steps[at])
            at += 1
            if not behind or at % 7 == 0:
                if behind:
                    tier.flush()
                shared.set(1, at)
        tier.close()
        shared.set(1, at)


def may_be(found: Values, history: Sequence[Values], behind: bool) -> int | None:
    """The step after which this was the state; behind a queue each key may be as it was at another
    one of these steps, so the last step is taken."""
    if not behind:
        return next((at for at, state in enumerate(history) if state == found), None)
    fits = all(any(found.get(key) == state.get(key) for state in history) for key in KEYS)
    return len(history) - 1 if fits else None


def loop(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Returns what happened; raises AssertionError for a wrong value, a loss or a failed restart."""
    chance, steps = random.Random(seed), script(STEPS)
    counts = {"kills": 0, "inside": 0, "steps": 0, "behind": 0}
    state: Values = {}
    at = 0
    for number in range(kills):
        behind = number % 4 == 3
        shared = Shared()
        shared.set(0, at)
        shared.set(1, at)
        by_clock = chance.random() < 0.15
        deadly = 0 if by_clock else chance.randrange(1, 300)
        moment, inner = chance.uniform(0.0, 0.05), random.Random(chance.random())
        child = os.fork()
        if child == 0:
            try:
                write(folder, at, steps, DeadlyFiles(shared, deadly, inner), behind)
            finally:
                os._exit(1)
        if by_clock:
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status == signal.SIGKILL, status
        history = [state]
        for step in steps[at : shared.begun]:
            history.append(after(history[-1], step))
        allowed = history[shared.done - at :]
        with open_tier(folder, **OPTIONS) as tier:
            found, stats = contents(tier, KEYS), tier.stats()
            assert stats.holes == stats.damaged == 0, stats
            reached = may_be(found, allowed, behind)
            assert reached is not None, (number, shared.done, shared.begun, found)
            if behind:  # begin the next life where all keys agree again
                for key in KEYS:
                    if found.get(key) != allowed[-1].get(key):
                        tier.delete_many([key])
                        found.pop(key, None)
        counts["kills"] += 1
        counts["inside"] += shared.inside
        counts["behind"] += behind
        counts["steps"] += shared.done - at
        state, at = found, (shared.done + reached) % (STEPS - 100_000)
    return counts


def main() -> None:
    kills, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    assert key_of(0) in KEYS
    print(json.dumps(loop(kills, seed, folder)))


if __name__ == "__main__":
    main()
