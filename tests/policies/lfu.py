from __future__ import annotations

from policies.base import Base


class Lfu(Base):
    def __init__(self) -> None:
        self.step = 0
        self.used: dict[object, tuple[int, int]] = {}  # key: (count, when used last)

    def insert(self, key: object, size: int, cost: float) -> None:
        self.step += 1
        self.used[key] = (1, self.step)

    def hit(self, key: object) -> None:
        self.step += 1
        self.used[key] = (self.used[key][0] + 1, self.step)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        free = [key for key in self.used if key not in pinned]
        if not free:
            return None
        key = min(free, key=self.used.__getitem__)
        del self.used[key]
        return key

    def remove(self, key: object) -> None:
        del self.used[key]
