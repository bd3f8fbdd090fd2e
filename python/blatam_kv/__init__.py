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
)

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
    "__version__",
    "cached",
]
