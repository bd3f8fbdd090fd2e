"""What callers ask about afterwards: tasks, each an unchanging record replaced as work goes on.

``TaskBook`` holds what memory must: tasks that are not finished, finished ones that no database row
says so of yet, and the newest of the others, so that asking about them costs no query. Everything
older is in ``storage``.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from blatam_kv.bul.drafts import Part
from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.request import QueryRequest
from blatam_kv.documents.document import Document
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.styles import USUAL, Look
from blatam_kv.errors import Error
from blatam_kv.truthgpt.brief import Brief

Status = Literal["queued", "processing", "completed", "failed", "cancelled"]
CacheResult = Literal["hit", "miss", "collapsed"]
FINISHED: tuple[Status, ...] = ("completed", "failed", "cancelled")

# Finished tasks without a row; beyond it the oldest are forgotten and counted. At 500 bytes each
# (their answers are in the cache anyway) that is what a database may be away for.
MAX_UNSAVED = 50_000
# Finished tasks with a row that are kept all the same.
MAX_RECENT = 1_000


class NotFound(Error, KeyError):
    """What is asked for never existed, belongs to another tenant or is older than what is kept."""

    kind = "thing"

    def __init__(self, key: str) -> None:
        super().__init__(f"no {self.kind} {key[:64]!r}; what is old is not kept")

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownTask(NotFound):
    """No task has this id."""

    kind = "task"


class UnknownBatch(NotFound):
    """No batch has this id."""

    kind = "batch"


class UnknownDocument(NotFound):
    """No document has this id."""

    kind = "document"


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, and what it answers."""

    answer: Answer
    brief: Brief

    def document(self, look: Look = USUAL, letterhead: Letterhead | None = None) -> Document:
        """The document as it can be rendered."""
        return Document(
            title=self.answer.title,
            markdown=self.answer.text,
            language=self.brief.language,
            document_type=self.brief.document_type,
            business_area=self.brief.business_area,
            company=self.brief.company_name,
            audience=self.brief.target_audience,
            date=datetime.fromtimestamp(self.answer.born, UTC).date(),
            style=look.style,
            contents=look.contents,
            letterhead=letterhead,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request's way through the pipeline.

    arrived: ``time.monotonic`` seconds. created, finished, deadline: Unix time. request: what was
    asked, kept as long as there is no document. part: the section that is being written. tries: how
    often the model began. batch: the id of the batch it is part of. fence: under which this node holds
    its row, 0 before that is written. trace: the traceparent of who asked, for whoever goes on with it;
    None where nothing was traced.
    """

    tenant: str
    brief: Brief
    inferred: tuple[str, ...]
    format: str
    look: Look = USUAL
    priority: int
    cache: CacheResult
    status: Status = "queued"
    progress: float = 0.0
    part: Part | None = None
    answer: Answer | None = None
    stored: bool = False
    error: str | None = None
    tries: int = 0
    request: QueryRequest | None = None
    batch: str | None = None
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    created: float = field(default_factory=time.time)
    finished: float | None = None
    fence: int = 0
    trace: str | None = None
    id: str = field(default_factory=lambda: os.urandom(16).hex())

    @property
    def written(self) -> Written | None:
        """The answer with its brief, once it is there."""
        return None if self.answer is None else Written(self.answer, self.brief)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, however that was."""
        return self.status in FINISHED


# Called, from any thread, when something has changed; must not wait for anything.
Wake = Callable[[], None]


class TaskBook:
    """Tasks by id. Safe from any thread; what it returns never changes."""

    def __init__(self, *, max_unfinished: int) -> None:
        self.max_unfinished = max_unfinished
        self.dropped = 0  # finished tasks that were forgotten before a row was written
        self._lock = threading.Lock()
        self._unfinished: dict[str, Task] = {}
        self._unsaved: OrderedDict[str, Task] = OrderedDict()
        self._recent: OrderedDict[str, Task] = OrderedDict()
        self._watchers: dict[str, list[Wake]] = {}

    def add(self, tasks: Sequence[Task], *, bounded: bool = True) -> bool:
        """Keep tasks that have begun; False, and none is kept, if too many are unfinished."""
        with self._lock:
            if bounded and len(self._unfinished) + len(tasks) > self.max_unfinished:
                return False
            for task in tasks:
                self._unfinished[task.id] = task
        return True

    def add_finished(self, task: Task) -> None:
        """Keep a task that was finished as soon as it came, until its row is written."""
        with self._lock:
            self._unsaved[task.id] = task
            if len(self._unsaved) > MAX_UNSAVED:
                self._unsaved.popitem(last=False)
                self.dropped += 1

    def find(self, task_id: str, *, tenant: str) -> Task | None:
        """A tenant's task as it is now, if memory has it."""
        with self._lock:
            task = (
                self._unfinished.get(task_id)
                or self._unsaved.get(task_id)
                or self._recent.get(task_id)
            )
        return task if task is not None and task.tenant == tenant else None

    def progress(self, ids: Sequence[str], share: float) -> None:
        """Tell several tasks how far their answer is; those that are finished do not mind."""
        with self._lock:
            for key in ids:
                task = self._unfinished.get(key)
                if task is not None:
                    status: Status = "processing" if share >= 0 else "queued"
                    progress = max(0.0, share)
                    self._unfinished[key] = replace(task, status=status, progress=progress)
            wakes = self._wakes(ids)
        for wake in wakes:
            wake()

    def turn(self, ids: Sequence[str], part: Part) -> None:
        """Tell several tasks which section of their answer is being written."""
        with self._lock:
            for key in ids:
                task = self._unfinished.get(key)
                if task is not None:
                    self._unfinished[key] = replace(task, part=part)
            wakes = self._wakes(ids)
        for wake in wakes:
            wake()

    def finish(self, tasks: Sequence[Task], *, saved: bool) -> None:
        """Put finished tasks in the place of the unfinished ones with their ids, in one step."""
        with self._lock:
            for task in tasks:
                self._unfinished.pop(task.id, None)
                (self._remember if saved else self._set_unsaved)(task)
            wakes = self._wakes([task.id for task in tasks])
        for wake in wakes:
            wake()

    def watch(self, ids: Sequence[str], wake: Wake) -> Callable[[], None]:
        """Have ``wake`` called whenever one of these tasks changes; returns how to end that."""
        with self._lock:
            for key in ids:
                self._watchers.setdefault(key, []).append(wake)

        def stop() -> None:
            with self._lock:
                for key in ids:
                    left = [each for each in self._watchers[key] if each is not wake]
                    if left:
                        self._watchers[key] = left
                    else:
                        del self._watchers[key]

        return stop

    def _wakes(self, ids: Sequence[str]) -> set[Wake]:
        if not self._watchers:
            return set()
        return {wake for key in ids for wake in self._watchers.get(key, ())}

    def forget(self, ids: Iterable[str]) -> None:
        """Drop unfinished tasks, as if they had never come."""
        with self._lock:
            for key in ids:
                self._unfinished.pop(key, None)

    def hold(self, ids: Iterable[str]) -> None:
        """Their rows are written: this node holds them under the first fence."""
        ids = set(ids)
        with self._lock:
            for tasks in (self._unfinished, self._unsaved):
                for key in tasks.keys() & ids:
                    if not tasks[key].fence:
                        tasks[key] = replace(tasks[key], fence=1)

    def drop(self, tasks: Iterable[Task]) -> None:
        """Let go of tasks that another node has; what this one has taken anew meanwhile stays."""
        tasks = list(tasks)
        with self._lock:
            for task in tasks:
                for kept in (self._unfinished, self._unsaved):
                    if (mine := kept.get(task.id)) is not None and mine.fence == task.fence:
                        del kept[task.id]
            wakes = self._wakes([task.id for task in tasks])
        for wake in wakes:
            wake()

    def unfinished_tasks(self) -> list[Task]:
        """Those that wait or are being worked on."""
        with self._lock:
            return list(self._unfinished.values())

    def knows(self, task_id: str) -> bool:
        """Whether this is one of those, or one whose row is still to be written."""
        with self._lock:  # one that ends is for a moment in neither
            return task_id in self._unfinished or task_id in self._unsaved

    def unsaved(self, limit: int) -> list[Task]:
        """The oldest finished tasks whose rows are still to be written."""
        with self._lock:
            return list(itertools.islice(self._unsaved.values(), limit))

    def saved(self, tasks: Sequence[Task]) -> None:
        """Their rows are written."""
        with self._lock:
            for task in tasks:
                if self._unsaved.pop(task.id, None) is not None:
                    self._remember(task)

    def _set_unsaved(self, task: Task) -> None:
        self._unsaved[task.id] = task

    def _remember(self, task: Task) -> None:
        self._recent[task.id] = task
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)

    def unfinished_of(self, tenant: str | None) -> int:
        """How many of a tenant, or of all, wait or are being worked on."""
        if tenant is None:
            return self.unfinished
        with self._lock:
            return sum(task.tenant == tenant for task in self._unfinished.values())

    @property
    def unfinished(self) -> int:
        """How many wait or are being worked on."""
        return len(self._unfinished)

    @property
    def unsaved_count(self) -> int:
        """Finished tasks whose rows are still to be written."""
        return len(self._unsaved)
