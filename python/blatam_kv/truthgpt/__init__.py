"""TruthGPT: the language models behind one protocol, and how to get one by name."""

from __future__ import annotations

from blatam_kv.errors import ConfigError
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    Message,
    Prefill,
    PrefixModel,
    PrefixStore,
    Sampling,
    TruthGPT,
    Usage,
)

__all__ = [
    "Chunk",
    "Completion",
    "Message",
    "Prefill",
    "PrefixModel",
    "PrefixStore",
    "Sampling",
    "TruthGPT",
    "Usage",
    "load",
]

MODELS = ("mini",)


def load(name: str = "mini", *, store: PrefixStore | None = None) -> TruthGPT:
    """The language model of this name. Raises ConfigError, listing the names, for an unknown one.

    store: keeps keys and values of prompts, for models that run here.
    """
    if name == "mini":
        from blatam_kv.truthgpt.mini import Mini

        return Mini(store)
    raise ConfigError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
