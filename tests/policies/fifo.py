from __future__ import annotations

from policies.lru import Lru


class Fifo(Lru):
    def hit(self, key: object) -> None:
        pass
