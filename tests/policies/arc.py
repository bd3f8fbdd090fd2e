from __future__ import annotations

import math

from policies.base import Arrival, Base, mixed_hash, oldest

RECENT, FREQUENT = 0, 1


class Arc(Base):
    def __init__(self) -> None:
        self.lists: list[list[object]] = [[], []]  # least recently used first
        self.ghosts: list[list[int]] = [[], []]  # evicted longest ago first
        self.target = 0.0
        self.arrival = Arrival()
        self.returns_to: int | None = None

    def c(self) -> float:
        return math.inf if self.capacity is None else self.room(sum(map(len, self.lists)))

    def arrive(self, key: object) -> None:
        if not self.arrival.announce(key):
            return
        ghost = mixed_hash(key)
        self.returns_to = None
        recent, frequent = map(len, self.ghosts)
        c = self.c()
        if ghost in self.ghosts[RECENT]:
            self.returns_to = RECENT
            self.target = min(min(self.target, c) + max(1.0, frequent / recent), c)
        elif ghost in self.ghosts[FREQUENT]:
            self.returns_to = FREQUENT
            self.target = max(min(self.target, c) - max(1.0, recent / frequent), 0.0)
        if self.returns_to is not None:
            self.ghosts[self.returns_to].remove(ghost)

    def insert(self, key: object, size: int, cost: float) -> None:
        self.arrive(key)
        self.arrival.inserted()
        self.lists[RECENT if self.returns_to is None else FREQUENT].append(key)
        self.restore_bounds()

    def hit(self, key: object) -> None:
        self.remove(key)
        self.lists[FREQUENT].append(key)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        if incoming is not None:
            self.arrive(incoming)
        recent = len(self.lists[RECENT])
        target = math.floor(min(self.target, self.c()))
        tie = incoming is not None and self.returns_to == FREQUENT and recent == target
        first = RECENT if recent > target or tie else FREQUENT
        for which in (first, 1 - first):
            key = oldest(self.lists[which], pinned)
            if key is not None:
                self.lists[which].remove(key)
                self.remember(which, mixed_hash(key))
                self.restore_bounds()
                return key
        return None

    def remember(self, which: int, ghost: int) -> None:
        for ghosts in self.ghosts:
            if ghost in ghosts:
                ghosts.remove(ghost)
        self.ghosts[which].append(ghost)

    def restore_bounds(self) -> None:
        c = self.c()
        recent, frequent = self.ghosts
        while len(self.lists[RECENT]) + len(recent) > c and recent:
            del recent[0]
        while sum(map(len, self.lists)) + len(recent) + len(frequent) > 2 * c:
            del (frequent or recent)[0]

    def remove(self, key: object) -> None:
        self.lists[RECENT if key in self.lists[RECENT] else FREQUENT].remove(key)
