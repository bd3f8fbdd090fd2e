"""The engine for Hugging Face transformers: a ``Cache`` of ours, and prompts kept in a ``KVStore``.

Needs the extra ``local``. ``blatam_kv.truthgpt.local.generate`` is the short way to all of it.
"""

from __future__ import annotations

from blatam_kv.errors import MissingExtra

try:
    from blatam_kv.integrations.transformers.cache import KVCache
    from blatam_kv.integrations.transformers.fingerprint import fingerprint
    from blatam_kv.integrations.transformers.generation import forward, generate
    from blatam_kv.integrations.transformers.prefix import Row, keep, restore, rows_of
    from blatam_kv.integrations.transformers.shapes import layout_of
except ModuleNotFoundError as error:
    library = (error.name or "").partition(".")[0]
    if library not in ("torch", "transformers"):
        raise
    raise MissingExtra(library, extra="local") from error

__all__ = [
    "KVCache",
    "Row",
    "fingerprint",
    "forward",
    "generate",
    "keep",
    "layout_of",
    "restore",
    "rows_of",
]
