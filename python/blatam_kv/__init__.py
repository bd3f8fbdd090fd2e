"""blatam_kv: a KV cache engine for LLM serving and document generation."""

from blatam_kv._core import __version__
from blatam_kv.cache import Cache, CacheStats
from blatam_kv.cached import cached
from blatam_kv.errors import (
    ConfigError,
    CorruptRecord,
    EntryTooLarge,
    Error,
    InvalidRequest,
    MissingExtra,
    ModelError,
    NoRoom,
    ReentrantComputation,
    TierUnavailable,
    Unsupported,
)
from blatam_kv.simulation import Simulation, SimulationResult, simulate

__all__ = [
    "Cache",
    "CacheStats",
    "ConfigError",
    "CorruptRecord",
    "EntryTooLarge",
    "Error",
    "InvalidRequest",
    "MissingExtra",
    "ModelError",
    "NoRoom",
    "ReentrantComputation",
    "Simulation",
    "SimulationResult",
    "TierUnavailable",
    "Unsupported",
    "__version__",
    "cached",
    "simulate",
]
