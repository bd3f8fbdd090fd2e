"""blatam_kv: a KV cache engine for LLM serving and document generation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blatam_kv._core import __version__
from blatam_kv.cache import Cache, CacheStats
from blatam_kv.cached import cached
from blatam_kv.errors import (
    BackupDamaged,
    ConfigError,
    CorruptBlob,
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

if TYPE_CHECKING:
    from blatam_kv.blocks import BlockEvent, Fork, KVLayout, KVStore, KVStoreStats
    from blatam_kv.codecs import BlobInfo, dequantize, describe, encoded_size, quantize
    from blatam_kv.pages import Pages
    from blatam_kv.probe import Quality, quality
    from blatam_kv.simulation import Simulation, SimulationResult, simulate

__all__ = [
    "BackupDamaged",
    "BlobInfo",
    "BlockEvent",
    "Cache",
    "CacheStats",
    "ConfigError",
    "CorruptBlob",
    "CorruptRecord",
    "EntryTooLarge",
    "Error",
    "Fork",
    "InvalidRequest",
    "KVLayout",
    "KVStore",
    "KVStoreStats",
    "MissingExtra",
    "ModelError",
    "NoRoom",
    "Pages",
    "Quality",
    "ReentrantComputation",
    "Simulation",
    "SimulationResult",
    "TierUnavailable",
    "Unsupported",
    "__version__",
    "cached",
    "dequantize",
    "describe",
    "encoded_size",
    "quality",
    "quantize",
    "simulate",
]

# Whoever wants a cache does not wait for codecs: these modules are loaded when first asked for.
_LATER = {
    "blocks": ("BlockEvent", "Fork", "KVLayout", "KVStore", "KVStoreStats"),
    "codecs": ("BlobInfo", "dequantize", "describe", "encoded_size", "quantize"),
    "pages": ("Pages",),
    "probe": ("Quality", "quality"),
    "simulation": ("Simulation", "SimulationResult", "simulate"),
}


def __getattr__(name: str) -> Any:  # Any: whatever stands under that name
    for module, names in _LATER.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"blatam_kv.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
