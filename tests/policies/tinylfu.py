from __future__ import annotations

import math

from policies.base import Arrival, Base, mixed_hash, oldest


class Sketch:
    """Blocks of 4 rows of 32 counters; a hash has one counter in each row of one block."""

    def __init__(self) -> None:
        self.blocks = [[[0] * 32 for _ in range(4)] for _ in range(16)]

    def fit(self, entries: int) -> None:
        while len(self.blocks) * 4 < entries:
            self.blocks += [[list(row) for row in block] for block in self.blocks]

    def counters(self, key: object) -> list[tuple[list[int], int]]:
        bits = mixed_hash(key) * 0x9E3779B97F4A7C15 % 2**64
        bits ^= bits >> 32
        block = self.blocks[bits % len(self.blocks)]
        return [(row, bits >> (44 + 5 * i) & 31) for i, row in enumerate(block)]

    def add(self, key: object) -> None:
        for row, i in self.counters(key):
            row[i] = min(row[i] + 1, 15)

    def count(self, key: object) -> int:
        return min(row[i] for row, i in self.counters(key))

    def halve(self) -> None:
        self.blocks = [[[n // 2 for n in row] for row in block] for block in self.blocks]


class TinyLfu(Base):
    def __init__(self, window: float | None = None) -> None:
        self.window: list[object] = []  # least recently used first, all three
        self.probation: list[object] = []
        self.protected: list[object] = []
        self.sketch = Sketch()
        self.seen = 0
        self.arrival = Arrival()
        self.adapts = window is None
        self.share = 0.05 if window is None else window
        self.step = 0.0625
        self.last_ratio = 0.0
        self.hits = self.requests = 0

    def entries(self) -> int:
        return len(self.window) + len(self.probation) + len(self.protected)

    def window_size(self) -> int:
        return max(1, int(self.share * self.room(self.entries())))

    def protected_size(self) -> int:
        room = self.room(self.entries())
        return (room - min(room, self.window_size())) * 4 // 5

    def see(self, key: object, hit: bool) -> None:
        self.sketch.add(key)
        self.seen += 1
        if self.seen >= 10 * max(self.entries(), 1):
            self.sketch.halve()
            self.seen = 0
        if self.adapts:
            self.climb(hit)

    def climb(self, hit: bool) -> None:
        self.hits += hit
        self.requests += 1
        if self.requests < 10 * self.room(self.entries()):
            return
        ratio = self.hits / self.requests
        change = ratio - self.last_ratio
        if change < -math.sqrt(ratio * (1 - ratio) / self.requests):
            self.step = -self.step
        if not 0 <= self.share + self.step <= 0.8:
            self.step = -self.step
        self.share = min(max(self.share + self.step, 0.0), 0.8)
        jump = abs(change) >= 0.05
        self.step = math.copysign(0.0625, self.step) if jump else self.step * 0.98
        self.last_ratio = ratio
        self.hits = self.requests = 0

    def insert(self, key: object, size: int, cost: float) -> None:
        self.sketch.fit(self.entries() + 1)
        if self.arrival.announce(key):
            self.see(key, False)
        self.arrival.inserted()
        self.window.append(key)
        for _ in range(2):
            if len(self.window) > self.window_size():
                self.probation.append(self.window.pop(0))

    def hit(self, key: object) -> None:
        self.see(key, True)
        region = self.region(key)
        region.remove(key)
        (self.protected if region is self.probation else region).append(key)
        while region is self.probation and len(self.protected) > self.protected_size():
            self.probation.append(self.protected.pop(0))

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        if incoming is not None and self.arrival.announce(incoming):
            self.see(incoming, False)
        victim = oldest(self.probation + self.protected, pinned)
        candidate = oldest(self.window, pinned)
        if victim is None:
            victim = candidate
        elif candidate is not None and len(self.window) >= self.window_size():
            victim = min(candidate, victim, key=self.sketch.count)
        if victim is not None:
            self.remove(victim)
        return victim

    def region(self, key: object) -> list[object]:
        regions = (self.window, self.probation, self.protected)
        return next(region for region in regions if key in region)

    def remove(self, key: object) -> None:
        self.region(key).remove(key)
