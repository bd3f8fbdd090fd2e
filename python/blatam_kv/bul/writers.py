"""The threads that write: each takes the most urgent answer, lets the model write it, and settles it.

They are the bound on concurrent calls of the model, for documents and for conversations alike. A
document that fails for a reason that may pass goes back into the queue and is tried again after a
pause that doubles; meanwhile the thread writes something else. One more thread looks at the clock:
it ends what takes too long and what nobody waits for any more.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from blatam_kv.bul.drafts import Part, Stopped
from blatam_kv.bul.order import Order
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.queue import PriorityQueue, Ticket
from blatam_kv.errors import Error, ModelError
from blatam_kv.metrics import LatencyHistogram, ServiceMetrics
from blatam_kv.tracing import Span, current, span, under

log = logging.getLogger("blatam_kv.bul")

# How often the clock is looked at: what a time limit may be exceeded by.
TICK_SECONDS = 0.25
# However often it has failed, a retry waits no longer.
LONGEST_PAUSE = 300.0
# Telling every waiting task at every piece of text would cost more than the writing.
_PROGRESS_STEP = 0.05


class Why(Enum):
    """Why a writing is ended before the model has."""

    CANCELLED = "nobody waits for it any more"
    TIMEOUT = "it takes too long"
    STOPPING = "the service stops"


@dataclass(slots=True, eq=False)
class Writing:
    """One answer to be written, and the tasks that wait for it.

    task_ids belongs to the owner and its lock, the rest to the thread that writes.
    """

    order: Order
    task_ids: list[str]
    ticket: Ticket[Job] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    why: Why | None = None
    began: float | None = None  # this try, on the monotonic clock
    tries: int = 0
    pieces: list[str] = field(default_factory=list)  # of this try; a new list for each
    span: Span | None = field(default_factory=current)  # of the request that asked first

    def interrupt(self, why: Why) -> None:
        """End it at its next piece of text. The first reason holds."""
        self.why = self.why or why
        self.stop.set()


class Errand(Protocol):
    """Something else that a writer does in its turn, and that settles itself."""

    tries: int
    began: float | None
    span: Span | None

    def run(self) -> None:
        """Do it. Raises nothing."""

    def interrupt(self, why: Why) -> None:
        """End it soon."""


Job: TypeAlias = "Writing | Errand"


class Owner(Protocol):
    """Who knows the tasks. Each call comes from one of the writers' threads."""

    def progress(self, writing: Writing, share: float) -> None:
        """The share written, 0 to 1; below 0, that the writing waits again."""

    def turn(self, writing: Writing, part: Part) -> None:
        """Another section is being written."""

    def settle(
        self, writing: Writing, *, answer: Answer | None = None, error: str | None = None
    ) -> None:
        """The writing is over: with an answer, or with the reason why there is none."""

    def tick(self) -> None:
        """Another TICK_SECONDS have passed."""


class Writers:
    """A number of threads that write. Close it when done.

    retries: how often a failed answer is tried again. pause: seconds before the first retry.
    timeout: seconds that one try may take. chance: a number from 0 to 1, so that answers which failed
    together do not come back together.
    """

    def __init__(
        self,
        queue: PriorityQueue[Job],
        pipeline: Pipeline,
        owner: Owner,
        metrics: ServiceMetrics,
        *,
        threads: int,
        retries: int,
        pause: float,
        timeout: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.took = LatencyHistogram()  # of answers that the model wrote, in seconds
        self._queue = queue
        self._pipeline = pipeline
        self._owner = owner
        self._metrics = metrics
        self._retries, self._pause, self._timeout = retries, pause, timeout
        self._chance = chance
        self._lock = threading.Lock()
        self._busy: set[Job] = set()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._write_forever, name=f"bul-writer-{n}", daemon=True)
            for n in range(threads)
        ]
        self._timekeeper = threading.Thread(
            target=self._keep_time, name="bul-timekeeper", daemon=True
        )

    def start(self) -> None:
        """Begin to write."""
        for thread in (*self._threads, self._timekeeper):
            thread.start()

    def drain(self) -> None:
        """Take nothing new; what is being written is finished."""
        self._queue.close()

    def close(self, *, seconds: float) -> None:
        """Drain for at most ``seconds``, then stop what is still being written."""
        self.drain()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for job in self._being_written():
            job.interrupt(Why.STOPPING)
        for thread in self._threads:
            # A model that does not yield cannot be stopped; its thread ends with the process.
            thread.join(max(0.0, deadline + 1.0 - time.monotonic()))
        self._stopped.set()
        self._timekeeper.join()

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def busy(self) -> int:
        """How many threads write now."""
        return len(self._busy)

    @property
    def typical_seconds(self) -> float:
        """The median of what the model took for an answer; 1 before the first."""
        return self.took.quantile(0.5) or 1.0

    @property
    def seconds_a_place(self) -> float:
        """Roughly how long until all that waits is one place further on."""
        return self.typical_seconds / len(self)

    def seconds_left(self, progress: float, position: int | None) -> float:
        """Roughly how long until an answer is written. progress: the share that is, 0 to 1; position:
        where it is in the queue, None if it is in none."""
        rounds = 1.0 - progress
        if position is not None:
            rounds += math.ceil(position / len(self))
        return round(self.typical_seconds * rounds, 3)

    def __len__(self) -> int:
        return len(self._threads)

    # What the threads do.

    def _write_forever(self) -> None:
        while (ticket := self._queue.take()) is not None:
            job = ticket.item
            if job.tries == 0:
                waited = time.monotonic() - ticket.since
                self._metrics.waited(ticket.priority, waited)
                if job.span is not None:
                    now = time.perf_counter()
                    told = {"blatam_kv.priority": int(ticket.priority)}
                    job.span.past("queue.wait", now - waited, now, told)
            job.tries += 1
            job.began = time.monotonic()
            with self._lock:
                self._busy.add(job)
            try:
                with under(job.span), span("write"):
                    if isinstance(job, Writing):
                        self._write(job, ticket)
                    else:
                        with self._metrics.stage("model"):
                            job.run()
            finally:
                with self._lock:
                    self._busy.discard(job)

    def _write(self, writing: Writing, ticket: Ticket[Job]) -> None:
        told = -1.0

        def progress(share: float) -> None:
            nonlocal told
            if share - told >= _PROGRESS_STEP:
                told = share
                self._owner.progress(writing, share)

        def turn(part: Part) -> None:
            self._owner.turn(writing, part)

        progress(0.0)
        writing.pieces = []
        try:
            with self._metrics.stage("model"):
                answer, _ = self._pipeline.write(
                    writing.order,
                    progress=progress,
                    turn=turn,
                    stop=writing.stop,
                    heard=writing.pieces.append,
                )
        except Stopped:
            if writing.why is None:
                # Somebody else's writing of the same answer was stopped, and ours had joined it.
                self._queue.put_back(ticket, seconds=0.0)
            else:
                self._end(writing, writing.why)
        except Error as error:
            transient = isinstance(error, ModelError) and error.transient
            pause = getattr(error, "retry_after", None) or 0.0
            self._fail(writing, ticket, str(error), transient=transient, at_least=pause)
        except Exception as error:
            # The writer must outlive any model; the cause goes to the log, its kind to the caller.
            log.exception("the model failed")
            reason = f"the model failed ({type(error).__name__}); try again"
            self._fail(writing, ticket, reason, transient=True)
        else:
            self.took.record(answer.seconds)
            self._owner.settle(writing, answer=answer)

    def _end(self, writing: Writing, why: Why) -> None:
        if why is Why.TIMEOUT:
            self._metrics.failed("timeout")
            reason = f"was not written within {self._timeout:g} s; BUL_TASK_TIMEOUT allows more"
            self._owner.settle(writing, error=reason)
        elif why is Why.STOPPING:
            self._owner.progress(writing, -1.0)

    def _fail(
        self,
        writing: Writing,
        ticket: Ticket[Job],
        reason: str,
        *,
        transient: bool,
        at_least: float = 0.0,
    ) -> None:
        if writing.why is not None:
            self._end(writing, writing.why)
        elif transient and writing.tries <= self._retries:
            backoff = min(LONGEST_PAUSE, self._pause * 2.0 ** (writing.tries - 1))
            seconds = max(at_least, backoff * (0.5 + self._chance() / 2))
            self._metrics.retried()
            self._owner.progress(writing, -1.0)
            self._queue.put_back(ticket, seconds=seconds)
        else:
            self._owner.settle(writing, error=reason)

    def _keep_time(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            now = time.monotonic()
            for job in self._being_written():
                if job.began is not None and now - job.began > self._timeout:
                    job.interrupt(Why.TIMEOUT)
            try:
                self._owner.tick()
            except Exception:  # time goes on, whatever happened
                log.exception("a tick failed")

    def _being_written(self) -> list[Job]:
        with self._lock:
            return list(self._busy)
