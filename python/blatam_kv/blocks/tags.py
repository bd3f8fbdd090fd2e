"""What must agree before a stored block means anything, as one digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blatam_kv._core import framed_digest
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.errors import ConfigError

Words = str | Mapping[str, object] | None

MOST_SALT_BYTES = 64
_TAGS = b"blatamkv-tags-v1"


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a store. fidelity: what became of the values, "lossless" or the name of the codec
    that rounded them; what was computed after rounded values is rounded too, so the two never mix.
    model, tokenizer, lora, rope: fingerprints or names. salt: the tenant's, 0 to 64 bytes; whoever
    does not know it cannot name a block."""

    layout: KVLayout
    fidelity: str
    salt: bytes = b""
    model: str = ""
    tokenizer: str = ""
    lora: str = ""
    rope: str = ""
    digest: bytes = field(init=False)
    """What the first block of every prompt continues."""

    def __post_init__(self) -> None:
        layout = self.layout
        shape = (layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens)
        words = (layout.dtype, self.fidelity, self.model, self.tokenizer, self.rope, self.lora)
        fields = [*(str(size).encode() for size in shape), *(word.encode() for word in words)]
        digest = framed_digest(fields, key=self.salt, person=_TAGS)
        object.__setattr__(self, "digest", digest)

    def bound_to(self, model: str) -> Tags:
        """The same for a model."""
        return replace(self, model=model)


def tags_of(layout: KVLayout, fidelity: str, *, salt: bytes, **words: Words) -> Tags:
    """Tags from what a caller gives; parameters of the rotary embedding may be a mapping.

    Raises TypeError or ConfigError, naming the option.
    """
    checked_salt(salt)
    return Tags(layout, fidelity, salt, **{name: _text(name, word) for name, word in words.items()})


def checked_salt(salt: bytes) -> None:
    """Raises TypeError or ConfigError unless it can key a digest."""
    if not isinstance(salt, bytes):
        raise TypeError(f"salt must be bytes, not {type(salt).__name__}")
    if len(salt) > MOST_SALT_BYTES:
        raise ConfigError(f"salt must have at most {MOST_SALT_BYTES} bytes, not {len(salt)}")


def _text(name: str, word: Words) -> str:
    if word is None:
        return ""
    if isinstance(word, str):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{name} must be text that UTF-8 can say: {error}") from None
        return word
    if isinstance(word, Mapping):
        try:
            return json.dumps(dict(word), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must hold what JSON can say: {error}") from error
    raise TypeError(f"{name} must be a str or a mapping, not {type(word).__name__}")
