"""Where entries live: memory, disk, Redis. All behind one Protocol, ``Tier``."""

from blatam_kv.tiers.behind import BehindStats, WriteBehind
from blatam_kv.tiers.counts import DiskStats
from blatam_kv.tiers.disk import DiskTier
from blatam_kv.tiers.memory import MemoryStats, MemoryTier
from blatam_kv.tiers.protocol import SharedTier, Tier

__all__ = [
    "BehindStats",
    "DiskStats",
    "DiskTier",
    "MemoryStats",
    "MemoryTier",
    "SharedTier",
    "Tier",
    "WriteBehind",
]
