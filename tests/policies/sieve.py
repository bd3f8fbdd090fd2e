from __future__ import annotations

from policies.base import Base


class Sieve(Base):
    def __init__(self) -> None:
        self.queue: list[object] = []  # oldest first
        self.visited: set[object] = set()
        self.hand = 0

    def insert(self, key: object, size: int, cost: float) -> None:
        self.queue.append(key)

    def hit(self, key: object) -> None:
        self.visited.add(key)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        if all(key in pinned for key in self.queue):
            return None
        while True:
            self.hand %= len(self.queue)
            key = self.queue[self.hand]
            if key not in pinned and key not in self.visited:
                self.remove(key)
                return key
            if key not in pinned:
                self.visited.discard(key)
            self.hand += 1

    def remove(self, key: object) -> None:
        place = self.queue.index(key)
        del self.queue[place]
        self.visited.discard(key)
        if place < self.hand:
            self.hand -= 1
        if self.hand == len(self.queue):  # before a newer one comes
            self.hand = 0
