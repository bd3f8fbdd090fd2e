"""The forward pass of a Llama-shaped decoder in numpy, and the keys and values it leaves.

A prompt is always computed in chunks of 64 tokens that begin at multiples of 64; the last chunk is
padded to 64 rows. So every matrix product has a shape that depends on the position alone, never on
where the computation started or how long the tail is. A row of a product does not depend on the
other rows, and masked keys add exact zeros: the same token after the same tokens gives the same
bits, whether the keys and values before it were computed now or come from a store. New tokens are
computed one at a time, by other routines with other rounding; their keys and values are used here
but never leave.

Sources: RMSNorm, Zhang and Sennrich 2019; rotary embedding, Su et al. 2021 (half-split pairs, as
Llama checkpoints have them); grouped-query attention, Ainslie et al. 2023; SwiGLU, Shazeer 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from blatam_kv.truthgpt.protocol import FloatArray, Tokens
from blatam_kv.truthgpt.weights import Layer, Shape, Weights

CHUNK = 64
UNSHARED = 1 << 18  # numbers in a matrix that OpenBLAS multiplies with a vector in one thread


@dataclass(slots=True)
class Memory:
    """Keys and values of one generation, float32 ``[layers, capacity, kv_heads, head_dim]``.

    capacity: a multiple of 64. Owned by one thread.
    """

    keys: FloatArray
    values: FloatArray

    @classmethod
    def reserve(cls, shape: Shape, tokens: int) -> Memory:
        """Room for ``tokens``, rounded up to whole chunks; not initialised."""
        capacity = -(-tokens // CHUNK) * CHUNK
        size = (shape.layers, capacity, shape.kv_heads, shape.head_dim)
        return cls(np.empty(size, np.float32), np.empty(size, np.float32))


class Decoder:
    """Weights and rotary tables. Nothing in it changes, so threads may share it."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        shape = self.shape = weights.shape
        half = shape.head_dim // 2
        inverse = shape.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
        angles = np.outer(np.arange(shape.context, dtype=np.float64), inverse)
        self._cos = np.cos(angles).astype(np.float32)[:, None, :]
        self._sin = np.sin(angles).astype(np.float32)[:, None, :]
        self._queries = shape.heads * shape.head_dim
        self._shared = shape.kv_heads * shape.head_dim
        self._scale = np.float32(shape.head_dim**-0.5)
        # Added to the scores of a chunk against itself: a token sees itself and what came before.
        self._mask = np.triu(np.full((CHUNK, CHUNK), -np.inf, np.float32), k=1)
        # OpenBLAS shares a product as large as this one among threads, once a token. On a busy
        # machine each waits for the last thread to be scheduled; in parts none of it is shared.
        parts = -(-shape.vocab * shape.width // UNSHARED)
        self._vocabulary = np.array_split(weights.embedding, parts)

    def prefill(self, tokens: Tokens, memory: Memory, start: int) -> FloatArray:
        """Compute ``tokens[start:]``, filling ``memory``; returns the last token's logits.

        start: a multiple of 64 below ``len(tokens)``; the memory holds the tokens before it.
        Returns float32 ``[vocab]``.
        """
        last = np.empty(0, np.float32)
        for begin in range(start, len(tokens), CHUNK):
            last = self._chunk(tokens[begin : begin + CHUNK], begin, memory)[-1]
        return self._logits(last)

    def all_logits(
        self, tokens: Tokens, *, seal: Callable[[FloatArray, FloatArray], None] | None = None
    ) -> FloatArray:
        """Logits after every token, float32 ``[tokens, vocab]``.

        seal: is shown the keys and values of each whole chunk, ``[layers, 64, kv_heads, head_dim]``,
        once it is computed, and may change what later chunks will read of it.
        """
        memory = Memory.reserve(self.shape, len(tokens))
        rows = []
        for begin in range(0, len(tokens), CHUNK):
            end = begin + CHUNK
            hidden = self._chunk(tokens[begin:end], begin, memory)
            rows.append(_norm(hidden, self.weights.norm) @ self.weights.embedding.T)
            if seal is not None and end <= len(tokens):
                seal(memory.keys[:, begin:end], memory.values[:, begin:end])
        return np.concatenate(rows)

    def step(self, token: int, position: int, memory: Memory) -> FloatArray:
        """Compute one token at ``position`` and return its logits, float32 ``[vocab]``."""
        x = self.weights.embedding[token]
        for index, layer in enumerate(self.weights.layers):
            x = x + self._attend_one(layer, index, x, position, memory)
            x = x + _feed_one(layer, x)
        return self._logits(x)

    def _logits(self, hidden: FloatArray) -> FloatArray:
        normed = _norm(hidden, self.weights.norm)
        return np.concatenate([part @ normed for part in self._vocabulary])

    def _chunk(self, tokens: Tokens, begin: int, memory: Memory) -> FloatArray:
        """Hidden states ``[tokens, width]`` of at most 64 tokens, the first at ``begin``.

        Missing tokens are computed as id 0, after the real ones, and thrown away.
        """
        padded = np.zeros(CHUNK, np.int32)
        padded[: len(tokens)] = tokens
        x = self.weights.embedding[padded]
        for index, layer in enumerate(self.weights.layers):
            x = x + self._attend_chunk(layer, index, x, begin, memory)
            gate, up = np.split(_norm(x, layer.feed_norm) @ layer.gate_up.T, 2, axis=1)
            x = x + (_silu(gate) * up) @ layer.feed_out.T
        return x[: len(tokens)]

    def _attend_chunk(
        self, layer: Layer, index: int, x: FloatArray, begin: int, memory: Memory
    ) -> FloatArray:
        end = begin + CHUNK
        mixed = _norm(x, layer.attention_norm) @ layer.query_key_value.T
        queries = self._split(mixed[:, : self._queries], begin)
        memory.keys[index, begin:end] = self._split(mixed[:, self._queries : -self._shared], begin)
        memory.values[index, begin:end] = mixed[:, -self._shared :].reshape(
            CHUNK, self.shape.kv_heads, self.shape.head_dim
        )
        group = self.shape.heads // self.shape.kv_heads
        out = np.empty((CHUNK, self.shape.heads, self.shape.head_dim), np.float32)
        for head in range(self.shape.heads):
            scores = (queries[:, head] * self._scale) @ memory.keys[index, :end, head // group].T
            scores[:, begin:] += self._mask
            # Softmax in place, divided by its sum at the end: the scores are the largest array.
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            mixture = scores @ memory.values[index, :end, head // group]
            out[:, head] = mixture / scores.sum(axis=1, keepdims=True)
        return cast(FloatArray, out.reshape(CHUNK, -1) @ layer.attention_out.T)

    def _split(self, flat: FloatArray, begin: int) -> FloatArray:
        """Rows to heads ``[64, heads, head_dim]``, turned by their positions."""
        heads = flat.reshape(CHUNK, -1, self.shape.head_dim)
        return _rotate(heads, self._cos[begin : begin + CHUNK], self._sin[begin : begin + CHUNK])

    def _attend_one(
        self, layer: Layer, index: int, x: FloatArray, position: int, memory: Memory
    ) -> FloatArray:
        shape, end = self.shape, position + 1
        mixed = layer.query_key_value @ _norm(x, layer.attention_norm)
        heads = mixed[: -self._shared].reshape(-1, shape.head_dim)
        turned = _rotate(heads, self._cos[position], self._sin[position])
        memory.keys[index, position] = turned[shape.heads :]
        memory.values[index, position] = mixed[-self._shared :].reshape(shape.kv_heads, -1)
        # [kv_heads, group, head_dim] against [kv_heads, head_dim, end]
        queries = turned[: shape.heads].reshape(shape.kv_heads, -1, shape.head_dim)
        scores = queries @ memory.keys[index, :end].transpose(1, 2, 0)
        weights = _softmax(scores * self._scale)
        out = weights @ memory.values[index, :end].transpose(1, 0, 2)
        return cast(FloatArray, layer.attention_out @ out.reshape(-1))


def _norm(x: FloatArray, weight: FloatArray) -> FloatArray:
    """RMSNorm over the last dimension."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return cast(FloatArray, x * (weight / np.sqrt(mean + np.float32(1e-5))))


def _rotate(x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def _softmax(scores: FloatArray) -> FloatArray:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return cast(FloatArray, raised / raised.sum(axis=-1, keepdims=True))


def _silu(x: FloatArray) -> FloatArray:
    # x * sigmoid(x), with tanh because exp(-x) overflows for very negative x.
    half = np.float32(0.5)
    return cast(FloatArray, x * (half + half * np.tanh(half * x)))


def _feed_one(layer: Layer, x: FloatArray) -> FloatArray:
    both = layer.gate_up @ _norm(x, layer.feed_norm)
    half = both.shape[0] // 2
    return layer.feed_out @ (_silu(both[:half]) * both[half:])
