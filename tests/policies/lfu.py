from __future__ import annotations

import math

from policies.base import Base


class Lfu(Base):
    def __init__(self, decay: float = 1.0) -> None:
        self.decay = decay
        self.step = self.requests = self.age = 0
        # key: (count, how often all counts had faded then, when used last)
        self.used: dict[object, tuple[float, int, int]] = {}

    def use(self, key: object) -> None:
        self.step += 1
        self.requests += 1
        if self.requests >= len(self.used):
            self.requests = 0
            self.age += 1
        count, age, _ = self.used[key]
        count = count * math.pow(self.decay, self.age - age) + 1
        self.used[key] = (count, self.age, self.step)

    def insert(self, key: object, size: int, cost: float) -> None:
        self.used[key] = (0, self.age, 0)
        self.use(key)

    def hit(self, key: object) -> None:
        self.use(key)

    def uses(self, key: object) -> int:
        count, age, _ = self.used[key]
        return max(1, int(count * math.pow(self.decay, self.age - age)))

    def rank(self, key: object) -> tuple[float, int]:
        """Logarithm of the count had no use faded, but those to come were worth more."""
        count, age, step = self.used[key]
        if self.decay == 1:
            return count, step
        mantissa, exponent = math.frexp(min(count, 2.0**32 * 127 / 128))
        cut = math.ldexp(int(mantissa * 128), exponent - 7)
        fade = int(-math.log2(self.decay) * 2**32)
        return int(math.log2(cut) * 2**32) + age * fade, step

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        free = [key for key in self.used if key not in pinned]
        if not free:
            return None
        key = min(free, key=self.rank)
        del self.used[key]
        return key

    def remove(self, key: object) -> None:
        del self.used[key]
