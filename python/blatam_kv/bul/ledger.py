"""Who waits for which answer: tasks, the writings they share, and how each of them ends.

A task begins here when its answer is not cached, and ends here: with the answer, with a failure, at
its deadline or cancelled. A writing ends when nobody waits for it any more. Whoever takes a task
out of ``_writing_of``, under the lock, is the one who ends it; everything slow (rows, counting)
comes after the lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from blatam_kv.bul.asked import Asked
from blatam_kv.bul.deadlines import Deadlines
from blatam_kv.bul.drafts import Part
from blatam_kv.bul.order import Order
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.queue import PriorityQueue, QueueFull
from blatam_kv.bul.recorder import EndRows, save_ends
from blatam_kv.bul.storage import Callback, StorageUnavailable
from blatam_kv.bul.tally import Tallies
from blatam_kv.bul.tasks import Status, Task, TaskBook
from blatam_kv.bul.writers import Job, Why, Writing
from blatam_kv.errors import Error
from blatam_kv.metrics import ServiceMetrics

_LATE = "was not written before its deadline"
_ELSEWHERE = "task {} is being worked on elsewhere; it cannot be cancelled"


class Overloaded(Error, RuntimeError):
    """Too much is waiting already; ``retry_after`` says in how many seconds to try again."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AlreadyFinished(Error, RuntimeError):
    """The task cannot be cancelled: it has ended, or another node works on it."""


class TaskRows(EndRows, Protocol):
    """What the ledger needs of an archive."""

    def add(self, begun: Iterable[Task], callbacks: Sequence[Callback] = ()) -> None:
        """Write unfinished tasks and who is to be told of their end, all or none, durably. Raises
        StorageUnavailable."""


class Ledger:
    """Unfinished tasks and their writings. Safe from any thread.

    place_in: roughly how many seconds until the queue has a place again, for who finds it full.
    Lock order: the ledger's, then the queue's or the book's.
    """

    def __init__(
        self,
        queue: PriorityQueue[Job],
        book: TaskBook,
        rows: TaskRows,
        pipeline: Pipeline,
        tallies: Tallies,
        metrics: ServiceMetrics,
        *,
        place_in: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._book = book
        self._rows = rows
        self._pipeline = pipeline
        self._tallies = tallies
        self._metrics = metrics
        self._place_in = place_in
        self._lock = threading.Lock()
        self._stopping = False
        self._writings: dict[bytes, Writing] = {}  # by what may be shared of them
        self._writing_of: dict[str, Writing] = {}  # by task
        self._deadlines = Deadlines(self._writing_of)

    # How tasks begin.

    def answered(
        self,
        asked: Asked,
        answer: Answer,
        *,
        arrived: float,
        batch: str | None = None,
        tier: str = "memory",
    ) -> Task:
        """A task for an answer that is cached: finished as it comes, its row is written later.

        arrived: when it was asked for, on the monotonic clock; tier: where the answer came from.
        """
        task = asked.task("hit", arrived=arrived, batch=batch, answer=answer)
        self.count(task)
        self._book.add_finished(task)
        self._metrics.cache_request("hit", tier=tier)
        return task

    def begin(self, asked: Sequence[Asked], *, batch: str | None = None) -> list[Task]:
        """A durable task for each of the answers, which are not cached; all or none.

        Raises InvalidRequest if a query is too long for the model, Overloaded if there is no room or
        the service is stopping, and StorageUnavailable.
        """
        if not asked:
            return []
        for each in asked:
            self._pipeline.check_room(each.order)
        try:
            begun, fresh = self._enter(asked, batch)
        except QueueFull as error:
            seconds = math.ceil(self._place_in())
            raise Overloaded(f"{error}; try again later", retry_after=seconds) from None
        both = list(zip(asked, begun, strict=True))
        try:
            self._rows.add(begun, [told for each, task in both for told in each.callbacks(task)])
            self._book.hold(task.id for task in begun)
        except StorageUnavailable:
            self._metrics.storage_failed("add")
            with self._lock:
                self._withdraw(begun)
            raise
        finally:
            # Even if ours came to nothing: somebody else may have joined meanwhile.
            for writing in fresh:
                self._release(writing)
        for each, task in both:
            how = task.cache if each.order.wishes.look else "bypass"
            self._metrics.cache_request(how, tier="none")
        return begun

    def _enter(self, asked: Sequence[Asked], batch: str | None) -> tuple[list[Task], list[Writing]]:
        """Their tasks, and the writings that are new, whose places in the queue are held."""
        arrived = time.monotonic()
        begun: list[Task] = []
        fresh: list[Writing] = []
        with self._lock:
            if self._stopping:
                raise Overloaded("the service is stopping", retry_after=10)
            try:
                for each in asked:
                    order = each.order
                    joins = order.flight in self._writings
                    task = each.task("collapsed" if joins else "miss", arrived=arrived, batch=batch)
                    if not joins:
                        fresh.append(self._new_writing(order, task))
                    self._join(self._writings[order.flight], task)
                    begun.append(task)
                if not self._book.add(begun):
                    raise QueueFull(f"{self._book.unfinished} tasks are unfinished already")
            except QueueFull:
                self._withdraw(begun)
                raise
        return begun, fresh

    def resume(self, task: Task, order: Order) -> None:
        """Go on with a task that has its row already, as old as it is."""
        with self._lock:
            if task.id in self._writing_of:  # it was lost, and came back while it was being written
                self._book.add([task], bounded=False)
                return
            writing = self._writings.get(order.flight)
            if writing is None:
                waited = max(0.0, time.time() - task.created)
                writing = self._new_writing(order, task, waited=waited, bounded=False)
            self._join(writing, task)
            self._book.add([task], bounded=False)
        self._release(writing)

    def held(self) -> list[Task]:
        """What is unfinished here."""
        return self._book.unfinished_tasks()

    def knows(self, task_id: str) -> bool:
        """Whether a task is unfinished here, or its end is still to be written."""
        return self._book.knows(task_id)

    def let_go(self, tasks: Sequence[Task]) -> None:
        """Another node has taken them: what is written of them here is for nobody."""
        self._lost(len(tasks))
        with self._lock:
            for task in tasks:
                self._leave(task.id)
        self._book.drop(tasks)

    def _lost(self, count: int) -> None:
        self._metrics.taken("another", count)

    def give_up(self, task: Task, reason: str) -> None:
        """End a task that cannot be resumed."""
        self._end([task], status="failed", error=reason)

    def _new_writing(
        self, order: Order, task: Task, *, waited: float = 0.0, bounded: bool = True
    ) -> Writing:
        writing = Writing(order, [])
        writing.ticket = self._queue.push(
            writing,
            tenant=order.tenant,
            priority=task.priority,
            deadline=_monotonic(task.deadline),
            waited=waited,
            held=True,
            bounded=bounded,
        )
        self._writings[order.flight] = writing
        return writing

    def _join(self, writing: Writing, task: Task) -> None:
        deadline = _monotonic(task.deadline)
        if writing.task_ids and writing.ticket is not None:
            self._queue.join(writing.ticket, priority=task.priority, deadline=deadline)
        writing.task_ids.append(task.id)
        self._writing_of[task.id] = writing
        if deadline is not None:
            self._deadlines.add(deadline, task.id, task.tenant)

    def _release(self, writing: Writing) -> None:
        if writing.ticket is not None:
            self._queue.release(writing.ticket)

    def _withdraw(self, tasks: Iterable[Task]) -> None:
        """Make it as if they had never come."""
        for task in tasks:
            self._leave(task.id)
        self._book.forget(task.id for task in tasks)

    def _leave(self, task_id: str) -> bool:
        """Take a task from its writing; False if somebody has ended it already."""
        writing = self._writing_of.pop(task_id, None)
        if writing is None:
            return False
        writing.task_ids.remove(task_id)
        if not writing.task_ids:
            if self._writings.get(writing.order.flight) is writing:
                del self._writings[writing.order.flight]
            if writing.ticket is None or not self._queue.remove(writing.ticket):
                writing.interrupt(Why.CANCELLED)
        return True

    # How they end.

    def cancel(self, task: Task) -> Task:
        """End a task; the writing goes on if others wait for it. Raises AlreadyFinished."""
        with self._lock:
            ours = self._leave(task.id)
        if not ours:
            if not task.is_finished:
                raise AlreadyFinished(_ELSEWHERE.format(task.id))
            raise AlreadyFinished(f"task {task.id} is {task.status}; it cannot be cancelled")
        now = self._book.find(task.id, tenant=task.tenant) or task
        ended = self._end([now], status="cancelled", error="was cancelled")
        if not ended:
            raise AlreadyFinished(_ELSEWHERE.format(task.id))
        return ended[0]

    def settle(
        self, writing: Writing, *, answer: Answer | None = None, error: str | None = None
    ) -> None:
        """The writing is over: its tasks end with the answer or with the reason."""
        with self._lock:
            # From here on a new request looks into the cache or starts another writing.
            if self._writings.get(writing.order.flight) is writing:
                del self._writings[writing.order.flight]
            ids, writing.task_ids = writing.task_ids, []
            for key in ids:
                del self._writing_of[key]
        found = self._found((key, writing.order.tenant) for key in ids)
        tasks = [replace(task, tries=writing.tries) for task in found]
        if answer is None:
            self._end(tasks, status="failed", error=error)
        else:
            order = writing.order
            stored = order.wishes.keep and order.digest in self._pipeline.cache
            self._end(tasks, status="completed", answer=answer, stored=stored)

    def progress(self, writing: Writing, share: float) -> None:
        """The share written, 0 to 1; below 0, that the writing waits again."""
        self._book.progress(tuple(writing.task_ids), share)

    def turn(self, writing: Writing, part: Part) -> None:
        """Another section is being written."""
        self._book.turn(tuple(writing.task_ids), part)

    def pieces(self, task_id: str) -> list[str] | None:
        """The text of a task so far, piece by piece, as it grows; another list for another try. None
        where nothing is being written for it."""
        with self._lock:
            writing = self._writing_of.get(task_id)
        return None if writing is None else writing.pieces

    def tick(self) -> None:
        """End what has passed its deadline."""
        expired = [job for job in self._queue.expired() if isinstance(job, Writing)]
        with self._lock:
            passed = self._deadlines.passed(time.monotonic())
            late = [(key, tenant) for key, tenant in passed if self._leave(key)]
        self._end(self._found(late), status="failed", error=_LATE)
        for writing in expired:
            self._requeue(writing)

    def _requeue(self, writing: Writing) -> None:
        """Give a writing that has left the queue another place if somebody joined it too late to
        hold it there."""
        with self._lock:
            waiting = self._found((key, writing.order.tenant) for key in writing.task_ids)
            if not waiting:
                return
            deadlines = [task.deadline for task in waiting if task.deadline is not None]
            writing.ticket = self._queue.push(
                writing,
                tenant=writing.order.tenant,
                priority=min(task.priority for task in waiting),
                deadline=_monotonic(max(deadlines) if len(deadlines) == len(waiting) else None),
                bounded=False,
            )

    def _found(self, keys: Iterable[tuple[str, str]]) -> list[Task]:
        """Tasks by id and tenant."""
        found = (self._book.find(key, tenant=tenant) for key, tenant in keys)
        return [task for task in found if task is not None]

    def stop(self) -> None:
        """From now on nothing begins."""
        with self._lock:
            self._stopping = True

    def _end(
        self,
        tasks: Sequence[Task],
        *,
        status: Status,
        error: str | None = None,
        answer: Answer | None = None,
        stored: bool = False,
    ) -> list[Task]:
        ended = [
            replace(
                task,
                status=status,
                progress=1.0,
                error=error,
                answer=answer,
                stored=stored,
                finished=time.time(),
            )
            for task in tasks
        ]
        saved = True
        if ended:
            try:
                ended = save_ends(ended, self._rows, self._book, lost=self._lost)
            except StorageUnavailable:
                self._metrics.storage_failed("save")
                saved = False  # the recorder tries again
        # Counted before they are shown: who sees a task finished finds it in the totals.
        for task in ended:
            self.count(task)
        self._book.finish(ended, saved=saved)
        return ended

    def count(self, task: Task) -> None:
        """Add a finished task to the totals."""
        seconds = time.monotonic() - task.arrived
        self._tallies.finished(task, seconds)
        if task.status == "completed":
            self._metrics.answered(seconds)

    # What is asked about those that wait.

    def position(self, task: Task) -> int | None:
        """Where in the queue a task's answer is, 1 for the next; None if it is in none."""
        writing = self._writing_of.get(task.id)
        if writing is None or writing.ticket is None:
            return None
        return self._queue.position(writing.ticket)


def _monotonic(deadline: float | None) -> float | None:
    """A moment of Unix time on the monotonic clock."""
    return None if deadline is None else time.monotonic() + (deadline - time.time())
