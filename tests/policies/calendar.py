"""Time in units, and lists of entries by unit and class: csrc/core/calendar.h, aged_lists.h."""

from __future__ import annotations

from dataclasses import dataclass, field


def class_of(uses: int) -> int:
    return uses.bit_length() - 1


def group_of(uses: int, last: bool) -> int:
    return min(class_of(uses), 3) + 4 * last


@dataclass(eq=False)
class Unit:
    """A stretch of time, with what was last used in it: by cache, then by class and shelf, oldest first."""

    start: int
    days: int = 1
    lists: dict[str, dict[tuple[int, int], dict[object, None]]] = field(default_factory=dict)
    ranks: dict[tuple[str, int], float] = field(default_factory=dict)

    def inside(self, lane: str, each: int, shelf: int = 0) -> dict[object, None]:
        return self.lists.setdefault(lane, {}).setdefault((each, shelf), {})

    def take(self, lane: str, key: object) -> None:
        """Wherever it is; a list that becomes empty goes."""
        lists = self.lists[lane]
        at = next(at for at, keys in lists.items() if key in keys)
        del lists[at][key]
        if not lists[at]:
            del lists[at]


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
            for lane, lists in gone.lists.items():
                for at, keys in lists.items():
                    kept.lists.setdefault(lane, {})[at] = keys | kept.inside(lane, *at)
            kept.start, kept.ranks = gone.start, gone.ranks
            self.units.remove(gone)
            if days < 2**14:
                kept.days *= 2
            days *= 2

    def coldest(self, lane: str, pinned: set[object], prices: list[float]) -> object | None:
        """Of the lowest list with something unpinned, what has been there longest.

        prices: what ranks are multiplied with, by shelf.
        """
        ends: list[tuple[float, float, int, int, int, object]] = []
        for at, unit in enumerate(self.units):
            for (each, shelf), keys in unit.lists.get(lane, {}).items():
                key = next((key for key in keys if key not in pinned), None)
                if key is not None:
                    rank = unit.ranks[lane, each]
                    ends.append((rank * prices[shelf], rank, -at, each, shelf, key))
        return min(ends)[5] if ends else None
