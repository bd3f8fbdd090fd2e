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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Self

from blatam_kv.bul.chat import ChatOrder
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.tasks import CacheResult
from blatam_kv.errors import Error, ModelError

log = logging.getLogger("blatam_kv.bul")


class TooManyChats(Error, RuntimeError):
    """Too many answers wait to be written already."""


class Telling:
    """One answer being written, heard by any number of listeners. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[str] = []
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._wake: dict[object, Callable[[], None]] = {}
        self._coming = 1  # who will listen soon: at first the one who asked
        self._left = False

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """One that is at its end."""
        telling = cls()
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


class Chats:
    """The pipeline for conversations. writers: answers written at a time; most_waiting:
    answers that may wait for a writer."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        writers: int,
        most_waiting: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = pipeline.model
        self._pipeline = pipeline
        self._clock = clock
        self._most = writers + most_waiting
        self._pool = ThreadPoolExecutor(writers, thread_name_prefix="bul-chat")
        self._lock = threading.Lock()
        self._tellings: dict[bytes, Telling] = {}
        self._under_way = 0
        self._stopping = False

    def lookup(self, order: ChatOrder) -> Answer | None:
        """The cached answer, or None. Quick."""
        return self._pipeline.recall(order.digest)

    def ask(
        self, order: ChatOrder, *, join: bool = True, keep: bool = True
    ) -> tuple[Telling, CacheResult]:
        """An answer being written, or written by now, and what the cache had to do with it.

        join: hear one that is being written already. keep: put it into the cache when it is done.
        Raises InvalidRequest if the conversation leaves no room to answer, TooManyChats.
        """
        room = self._pipeline.check_room(order, field="messages")
        order = replace(order, sampling=replace(order.sampling, max_tokens=room))
        with self._lock:
            telling = self._tellings.get(order.digest) if join else None
            if telling is not None and telling.join():
                return telling, "collapsed"
            if join and (answer := self._pipeline.recall(order.digest)) is not None:
                return Telling.of(answer), "hit"  # written since the caller looked
            if self._stopping or self._under_way >= self._most:
                raise TooManyChats(f"{self._under_way} answers are being written or wait already")
            telling = Telling()
            if join and keep:
                self._tellings[order.digest] = telling
            self._under_way += 1
            self._pool.submit(self._write, order, telling, keep)
        return telling, "miss"

    def _write(self, order: ChatOrder, telling: Telling, keep: bool) -> None:
        answer: Answer | None = None
        error: Exception | None = None
        try:
            answer = self._written(order, telling)
            if keep:
                self._pipeline.keep(order.digest, answer)
        except Error as problem:
            error = problem
        except Exception as problem:
            log.exception("the model failed")
            error = ModelError(f"the model failed ({type(problem).__name__}); try again")
        with self._lock:
            self._under_way -= 1
            # From here on who asks the same looks into the cache, or begins another.
            if self._tellings.get(order.digest) is telling:
                del self._tellings[order.digest]
        telling.end(answer, error)

    def _written(self, order: ChatOrder, telling: Telling) -> Answer:
        start = time.perf_counter()
        first = 0.0
        pieces: list[str] = []
        chunks = self.model.stream(order.messages, sampling=order.sampling, salt=order.salt)
        for chunk in chunks:
            if self._stopping:
                raise ModelError("the service is stopping; ask again when it is back")
            if telling.give_up():
                raise ModelError("nobody listens any more")
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
                )
        raise ModelError(f"{self.model.model_id} broke off in the middle of the answer")

    def close(self) -> None:
        """Let what is being written fail, and wait for the writers."""
        with self._lock:
            self._stopping = True
        self._pool.shutdown(wait=True, cancel_futures=False)
