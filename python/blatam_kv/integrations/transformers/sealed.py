"""A layer whose tokens are compressed as they grow old."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from blatam_kv import codecs, tensors
from blatam_kv.errors import Unsupported
from blatam_kv.integrations.transformers.layers import check_states, cropped
from blatam_kv.integrations.transformers.shapes import dtype_name
from blatam_kv.pages import Pages
from blatam_kv.tensors import Array


class Scratch:
    """Memory that decoded tokens are put into, used by one layer after another.

    What it returned is overwritten by the next call of the same ``part``: attention has used it by
    then. So a cache of many layers holds the tokens of one of them at most.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], tuple[torch.Tensor, Array]] = {}

    def take(self, part: str, shape: tuple[int, ...], dtype: str) -> tuple[torch.Tensor, Array]:
        """A contiguous tensor of the host, not initialised, twice: the same memory as an array.

        Pages are decoded through the array, whose slices cost a fraction of a tensor's.
        """
        size = torch.Size(shape).numel()
        memory = self._parts.get((part, dtype))
        if memory is None or len(memory[1]) < size:
            array = tensors.empty((size + size // 2,), dtype)
            with torch.inference_mode(False):
                memory = torch.from_numpy(array).view(getattr(torch, dtype)), array
            self._parts[part, dtype] = memory
        tensor, array = memory
        return tensor[:size].view(shape), array[:size].reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return sum(array.nbytes for _, array in self._parts.values())


class SealedLayer(CacheLayerMixin):
    """Keys and values of one layer in sealed pages, see ``blatam_kv.pages``.

    pages: options of Pages (codec, sink, residual, seed). scratch: where tokens are decoded for
    attention; layers may share it if none of them reads another's tokens. Pages live on the host;
    for a model elsewhere, tokens are copied there and back at each step.
    """

    is_compileable = False
    is_croppable = True
    is_sliding = False

    def __init__(self, scratch: Scratch, **pages: Any) -> None:
        super().__init__()
        self._scratch = scratch
        self._options = pages
        self._rows: list[tuple[Pages, Pages]] = []
        self._seen = 0
        self._dtype = ""

    @property
    def rows(self) -> int:
        """Rows of the batch, 0 before the first."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the pages and their tails."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._rows)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin pages for tokens such as these. Raises Unsupported for another dtype than a codec's."""
        self._dtype = dtype_name(key_states.dtype)
        self._rows = [
            (self._pages(key_states, "key"), self._pages(value_states, "value"))
            for _ in range(key_states.shape[0])
        ]
        self.is_initialized = True

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        """Begin with the first ``tokens`` of these; see GrowingLayer."""
        self.lazy_initialization(keys, values)
        self._append(keys[:, :, :tokens], values[:, :, :tokens])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens; returns all of them for attention, those just given bit for bit.

        What is returned holds until the next layer's ``update``. Raises Unsupported as GrowingLayer.
        """
        check_states(key_states)
        check_states(value_states)
        if not self._rows:
            self.lazy_initialization(key_states, value_states)
        self._fit_rows(key_states.shape[0])
        past = self._seen
        if not past:
            self._append(key_states, value_states)
            return key_states, value_states
        shown = []
        for part, x in enumerate((key_states, value_states)):
            rows, heads, new, dim = x.shape
            shape = rows, heads, past + new, dim
            out, array = self._scratch.take("kv"[part], shape, self._dtype)
            for row, pages in enumerate(self._rows):
                pages[part].read(out=array[row, :, :past].swapaxes(0, 1))
            out[:, :, past:].copy_(x)
            shown.append(out.to(x.device))
        self._append(key_states, value_states)
        return shown[0], shown[1]

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self._seen

    def get_max_length(self) -> int:
        """-1: there is no bound."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many tokens ``update`` will return for so many queries, and the number of the first."""
        return self._seen + query_length, 0

    def reset(self) -> None:
        """Forget everything."""
        self._rows, self._seen, self.is_initialized = [], 0, False

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens. Raises InvalidRequest as GrowingLayer."""
        self._seen -= cropped(tokens_to_remove, self._seen)
        for pair in self._rows:
            for pages in pair:
                pages.crop(self._seen)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Have these rows instead, in this order; pages are shared, not copied."""
        rows: list[tuple[Pages, Pages]] = []
        taken: set[int] = set()
        for row in beam_idx.tolist():
            keys, values = self._rows[row]
            # The first who asks for a row goes on with it, the others with a fork.
            rows.append((keys.fork(), values.fork()) if row in taken else (keys, values))
            taken.add(row)
        self._rows = rows

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """The same, rows by number or by a mask."""
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self.reorder_cache(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have every row so many times, one after the other."""
        self.reorder_cache(torch.arange(len(self._rows)).repeat_interleave(repeats))

    def stored(self, row: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [first, last) of one row, decoded, each ``[kv_heads, tokens, head_dim]``."""
        if last > self._seen:
            raise Unsupported(f"tokens {first} to {last} are not held any more")
        found = []
        for pages in self._rows[row]:
            heads, dim = pages.shape
            out = torch.empty((last - first, heads, dim), dtype=getattr(torch, self._dtype))
            found.append(pages.read(first, last, out=out).transpose(0, 1))
        return found[0], found[1]

    def _pages(self, x: torch.Tensor, kind: codecs.Kind) -> Pages:
        return Pages(
            kv_heads=x.shape[1], head_dim=x.shape[3], dtype=self._dtype, kind=kind, **self._options
        )

    def _append(self, *states: torch.Tensor) -> None:
        for part, x in enumerate(states):
            held = x.detach().to("cpu")
            for row, pages in enumerate(self._rows):
                pages[part].append(held[row].transpose(0, 1))
        self._seen += states[0].shape[2]

    def _fit_rows(self, rows: int) -> None:
        have = len(self._rows)
        if rows != have:
            if not self._seen or rows % have:
                raise Unsupported(
                    f"the cache holds {have} rows and was given {rows}; use a new one"
                )
            self.batch_repeat_interleave(rows // have)
