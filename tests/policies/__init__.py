"""Each eviction policy as one would explain it: lists, dicts and scans, nothing clever.

One file a policy, named after it. ``Cache`` is compared with them step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from policies.adaptive import Adaptive
from policies.arc import Arc
from policies.density import Density
from policies.fifo import Fifo
from policies.gdsf import Gdsf
from policies.lfu import Lfu
from policies.lirs import Lirs
from policies.lru import Lru
from policies.pattern import ByPattern
from policies.s3fifo import S3Fifo
from policies.sieve import Sieve
from policies.tinylfu import TinyLfu


class ReferencePolicy(Protocol):
    """``insert`` … ``remove`` mirror csrc/core/policy.h; keys stand in for slots."""

    def grow(self, slots: int) -> None: ...
    def set_capacity(self, entries: int | None) -> None: ...
    def set_capacity_bytes(self, limit: int) -> None: ...
    def insert(self, key: object, size: int, cost: float) -> None: ...
    def hit(self, key: object) -> None: ...
    def update(self, key: object, size: int, cost: float) -> None: ...
    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        """The victim, taken out; None if all are pinned. incoming: None for a shrinking cache."""

    def remove(self, key: object) -> None: ...
    def uses(self, key: object) -> int: ...
    def unlearn(self) -> None:
        """Forget what was learned, not what is inside."""

    def begin_request(self, last: object | None) -> None: ...
    def link(self, parent: object, child: object) -> None: ...


REFERENCES: dict[str, Callable[..., ReferencePolicy]] = {
    "lru": Lru,
    "lfu": Lfu,
    "fifo": Fifo,
    "s3fifo": S3Fifo,
    "sieve": Sieve,
    "tinylfu": TinyLfu,
    "arc": Arc,
    "lirs": Lirs,
    "gdsf": Gdsf,
    "density": Density,
    "adaptive": Adaptive,
    "pattern": ByPattern,
}
