"""The slow, obvious forms of what the core does fast: oracles for the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from policies import REFERENCES, ReferencePolicy


@dataclass
class Entry:
    value: object
    size: int
    cost: float
    deadline: float | None
    used: float
    pins: int = 0


@dataclass
class Slots:
    """Tells a policy to grow when an entry comes and every slot is taken."""

    policy: ReferencePolicy
    limit: int | None
    slots: int = 0
    used: int = 0  # at most, at a time

    def prepare(self, entries: int) -> None:
        """One more is to come beside so many."""
        if entries == self.used == self.slots:
            self.slots = max(16, 2 * self.slots)
            if self.limit is not None and self.limit > self.used:
                self.slots = min(self.slots, self.limit)
            self.policy.grow(self.slots)


@dataclass
class ReferenceCache:
    """A cache as one would explain it: a dict beside a reference policy.

    ``removed`` collects (key, value, reason) in order, as ``on_evict`` would see them.
    """

    policy_name: str
    capacity: int | None = None
    capacity_bytes: int | None = None
    idle_ttl: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    entries: dict[object, Entry] = field(default_factory=dict)
    removed: list[tuple[object, object, str]] = field(default_factory=list)
    hits: int = 0
    misses: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.policy: ReferencePolicy = REFERENCES[self.policy_name](**self.options)
        self.policy.set_capacity_bytes(self.capacity_bytes or 0)
        self.policy.set_capacity(self.capacity)
        self.slots = Slots(self.policy, self.capacity)

    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries.values())

    def take(self, key: object, reason: str) -> None:
        self.policy.remove(key)
        self.removed.append((key, self.entries.pop(key).value, reason))

    def expired(self, entry: Entry) -> bool:
        idle = self.idle_ttl is not None and entry.used + self.idle_ttl <= self.now
        return idle or (entry.deadline is not None and entry.deadline <= self.now)

    def expire(self) -> None:
        for key, entry in list(self.entries.items()):
            if self.expired(entry):
                self.take(key, "expired")

    def use(self, key: object) -> None:
        self.entries[key].used = self.now
        self.policy.hit(key)

    def get(self, key: object) -> object:
        if key not in self.entries:
            self.misses += 1
            return None
        self.hits += 1
        self.use(key)
        return self.entries[key].value

    def pinned(self) -> set[object]:
        return {key for key, entry in self.entries.items() if entry.pins}

    def make_room(self, more: int, size: int, pinned: set[object], incoming: object | None) -> None:
        while True:
            crowded = bool(self.capacity) and len(self.entries) + more > (self.capacity or 0)
            heavy = bool(self.capacity_bytes) and self.bytes() + size > (self.capacity_bytes or 0)
            if not crowded and not heavy:
                return
            # Where bytes are the limit, as many entries fit as there are.
            self.policy.set_capacity(self.capacity if crowded else len(self.entries))
            key = self.policy.evict(pinned, incoming)
            if key is None:
                return
            self.removed.append((key, self.entries.pop(key).value, "capacity"))

    def put(
        self,
        key: object,
        value: object,
        size: int = 0,
        ttl: float | None = None,
        cost: float = 1.0,
    ) -> str:
        """'stored', 'too large' or 'pinned'; the last two change nothing."""
        limit, max_bytes = self.capacity, self.capacity_bytes
        pinned = self.pinned()
        if max_bytes and size > max_bytes:
            return "too large"
        if max_bytes and sum(self.entries[k].size for k in pinned if k != key) + size > max_bytes:
            return "pinned"
        if limit and key not in self.entries and len(pinned) >= limit:
            return "pinned"
        deadline = None if ttl is None else self.now + ttl
        old = self.entries.get(key)
        if old is None:
            if not limit or len(self.entries) < limit:
                self.slots.prepare(len(self.entries))
            self.make_room(1, size, pinned, key)
            self.entries[key] = Entry(value, size, cost, deadline, self.now)
            self.slots.used = max(self.slots.used, len(self.entries))
            self.policy.insert(key, size, cost)
        else:
            self.make_room(0, max(size - old.size, 0), pinned | {key}, None)
            self.removed.append((key, old.value, "replaced"))
            old.value, old.size, old.cost, old.deadline = value, size, cost, deadline
            old.used = self.now
            self.policy.update(key, size, cost)
        return "stored"

    def resize(self, capacity: int) -> None:
        self.capacity = self.slots.limit = capacity
        self.policy.set_capacity(capacity)
        self.make_room(0, 0, self.pinned(), None)

    def change_policy(self, name: str) -> None:
        old, self.policy_name, self.options = self.policy, name, {}
        if not self.capacity and self.entries:
            old.set_capacity(len(self.entries))
        self.policy = self.slots.policy = REFERENCES[name]()
        if self.slots.slots:
            self.policy.grow(self.slots.slots)
        self.policy.set_capacity_bytes(self.capacity_bytes or 0)
        self.policy.set_capacity(self.capacity)
        uses = {key: min(old.uses(key), 16) for key in self.entries}
        while (key := old.evict(set(), None)) is not None:
            self.policy.insert(key, self.entries[key].size, self.entries[key].cost)
            for _ in range(uses[key] - 1):
                self.policy.hit(key)
        self.policy.unlearn()

    def clear(self) -> None:
        for key in list(self.entries):
            self.take(key, "cleared")
        self.__post_init__()
