"""blatam_kv: a KV cache engine for LLM serving and document generation."""

from blatam_kv._core import __version__
from blatam_kv.cache import Cache, CacheStats
from blatam_kv.cached import cached
from blatam_kv.codecs import BlobInfo, dequantize, describe, encoded_size, quantize
from blatam_kv.errors import (
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
    Unsupported,
)
from blatam_kv.pages import Pages
from blatam_kv.probe import Quality, quality
from blatam_kv.simulation import Simulation, SimulationResult, simulate

__all__ = [
    "BlobInfo",
    "Cache",
    "CacheStats",
    "ConfigError",
    "CorruptBlob",
    "CorruptRecord",
    "EntryTooLarge",
    "Error",
    "InvalidRequest",
    "MissingExtra",
    "ModelError",
    "NoRoom",
    "Pages",
    "Quality",
    "ReentrantComputation",
    "Simulation",
    "SimulationResult",
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
