from __future__ import annotations

from policies.base import Arrival, Base, mixed_hash, oldest


class S3Fifo(Base):
    def __init__(self) -> None:
        self.trial: list[object] = []  # oldest first, all three
        self.main: list[object] = []
        self.ghosts: list[int] = []
        self.hits: dict[object, int] = {}
        self.arrival = Arrival()
        self.returns = False

    def trial_size(self) -> int:
        return max(1, self.room(len(self.hits)) // 10)

    def arrive(self, key: object) -> None:
        if self.arrival.announce(key):
            self.returns = mixed_hash(key) in self.ghosts
            if self.returns:
                self.ghosts.remove(mixed_hash(key))

    def insert(self, key: object, size: int, cost: float) -> None:
        self.arrive(key)
        self.arrival.inserted()
        (self.main if self.returns else self.trial).append(key)
        self.hits[key] = 0

    def hit(self, key: object) -> None:
        self.hits[key] = min(self.hits[key] + 1, 3)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        if incoming is not None:
            self.arrive(incoming)
        while True:
            first, second = self.main, self.trial
            if len(self.trial) >= self.trial_size():
                first, second = second, first
            key = oldest(first, pinned)
            if key is None:
                key = oldest(second, pinned)
            if key is None:
                return None
            if key in self.trial:
                if self.hits[key] < 2:
                    self.remember(mixed_hash(key))
                    self.remove(key)
                    return key
                self.trial.remove(key)
                self.main.append(key)
                self.hits[key] = 0
            else:
                if self.hits[key] == 0:
                    self.remove(key)
                    return key
                self.main.remove(key)
                self.main.append(key)
                self.hits[key] -= 1

    def remember(self, ghost: int) -> None:
        self.ghosts = [other for other in self.ghosts if other != ghost] + [ghost]
        while len(self.ghosts) > self.room(len(self.hits)) - self.trial_size():
            del self.ghosts[0]

    def remove(self, key: object) -> None:
        (self.main if key in self.main else self.trial).remove(key)
        del self.hits[key]
