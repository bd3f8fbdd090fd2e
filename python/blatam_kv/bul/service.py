"""BUL as one object: requests in, tasks and documents out, a few threads that write.

A hit is answered at once by the caller's own thread. A miss waits in a bounded queue, most urgent
first, for one of the writers. Requests for an answer that is already being written join that
writing (a ``_Writing``) and take neither a place in the queue nor a writer, so a thousand
identical misses cost one model call and cannot crowd out the others.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from blatam_kv.blocks import KVStore
from blatam_kv.bul.document import Rendered, render
from blatam_kv.bul.order import Order, place
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.tally import Tally
from blatam_kv.bul.tasks import CacheResult, Task, TaskBook
from blatam_kv.cache import Cache
from blatam_kv.config import Settings
from blatam_kv.errors import Error, InvalidRequest
from blatam_kv.metrics import BlocksSnapshot, CacheSnapshot, ServiceMetrics
from blatam_kv.truthgpt.protocol import TruthGPT

log = logging.getLogger("blatam_kv.bul")

# Telling every waiting task at every piece of text would cost more than the writing.
_PROGRESS_STEP = 0.05


class Overloaded(Error, RuntimeError):
    """Too much is waiting already; ``retry_after`` says in how many seconds to try again."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class _Writing:
    """One answer being written, and the tasks that wait for it. Guarded by the service's lock."""

    order: Order
    priority: int
    task_ids: list[str]
    queued_at: float = field(default_factory=time.monotonic)


class Service:
    """The pipeline, its tasks and its writers. Safe from any thread; close it when done.

    blocks: where the model keeps prefixes, to be told of and cleared; closed by who opened it.
    """

    def __init__(
        self,
        model: TruthGPT,
        settings: Settings,
        *,
        version: str,
        blocks: KVStore | None = None,
    ) -> None:
        self.settings = settings
        self.version = version
        self.model = model
        self._blocks = blocks
        cache: Cache[bytes, Answer] = Cache(
            capacity_bytes=settings.cache_max_memory_mb << 20,
            sizeof=lambda answer: answer.size_bytes,
            policy=settings.cache_strategy,
            ttl=settings.cache_ttl,
        )
        self.pipeline = Pipeline(model, cache)
        self.tasks = TaskBook(keep=settings.max_kept_tasks)
        self.tally = Tally()
        self.metrics = ServiceMetrics(
            version=version,
            cache=self.cache_snapshot,
            queue_depth=self.queue_depth,
            blocks=self.blocks_snapshot,
        )
        self._lock = threading.Lock()
        self._waiting: Counter[int] = Counter()
        self._writings: dict[bytes, _Writing] = {}
        self._stop = threading.Event()
        self._arrivals = itertools.count()
        # (priority, arrival, writing); a writing of None, more urgent than any, ends a writer.
        self._queue: queue.PriorityQueue[tuple[int, int, _Writing | None]] = queue.PriorityQueue()
        self._writers = [
            threading.Thread(target=self._write_forever, name=f"bul-writer-{n}", daemon=True)
            for n in range(settings.max_concurrent_tasks)
        ]
        for writer in self._writers:
            writer.start()

    def place(self, request: QueryRequest) -> Order:
        """The order for a checked request."""
        with self.metrics.stage("validate"):
            return place(request, self.model)

    def answer_from_cache(self, order: Order, request: QueryRequest) -> Task | None:
        """A finished task if the answer is cached. Quick: no queue, no model, no rendering."""
        arrived = time.monotonic()
        with self.metrics.stage("cache"):
            answer = self.pipeline.lookup(order)
        if answer is None:
            return None
        done = {"status": "completed", "progress": 1.0, "answer": answer, "stored": True}
        task = self._new_task(order, request, "hit", arrived, **done)
        self._count(task)
        return task

    def enqueue(self, order: Order, request: QueryRequest) -> Task:
        """A task for an answer that is not cached.

        Raises InvalidRequest if the query is too long for the model, Overloaded if too much waits
        already or the service is stopping.
        """
        arrived = time.monotonic()
        self.pipeline.check_room(order)
        with self._lock:
            if self._stop.is_set():
                raise Overloaded("the service is stopping", retry_after=10)
            writing = self._writings.get(order.digest)
            if writing is not None:
                task = self._new_task(order, request, "collapsed", arrived)
                writing.task_ids.append(task.id)
                return task
            waiting = self._waiting.total()
            if waiting >= self.settings.max_queued_tasks:
                raise self._overloaded(f"{waiting} documents are waiting already")
            task = self._new_task(order, request, "miss", arrived)
            writing = _Writing(order, request.priority, [task.id])
            self._writings[order.digest] = writing
            self._waiting[request.priority] += 1
        self._queue.put((request.priority, next(self._arrivals), writing))
        return task

    def document(self, task: Task, format: str | None = None) -> Rendered:
        """A completed task's document, in its own format or another."""
        document = task.document
        if document is None:
            raise InvalidRequest(f"task {task.id} is {task.status}; it has no document")
        format = format or task.format
        try:
            with self.metrics.stage("document"):
                rendered = render(document, format)
        except Exception:
            self.metrics.document(format, ok=False)
            raise
        self.metrics.document(format, ok=True)
        return rendered

    def clear(self) -> int:
        """Forget every cached answer and prefix; returns how many answers there were. Tasks keep
        theirs, and a folder that another process writes keeps its blocks."""
        entries = len(self.pipeline.cache)
        self.pipeline.cache.clear()
        if self._blocks is not None and not self._blocks.read_only:
            self._blocks.clear()
        return entries

    def close(self, *, seconds: float = 10.0) -> None:
        """Stop writing, fail what waits, and join the writers for at most ``seconds``."""
        with self._lock:
            self._stop.set()
        for _ in self._writers:
            self._queue.put((-1, next(self._arrivals), None))
        deadline = time.monotonic() + seconds
        for writer in self._writers:
            writer.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = list(self._writings.values())
        for writing in left:
            self._settle(writing, status="failed", error="the service stopped; ask again")

    # What the writers do.

    def _write_forever(self) -> None:
        while True:
            _, _, writing = self._queue.get()
            if writing is None:
                return
            self._write(writing)

    def _write(self, writing: _Writing) -> None:
        self.metrics.stage_took("queue", time.monotonic() - writing.queued_at)
        with self._lock:
            self._waiting[writing.priority] -= 1
        told = -1.0

        def progress(share: float) -> None:
            nonlocal told
            if share - told >= _PROGRESS_STEP:
                told = share
                self.tasks.progress(tuple(writing.task_ids), share)

        progress(0.0)
        try:
            with self.metrics.stage("model"):
                answer, _ = self.pipeline.write(writing.order, progress=progress, stop=self._stop)
        except Error as error:
            self._settle(writing, status="failed", error=str(error))
        except Exception as error:
            # The writer must outlive any model; the cause goes to the log, its kind to the caller.
            log.exception("the model failed")
            kind = type(error).__name__
            self._settle(writing, status="failed", error=f"the model failed ({kind}); try again")
        else:
            stored = writing.order.digest in self.pipeline.cache
            self._settle(writing, status="completed", answer=answer, stored=stored)

    def _settle(self, writing: _Writing, **outcome: Any) -> None:
        with self._lock:
            # From here on a new request looks into the cache or starts another writing.
            self._writings.pop(writing.order.digest, None)
            ids = tuple(writing.task_ids)
        tasks = [replace(self.tasks.get(key), progress=1.0, **outcome) for key in ids]
        # Counted before they are shown: who sees a task finished finds it in the totals.
        for task in tasks:
            self._count(task)
        self.tasks.finish(tasks)

    # Tasks and their counts.

    def _new_task(
        self,
        order: Order,
        request: QueryRequest,
        cache: CacheResult,
        arrived: float,
        **more: Any,  # any of Task's other fields
    ) -> Task:
        task = Task(
            order=order,
            format=request.format,
            priority=request.priority,
            cache=cache,
            arrived=arrived,
            **more,
        )
        if not self.tasks.add(task):
            raise self._overloaded(f"{self.tasks.unfinished} tasks are unfinished already")
        self.metrics.cache_request(cache, tier="memory" if cache == "hit" else "none")
        return task

    def _count(self, task: Task) -> None:
        seconds = time.monotonic() - task.arrived
        self.tally.finished(task, seconds)
        if task.status == "completed":
            self.metrics.answered(seconds)

    def _overloaded(self, reason: str) -> Overloaded:
        seconds = math.ceil(self._typical_seconds() / len(self._writers))
        return Overloaded(f"{reason}; try again later", retry_after=seconds)

    def _typical_seconds(self) -> float:
        return self.tally.misses.quantile(0.5) or 1.0

    # What others read.

    def estimated_seconds(self, task: Task) -> float:
        """Roughly how long until the task is done, from what misses took so far."""
        if task.status in ("completed", "failed"):
            return 0.0
        with self._lock:
            waiting = self._waiting.total()
        return round(self._typical_seconds() * (1 + waiting / len(self._writers)), 3)

    def seconds_left(self, task: Task) -> int | None:
        """Whole seconds that the cached answer of a task stays fresh; None without a limit."""
        ttl = self.settings.cache_ttl
        if ttl is None or task.answer is None:
            return None
        return max(0, int(task.answer.born + ttl - time.time()))

    def queue_depth(self) -> Mapping[int, int]:
        """Writings that wait, by priority."""
        with self._lock:
            return {priority: self._waiting[priority] for priority in range(5)}

    def cache_snapshot(self) -> CacheSnapshot:
        """The cache as the exporter and ``stats`` show it."""
        stats = self.pipeline.cache.stats()
        return CacheSnapshot(
            policy=self.settings.cache_strategy,
            entries=stats.entries,
            memory_bytes=stats.bytes,
            memory_limit_bytes=self.settings.cache_max_memory_mb << 20,
            evictions=dict(stats.evictions),
            learned=stats.learned,
        )

    def stats(self) -> dict[str, object]:
        """The service's totals, for ``GET /stats``."""
        unfinished = self.tasks.unfinished
        return {
            "total_tasks": self.tally.tasks_finished + unfinished,
            "unfinished_tasks": unfinished,
            **self.tally.of_tasks(),
            "tasks_kept": len(self.tasks),
            "queue_depth": sum(self.queue_depth().values()),
            "model": self.model.model_id,
            "version": self.version,
        }

    def cache_stats(self) -> dict[str, object]:
        """The cache's totals, for ``GET /api/v1/kv-cache/stats``."""
        now = self.cache_snapshot()
        return {
            **self.tally.of_requests(),
            "strategy": now.policy,
            "entries": now.entries,
            "memory_usage": now.memory_bytes,
            "memory_limit": now.memory_limit_bytes,
            "evictions": dict(now.evictions),
            "blocks": self._blocks_stats(),
        }

    def blocks_snapshot(self) -> BlocksSnapshot | None:
        """The blocks of prompts as the exporter shows them; None where the model keeps none."""
        if self._blocks is None:
            return None
        now = self._blocks.stats()
        return BlocksSnapshot(
            entries=now.blocks,
            memory_bytes=now.bytes,
            memory_limit_bytes=now.capacity_bytes,
            disk_bytes=now.tier.bytes if now.tier is not None else 0,
            tokens_asked=now.tokens_asked,
            tokens_found={"memory": now.tokens_from_memory, "disk": now.tokens_from_tier},
            damaged=now.damaged,
        )

    def _blocks_stats(self) -> dict[str, object] | None:
        now = self.blocks_snapshot()
        if self._blocks is None or now is None:
            return None
        found = sum(now.tokens_found.values())
        return {
            "policy": self.settings.kv_policy,
            "codec": self._blocks.codec,
            "entries": now.entries,
            "memory_usage": now.memory_bytes,
            "memory_limit": now.memory_limit_bytes,
            "disk_usage": now.disk_bytes,
            "tokens_asked": now.tokens_asked,
            "tokens_found": dict(now.tokens_found),
            "hit_rate": round(found / now.tokens_asked, 6) if now.tokens_asked else 0.0,
            "damaged": now.damaged,
        }

    def _persistence(self) -> str:
        on_disk = self._blocks is not None and self._blocks.stats().tier is not None
        blocks = "prefixes are kept on disk; " if on_disk else ""
        return f"{blocks}answers are kept in memory"

    def cache_health(self) -> dict[str, object]:
        """The cache's state, for ``GET /api/v1/kv-cache/health``."""
        now = self.cache_snapshot()
        alive = all(writer.is_alive() for writer in self._writers)
        return {
            "status": "healthy" if alive else "unhealthy",
            "components": {
                "cache": "healthy",
                "writers": "healthy" if alive else "stopped",
                "gpu": "not used in this version",
                "persistence": self._persistence(),
            },
            "metrics": {
                "memory_usage": now.memory_bytes,
                "cache_size": now.entries,
                "active_sessions": self.tasks.unfinished,
            },
        }
