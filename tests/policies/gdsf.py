from __future__ import annotations

import math
from dataclasses import dataclass

from policies.base import Base


@dataclass
class Use:
    worth: float
    count: int
    priority: int = 0
    step: int = 0


class Gdsf(Base):
    def __init__(self) -> None:
        self.clock = 0  # in units of 2^-64
        self.step = 0
        self.uses_of: dict[object, Use] = {}

    def use(self, key: object) -> None:
        use = self.uses_of[key]
        value = min(max(use.worth * use.count, 2.0**-60), 2.0**40 * 31 / 32)
        mantissa, exponent = math.frexp(value)  # 0.5 <= mantissa < 1
        self.step += 1
        use.priority = self.clock + (int(mantissa * 32) << (exponent + 59))
        use.step = self.step

    def insert(self, key: object, size: int, cost: float) -> None:
        self.uses_of[key] = Use(cost / max(size, 1), 1)
        self.use(key)

    def hit(self, key: object) -> None:
        self.uses_of[key].count += 1
        self.use(key)

    def update(self, key: object, size: int, cost: float) -> None:
        self.uses_of[key].worth = cost / max(size, 1)
        self.hit(key)

    def uses(self, key: object) -> int:
        return self.uses_of[key].count

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        free = [key for key in self.uses_of if key not in pinned]
        if not free:
            return None
        key = min(free, key=lambda key: (self.uses_of[key].priority, self.uses_of[key].step))
        self.clock = max(self.clock, self.uses_of[key].priority)
        del self.uses_of[key]
        return key

    def remove(self, key: object) -> None:
        del self.uses_of[key]
