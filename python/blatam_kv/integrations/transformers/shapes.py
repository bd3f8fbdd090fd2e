"""What a model's keys and values look like, and whether a prefix of them means anything on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from blatam_kv.blocks import KVLayout
from blatam_kv.errors import Unsupported
from blatam_kv.tensors import STORAGE

# Rotary embeddings whose angles depend on how long the whole prompt is.
_ROPE_BY_LENGTH = frozenset({"dynamic", "longrope"})


def layout_of(model: Any, *, block_tokens: int = 64) -> KVLayout:
    """The layout that a ``KVStore`` for this model needs.

    model: a transformers causal language model. Layers that read another one's keys and values count
    for nothing. Raises Unsupported for a model whose prefixes cannot be stored: the reason says why.
    """
    check_causal(model)
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVLayout(
        layers=config.num_hidden_layers - _sharing(config),
        kv_heads=heads,
        head_dim=dim,
        dtype=dtype_name(model.dtype),
        block_tokens=block_tokens,
    )


def dtype_name(dtype: Any) -> str:
    """A torch dtype as we call it. Raises Unsupported for one that no codec knows."""
    name = str(dtype).removeprefix("torch.")
    if name not in STORAGE:
        raise Unsupported(f"keys and values of {name} cannot be stored; {', '.join(STORAGE)} can")
    return name


def check_causal(model: Any) -> None:
    """Raises Unsupported unless keys and values of a token follow from the tokens up to it alone.

    A window does not matter: what a layer computes for a token is the same whoever asks for it.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise Unsupported("an encoder reads the whole prompt, so no prefix stands on its own")
    text = config.get_text_config(decoder=True)
    if getattr(text, "use_bidirectional_attention", None) or not getattr(text, "is_causal", True):
        raise Unsupported("the model looks ahead, so no prefix stands on its own")
    for name in _rope_types(text.to_dict()):
        if name in _ROPE_BY_LENGTH:
            raise Unsupported(
                f"rotary embeddings of the type {name!r} depend on the length of the whole prompt, "
                "so a prefix of another prompt may differ"
            )
    if model.training:
        raise Unsupported("the model is in training mode; call model.eval()")


def _sharing(config: Any) -> int:
    """Layers without keys and values of their own."""
    modes = getattr(config, "kv_sharing_modes", None)
    if modes is not None:
        return sum(mode == "reuse" for mode in modes)
    return getattr(config, "num_kv_shared_layers", None) or 0


def _rope_types(part: Any) -> Iterator[str]:
    """Every rope type that a configuration names, one for all layers or one for each kind."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in ("rope_type", "type") and isinstance(value, str):
                yield value
            else:
                yield from _rope_types(value)
