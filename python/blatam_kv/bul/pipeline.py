"""From an order to its answer: the cache first, then the model, once for all who ask.

Nothing here knows of HTTP, tasks or threads of its own; every call may come from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from blatam_kv.bul.chat import ChatOrder
from blatam_kv.bul.drafts import Progress, Stopped, Turn, Writer
from blatam_kv.bul.order import Order
from blatam_kv.bul.wishes import USUAL, Wishes
from blatam_kv.cache import Cache
from blatam_kv.documents.document import title_of
from blatam_kv.errors import InvalidRequest, TierUnavailable
from blatam_kv.shelf import Shelf
from blatam_kv.tracing import current, span
from blatam_kv.truthgpt.protocol import TruthGPT, Usage

if TYPE_CHECKING:
    from blatam_kv.bul.shared import Shared

log = logging.getLogger("blatam_kv.bul")

# An answer shorter than this is not worth starting; the caller should shorten the query instead.
MIN_ANSWER_TOKENS = 32

_STOPPING = "the service is stopping; ask again when it is back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model wrote. seconds: how long that took, seconds_to_first_text: how long until its
    first piece, which is what reading the prompt took; born: when it was done, Unix time; ttl: how
    long it is kept, None for as long as any."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str
    text: str
    finish_reason: str
    usage: Usage
    seconds: float
    seconds_to_first_text: float
    born: float
    model: str
    ttl: float | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes charged to the cache: the text as UTF-8 and a flat sum for the rest."""
        return len(self.text.encode()) + len(self.title.encode()) + 256


class Found(NamedTuple):
    """An answer that was there. tier: where, ``memory``, ``disk`` or ``redis``."""

    answer: Answer
    tier: str


class Pipeline:
    """The cache in front of the model. shared: what the nodes beside this one know, None if alone;
    ttl: how long an answer lives from its birth."""

    def __init__(
        self,
        model: TruthGPT,
        cache: Cache[bytes, Answer],
        *,
        shelf: Shelf[Answer] | None = None,
        shared: Shared | None = None,
        ttl: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self.cache = cache
        self.shelf = shelf
        self.shared = shared
        self._ttl = ttl
        self._clock = clock

    def lookup(self, order: Order) -> Found | None:
        """The cached answer, or None; nothing is computed."""
        return self.recall(order.digest, order.wishes)

    def recall(self, digest: bytes, wishes: Wishes = USUAL) -> Found | None:
        """The answer under a digest if it will do, or None."""
        if current() is None:
            return self._recall(digest, wishes)
        with span("cache.lookup") as looking:
            found = self._recall(digest, wishes)
            if looking is not None:
                looking.say({"blatam_kv.cache.hit": found is not None})
            return found

    def _recall(self, digest: bytes, wishes: Wishes) -> Found | None:
        if not wishes.look:
            return None
        if self.shelf is None:
            answer, read = self.cache.get(digest), False
        else:
            answer, read = self.shelf.find(digest)
        if answer is None:
            return None
        if wishes is USUAL or wishes.take(self._clock() - answer.born):
            return Found(answer, "disk" if read else "memory")
        return None

    def elsewhere(self, wanted: Sequence[tuple[Order | ChatOrder, Wishes]]) -> list[Answer | None]:
        """The answers of other nodes that will do, for those whose own cache has none; they come into
        it. Asks the network, so no event loop may wait for it."""
        asked = [at for at, (_, wishes) in enumerate(wanted) if wishes.look]
        found: list[Answer | None] = [None] * len(wanted)
        if self.shared is None or not asked:
            return found
        orders = [wanted[at][0] for at in asked]
        before = self.dropped
        answers = self.shared.fetch([(order.digest, order.salt) for order in orders])
        for at, order, answer in zip(asked, orders, answers, strict=True):
            if answer is not None and wanted[at][1].take(self._clock() - answer.born):
                self._remember(order.digest, answer)
                self.check_kept(order.digest, before)
                found[at] = answer
        return found

    @property
    def dropped(self) -> int:
        """A number that changes with every answer that is dropped, on any node."""
        return 0 if self.shared is None else self.shared.dropped

    def check_kept(self, digest: bytes, before: int) -> None:
        """Forget an answer that was fetched from another node and kept, if anything was dropped since
        ``dropped`` was ``before``: it may be the one."""
        if self.dropped != before:
            self.forget_here(digest)

    def once(
        self,
        order: Order | ChatOrder,
        compute: Callable[[], Answer],
        *,
        check: Callable[[], object],
    ) -> tuple[Answer, bool]:
        """The answer, and whether it was computed here: of all nodes one computes it.

        check: called while another node does; what it raises ends the waiting.
        """
        if self.shared is None:
            return compute(), True
        return self.shared.once(order.digest, order.salt, compute, check=check)

    def keep(self, order: Order | ChatOrder, answer: Answer, *, tell: bool = False) -> None:
        """Put an answer under its order's digest. tell: the other nodes have not got it yet."""
        with span("cache.store"):
            self._remember(order.digest, answer)
            if self.shelf is not None:
                self.shelf.keep(order.digest, answer, ttl=answer.ttl)
            if tell and self.shared is not None:
                self.shared.keep(order.digest, order.salt, answer)

    def forget(self, digest: bytes) -> bool:
        """Drop an answer, on every node that shares it; whether there was one."""
        # First where others fetch it from: what comes here meanwhile goes last.
        shared = self.shared is not None and self.shared.forget(digest)
        return self.forget_here(digest) or shared

    def forget_here(self, digest: bytes) -> bool:
        """Drop an answer on this node; whether there was one."""
        return self.cache.delete(digest) if self.shelf is None else self.shelf.delete(digest)

    def clear(self) -> None:
        """Drop every answer, on every node."""
        if self.shared is not None:
            self.shared.clear()
        self.clear_here()

    def clear_here(self) -> None:
        """Drop every answer on this node."""
        self.cache.clear()
        if self.shelf is not None:
            self.shelf.clear()

    def close(self) -> None:
        """Let go of what lies behind the memory; what is to be on disk is, or the log says why not."""
        if self.shared is not None:
            self.shared.close()
        if self.shelf is not None:
            try:
                self.shelf.close()
            except TierUnavailable as error:
                log.error("the last answers were not kept: %s", error)

    def seconds_left(self, answer: Answer) -> float | None:
        """How long an answer stays fresh, below 0 if it is not; None without a limit."""
        ttl = self._ttl if answer.ttl is None else answer.ttl
        return None if ttl is None else answer.born + ttl - self._clock()

    def _remember(self, digest: bytes, answer: Answer) -> None:
        left = self.seconds_left(answer)
        if left is None or left > 0:
            self.cache.put(digest, answer, ttl=left)

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
        turn: Turn | None = None,
        stop: threading.Event | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> tuple[Answer, bool]:
        """The answer, and whether the model had to write it.

        Concurrent calls for one digest run the model once. A failure reaches every one of them
        and is not cached. progress: told the share written, 0 to 1. turn:
        told of each section when it begins, if it is written so. stop: when set, the writing
        ends with Stopped at the next piece of text. heard: told each piece as it comes.
        """
        wrote = came = False

        def check() -> None:
            if stop is not None and stop.is_set():
                raise Stopped(_STOPPING)

        def write_it() -> Answer:
            nothing: Callable[[object], None] = lambda told: None  # noqa: E731
            return self._compute(
                order, progress or nothing, turn or nothing, check, heard or nothing
            )

        def compute() -> Answer:
            nonlocal wrote, came
            answer, wrote = self.once(order, write_it, check=check)
            came = not wrote
            return answer

        if order.flight != order.digest:  # it wants one of its own
            answer = write_it()
            if order.wishes.keep:
                self.keep(order, answer, tell=True)
            return answer, True
        before = self.dropped
        answer = self.cache.get_or_compute(order.digest, compute)
        if came:  # with the time that is left of its life, not with a new one
            self._remember(order.digest, answer)
            self.check_kept(order.digest, before)
        if wrote and self.shelf is not None:
            with span("cache.store"):
                self.shelf.keep(order.digest, answer)
        return answer, wrote

    def _compute(
        self,
        order: Order,
        progress: Progress,
        turn: Turn,
        check: Callable[[], None],
        heard: Callable[[str], None],
    ) -> Answer:
        start = time.perf_counter()
        room = self.check_room(order)
        writer = Writer(
            self.model, order, room, progress=progress, turn=turn, check=check, heard=heard
        )
        draft = writer.write()
        seconds = time.perf_counter() - start
        return Answer(
            title=title_of(draft.text) or " ".join(order.brief.query.split())[:80],
            text=draft.text,
            finish_reason=draft.finish_reason,
            usage=draft.usage,
            seconds=seconds,
            seconds_to_first_text=seconds if draft.first_text is None else draft.first_text,
            born=self._clock(),
            model=self.model.model_id,
            ttl=order.wishes.ttl,
        )
