"""Byte-level byte-pair encoding: text to token ids and back, exactly, for any Unicode.

Ids 0 to 255 are bytes, then one id per merge in the order they were learnt, then the special
tokens. Text is cut into words first (a word keeps the one space before it), so a name has the same
ids wherever it stands after a space; that is what makes it easy to copy. Special tokens have no
spelling: text that contains ``<|end|>`` is encoded as its bytes.

Source: Sennrich et al. 2016 (BPE); Radford et al. 2019 (bytes and the cut into words).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from blatam_kv.truthgpt.protocol import Message, Tokens

SPECIALS = ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# A run of letters, one digit, a run of one punctuation mark (each with at most one space before),
# newlines, any other single space. Every character falls in exactly one of them. Runs are cut at
# 64 characters, because the time to merge a word grows faster than its length.
WORDS = re.compile(r" ?[^\W\d_]{1,64}| ?\d| ?([^\s\w]|_)\1{0,63}|\n{1,64}|\s")


class Tokenizer:
    """Merges, applied. Immutable, so any number of threads may share one."""

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        """merges: pairs of ids; the i-th makes id 256 + i out of two smaller ones."""
        self._bytes = [bytes([i]) for i in range(256)]
        self._ranks: dict[tuple[int, int], int] = {}
        for left, right in merges:
            if not 0 <= left < len(self._bytes) or not 0 <= right < len(self._bytes):
                raise ValueError(f"merge ({left}, {right}) refers to a token not made yet")
            self._ranks[left, right] = len(self._bytes)
            self._bytes.append(self._bytes[left] + self._bytes[right])
        first = len(self._bytes)
        self.bos, self.system, self.user, self.assistant, self.end = range(first, first + 5)
        self._word = lru_cache(maxsize=16_384)(self._merge)

    @property
    def vocab(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._bytes) + len(SPECIALS)

    def _merge(self, word: str) -> tuple[int, ...]:
        """Ids of one word: the earliest-learnt pair is joined first, until none is left."""
        ids = list(word.encode("utf-8", "surrogatepass"))
        while len(ids) > 1:
            unknown = len(self._bytes)
            best = min(self._ranks.get(pair, unknown) for pair in pairwise(ids))
            if best == unknown:
                break
            joined: list[int] = []
            i = 0
            while i < len(ids):
                if i + 1 < len(ids) and self._ranks.get((ids[i], ids[i + 1])) == best:
                    joined.append(best)
                    i += 2
                else:
                    joined.append(ids[i])
                    i += 1
            ids = joined
        return tuple(ids)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; never a special one."""
        ids: list[int] = []
        for word in WORDS.finditer(text):
            ids.extend(self._word(word.group()))
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for a special one."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def has_letter(self, token: int) -> bool:
        """Whether a token's bytes hold a letter; every byte outside ASCII counts as one."""
        return any(byte > 127 or chr(byte).isalpha() for byte in self.token_bytes(token))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(t) for t in tokens).decode("utf-8", "replace")

    def encode_messages(self, messages: Sequence[Message]) -> Tokens:
        """The conversation as a prompt, int32 ``[tokens]``, ending where the answer begins.

        Contents of system and user get one space in front, so that their first word has the ids
        it has anywhere else.
        """
        ids = [self.bos]
        for message in messages:
            if message.role == "assistant":
                ids += [self.assistant, *self.encode(message.content), self.end]
            else:
                ids.append(self.system if message.role == "system" else self.user)
                ids += self.encode(" " + message.content)
        ids.append(self.assistant)
        return np.array(ids, dtype=np.int32)
