"""``model.generate`` that begins where a store's prefix ends."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from blatam_kv.blocks import KVStore
from blatam_kv.errors import InvalidRequest, Unsupported
from blatam_kv.integrations.transformers.cache import KVCache
from blatam_kv.integrations.transformers.fingerprint import fingerprint
from blatam_kv.integrations.transformers.prefill import prefill_told
from blatam_kv.integrations.transformers.prefix import (
    Row,
    keep,
    restore,
    rounds_alike,
    rows_of,
)
from blatam_kv.integrations.transformers.shapes import check_causal, layout_of

# What may be passed on to the model without changing its keys and values.
_HARMLESS = frozenset({
    "attention_mask", "use_cache", "logits_to_keep", "output_attentions", "output_hidden_states",
    "return_dict", "tokenizer", "assistant_tokenizer", "trust_remote_code",
})  # fmt: skip
_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
# What may go wrong with a store that must not cost the answer: a shape that does not fit, memory
# (RuntimeError is torch's way to say that there is none), a store that was closed meanwhile.
_SETBACKS = (Unsupported, MemoryError, RuntimeError)


def generate(
    model: Any,
    input_ids: torch.Tensor | None = None,
    *,
    store: KVStore,
    codec: str | None = None,
    **options: Any,
) -> Any:
    """``model.generate(input_ids, **options)``, starting from what the store has of the prompts.

    model: a transformers causal language model. input_ids: ``[rows, tokens]``, padded on the left
    where rows differ. store: bound to the model by the first call; the prompts' blocks are saved in
    it afterwards, and of a single row the answer's too; it is told how long the model reads. codec:
    see KVCache. options: everything that ``model.generate`` takes; without ``attention_mask``, pad tokens to the left are padding.

    Returns what ``model.generate`` returns, the same tokens as without a store while the codecs of
    cache and store lose nothing (sums are rounded differently where a prompt is computed in parts,
    so ties may fall either way). Where the store cannot be used, it warns why and generates without.
    """
    if input_ids is None:
        input_ids = options.pop("inputs", None)
    try:
        rows, options = _prepared(model, input_ids, store, codec, dict(options))
        if not store.bind(fingerprint(model)):  # which has said so
            return model.generate(input_ids, **options)
        cache = KVCache(model.config, codec=codec, keep_past=True)
        restore(cache, store, rows, reserve=_reserve(rows, options), multiple=_piece(options))
    except _SETBACKS as reason:
        return _without(model, input_ids, options, reason)
    with prefill_told(model, store.observe, least=store.layout.block_tokens):
        answer = model.generate(input_ids, **{cache_argument(model): cache}, **options)
    try:
        keep(cache, store, _read(answer, rows, cache))
    except _SETBACKS as reason:  # the answer is there, and stays
        _warn(reason)
    return answer


def forward(model: Any, tokens: Sequence[int], cache: KVCache) -> torch.Tensor:
    """Let the model read one row of tokens after those in the cache; the last one's logits."""
    known = inspect.signature(model.forward).parameters
    few = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    ids = torch.tensor([tokens], device=model.device)
    logits: torch.Tensor = model(
        ids, use_cache=True, **{cache_argument(model): cache}, **few
    ).logits
    return logits[0, -1]


def cache_argument(model: Any) -> str:
    """What the model calls its cache: transformers renamed the argument in 5.24."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def check_usable(model: Any, store: KVStore, codec: str | None) -> None:
    """Raises Unsupported if the store is for keys and values of another kind than the model's.

    Raises InvalidRequest for a codec that rounds what the store promises to keep.
    """
    check_causal(model)
    if codec is not None and not rounds_alike(codec, store):
        raise InvalidRequest(
            f"codec {codec!r} rounds keys and values, and the store keeps {store.codec!r}; open "
            "the store with the same codec, or generate without one",
            field="codec",
        )
    found = layout_of(model, block_tokens=store.layout.block_tokens)
    if found != store.layout:
        raise Unsupported(f"the model needs {found}, and the store has {store.layout}")


def _prepared(
    model: Any, input_ids: torch.Tensor | None, store: KVStore, codec: str | None, options: Any
) -> tuple[list[Row], dict[str, Any]]:
    """The prompts, and the options with a mask; Unsupported says why a store is of no use."""
    check_usable(model, store, codec)
    if input_ids is None:
        raise Unsupported("a prompt that is not given as input_ids has no tokens to go by")
    harmless = _HARMLESS | set(inspect.signature(model.generate).parameters)
    settings = vars(model.generation_config)
    for name, value in options.items():
        if value is not None and name not in harmless and name not in settings:
            raise Unsupported(f"{name} may change what the model computes for the same tokens")
    for name in ("custom_generate", "cache_implementation"):
        if options.get(name) is not None:
            raise Unsupported(f"{name} brings a cache of its own")
    config = options.get("generation_config") or model.generation_config
    for name in _ASSISTED:
        if options.get(name) or getattr(config, name, None):
            # As of transformers 5.24 it appends the whole prompt to a cache that holds a part of it.
            raise Unsupported(f"{name}: assisted decoding cannot start from a part of a prompt")
    if options.get("token_healing") or getattr(config, "token_healing", None):
        raise Unsupported("token_healing changes the prompt")
    if options.get("use_cache") is False:
        raise Unsupported("use_cache is False")
    mask = options.get("attention_mask")
    if mask is None:
        mask = options["attention_mask"] = _mask(model, input_ids, options)
    rows = rows_of(input_ids, mask)
    if any(not len(row.tokens) for row in rows):
        raise Unsupported("a row is nothing but padding")
    padded = any(row.padding for row in rows)
    if padded and "position_ids" not in inspect.signature(model.forward).parameters:
        raise Unsupported("the model counts padding among its positions")
    return rows, options


def _mask(model: Any, input_ids: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """What ``generate`` would assume: pad tokens are padding, unless they also end answers."""
    config = options.get("generation_config") or model.generation_config
    pad, ends = (
        options[name] if options.get(name) is not None else getattr(config, name, None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = ends if isinstance(ends, list | tuple) else [ends]
    if pad is None or pad in ends:
        return torch.ones_like(input_ids)
    return input_ids.ne(pad).to(input_ids.dtype)


def _piece(options: dict[str, Any]) -> int:
    """The size of the pieces that prompts are read in, if they are: whoever begins where a piece
    begins has the same products, of the same shapes, as who begins at the front."""
    config = options.get("generation_config")
    size = options.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None)
    return int(size or 1)


def _reserve(rows: list[Row], options: dict[str, Any]) -> int:
    """Columns that the answer may need, if that is said."""
    config = options.get("generation_config")
    new = options.get("max_new_tokens") or getattr(config, "max_new_tokens", None) or 0
    return rows[0].padding + len(rows[0].tokens) + min(int(new), 4096)


def _read(answer: Any, rows: list[Row], cache: KVCache) -> list[Row]:
    """What the cache holds: the prompts, or a single row with its answer."""
    sequences = answer if isinstance(answer, torch.Tensor) else answer.sequences
    if len(sequences) != 1 or len(rows) != 1 or cache.rearranged:
        return rows
    return [Row(rows[0].padding, sequences[0].cpu().numpy()[rows[0].padding :])]


def _without(model: Any, input_ids: Any, options: Any, reason: Exception) -> Any:
    _warn(reason)
    return model.generate(input_ids, **options)


def _warn(reason: Exception) -> None:
    warnings.warn(f"the store is not used: {reason}", stacklevel=4)
