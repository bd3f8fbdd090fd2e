"""Time in units, and lists of entries by unit and class: csrc/core/calendar.h, aged_lists.h."""

from __future__ import annotations

from dataclasses import dataclass, field


def class_of(uses: int) -> int:
    return uses.bit_length() - 1


def group_of(uses: int, last: bool) -> int:
    return min(class_of(uses), 3) + 4 * last


@dataclass(eq=False)
class Unit:
    """A stretch of time, with what was last used in it: by cache and class, its oldest first."""

    start: int
    days: int = 1
    lists: dict[tuple[str, int], dict[object, None]] = field(default_factory=dict)
    ranks: dict[tuple[str, int], float] = field(default_factory=dict)

    def inside(self, lane: str, each: int) -> dict[object, None]:
        return self.lists.setdefault((lane, each), {})


class Calendar:
    def __init__(self) -> None:
        self.now = 0
        self.most_of_a_length = 4
        self.units = [Unit(0)]  # the newest first

    def unit_of(self, moment: int) -> Unit:
        return next(unit for unit in self.units if unit.start <= moment)

    def least_age(self, at: int) -> int:
        return self.now - self.units[at - 1].start if at else 0

    def middle_age(self, at: int) -> int:
        length = self.now - self.least_age(at) - self.units[at].start
        return self.least_age(at) + length - length // 2

    def begin_day(self) -> None:
        """At most sixteen days, then so many units of each length; of more the two oldest become one."""
        self.units.insert(0, Unit(self.now))
        days = 1
        while days <= 2**14:
            same = [unit for unit in self.units if unit.days == days]
            if len(same) <= {1: 16, 2**14: 1}.get(days, self.most_of_a_length):
                return
            kept, gone = same[-2:]
            for lane, each in gone.lists:
                kept.lists[lane, each] = gone.lists[lane, each] | kept.inside(lane, each)
            kept.start, kept.ranks = gone.start, gone.ranks
            self.units.remove(gone)
            if days < 2**14:
                kept.days *= 2
            days *= 2

    def coldest(self, lane: str, pinned: set[object]) -> object | None:
        """Of the lowest list with something unpinned, what has been there longest."""
        best: tuple[float, object] | None = None
        for unit in reversed(self.units):
            for each in range(8):
                keys = unit.lists.get((lane, each))
                if not keys or (best is not None and unit.ranks[lane, each] >= best[0]):
                    continue
                key = next((key for key in keys if key not in pinned), None)
                if key is not None:
                    best = unit.ranks[lane, each], key
        return None if best is None else best[1]
