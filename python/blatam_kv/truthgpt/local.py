"""``local``: a Hugging Face causal language model in a folder of this machine.

Needs the extra ``local`` (torch and transformers). Nothing is fetched, no code that lies beside the
weights is run, and weights are read from safetensors only, never from a pickle.

With a store, a prompt whose beginning was computed before, by any process, begins there. Keys and
values go through the host's memory; a pool of the device's keeps what came up, as the store has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from blatam_kv._core import framed_digest
from blatam_kv.blocks import KVLayout, KVStore
from blatam_kv.config import LOCAL_DTYPES, Settings
from blatam_kv.errors import ConfigError, Error, InvalidRequest, MissingExtra, Unsupported
from blatam_kv.metrics import TierSnapshot
from blatam_kv.truthgpt.faults import failure
from blatam_kv.truthgpt.pool import Near, OpenTier, Pool
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    FinishReason,
    FloatArray,
    Message,
    Sampling,
    Tokens,
    Usage,
    joined,
)
from blatam_kv.truthgpt.release import Release
from blatam_kv.truthgpt.sampler import Sampler
from blatam_kv.truthgpt.wording import Speech, Wording

if TYPE_CHECKING:
    from blatam_kv.integrations.transformers import KVCache

log = logging.getLogger("blatam_kv.truthgpt")

# Where a configuration does not say how long prompt and answer may be.
DEFAULT_CONTEXT_TOKENS = 4096
_PERSON = b"blatamkv-local-1"


def generate(model: Any, input_ids: Any = None, *, store: KVStore, **options: Any) -> Any:
    """``model.generate(input_ids, **options)`` of your own transformers model, starting from what
    the store has of the prompts; see ``blatam_kv.integrations.transformers.generate``.

    Raises MissingExtra without torch or transformers.
    """
    from blatam_kv.integrations import transformers

    return transformers.generate(model, input_ids, store=store, **options)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model ready to answer. layout: of its keys and values, or why a store cannot hold them."""

    model: Any
    wording: Wording
    ends: frozenset[int]
    context_tokens: int
    fingerprint: str
    layout: KVLayout | Unsupported


class Local:
    """A model in a folder; implements TruthGPT and KeepsPrefixes. Any number of threads may share it.

    folder: as ``save_pretrained`` writes it, tokenizer included. store: where keys and values of
    prompts and answers are kept; one that cannot be used costs time, never the answer. dtype: of
    weights and computation, "auto" for that of the file. device: as torch names it. context_tokens:
    by default what the configuration says. pool: of the device's memory, for prefixes; closed with
    the model. The folder is read at the first use, once.
    """

    def __init__(
        self,
        folder: str | Path,
        store: KVStore | None = None,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        context_tokens: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        if dtype not in LOCAL_DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(LOCAL_DTYPES)}, not {dtype!r}")
        if context_tokens is not None and context_tokens < 1:
            raise ConfigError(f"context_tokens must be at least 1, not {context_tokens}")
        self._folder = Path(folder)
        self._dtype, self._device, self._context_tokens = dtype, device, context_tokens
        self._store = store
        self._pool = pool or Pool(0, device)
        self._bound: tuple[KVStore, bool] | None = None
        self._lock = threading.Lock()  # guards _loaded and _bound
        self._running = threading.Lock()  # one pass through the model at a time
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return f"Local({str(self._folder)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.close()

    def tiers(self) -> list[TierSnapshot]:
        """What lies in the device's memory."""
        return self._pool.tiers()

    @property
    def model_id(self) -> str:
        """The folder's name."""
        return self._folder.resolve().name

    @property
    def fingerprint(self) -> str:
        """A digest of configuration, weights (sampled), tokenizer and chat template, in hex."""
        return self._ready().fingerprint

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return self._ready().context_tokens

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_dim). Raises Unsupported, with the reason, for a model whose
        prefixes cannot be kept."""
        layout = self._layout()
        return layout.layers, layout.kv_heads, layout.head_dim

    @property
    def kv_dtype(self) -> str:
        """The dtype of keys and values. Raises as ``kv_shape``."""
        return self._layout().dtype

    def keep_prefixes(self, store: KVStore) -> None:
        """Look for prefixes in this store, and keep them there, from now on."""
        with self._lock:
            self._store, self._bound = store, None

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """The prompt as token ids, int32 ``[tokens]``. Raises InvalidRequest, see Wording."""
        return self._ready().wording.encode(messages)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens that these messages take, template included."""
        return len(self.encode(messages))

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The whole answer. Raises InvalidRequest if the prompt leaves no room to answer."""
        return joined(self.stream(messages, sampling=sampling, salt=salt))

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The same answer in pieces; their texts joined are exactly ``generate``'s text.

        Raises InvalidRequest here, not at the first piece; ModelError where the model fails.
        """
        return self.resume(messages, "", sampling=sampling, salt=salt)

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """What follows ``begun``, the beginning of the answer. Raises as ``stream`` does."""
        loaded = self._ready()
        tokens = loaded.wording.encode(messages, begun=begun)
        limit = loaded.context_tokens
        if not 0 < len(tokens) < limit:
            raise InvalidRequest(
                f"the prompt has {len(tokens)} tokens; {self.model_id} holds {limit} with the "
                "answer. Send a prompt that is shorter, and not empty",
                field="messages",
            )
        return self._answer(loaded, tokens, sampling, self._usable(loaded, salt))

    # ---- inside ---------------------------------------------------------------------------------

    def _answer(
        self, loaded: _Loaded, tokens: Tokens, sampling: Sampling, store: KVStore | None
    ) -> Iterator[Chunk]:
        room = min(sampling.max_tokens, loaded.context_tokens - len(tokens))
        cache, cached = self._recalled(loaded, store, tokens, len(tokens) + room)
        read = tokens.tolist()
        logits = self._step(loaded, read[cached:], cache, store)
        sampler, release = Sampler(sampling), Release(sampling.stop)
        speech = Speech(loaded.wording.text)
        written = 0
        reason: FinishReason = "length"
        try:
            while written < room:
                token = sampler.choose(logits)
                if token in loaded.ends:
                    reason = "stop"
                    break
                written += 1
                read.append(token)
                text = release.push(speech.push(token).encode())
                if text:
                    yield Chunk(text)
                if release.stopped:
                    break
                if written == 1:  # for who asks meanwhile; the first word did not wait for it
                    self._remember(store, cache, read)
                if written < room:
                    logits = self._step(loaded, [token], cache)
            rest = "" if release.stopped else release.push(speech.finish().encode())
            rest += release.finish()
        finally:  # also when nobody wants the rest
            self._remember(store, cache, read)
        if release.stopped:
            reason = "stop"
        yield Chunk(rest, reason, Usage(len(tokens), written, cached))

    def _step(
        self, loaded: _Loaded, tokens: list[int], cache: KVCache, store: KVStore | None = None
    ) -> FloatArray:
        """Read tokens; the logits that follow the last one. store: to be told what that took."""
        import torch

        from blatam_kv.integrations.transformers import forward

        try:
            with self._running, torch.inference_mode():
                began = time.perf_counter()
                logits: FloatArray = forward(loaded.model, tokens, cache).float().cpu().numpy()
                seconds = time.perf_counter() - began
        except (RuntimeError, MemoryError) as error:
            raise failure(error, f"{self.model_id} failed: {error}") from error
        if store is not None:
            store.observe(len(tokens), seconds)
        return logits

    def _recalled(
        self, loaded: _Loaded, store: KVStore | None, tokens: Tokens, room: int
    ) -> tuple[KVCache, int]:
        """A cache for the prompt, and how many of its tokens the store filled in."""
        from blatam_kv.integrations.transformers import KVCache, Row, restore

        def empty() -> KVCache:
            return KVCache(loaded.model.config, reserve=room, keep_past=store is not None)

        cache = empty()
        if store is None:
            return cache, 0
        if filled := self._pool.restore(cache, store, tokens, reserve=room, near=_near):
            return cache, filled
        try:
            return cache, restore(cache, store, [Row(0, tokens)], reserve=room)
        except (Error, RuntimeError, MemoryError) as error:
            log.warning("prefixes are not reused: %s", error)
            return empty(), 0

    def _remember(self, store: KVStore | None, cache: KVCache, read: list[int]) -> None:
        """Keep the whole blocks of what the cache has read."""
        import numpy as np

        from blatam_kv.integrations.transformers import Row, keep

        if store is None:
            return
        try:
            keep(cache, store, [Row(0, np.asarray(read))])
        except (Error, RuntimeError, MemoryError) as error:
            log.warning("prefixes are not kept: %s", error)

    def _usable(self, loaded: _Loaded, salt: bytes) -> KVStore | None:
        """A tenant's part of the store, bound to this model at its first use, if it is for such a
        model."""
        with self._lock:
            store = self._store
            if store is None:
                return None
            if self._bound is None or self._bound[0] is not store:
                self._bound = store, _binds(store, loaded)
            if not self._bound[1]:
                return None
        try:
            return store.tenant(salt) if salt else store
        except Error as error:
            log.warning("prefixes are not reused: %s", error)
            return None

    def _layout(self) -> KVLayout:
        layout = self._ready().layout
        if isinstance(layout, Unsupported):
            raise layout
        return layout

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = self._read_folder()
        return self._loaded

    def _read_folder(self) -> _Loaded:
        if not self._folder.is_dir():
            raise ConfigError(f"there is no folder {self._folder}; the model local needs one")
        try:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForCausalLM, AutoTokenizer

            from blatam_kv.integrations.transformers import fingerprint, layout_of
        except ImportError as error:
            raise MissingExtra("transformers", extra="local") from error
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        dtype = self._dtype if self._dtype == "auto" else getattr(torch, self._dtype)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self._folder, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(
                self._folder, dtype=dtype, use_safetensors=True, **options
            )
            model = model.to(self._device).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise failure(error, f"cannot load {self._folder}: {error}") from error
        wording = Wording(tokenizer)
        try:
            layout: KVLayout | Unsupported = layout_of(model)
        except Unsupported as reason:
            layout = reason
        text = model.config.get_text_config(decoder=True)
        context = self._context_tokens or getattr(text, "max_position_embeddings", None)
        fields = [fingerprint(model).encode(), *wording.identity]
        return _Loaded(
            model=model,
            wording=wording,
            ends=_ends(model, wording),
            context_tokens=int(context or DEFAULT_CONTEXT_TOKENS),
            fingerprint=framed_digest(fields, key=b"", person=_PERSON).hex(),
            layout=layout,
        )


def from_settings(
    settings: Settings, store: KVStore | None = None, *, device: str | None = None
) -> Local:
    """The model that the settings describe, on their device or another. ConfigError without a folder."""
    if settings.local_model is None:
        raise ConfigError(
            "the model local needs a folder: --local-model, BUL_LOCAL_MODEL or bul.local_model"
        )
    return Local(
        settings.local_model,
        store,
        dtype=settings.local_dtype,
        device=device or settings.local_device,
        context_tokens=settings.local_context_tokens,
        pool=Pool(settings.local_gpu_pool_mb << 20, device or settings.local_device),
    )


def _binds(store: KVStore, loaded: _Loaded) -> bool:
    layout = loaded.layout
    if isinstance(layout, Unsupported):
        log.warning("prefixes are not kept: %s", layout)
        return False
    wanted, found = (
        (each.layers, each.kv_heads, each.head_dim, each.dtype) for each in (layout, store.layout)
    )
    if wanted != found:
        log.warning("prefixes are not kept: the model needs %s, the store has %s", wanted, found)
        return False
    return store.bind(loaded.fingerprint)


def _near(open_tier: OpenTier, device: str) -> Near:
    from blatam_kv.integrations.transformers import near

    return near.Near(open_tier, device)


def _ends(model: Any, wording: Wording) -> frozenset[int]:
    """The tokens that end an answer."""
    found: set[int] = set() if wording.end is None else {wording.end}
    for config in (model.generation_config, model.config):
        token = getattr(config, "eos_token_id", None)
        if token is not None:
            found |= set(token) if isinstance(token, list | tuple) else {token}
    return frozenset(found)
