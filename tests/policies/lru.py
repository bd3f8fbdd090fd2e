from __future__ import annotations

from policies.base import Base, oldest


class Lru(Base):
    def __init__(self) -> None:
        self.order: list[object] = []  # least recently used first

    def insert(self, key: object, size: int, cost: float) -> None:
        self.order.append(key)

    def hit(self, key: object) -> None:
        self.order.remove(key)
        self.order.append(key)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        key = oldest(self.order, pinned)
        if key is not None:
            self.order.remove(key)
        return key

    def remove(self, key: object) -> None:
        self.order.remove(key)
