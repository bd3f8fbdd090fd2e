from __future__ import annotations

from policies.base import Base, mixed_hash, oldest


class Lirs(Base):
    def __init__(self) -> None:
        self.stack: list[tuple[str, object]] = []  # oldest first: ("key", key), ("ghost", hash)
        self.hot: list[object] = []
        self.queue: list[object] = []  # cold keys, the next to leave first
        self.ghosts: list[object] = []  # evicted longest ago first

    def most(self) -> int:
        return self.room(len(self.hot) + len(self.queue))

    def hot_most(self) -> int:
        return self.most() - max(1, self.most() // 100)

    def insert(self, key: object, size: int, cost: float) -> None:
        ghost = mixed_hash(key)
        returns = ghost in self.ghosts
        if returns:
            self.forget(ghost)
        self.stack.append(("key", key))
        self.queue.append(key)
        if returns or len(self.hot) < self.hot_most():
            self.heat(key)
        self.prune()

    def hit(self, key: object) -> None:
        stacked = ("key", key) in self.stack
        if stacked:
            self.stack.remove(("key", key))
        self.stack.append(("key", key))
        if key in self.queue:
            self.queue.remove(key)
            self.queue.append(key)
            if stacked:
                self.heat(key)
        self.prune()

    def heat(self, key: object) -> None:
        self.queue.remove(key)
        self.hot.append(key)
        while len(self.hot) > self.hot_most():
            self.prune()
            _, last = self.stack.pop(0)
            self.hot.remove(last)
            self.queue.append(last)

    def is_hot(self, item: tuple[str, object]) -> bool:
        return item[0] == "key" and item[1] in self.hot

    def prune(self) -> None:
        """What lies below the last hot key leaves the stack."""
        while self.stack and not self.is_hot(self.stack[0]):
            kind, key = self.stack.pop(0)
            if kind == "ghost":
                self.ghosts.remove(key)

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        key = oldest(self.queue, pinned)
        if key is None:
            key = oldest([item[1] for item in self.stack if self.is_hot(item)], pinned)
            if key is not None:
                self.remove(key)
        elif ("key", key) not in self.stack:
            self.queue.remove(key)
        else:
            ghost = mixed_hash(key)
            if ghost in self.ghosts:
                self.forget(ghost)
            while len(self.ghosts) >= 2 * self.most():
                self.forget(self.ghosts[0])
            self.queue.remove(key)
            self.ghosts.append(ghost)
            self.stack[self.stack.index(("key", key))] = ("ghost", ghost)
        return key

    def forget(self, ghost: object) -> None:
        self.ghosts.remove(ghost)
        self.stack.remove(("ghost", ghost))

    def remove(self, key: object) -> None:
        (self.hot if key in self.hot else self.queue).remove(key)
        if ("key", key) in self.stack:
            self.stack.remove(("key", key))
        self.prune()
