"""Language models for the tests of BUL: tiny, deterministic, and watched.

``Scripted`` writes one fixed Markdown per query and counts. Hooks make it wait, fail or break off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from blatam_kv.bul.service import Service
from blatam_kv.config import Settings
from blatam_kv.truthgpt.protocol import Chunk, Completion, Message, Sampling, Usage

VERSION = "9.9.9"


class Scripted:
    """A model whose answer follows from the query. Set the attributes to change what it does."""

    model_id = "scripted"

    def __init__(self) -> None:
        self.fingerprint = "f1"
        self.context_tokens = 4096
        self.calls: list[str] = []
        self.samplings: list[Sampling] = []
        self.salts: list[bytes] = []
        self.gate: threading.Event | None = None  # wait for it before the second piece
        self.writing = threading.Event()  # set when an answer has begun
        self.error: Exception | None = None  # raised in the middle of the answer
        self.text: str | None = None  # instead of the usual answer
        self.finish = True  # False: the stream ends without its last piece

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) // 4 + 1 for message in messages)

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        query = messages[-1].content
        self.calls.append(query)
        self.samplings.append(sampling)
        self.salts.append(salt)
        text = self.text
        if text is None:
            text = f"# Document\n\nAbout {query}, seed {sampling.seed}.\n\n## Detail\n\n- one\n"
        yield Chunk(text[: len(text) // 2])
        self.writing.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        yield Chunk(text[len(text) // 2 :])
        if self.finish:
            yield Chunk("", "stop", Usage(self.count_tokens(messages), 7))

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        text = "".join(chunk.text for chunk in self.stream(messages, sampling=sampling))
        return Completion(text, "stop", Usage(self.count_tokens(messages), 7))


@contextmanager
def running(model: Scripted, **settings: Any) -> Iterator[Service]:
    """A service with this model and these settings, closed at the end."""
    service = Service(model, replace(Settings(), **settings), version=VERSION)
    try:
        yield service
    finally:
        if model.gate is not None:
            model.gate.set()
        service.close()
