"""TruthGPT: the language models behind one protocol, and how to get one by name."""

from __future__ import annotations

from blatam_kv import config
from blatam_kv.config import MODELS, Settings
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


def load(
    name: str | None = None,
    *,
    store: PrefixStore | None = None,
    settings: Settings | None = None,
) -> TruthGPT:
    """The language model of this name. Raises ConfigError, listing the names, for an unknown one.

    name: by default the one in ``settings``, or ``mini`` without any. store: keeps keys and values
    of prompts, for models that run here; it must have the model's layout. settings: where an
    endpoint or a folder is, and which devices; by default what the environment says.
    """
    name = name or (settings.model if settings is not None else "mini")
    if name == "mini":
        from blatam_kv.truthgpt.mini import Mini

        if settings is None or not settings.devices:
            return Mini(store)
        from blatam_kv.truthgpt.placement import on_devices

        return on_devices(settings, lambda device: Mini(store), torch=False)
    if name == "local":
        from blatam_kv.blocks import KVStore
        from blatam_kv.truthgpt.local import from_settings as local_from_settings

        if not isinstance(store, KVStore | None):
            raise TypeError(f"the model local needs a KVStore, not a {type(store).__name__}")
        chosen, kept = settings or config.load(), store
        if not chosen.devices:
            return local_from_settings(chosen, kept)
        from blatam_kv.truthgpt.placement import on_devices

        return on_devices(
            chosen, lambda device: local_from_settings(chosen, kept, device=device), torch=True
        )
    if name == "openai":
        from blatam_kv.truthgpt.placement import at_endpoints

        return at_endpoints(settings or config.load())
    hint = config.did_you_mean(name, MODELS)
    raise ConfigError(f"unknown model {name!r}; known: {', '.join(MODELS)}{hint}")
