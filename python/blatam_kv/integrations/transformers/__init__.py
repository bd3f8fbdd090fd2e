"""The engine for Hugging Face transformers: a ``Cache`` of ours. Needs the extra ``local``.
"""

from __future__ import annotations

from blatam_kv.errors import MissingExtra

try:
    from blatam_kv.integrations.transformers.cache import KVCache
except ModuleNotFoundError as error:
    library = (error.name or "").partition(".")[0]
    if library not in ("torch", "transformers"):
        raise
    raise MissingExtra(library, extra="local") from error

__all__ = ["KVCache"]
