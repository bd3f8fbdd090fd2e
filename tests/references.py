"""The slow, obvious forms of what the core does fast: oracles for the tests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Entry:
    value: object
    size: int
    deadline: float | None
    inserted: int
    used: int
    count: int = 1
    pins: int = 0


@dataclass
class ReferenceCache:
    """A cache as one would explain it: a dict, and a scan for the victim.

    ``removed`` collects (key, value, reason) in order, as ``on_evict`` would see them.
    """

    policy: str
    capacity: int | None = None
    capacity_bytes: int | None = None
    entries: dict[object, Entry] = field(default_factory=dict)
    removed: list[tuple[object, object, str]] = field(default_factory=list)
    hits: int = 0
    misses: int = 0
    now: float = 0.0
    step: int = 0

    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries.values())

    def rank(self, key: object) -> tuple[int, ...]:
        """The lowest rank leaves first."""
        entry = self.entries[key]
        return {
            "lru": (entry.used,),
            "fifo": (entry.inserted,),
            "lfu": (entry.count, entry.used),
        }[self.policy]

    def take(self, key: object, reason: str) -> None:
        self.removed.append((key, self.entries.pop(key).value, reason))

    def expire(self) -> None:
        for key, entry in list(self.entries.items()):
            if entry.deadline is not None and entry.deadline <= self.now:
                self.take(key, "expired")

    def use(self, key: object) -> None:
        self.step += 1
        self.entries[key].used = self.step
        self.entries[key].count += 1

    def get(self, key: object) -> object:
        if key not in self.entries:
            self.misses += 1
            return None
        self.hits += 1
        self.use(key)
        return self.entries[key].value

    def put(self, key: object, value: object, size: int = 0, ttl: float | None = None) -> str:
        """'stored', 'too large' or 'pinned'; the last two change nothing."""
        limit, max_bytes = self.capacity, self.capacity_bytes
        pinned = {k: e for k, e in self.entries.items() if e.pins}
        if max_bytes and size > max_bytes:
            return "too large"
        if max_bytes and sum(e.size for k, e in pinned.items() if k != key) + size > max_bytes:
            return "pinned"
        if limit and key not in self.entries and len(pinned) >= limit:
            return "pinned"

        old = self.entries.get(key)
        grows_by = size - (old.size if old else 0)

        def fits() -> bool:
            entries_fit = not limit or len(self.entries) + (old is None) <= limit
            return entries_fit and (not max_bytes or self.bytes() + max(grows_by, 0) <= max_bytes)

        while not fits():
            victims = [k for k, e in self.entries.items() if not e.pins and k != key]
            if not victims:
                break
            self.take(min(victims, key=self.rank), "capacity")

        deadline = None if ttl is None else self.now + ttl
        if old is None:
            self.step += 1
            self.entries[key] = Entry(value, size, deadline, self.step, self.step)
        else:
            self.removed.append((key, old.value, "replaced"))
            old.value, old.size, old.deadline = value, size, deadline
            self.use(key)
        return "stored"

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        while len(self.entries) > capacity:
            victims = [k for k, e in self.entries.items() if not e.pins]
            if not victims:
                break
            self.take(min(victims, key=self.rank), "capacity")
