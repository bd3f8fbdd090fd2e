"""``mini``, the language model inside the package: a few million weights, numpy, no network.

It writes business documents in Spanish and English and nothing else; docs/MINI.md says how well.
Every character of an answer comes from sampling the network: there is no template here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from blatam_kv.errors import InvalidRequest
from blatam_kv.truthgpt.decoder import CHUNK, Decoder, Memory
from blatam_kv.truthgpt.prefixes import Prefixes, reusable
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    FinishReason,
    FloatArray,
    Message,
    Prefill,
    PrefixStore,
    Sampling,
    Tokens,
    Usage,
    joined,
)
from blatam_kv.truthgpt.release import Release
from blatam_kv.truthgpt.sampler import Sampler, third_times
from blatam_kv.truthgpt.tokenizer import Tokenizer
from blatam_kv.truthgpt.weights import Shape, Weights, load_weights

WEIGHTS = Path(__file__).with_name("mini.safetensors")
ROLES = ("system", "user", "assistant")


class Mini:
    """The embedded model; implements TruthGPT and PrefixModel. Any number of threads may share it.

    store: where keys and values of whole 64-token blocks of prompts are kept between calls; one
    that cannot be used costs time, never the answer.
    weights: a file like the shipped one. It is read at the first use, once.
    """

    model_id = "truthgpt-mini"
    kv_dtype = "float32"

    def __init__(self, store: PrefixStore | None = None, *, weights: Path | None = None) -> None:
        self._store = store
        self._prefixes: dict[bytes, Prefixes] = {}  # by tenant
        self._path = weights or WEIGHTS
        self._lock = threading.Lock()
        self._loaded: Decoder | None = None

    def keep_prefixes(self, store: PrefixStore) -> None:
        """Look for prefixes in this store, and keep them there, from now on."""
        self._store, self._prefixes = store, {}

    def _decoder(self) -> Decoder:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = Decoder(load_weights(self._path))
        return self._loaded

    @property
    def weights(self) -> Weights:
        """The loaded weights with their tokenizer and metadata. Raises ModelError."""
        return self._decoder().weights

    @property
    def fingerprint(self) -> str:
        """BLAKE2b-256 over weights and tokenizer, in hex: the seal of the weights file."""
        return self.weights.fingerprint

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return self._shape.context

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_dim)."""
        return self._shape.layers, self._shape.kv_heads, self._shape.head_dim

    @property
    def _shape(self) -> Shape:
        return self.weights.shape

    @property
    def _tokenizer(self) -> Tokenizer:
        return self.weights.tokenizer

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """The prompt as token ids, int32 ``[tokens]``. Raises InvalidRequest without messages."""
        if not messages:
            raise InvalidRequest("messages is empty; send at least one", field="messages")
        for message in messages:
            if message.role not in ROLES:
                raise InvalidRequest(
                    f"role {message.role!r} is not one of {', '.join(ROLES)}", field="messages"
                )
        return self._tokenizer.encode_messages(messages)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens that these messages take, template included."""
        return len(self.encode(messages))

    def prefill(
        self, tokens: Tokens, *, prefix: tuple[FloatArray, FloatArray] | None = None
    ) -> Prefill:
        """Run the model over ``tokens``, skipping those whose keys and values are given.

        prefix: keys and values of the first n tokens, float32
        ``[layers, n, kv_heads, head_dim]``, n a multiple of 64. The block with the last token is
        always computed, because its logits are wanted. The logits are the same bits with and
        without a prefix. Raises InvalidRequest for bad tokens or a prefix that does not fit.
        """
        tokens = self._checked(tokens)
        memory = Memory.reserve(self._shape, len(tokens))
        start = 0 if prefix is None else self._adopt(prefix, memory, len(tokens))
        logits = self._decoder().prefill(tokens, memory, start)
        keys, values = memory.keys[:, : len(tokens)], memory.values[:, : len(tokens)]
        return Prefill(logits, keys, values, start)

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The whole answer. Raises InvalidRequest if the prompt leaves no room to answer."""
        return joined(self.stream(messages, sampling=sampling, salt=salt))

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The same answer in pieces; their texts joined are exactly ``generate``'s text.

        Raises InvalidRequest here, not at the first piece.
        """
        return self.resume(messages, "", sampling=sampling, salt=salt)

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """What follows ``begun``, the beginning of the answer. Raises as ``stream`` does."""
        start = np.array(self._tokenizer.encode(begun), np.int32)
        tokens = np.concatenate([self.encode(messages), start])
        limit = self.context_tokens
        if len(tokens) >= limit:
            raise InvalidRequest(
                f"the prompt has {len(tokens)} tokens; {self.model_id} holds {limit} with the "
                "answer. Shorten the messages",
                field="messages",
            )
        return self._answer(tokens, sampling, salt)

    def _answer(self, tokens: Tokens, sampling: Sampling, salt: bytes) -> Iterator[Chunk]:
        decoder, tokenizer = self._decoder(), self._tokenizer
        room = min(sampling.max_tokens, self.context_tokens - len(tokens))
        memory = Memory.reserve(self._shape, len(tokens) + room)
        prefixes = self._in_use(salt)
        cached, stored = prefixes.recall(tokens, memory) if prefixes else (0, 0)
        began = time.perf_counter()
        logits = decoder.prefill(tokens, memory, cached)
        if prefixes:
            prefixes.computed(len(tokens) - cached, time.perf_counter() - began)
            prefixes.remember(tokens, memory, stored)

        sampler, release = Sampler(sampling), Release(sampling.stop)
        # A prompt's own marks are not part of any answer.
        silent = [tokenizer.bos, tokenizer.system, tokenizer.user, tokenizer.assistant]
        said: list[int] = []
        written = 0
        reason: FinishReason = "length"
        while written < room:
            logits[silent] = -np.inf
            logits[third_times(said, tokenizer.has_letter)] = -np.inf
            token = sampler.choose(logits)
            if token == tokenizer.end:
                reason = "stop"
                break
            written += 1
            said.append(token)
            text = release.push(tokenizer.token_bytes(token))
            if text:
                yield Chunk(text)
            if release.stopped:
                reason = "stop"
                break
            if written < room:
                logits = decoder.step(token, len(tokens) + written - 1, memory)
        rest = release.finish()
        if release.stopped:
            reason = "stop"
        yield Chunk(rest, reason, Usage(len(tokens), written, cached))

    def _in_use(self, salt: bytes) -> Prefixes | None:
        """A tenant's part of the store, bound to this model at its first use."""
        prefixes = self._prefixes.get(salt)
        if prefixes is None and self._store is not None:
            fingerprint = self.fingerprint  # which takes the lock the first time
            with self._lock:
                prefixes = self._prefixes.get(salt)
                if prefixes is None:
                    prefixes = Prefixes(self._store, fingerprint, salt=salt)
                    self._prefixes[salt] = prefixes
        return prefixes

    def _checked(self, tokens: Tokens) -> Tokens:
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or not len(tokens) or not np.issubdtype(tokens.dtype, np.integer):
            raise InvalidRequest("tokens must be a non-empty one-dimensional integer array")
        if len(tokens) > self.context_tokens:
            raise InvalidRequest(
                f"{len(tokens)} tokens; {self.model_id} holds {self.context_tokens}",
                field="tokens",
            )
        if tokens.min() < 0 or tokens.max() >= self._shape.vocab:
            raise InvalidRequest(f"token ids must be 0 to {self._shape.vocab - 1}", field="tokens")
        return tokens

    def _adopt(self, prefix: tuple[FloatArray, FloatArray], memory: Memory, tokens: int) -> int:
        """Copy a given prefix into the memory; returns where to start computing."""
        keys, values = prefix
        layers, heads, dim = self.kv_shape
        count = keys.shape[1] if keys.ndim == 4 else -1
        if keys.shape != (layers, count, heads, dim) or values.shape != keys.shape:
            raise InvalidRequest(
                f"prefix must be two arrays [{layers}, n, {heads}, {dim}], "
                f"not {keys.shape} and {values.shape}",
                field="prefix",
            )
        if count % CHUNK or count > tokens:
            raise InvalidRequest(
                f"a prefix must have a multiple of {CHUNK} tokens, at most {tokens}, not {count}",
                field="prefix",
            )
        start = min(count, reusable(tokens))
        memory.keys[:, :start] = keys[:, :start]
        memory.values[:, :start] = values[:, :start]
        return start
