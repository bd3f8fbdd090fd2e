"""Where entries live: memory, disk. All behind one Protocol, ``Tier``."""

from blatam_kv.tiers.disk import DiskStats, DiskTier
from blatam_kv.tiers.memory import MemoryStats, MemoryTier
from blatam_kv.tiers.protocol import Tier

__all__ = ["DiskStats", "DiskTier", "MemoryStats", "MemoryTier", "Tier"]
