"""Sets the first weights so that the network can already copy, badly, before it has learnt anything.

Copying in a decoder is done by two attention heads in a row (Olsson et al. 2022): one in an early
layer writes into each position what the *previous* token was; one in a later layer looks for the
positions whose previous token is the current one, and copies what stands there. Found by gradient
descent this pair costs a small network millions of tokens, more than two CPU cores have in an
hour. Written down it costs forty lines, and training keeps and sharpens what is useful.

1. Every embedding gets a share ``u`` in common, the only thing a head can hold on to that asks for
   a position whatever the token is. Query and key of the first head are multiples of it, the query
   turned back by one position, so that the rotary angles agree exactly one token earlier.
2. That head moves a 64-dimensional shadow ``P x`` of the previous token to the directions ``Q``.
3. The second head compares ``P x`` of the current token with what ``Q`` holds. It uses only the
   slow rotary pairs, which turn little over thousands of tokens.
4. It writes the shadow ``R x`` of the token it found back to where it came from, and the tied
   embedding reads that as a vote for this very token.
"""

from __future__ import annotations

import torch
from model import Network
from torch import Tensor

COMMON = 0.7  # size of u, relative to the rest of an embedding
FAST_PAIRS = 6  # rotary pairs that tell one position from the next
SLOW_FROM = 18  # first rotary pair that hardly turns within the context


@torch.no_grad()
def plant(network: Network) -> None:
    """Write the pair of heads into layers 0 and 1, first key/value head. Uses torch's generator."""
    shape = network.shape
    width, dim, half = shape.width, shape.head_dim, shape.head_dim // 2
    common = torch.sign(torch.randn(width))
    network.embed_tokens.weight += 0.02 * COMMON * common
    shadows = _frame(width, common, 2 * dim + dim)
    look, keep, copy = shadows[:dim], shadows[dim : 2 * dim], shadows[2 * dim :]

    first = network.get_submodule("layers.0.self_attn")
    angles = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    key, query = torch.zeros(dim), torch.zeros(dim)
    for pair in range(FAST_PAIRS):
        key[pair] = 10.0
        query[pair] = 10.0 * float(angles[pair].cos())
        query[pair + half] = -10.0 * float(angles[pair].sin())
    _weight(first, "q_proj")[:dim] = torch.outer(query, common) / width
    _weight(first, "k_proj")[:dim] = torch.outer(key, common) / width
    _weight(first, "v_proj")[:dim] = look
    _weight(first, "o_proj")[:, :dim] = 0.1 * keep.T

    second = network.get_submodule("layers.1.self_attn")
    slow = [*range(SLOW_FROM, half), *range(half + SLOW_FROM, dim)]
    _weight(second, "q_proj")[:dim] = 0.0
    _weight(second, "k_proj")[:dim] = 0.0
    _weight(second, "q_proj")[slow] = 3.0 * look[: len(slow)]
    _weight(second, "k_proj")[slow] = 3.0 * keep[: len(slow)]
    _weight(second, "v_proj")[:dim] = copy
    _weight(second, "o_proj")[:, :dim] = 0.5 * copy.T


def _weight(module: torch.nn.Module, name: str) -> Tensor:
    return module.get_parameter(f"{name}.weight").data


def _frame(width: int, away_from: Tensor, count: int) -> Tensor:
    """``count`` orthonormal rows ``[count, width]``, all orthogonal to ``away_from``."""
    start = torch.cat((away_from[:, None], torch.randn(width, count)), dim=1)
    orthonormal: Tensor = torch.linalg.qr(start)[0]
    return orthonormal[:, 1:].T
