"""What callers ask about afterwards: tasks, each an unchanging record replaced as work goes on.

Tasks live in memory in this version: a restart forgets them, and so does time, the oldest
finished ones first.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.document import Document
from blatam_kv.bul.order import Order
from blatam_kv.bul.pipeline import Answer
from blatam_kv.errors import Error

Status = Literal["queued", "processing", "completed", "failed"]
CacheResult = Literal["hit", "miss", "collapsed"]
_FINISHED = ("completed", "failed")


class UnknownTask(Error, KeyError):
    """No task has this id: it never existed, or it is older than what is kept."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request's way through the pipeline. Times are ``time.monotonic`` seconds."""

    order: Order
    format: str
    priority: int
    cache: CacheResult
    status: Status = "queued"
    progress: float = 0.0
    answer: Answer | None = None
    stored: bool = False
    error: str | None = None
    arrived: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def document(self) -> Document | None:
        """The document, once the answer is there."""
        if self.answer is None:
            return None
        brief = self.order.brief
        return Document(
            title=self.answer.title,
            markdown=self.answer.text,
            language=brief.language,
            document_type=brief.document_type,
            business_area=brief.business_area,
        )


class TaskBook:
    """Tasks by id: at most ``keep`` unfinished ones, and the newest ``keep`` that have finished.

    Safe from any thread; what it returns never changes.
    """

    def __init__(self, *, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._unfinished: dict[str, Task] = {}
        self._finished: OrderedDict[str, Task] = OrderedDict()

    def add(self, task: Task) -> bool:
        """Keep a task; False if it is unfinished and as many as allowed are so already."""
        with self._lock:
            if task.status in _FINISHED:
                self._retire(task)
            elif len(self._unfinished) >= self._keep:
                return False
            else:
                self._unfinished[task.id] = task
        return True

    def get(self, task_id: str, *, tenant: str = ITSELF.tenant) -> Task:
        """A tenant's task as it is now. Raises UnknownTask, for those of other tenants as well."""
        with self._lock:
            task = self._unfinished.get(task_id) or self._finished.get(task_id)
        if task is None or task.order.tenant != tenant:
            raise UnknownTask(f"no task {task_id[:64]!r}; only the newest {self._keep:,} are kept")
        return task

    def progress(self, ids: Iterable[str], share: float) -> None:
        """Tell several unfinished tasks how far their answer is."""
        with self._lock:
            for key in ids:
                task = self._unfinished[key]
                self._unfinished[key] = replace(task, status="processing", progress=share)

    def finish(self, tasks: Iterable[Task]) -> None:
        """Put finished tasks in the place of the unfinished ones with their ids, in one step."""
        with self._lock:
            for task in tasks:
                del self._unfinished[task.id]
                self._retire(task)

    def _retire(self, task: Task) -> None:
        self._finished[task.id] = task
        if len(self._finished) > self._keep:
            self._finished.popitem(last=False)

    def unfinished_of(self, tenant: str | None) -> int:
        """How many of a tenant, or of all, wait or are being worked on."""
        if tenant is None:
            return self.unfinished
        with self._lock:
            return sum(task.order.tenant == tenant for task in self._unfinished.values())

    @property
    def unfinished(self) -> int:
        """How many wait or are being worked on."""
        return len(self._unfinished)

    def __len__(self) -> int:
        return len(self._unfinished) + len(self._finished)
