"""From an order to its answer: the cache first, then the model, once for all who ask.

Nothing here knows of HTTP, tasks or threads of its own; every call may come from any thread.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from blatam_kv.bul.chat import ChatOrder
from blatam_kv.bul.order import Order
from blatam_kv.bul.sanitise import clean
from blatam_kv.cache import Cache
from blatam_kv.documents.document import title_of
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.shelf import Shelf
from blatam_kv.truthgpt.protocol import Chunk, TruthGPT, Usage

# An answer shorter than this is not worth starting; the caller should shorten the query instead.
MIN_ANSWER_TOKENS = 32

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model wrote. seconds: how long that took, seconds_to_first_text: how long until its
    first piece, which is what reading the prompt took; born: when it was done, Unix time."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str
    text: str
    finish_reason: str
    usage: Usage
    seconds: float
    seconds_to_first_text: float
    born: float
    model: str

    @property
    def size_bytes(self) -> int:
        """Bytes charged to the cache: the text as UTF-8 and a flat sum for the rest."""
        return len(self.text.encode()) + len(self.title.encode()) + 256


class Stopped(ModelError):
    """The service stopped while the model was writing."""


class Pipeline:
    """The cache in front of the model."""

    def __init__(
        self,
        model: TruthGPT,
        cache: Cache[bytes, Answer],
        *,
        shelf: Shelf[Answer] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self.cache = cache
        self.shelf = shelf
        self._clock = clock

    def lookup(self, order: Order) -> Answer | None:
        """The cached answer, or None; nothing is computed."""
        return self.recall(order.digest)

    def recall(self, digest: bytes) -> Answer | None:
        """The answer under a digest, or None."""
        return self.cache.get(digest) if self.shelf is None else self.shelf.get(digest)

    def keep(self, digest: bytes, answer: Answer) -> None:
        """Put an answer that was written elsewhere under a digest."""
        self.cache.put(digest, answer)
        if self.shelf is not None:
            self.shelf.keep(digest, answer)

    def check_room(self, order: Order | ChatOrder, *, field: str = "query") -> int:
        """Tokens the answer may have. Raises InvalidRequest, naming the field that the prompt came
        in, if it leaves too few."""
        context = self.model.context_tokens
        taken = self.model.count_tokens(order.messages)
        if taken + MIN_ANSWER_TOKENS > context:
            share = max(1, int(100 * (context - MIN_ANSWER_TOKENS) / taken))
            raise InvalidRequest(
                f"takes {taken:,} tokens and {self.model.model_id} reads {context:,} in all; "
                f"shorten it to {share} % of its length",
                field=field,
            )
        return min(order.sampling.max_tokens, context - taken)

    def write(
        self,
        order: Order,
        *,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> tuple[Answer, bool]:
        """The answer, and whether the model had to write it.

        Concurrent calls for one digest run the model once. A failure reaches every one of them
        and is not cached. progress: told the share written, 0 to 1. stop: when set, the writing
        ends with Stopped at the next piece of text. heard: told each piece as it comes.
        """
        wrote = False

        def compute() -> Answer:
            nonlocal wrote
            wrote = True
            return self._compute(order, progress or (lambda share: None), stop, heard)

        answer = self.cache.get_or_compute(order.digest, compute)
        if wrote and self.shelf is not None:
            self.shelf.keep(order.digest, answer)
        return answer, wrote

    def _compute(
        self,
        order: Order,
        progress: Progress,
        stop: threading.Event | None,
        heard: Callable[[str], None] | None = None,
    ) -> Answer:
        start = time.perf_counter()
        room = self.check_room(order)
        sampling = replace(order.sampling, max_tokens=room)
        pieces: list[str] = []
        first_text: float | None = None
        last: Chunk | None = None
        for last in self.model.stream(order.messages, sampling=sampling, salt=order.salt):
            if stop is not None and stop.is_set():
                raise Stopped("the service is stopping; ask again when it is back")
            pieces.append(last.text)
            if heard is not None:
                heard(last.text)
            if first_text is None:
                first_text = time.perf_counter() - start
            progress(min(len(pieces) / room, 0.99))
        if last is None or last.finish_reason is None or last.usage is None:
            raise ModelError(f"{self.model.model_id} broke off in the middle of the answer")
        text = clean("".join(pieces))
        if not text:
            raise ModelError(f"{self.model.model_id} returned an empty answer")
        seconds = time.perf_counter() - start
        return Answer(
            title=title_of(text) or " ".join(order.brief.query.split())[:80],
            text=text,
            finish_reason=last.finish_reason,
            usage=last.usage,
            seconds=seconds,
            seconds_to_first_text=seconds if first_text is None else first_text,
            born=self._clock(),
            model=self.model.model_id,
        )
