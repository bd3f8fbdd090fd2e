"""The one protocol behind which any language model stands: TruthGPT.

The pipeline knows nothing else about a model. ``mini`` (embedded), ``local`` (a Hugging Face model)
and ``openai`` (any compatible endpoint) implement the same few methods. A model that
can show its attention keys and values also implements ``PrefixModel``, and then a ``PrefixStore``
(the ``KVStore``) lets it skip the part of a prompt that was computed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from blatam_kv.blocks import KVStore
    from blatam_kv.devices import DeviceSnapshot
    from blatam_kv.metrics import TierSnapshot

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
Tokens = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens. Everything here changes the answer, so everything is in the digest.

    max_tokens: at most this many new tokens. temperature: 0 is greedy. top_p: nucleus mass in
    (0, 1]. seed: the same seed, prompt and weights give the same text. stop: strings that end the
    answer and are not part of it.
    """

    max_tokens: int = 768
    temperature: float = 0.3
    top_p: float = 0.9
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must be between 0 and 2, not {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be between 0 and 2**64 - 1, not {self.seed}")
        if any(not s for s in self.stop):
            raise ValueError("stop must not hold an empty string")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer; ``cached_tokens`` of the prompt were reused, not computed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer. The last one carries ``finish_reason`` and ``usage``."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


def joined(stream: Iterable[Chunk]) -> Completion:
    """The whole answer of a stream."""
    *pieces, last = stream
    assert last.finish_reason is not None
    assert last.usage is not None
    text = "".join(piece.text for piece in (*pieces, last))
    return Completion(text, last.finish_reason, last.usage)


@runtime_checkable
class TruthGPT(Protocol):
    """A language model. Safe to call from any thread; calls may run one after another."""

    @property
    def model_id(self) -> str:
        """Name shown to users, for example ``truthgpt-mini``."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same prompt could give another answer (weights, tokenizer)."""

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and answer may have together."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens that these messages take, template included."""

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The whole answer. Raises InvalidRequest if the prompt leaves no room to answer.

        salt: the tenant's, whose prefixes are used and no others; a model without any ignores it.
        """

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The same answer in pieces; their texts joined are exactly ``generate``'s text."""


@runtime_checkable
class Continues(Protocol):
    """A model that can go on with an answer that has begun, so that a document can be written section
    by section: each prompt is the one before and what was said to it, the longest prefix there is.
    """

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """What follows ``begun``, the beginning of the answer, in pieces, as ``stream`` gives them.

        The prompt tokens of the usage count it. Raises as ``stream`` does.
        """


@runtime_checkable
class RunsOnDevices(Protocol):
    """A model that runs on several devices and spreads its calls over them."""

    @property
    def models(self) -> tuple[TruthGPT, ...]:
        """The model on each device."""

    def devices(self) -> Sequence[DeviceSnapshot]:
        """Every device now."""


@runtime_checkable
class HoldsTiers(Protocol):
    """A model that keeps keys and values where only it can: in the memory of its devices."""

    def tiers(self) -> Sequence[TierSnapshot]:
        """Each of these now."""


class PrefixStore(Protocol):
    """What a model needs of a K/V block store; ``KVStore`` implements it.

    keys and values: float32 ``[layers, tokens, kv_heads, head_dim]``, tokens a multiple of 64.
    """

    def tenant(self, salt: bytes) -> PrefixStore:
        """The same store for a tenant, who sees no other's blocks."""

    def bind(self, model: str) -> bool:
        """Whether the model with this fingerprint may use it; the first one always may."""

    def match_prefix(self, tokens: Tokens) -> int:
        """Leading tokens that are stored."""

    def load_prefix(self, tokens: Tokens, *, out: tuple[FloatArray, FloatArray]) -> int:
        """Fill ``out`` from the front as far as it goes; returns the tokens filled. The whole
        prompt is given, so that a store knows which one asks."""

    def save_prefix(self, tokens: Tokens, keys: FloatArray, values: FloatArray) -> int:
        """Keep whole blocks; returns the tokens stored."""

    def observe(self, tokens: int, seconds: float) -> None:
        """Be told how long the model took to read so many tokens that were not loaded."""


@dataclass(slots=True)
class Prefill:
    """What prefill leaves behind.

    logits: float32 ``[vocab]`` of the last token. keys, values: float32
    ``[layers, tokens, kv_heads, head_dim]``, after rotary embedding of the keys.
    cached_tokens: how many of the tokens came from the given prefix.
    """

    logits: FloatArray
    keys: FloatArray
    values: FloatArray
    cached_tokens: int


@runtime_checkable
class PrefixModel(Protocol):
    """The optional K/V hooks of a model that runs here."""

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_dim)."""

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """The prompt as token ids, int32 ``[tokens]``."""

    def prefill(
        self, tokens: Tokens, *, prefix: tuple[FloatArray, FloatArray] | None = None
    ) -> Prefill:
        """Run the model over ``tokens``, skipping those whose keys and values are given.

        prefix: keys and values of the first n tokens, n a multiple of 64. The logits are the
        same bits with and without it.
        """


@runtime_checkable
class KeepsPrefixes(Protocol):
    """A model that takes its store after it is loaded, for a store needs to know the model."""

    @property
    def fingerprint(self) -> str:
        """As in ``TruthGPT``."""

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """As in ``PrefixModel``. Raises Unsupported where no prefix of the model can be kept."""

    @property
    def kv_dtype(self) -> str:
        """Of keys and values: "float32", "float16" or "bfloat16". Raises as ``kv_shape``."""

    def keep_prefixes(self, store: KVStore) -> None:
        """Look for prefixes there, and keep them there, from now on."""
