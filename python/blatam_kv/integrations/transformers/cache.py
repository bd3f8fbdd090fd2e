"""``KVCache``: what a transformers model keeps of the tokens it has read, in our buffers and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from blatam_kv import codecs
from blatam_kv.errors import ConfigError, Unsupported
from blatam_kv.integrations.transformers.layers import GrowingLayer
from blatam_kv.integrations.transformers.sealed import Scratch, SealedLayer
from blatam_kv.pages import Pages

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OurLayer = GrowingLayer | SealedLayer


class KVCache(Cache):
    """A transformers ``Cache``: pass it to ``generate`` or to the model as ``cache``.

    It gives the tokens that ``DynamicCache`` gives, but appending costs what is appended. config:
    the model's; it says which layers see a window only, or keep other things than keys and values
    (linear attention, convolutions: those are transformers' own layers). Without it all layers see
    everything. reserve: how many tokens to take memory for at once. keep_past: whether layers with
    a window keep all tokens, which a store needs.

    codec: compress tokens that grow old, one of ``codecs.NAMES``; None keeps them as they are. The
    first ``sink`` tokens and at least the last ``residual`` stay bit for bit, sink a multiple of 64;
    seed is that of codecs that rotate. Tokens are decoded for attention one layer at a time. Layers
    with a window are bounded and stay as they are.

    Not for training, and not for several threads at once. Raises ConfigError for an unknown codec,
    InvalidRequest for the other options of pages.
    """

    def __init__(
        self,
        config: PreTrainedConfig | None = None,
        *,
        codec: str | None = None,
        sink: int = 64,
        residual: int = 64,
        seed: int = 0,
        reserve: int = 0,
        keep_past: bool = False,
    ) -> None:
        if codec is not None and codec not in codecs.NAMES:
            raise ConfigError(f"codec must be one of {', '.join(codecs.NAMES)}, not {codec!r}")
        self.codec = codec
        self.reused: tuple[int, ...] = ()
        self.rearranged = False
        self._scratches: list[Scratch] = []
        pages: dict[str, Any] = {"sink": sink, "residual": residual, "seed": seed}
        pages["codec"] = codec or "raw"
        Pages(kv_heads=1, head_dim=1, dtype="float32", **pages)  # complains now, not in a layer
        # Where layers read each other's tokens, what one was shown must outlive the next one's turn.
        shared = None if _layers_share_tokens(config) else self._new_scratch()

        def layer(window: int | None = None) -> OurLayer:
            if codec is None or window is not None:
                return GrowingLayer(window, reserve=reserve, keep_past=keep_past)
            return SealedLayer(shared or self._new_scratch(), **pages)

        if config is None:
            super().__init__(layer_class_to_replicate=layer)
            return
        layers = []
        for theirs in DynamicCache(config=config).layers:
            if type(theirs) is DynamicSlidingWindowLayer:
                layers.append(layer(theirs.sliding_window))
            else:
                layers.append(layer() if type(theirs) is DynamicLayer else theirs)
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take, spare room and scratch memory included; of our layers."""
        ours = sum(layer.nbytes for layer in self.layers if isinstance(layer, OurLayer))
        return ours + sum(scratch.nbytes for scratch in self._scratches)

    @property
    def keeping(self) -> list[OurLayer]:
        """The layers with keys and values, those without (shared ones) left out.

        Raises Unsupported if a layer keeps something else, of which a prefix cannot be taken.
        """
        kept = []
        for number, layer in enumerate(self.layers):
            if isinstance(layer, OurLayer):
                kept.append(layer)
            elif not self.is_dummy[number]:
                raise Unsupported(
                    f"layer {number} keeps a state of its own ({type(layer).__name__}) that no "
                    "prefix can be taken of"
                )
        return kept

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Have these rows instead, in this order."""
        self.rearranged = True
        super().reorder_cache(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """The same, rows by number or by a mask."""
        self.rearranged = True
        super().batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        self.reused, self.rearranged = (), False
        super().reset()

    def _new_scratch(self) -> Scratch:
        scratch = Scratch()
        self._scratches.append(scratch)
        return scratch


def _layers_share_tokens(config: Any) -> bool:
    """Whether a layer reads the keys and values of an earlier one, as in Gemma 3n."""
    if config is None:
        return False
    text = config.get_text_config(decoder=True)
    return bool(
        getattr(text, "kv_sharing_modes", None) or getattr(text, "num_kv_shared_layers", None)
    )
