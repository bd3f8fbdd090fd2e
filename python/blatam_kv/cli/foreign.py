"""Keys, values and loss of a model that transformers can load. Needs the extra ``local``."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import numpy as np

from blatam_kv import codecs
from blatam_kv.cli.samples import Array, Sample
from blatam_kv.errors import InvalidRequest, MissingExtra, ModelError
from blatam_kv.pages import PAGE

# Long enough to have pages, ordinary enough for any model.
TEXT = (
    "A cache keeps what was expensive to compute close to where it will be needed again. A language "
    "model computes keys and values for every token that it reads, and reads the same beginning of "
    "a prompt many times: instructions, a document, the history of a conversation. Whoever keeps "
    "them answers sooner and cheaper, if they come back as they were. "
) * 12
MOST_TOKENS = 1024


def from_model(folder: Path, *, text: str = TEXT) -> Sample:
    """The sample of a transformers causal language model in a local directory.

    The first half of the text is read, its keys and values go through the codec, and the loss is
    that of the rest. Raises MissingExtra, InvalidRequest for a folder that is not there,
    ModelError for one that cannot be loaded.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"no folder {folder}; --model takes a local directory", field="model")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
    except ImportError as error:
        raise MissingExtra("transformers", extra="local") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.bfloat16
        )
        model.eval()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load {folder}: {error}") from error
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :MOST_TOKENS]
    half = ids.shape[1] // 2 // PAGE * PAGE
    if not half:
        raise InvalidRequest("the text is too short for this model's tokenizer", field="model")

    # transformers 5.24 renames the argument and warns of the old name.
    known = inspect.signature(model.forward).parameters
    argument = "cache" if "cache" in known else "past_key_values"

    def prefix() -> Any:
        cache = DynamicCache()
        with torch.inference_mode():
            model(ids[:, :half], use_cache=True, **{argument: cache})
        return cache

    def pairs(cache: Any) -> list[tuple[Any, Any]]:
        """Keys and values of each layer, [tokens, kv_heads, head_dim], views of the cache."""
        return [
            (layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1))
            for layer in cache.layers
        ]

    @functools.cache
    def loss(codec: str | None) -> float:
        cache = prefix()
        with torch.inference_mode():
            for layer, (keys, values) in enumerate(pairs(cache)):
                if codec is not None:
                    _through(keys, codec, "key", layer)
                    _through(values, codec, "value", layer)
            logits = model(ids[:, half:], use_cache=True, **{argument: cache}).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits.float(), ids[0, half + 1 :]))

    layers: list[tuple[Array, Array, Array | None]] = [
        (_bits(keys), _bits(values), None) for keys, values in pairs(prefix())
    ]
    about = f"{len(layers)} layers, {half} tokens through the codec, loss of the rest"
    return Sample(folder.name, about, layers, "bfloat16", loss)


def _through(x: Any, codec: str, kind: codecs.Kind, seed: int) -> None:
    """Replace a tensor's values by what a codec leaves of them."""
    codecs.dequantize(codecs.quantize(x, codec=codec, kind=kind, seed=seed), out=x)


def _bits(x: Any) -> Array:
    import torch

    bits: Array = x.contiguous().view(torch.uint16).numpy()
    return np.ascontiguousarray(bits)
