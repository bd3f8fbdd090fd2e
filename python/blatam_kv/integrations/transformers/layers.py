"""The layers of our cache, one for each layer of a model that has keys and values."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from blatam_kv.errors import InvalidRequest, Unsupported
from blatam_kv.integrations.transformers.buffer import Buffer


class GrowingLayer(CacheLayerMixin):
    """Keys and values of one layer as they are, ``[rows, kv_heads, tokens, head_dim]``.

    window: how many tokens a query sees, itself included; None for all. What no query will see again
    is forgotten, unless ``keep_past`` is set (a prompt is stored whole). reserve: tokens to take
    memory for at once.
    """

    is_compileable = False
    is_croppable = True

    keys: torch.Tensor | None
    values: torch.Tensor | None

    def __init__(
        self, window: int | None = None, *, reserve: int = 0, keep_past: bool = False
    ) -> None:
        super().__init__()
        self.sliding_window = window
        self.keep_past = keep_past
        self.record_past = False  # transformers sets it while tokens may be taken back
        self._reserve = reserve
        self._seen = 0
        self._buffers: tuple[Buffer, Buffer] | None = None

    @property
    def is_sliding(self) -> bool:
        """Whether a query sees a window only."""
        return self.sliding_window is not None

    @property
    def rows(self) -> int:
        """Rows of the batch, 0 before the first."""
        return self._buffers[0].shape[0] if self._buffers else 0

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return sum(buffer.nbytes for buffer in self._buffers or ())

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take memory for tokens such as these."""
        self._buffers = (
            Buffer.like(key_states, reserve=self._reserve),
            Buffer.like(value_states, reserve=self._reserve),
        )
        self._show()

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        """Begin with the first ``tokens`` of these, whose memory is the layer's from now on.

        Rows may be fewer than those of the first ``update``: they are repeated then, as ``generate``
        repeats prompts for beams.
        """
        self._buffers = Buffer(keys, tokens), Buffer(values, tokens)
        self._seen = tokens
        self._show()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens; returns what their queries may see, as views.

        Raises Unsupported for tensors that require gradients and for a shape or dtype unlike that of
        the tokens before.
        """
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
        assert self._buffers is not None
        given = key_states, value_states
        for buffer, x in zip(self._buffers, given, strict=True):
            self._check(buffer, x)
        for buffer, x in zip(self._buffers, given, strict=True):
            buffer.append(x)
        new = key_states.shape[2]
        self._seen += new
        window = self.sliding_window
        if window is None:
            keys, values = (buffer.held() for buffer in self._buffers)
            self.keys, self.values = keys, values
            return keys, values
        keys, values = (buffer.held(window - 1 + new) for buffer in self._buffers)
        if not (self.keep_past or self.record_past):
            for buffer in self._buffers:
                buffer.keep_last(window - 1)
        self._show()
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens seen, those that were forgotten included."""
        return self._seen

    def get_max_length(self) -> int:
        """The window, or -1 for no bound."""
        return -1 if self.sliding_window is None else self.sliding_window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many tokens ``update`` will return for so many queries, and the number of the first."""
        past = self._seen
        if self.sliding_window is not None:
            past = min(past, self.sliding_window - 1)
        return past + query_length, self._seen - past

    def reset(self) -> None:
        """Forget everything."""
        self._buffers, self._seen = None, 0
        self._show()

    def activate_past_recording(self) -> None:
        """Keep what leaves the window until the next ``crop``, which may bring it back."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; 0 only forgets what left the window.

        Raises InvalidRequest for a positive number or more tokens than there are, Unsupported where
        the window has moved on and what comes back into it is gone.
        """
        removed = cropped(tokens_to_remove, self._seen)
        if self._buffers is None:
            return
        window = self.sliding_window
        remaining = self._seen - removed
        if window is not None and len(self._buffers[0]) - removed < min(remaining, window - 1):
            raise Unsupported(
                f"{removed} tokens cannot be taken back: the window of {window} has moved past "
                "what would come into it again. Call activate_past_recording() first"
            )
        for buffer in self._buffers:
            buffer.crop(removed)
            if window is not None and not self.keep_past:
                buffer.keep_last(window - 1)
        self._seen = remaining
        self._show()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Have these rows instead, in this order."""
        for buffer in self._buffers or ():
            buffer.take_rows(beam_idx)
        self._show()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """The same, rows by number or by a mask."""
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self.reorder_cache(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have every row so many times, one after the other."""
        for buffer in self._buffers or ():
            _repeat(buffer, repeats)
        self._show()

    def stored(self, row: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [first, last) of one row, each ``[kv_heads, tokens, head_dim]``.

        Raises Unsupported if a window has forgotten some of them.
        """
        buffers = self._buffers
        if buffers is None or self._seen - len(buffers[0]) > first or last > self._seen:
            raise Unsupported(f"tokens {first} to {last} are not held any more")
        gone = self._seen - len(buffers[0])
        keys, values = (buffer.held()[row, :, first - gone : last - gone] for buffer in buffers)
        return keys, values

    def _check(self, buffer: Buffer, x: torch.Tensor) -> None:
        check_states(x)
        buffer.to(x.device)
        rows = buffer.shape[0]
        if rows != x.shape[0] and len(buffer) and x.shape[0] % rows == 0:
            _repeat(buffer, x.shape[0] // rows)
        if not buffer.accepts(x):
            raise Unsupported(
                f"the cache holds {list(buffer.shape)} (rows, kv_heads, head_dim) and was given "
                f"{[x.shape[0], x.shape[1], x.shape[3]]} of {x.dtype}; use a new cache"
            )

    def _show(self) -> None:
        # transformers and its users look at these two.
        keys, values = self._buffers or (None, None)
        self.keys = None if keys is None else keys.held()
        self.values = None if values is None else values.held()
        self.is_initialized = keys is not None


def check_states(x: torch.Tensor) -> None:
    """Raises Unsupported for a tensor through which gradients flow."""
    if x.requires_grad and torch.is_grad_enabled():
        raise Unsupported(
            "this cache keeps no gradients; run the model under torch.no_grad() or "
            "torch.inference_mode()"
        )


def cropped(tokens_to_remove: int, held: int) -> int:
    """How many tokens ``crop`` was asked to remove. Raises InvalidRequest, see there."""
    if tokens_to_remove > 0 or -tokens_to_remove > held:
        raise InvalidRequest(
            f"crop takes minus the number of tokens to remove, 0 to {-held} here, not "
            f"{tokens_to_remove}",
            field="tokens_to_remove",
        )
    return -tokens_to_remove


def _repeat(buffer: Buffer, times: int) -> None:
    buffer.take_rows(torch.arange(buffer.shape[0]).repeat_interleave(times))
