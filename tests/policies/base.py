"""What most references share."""

from __future__ import annotations


def mixed_hash(key: object) -> int:
    """The 64-bit hash that the core gives its policies for a Python key."""
    mask = (1 << 64) - 1
    x = hash(key) & mask
    for _ in range(2):
        x ^= x >> 32
        x = x * 0xD6E8FEB86659FD93 & mask
    return x ^ x >> 32


def oldest(keys: list[object], pinned: set[object]) -> object | None:
    """The first key that is not pinned."""
    return next((key for key in keys if key not in pinned), None)


class Base:
    """A policy that needs no capacity, treats a replaced value as a hit and knows no prompts."""

    capacity: int | None = None

    def grow(self, slots: int) -> None:
        pass

    def uses(self, key: object) -> int:
        return 1

    def unlearn(self) -> None:
        pass

    def begin_request(self, last: object | None) -> None:
        pass

    def link(self, parent: object, child: object) -> None:
        pass

    def set_capacity(self, entries: int | None) -> None:
        self.capacity = entries

    def set_capacity_bytes(self, limit: int) -> None:
        pass

    def room(self, entries: int) -> int:
        """How many fit. Where bytes are the limit, at least as many as there are."""
        return entries if self.capacity is None else max(self.capacity, entries)

    def hit(self, key: object) -> None:
        raise NotImplementedError

    def update(self, key: object, size: int, cost: float) -> None:
        self.hit(key)


class Arrival:
    """Whether an entry that comes was announced already, by an earlier ``evict`` for it."""

    hash: int | None = None

    def announce(self, key: object) -> bool:
        first = self.hash != mixed_hash(key)
        self.hash = mixed_hash(key)
        return first

    def inserted(self) -> None:
        self.hash = None
