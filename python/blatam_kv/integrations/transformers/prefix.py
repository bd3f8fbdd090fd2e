"""Beginnings of prompts, from a ``KVStore`` into a cache and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from blatam_kv.blocks import KVLayout, KVStore
from blatam_kv.blocks.payload import is_lossless
from blatam_kv.errors import InvalidRequest, Unsupported
from blatam_kv.integrations.transformers.cache import KVCache
from blatam_kv.integrations.transformers.shapes import dtype_name

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a batch: its tokens, and the padding to the left of them."""

    padding: int
    tokens: Ids


def rows_of(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> list[Row]:
    """The prompts of a batch without their padding.

    input_ids, attention_mask: ``[rows, tokens]``. Raises InvalidRequest for other shapes,
    Unsupported where a mask hides tokens in the middle or at the end: what such a row computes is
    not what its tokens say.
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point() or not input_ids.numel():
        raise InvalidRequest(
            f"input_ids must be whole numbers [rows, tokens], not {input_ids.dtype} of "
            f"{list(input_ids.shape)}",
            field="input_ids",
        )
    ids = input_ids.cpu().numpy().astype(np.int64)
    if attention_mask is None:
        return [Row(0, row) for row in ids]
    if attention_mask.shape != input_ids.shape:
        raise InvalidRequest(
            f"attention_mask is {list(attention_mask.shape)}; it must be {list(input_ids.shape)}",
            field="attention_mask",
        )
    seen = attention_mask.cpu().numpy() != 0
    rows = []
    for row, mask in zip(ids, seen, strict=True):
        padding = len(mask) - int(mask.sum())
        if not mask[padding:].all():
            raise Unsupported(
                "the attention mask hides tokens that are not to the left of a prompt; pad with "
                "padding_side='left'"
            )
        rows.append(Row(padding, row[padding:]))
    return rows


def restore(
    cache: KVCache, store: KVStore, rows: Sequence[Row], *, reserve: int = 0, multiple: int = 1
) -> int:
    """Fill an empty cache with the longest beginning that the store has of all rows.

    The rows share their number of columns, so the row with the least decides; the last column is
    never filled, because its token's logits are wanted. reserve: columns to have room for.
    multiple: fill a multiple of so many columns. Sets ``cache.reused``, the tokens of each row that
    need not be computed, and returns the columns filled. Raises Unsupported if the cache has other
    layers than the store's layout, InvalidRequest for a cache that holds tokens or for no rows, rows
    without tokens, or rows of different columns.
    """
    widths = {row.padding + len(row.tokens) for row in rows}
    if len(widths) != 1 or not all(len(row.tokens) for row in rows):
        raise InvalidRequest("rows must have tokens, and as many columns each", field="rows")
    if cache.get_seq_length():
        raise InvalidRequest("the cache holds tokens already; use a new one", field="cache")
    layout = store.layout
    layers = cache.keeping
    if len(layers) != layout.layers:
        raise Unsupported(f"the model has {len(layers)} layers with keys, {_shape(layout)}")
    found = [min(store.match_prefix(row.tokens, partial=True), len(row.tokens) - 1) for row in rows]
    filled = _columns(rows, found, multiple)
    if not filled:
        return 0
    shape = layout.layers, len(rows), layout.kv_heads, max(*widths, reserve), layout.head_dim
    dtype = getattr(torch, layout.dtype)
    with torch.inference_mode(False):
        slab = torch.empty((2, *shape), dtype=dtype)
    for number, row in enumerate(rows):
        # The mask hides padding, but what is hidden must be numbers.
        slab[:, :, number, :, : min(row.padding, filled)] = 0
        # All of a block that is wanted in part: only whole ones are on disk.
        tokens = row.tokens[: _whole(filled - row.padding, layout.block_tokens)]
        place = slab[:, :, number, :, row.padding : row.padding + len(tokens)].transpose(2, 3)
        found[number] = len(tokens) and store.load_prefix(
            tokens, out=(place[0], place[1]), partial=True
        )
    # Blocks may have gone since they were matched, so the second answer is the one that counts.
    filled = min(filled, _columns(rows, found, multiple))
    if filled:
        for layer, keys, values in zip(layers, slab[0], slab[1], strict=True):
            layer.adopt(keys, values, filled)
        cache.reused = tuple(max(0, filled - row.padding) for row in rows)
    return filled


def keep(cache: KVCache, store: KVStore, rows: Sequence[Row]) -> int:
    """Store the whole blocks of prompts that the cache holds; returns the tokens stored or there.

    rows: what the cache's rows begin with, as ``rows_of`` gives it; a cache with more rows holds
    each prompt several times, one after the other. Raises Unsupported if keys and values have
    another shape than the layout says, or were rounded and the store is for exact ones.
    """
    if cache.codec is not None and not rounds_alike(cache.codec, store):
        raise Unsupported(
            f"the cache rounds with {cache.codec!r} and the store keeps {store.codec!r}; open the "
            "store with the same codec"
        )
    layout, layers = store.layout, cache.keeping
    size, held = layout.block_tokens, cache.get_seq_length()
    copies = _rows(cache) // len(rows)
    kept = 0
    for number, row in enumerate(rows):
        tokens = row.tokens[: max(0, min(len(row.tokens), held - row.padding)) // size * size]
        present = store.match_prefix(tokens)
        if present < len(tokens):
            last = row.padding + len(tokens)
            pairs = [layer.stored(number * copies, row.padding, last) for layer in layers]
            keys, values = (_stacked(layout, part) for part in zip(*pairs, strict=True))
            present = store.save_prefix(tokens, keys, values)
        kept += present
    return kept


def rounds_alike(codec: str, store: KVStore) -> bool:
    """Whether a store may hold what a cache with this codec gives back."""
    return is_lossless(codec) or codec == store.codec


def _columns(rows: Sequence[Row], tokens: Sequence[int], multiple: int) -> int:
    """The columns that these many tokens of each row fill; 0 if no row gains by it."""
    filled = min(row.padding + n for row, n in zip(rows, tokens, strict=True))
    filled -= filled % multiple
    return filled if any(filled > row.padding for row in rows) else 0


def _whole(tokens: int, size: int) -> int:
    """Tokens of the blocks that hold so many."""
    return -(-max(0, tokens) // size) * size


def _rows(cache: KVCache) -> int:
    return next((layer.rows for layer in cache.keeping if layer.rows), 0)


def _stacked(layout: KVLayout, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One part of every layer, ``[kv_heads, tokens, head_dim]``, as the store takes it."""
    tokens = parts[0].shape[1]
    wanted = layout.shape(tokens)
    for number, x in enumerate(parts):
        heads, _, dim = x.shape
        if (len(parts), tokens, heads, dim) != wanted or dtype_name(x.dtype) != layout.dtype:
            raise Unsupported(
                f"layer {number} of {len(parts)} has {heads} heads of {dim} in {x.dtype}, "
                f"{_shape(layout)}"
            )
    out = torch.empty(wanted, dtype=parts[0].dtype)
    for place, x in zip(out, parts, strict=True):
        place.copy_(x.transpose(0, 1))
    return out


def _shape(layout: KVLayout) -> str:
    return (
        f"and the store's layout says {layout.layers} layers of {layout.kv_heads} heads of "
        f"{layout.head_dim} in {layout.dtype}"
    )
