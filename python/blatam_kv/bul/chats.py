"""Answers to conversations: from the cache at once, else said as they are written.

Of all who ask for the same at once one model call is made, and every one of them hears it from its
beginning, as it comes. What was not said to its end is never kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Self

from blatam_kv.bul.chat import ChatOrder
from blatam_kv.bul.pipeline import Answer, Found, Pipeline
from blatam_kv.bul.queue import Priority, PriorityQueue, QueueFull, Ticket
from blatam_kv.bul.tasks import CacheResult
from blatam_kv.bul.wishes import USUAL, Wishes
from blatam_kv.bul.writers import Job, Why
from blatam_kv.errors import Error, ModelError
from blatam_kv.tracing import current

log = logging.getLogger("blatam_kv.bul")

PRIORITY = Priority.HIGH  # that of a document which does not say otherwise
_STOPPING = "the service is stopping; ask again when it is back"


class TooManyChats(Error, RuntimeError):
    """Too many answers wait to be written already."""


class Telling:
    """One answer being written, heard by any number of listeners. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[str] = []
        self._answer: Answer | None = None
        self.tier = "memory"  # where one that was a hit came from
        self._error: Exception | None = None
        self._wake: dict[object, Callable[[], None]] = {}
        self._coming = 1  # who will listen soon: at first the one who asked
        self._left = False

    @classmethod
    def of(cls, answer: Answer, *, tier: str = "memory") -> Self:
        """One that is at its end. tier: where it came from."""
        telling = cls()
        telling.tier = tier
        telling._pieces.append(answer.text)
        telling._answer = answer
        return telling

    def join(self) -> bool:
        """Announce one more listener; False if it is given up already."""
        with self._lock:
            if not self._left:
                self._coming += 1
            return not self._left

    def give_up(self) -> bool:
        """Whether nobody listens or will; from then on nobody can."""
        with self._lock:
            self._left = not self._wake and not self._coming
            return self._left

    def say(self, piece: str) -> None:
        """The next piece."""
        with self._lock:
            self._pieces.append(piece)
        self._call()

    def end(self, answer: Answer | None, error: Exception | None = None) -> None:
        """It is complete, or it failed."""
        with self._lock:
            self._answer, self._error = answer, error
        self._call()

    def _call(self) -> None:
        with self._lock:
            listeners = list(self._wake.values())
        for wake in listeners:
            wake()

    def listener(self) -> Listener:
        """One who was announced, to hear all of it on the running event loop. Close it."""
        return Listener(self)


class Listener:
    """Hears a telling from its beginning. For one task of one event loop."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.answer: Answer | None = None
        self.tier = telling.tier
        with telling._lock:
            telling._coming -= 1
            telling._wake[self] = self._wake

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            self.close()  # the loop is closed, and nobody listens

    async def pieces(self, *, every: float | None = None) -> AsyncIterator[str]:
        """Piece after piece; then ``answer`` is there. Raises what ended the writing.

        every: after so many seconds of silence an empty piece comes.
        """
        telling, heard = self._telling, 0
        while True:
            self._news.clear()
            with telling._lock:
                new = telling._pieces[heard:]
                answer, error = telling._answer, telling._error
            for piece in new:
                yield piece
            heard += len(new)
            if error is not None:
                raise error
            if answer is not None:
                self.answer = answer
                return
            try:
                async with asyncio.timeout(every):
                    await self._news.wait()
            except TimeoutError:
                yield ""

    async def wait(self) -> Answer:
        """The whole answer. Raises what ended the writing."""
        async for _ in self.pieces():
            pass
        assert self.answer is not None
        return self.answer

    def close(self) -> None:
        """Listen no longer. An answer that nobody listens to is not written to its end."""
        with self._telling._lock:
            self._telling._wake.pop(self, None)


class Saying:
    """One answer that waits for a writer, or is being said by one."""

    def __init__(self, chats: Chats, order: ChatOrder, telling: Telling, wishes: Wishes) -> None:
        self.order, self.telling, self.wishes = order, telling, wishes
        self.ticket: Ticket[Job] | None = None
        self.tries = 0
        self.began: float | None = None
        self.why: Why | None = None
        self.span = current()
        self._chats = chats

    def run(self) -> None:
        """Say it. Called by the writer whose turn it is."""
        self._chats._say(self)

    def interrupt(self, why: Why) -> None:
        """End it at its next piece. The first reason holds."""
        self.why = self.why or why


class Chats:
    """The pipeline for conversations. They wait in the queue that documents wait in, as urgent as a
    single one, and are written by the same writers: tenants take turns, and batches come later."""

    def __init__(
        self,
        pipeline: Pipeline,
        queue: PriorityQueue[Job],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = pipeline.model
        self._pipeline = pipeline
        self._queue = queue
        self._clock = clock
        self._lock = threading.Lock()
        self._tellings: dict[bytes, Telling] = {}
        self._under_way: set[Saying] = set()
        self._stopping = False

    def lookup(self, order: ChatOrder, wishes: Wishes = USUAL) -> Found | None:
        """The cached answer if it will do, or None. Quick."""
        return self._pipeline.recall(order.digest, wishes)

    def ask(self, order: ChatOrder, wishes: Wishes = USUAL) -> tuple[Telling, CacheResult]:
        """An answer being written, or written by now, and what the cache had to do with it.

        Who wants to look hears one that is being written already, too. Raises InvalidRequest if the
        conversation leaves no room to answer, TooManyChats.
        """
        room = self._pipeline.check_room(order, field="messages")
        order = replace(order, sampling=replace(order.sampling, max_tokens=room))
        if order.digest not in self._tellings:
            (answer,) = self._pipeline.elsewhere([(order, wishes)])
            if answer is not None:
                return Telling.of(answer, tier="redis"), "hit"
        with self._lock:
            telling = self._tellings.get(order.digest) if wishes.take(0.0) else None
            if telling is not None and telling.join():
                return telling, "collapsed"
            if (found := self._pipeline.recall(order.digest, wishes)) is not None:
                # Written since the caller looked.
                return Telling.of(found.answer, tier=found.tier), "hit"
            if self._stopping:
                raise TooManyChats("the service is stopping")
            if self._queue.paused:  # nobody should hold a line for as long as an operator likes
                raise TooManyChats("writing is paused")
            telling = Telling()
            saying = Saying(self, order, telling, wishes)
            try:
                saying.ticket = self._queue.push(saying, tenant=order.tenant, priority=PRIORITY)
            except QueueFull as error:
                raise TooManyChats(str(error)) from None
            self._under_way.add(saying)
            if wishes.take(0.0) and wishes.keep:
                self._tellings[order.digest] = telling
        return telling, "miss"

    def _say(self, saying: Saying) -> None:
        answer: Answer | None = None
        error: Exception | None = None
        try:
            if saying.wishes.shared:
                before = self._pipeline.dropped
                answer, said = self._pipeline.once(
                    saying.order,
                    lambda: self._said(saying),
                    check=lambda: self._check_wanted(saying),
                )
                if not said:  # another node did, and is heard when it has
                    saying.telling.say(answer.text)
                self._pipeline.keep(saying.order, answer)
                if not said:
                    self._pipeline.check_kept(saying.order.digest, before)
            else:
                answer = self._said(saying)
                if saying.wishes.keep:
                    self._pipeline.keep(saying.order, answer, tell=True)
        except Error as problem:
            error = problem
        except Exception as problem:
            log.exception("the model failed")
            error = ModelError(f"the model failed ({type(problem).__name__}); try again")
        self._end(saying, answer, error)

    def _end(self, saying: Saying, answer: Answer | None, error: Exception | None = None) -> None:
        with self._lock:
            self._under_way.discard(saying)
            # From here on who asks the same looks into the cache, or begins another.
            if self._tellings.get(saying.order.digest) is saying.telling:
                del self._tellings[saying.order.digest]
        saying.telling.end(answer, error)

    def _said(self, saying: Saying) -> Answer:
        order, telling = saying.order, saying.telling
        start = time.perf_counter()
        first = 0.0
        pieces: list[str] = []
        self._check_wanted(saying)  # before the model reads the prompt
        chunks = self.model.stream(order.messages, sampling=order.sampling, salt=order.salt)
        for chunk in chunks:
            self._check_wanted(saying)
            if chunk.text:
                first = first or time.perf_counter() - start
                pieces.append(chunk.text)
                telling.say(chunk.text)
            if chunk.finish_reason is not None and chunk.usage is not None:
                return Answer(
                    title="",
                    model=self.model.model_id,
                    text="".join(pieces),
                    finish_reason=chunk.finish_reason,
                    usage=chunk.usage,
                    seconds=time.perf_counter() - start,
                    seconds_to_first_text=first,
                    born=self._clock(),
                    ttl=saying.wishes.ttl,
                )
        raise ModelError(f"{self.model.model_id} broke off in the middle of the answer")

    def _check_wanted(self, saying: Saying) -> None:
        if saying.why is Why.TIMEOUT:
            raise ModelError("was not written in time; BUL_TASK_TIMEOUT allows more")
        if self._stopping or saying.why is not None:
            raise ModelError(_STOPPING)
        if saying.telling.give_up():
            raise ModelError("nobody listens any more")

    def stop(self) -> None:
        """Take nothing new; what waits fails now, what is being written at its next piece."""
        with self._lock:
            self._stopping = True
            waiting = [each for each in self._under_way if each.ticket is not None]
        for saying in waiting:
            assert saying.ticket is not None
            if self._queue.remove(saying.ticket):
                self._end(saying, None, ModelError(_STOPPING))
