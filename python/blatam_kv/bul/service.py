"""BUL as one object: requests in, tasks and documents out.

A hit is answered at once by the caller's own thread, and touches no database. A miss gets a durable
row, waits in the queue and is written by one of the writers. Requests for an answer that is already
being written join that writing and take neither a place in the queue nor a writer, so a thousand
identical misses cost one model call and cannot crowd out the others.

This is the face that the rest of the program calls. What is cached where is in ``pipeline``, who waits
for what in ``ledger``, the order of it in ``queue``, the writing in ``writers``, many requests at once
in ``batches``, and what outlives the process in ``storage``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blatam_kv.blocks import KVStore
from blatam_kv.bul.adopter import Adopter
from blatam_kv.bul.asked import Asked
from blatam_kv.bul.backups import Backups, folders_of
from blatam_kv.bul.batches import Batches
from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.chats import Chats
from blatam_kv.bul.keeping import open_pipeline
from blatam_kv.bul.ledger import Ledger
from blatam_kv.bul.neighbours import Neighbours
from blatam_kv.bul.observed import Observed
from blatam_kv.bul.order import Order, place
from blatam_kv.bul.outbound import Outbound
from blatam_kv.bul.press import Press
from blatam_kv.bul.queue import PriorityQueue
from blatam_kv.bul.recorder import Recorder
from blatam_kv.bul.reports import Reports
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.steering import Steering
from blatam_kv.bul.storage import Callback, Page, counting, open_storage
from blatam_kv.bul.tally import Tallies
from blatam_kv.bul.tasks import Status, Task, TaskBook, UnknownDocument, UnknownTask, Written
from blatam_kv.bul.wishes import digest_of
from blatam_kv.bul.writers import Job, Writers
from blatam_kv.config import Settings
from blatam_kv.devices import DeviceSnapshot
from blatam_kv.documents.rendering import Rendered
from blatam_kv.errors import Error, InvalidRequest
from blatam_kv.metrics import ServiceMetrics
from blatam_kv.tracing import Span, under
from blatam_kv.truthgpt.protocol import RunsOnDevices, TruthGPT

if TYPE_CHECKING:
    from blatam_kv.bul.storage.archive import Archive
    from blatam_kv.tiers.redis import RedisTier

log = logging.getLogger("blatam_kv.bul")

# What a stop keeps of its time for the rows that are still to be written.
_FLUSH_SHARE = 0.1


class Service:
    """The pipeline, its tasks and its writers. Safe from any thread; close it when done.

    blocks: where the model keeps prefixes, to be told of and cleared; closed by who opened it.
    redis: where nodes share answers, closed with the service; None for a node that is alone.
    archive: where tasks and documents are kept, closed with the service; None keeps them in memory.
    salt_of: the salt of a tenant, for tasks that an earlier process left unfinished. devices: what is
    seen of those that the model runs on; by default what the model sees of several. resumed: the span
    under which such a task goes on, from the traceparent of who asked; None where nothing is traced.
    """

    def __init__(
        self,
        model: TruthGPT,
        settings: Settings,
        *,
        version: str,
        blocks: KVStore | None = None,
        redis: RedisTier | None = None,
        archive: Archive | None = None,
        salt_of: Callable[[str], bytes] = lambda tenant: ITSELF.salt,
        devices: Callable[[], Sequence[DeviceSnapshot]] | None = None,
        resumed: Callable[[str], Span] | None = None,
    ) -> None:
        self.settings = settings
        self.version = version
        self.model = model
        self._blocks = blocks
        self.archive = archive if archive is not None else open_storage("sqlite://")
        self.tasks = TaskBook(max_unfinished=settings.max_unfinished_tasks)
        tallies = Tallies()
        if devices is None:
            devices = model.devices if isinstance(model, RunsOnDevices) else tuple
        self.devices = devices
        self.metrics = ServiceMetrics(
            version=version,
            cache=lambda: self.reports.cache_snapshot(),
            queue_depth=lambda: self.queue.depths(),
            unsaved=lambda: self.tasks.unsaved_count,
            blocks=lambda: self.reports.blocks_snapshot(),
            devices=self.devices,
            tiers=lambda: self.reports.tier_snapshots(),
            backups=lambda: self.backups.snapshot(),
        )
        self.pipeline = open_pipeline(
            Observed(model, self.metrics, provider=settings.model),
            settings,
            redis=redis,
            cleared=self._clear_blocks,
        )
        self.shelf, self.shared = self.pipeline.shelf, self.pipeline.shared
        self.backups = Backups(settings, folders_of(settings, shelf=self.shelf, blocks=blocks))
        self.steering = Steering(
            self.pipeline,
            written=self.written,
            configured=settings.cache_strategy,
        )
        self.press = Press(lambda: self.archive, self.metrics)
        self.queue: PriorityQueue[Job] = PriorityQueue(
            capacity=settings.max_queued_tasks,
            tenant_capacity=settings.max_queued_per_tenant,
            ageing_seconds=settings.queue_ageing,
        )
        self.chats = Chats(self.pipeline, self.queue)
        self.outbound = Outbound(settings.callback_allow)
        self.ledger = Ledger(
            self.queue,
            self.tasks,
            self.archive,
            self.pipeline,
            tallies,
            self.metrics,
            place_in=lambda: self.writers.seconds_a_place,
        )
        self.writers = Writers(
            self.queue,
            self.pipeline,
            self.ledger,
            self.metrics,
            threads=settings.max_concurrent_tasks * max(1, len(self.devices())),
            retries=settings.retry_attempts,
            pause=settings.retry_delay,
            timeout=settings.task_timeout,
        )
        self._recorder = Recorder(
            self.tasks,
            self.archive,
            newest=settings.max_kept_tasks,
            days=settings.keep_days,
            failed=self.metrics.storage_failed,
            lost=lambda count: self.metrics.taken("another", count),
        )
        self.batches = Batches(
            self.pipeline,
            self.ledger,
            self.tasks,
            self.archive,
            self._recorder,
            self.metrics,
            place=self.place,
        )
        self.reports = Reports(
            model,
            settings,
            self.pipeline,
            self.tasks,
            self.queue,
            self.writers,
            tallies,
            version,
            blocks,
            self.backups,
            lambda: self.archive.well,
            self.devices,
            self.steering,
        )
        self.neighbours = Neighbours(
            self.archive, None if self.shared is None else self.shared.listening
        )
        if not settings.continuous_mode:
            self.queue.pause()
        self._closed = False
        self._draining_since: float | None = None
        self._salt_of = salt_of
        self._resumed = resumed
        self._adopter = Adopter(
            self.archive,
            self.ledger,
            go_on=self._go_on_with,
            failed=self.metrics.storage_failed,
            taken=lambda count: self.metrics.taken("this", count),
        )
        self.archive.live()  # before its tasks are read: from now on nobody else may take them
        self._go_on_with(self.archive.take_up())
        self.writers.start()
        self._recorder.start()
        self.backups.start()
        if self.archive.shared:
            self._adopter.start()

    def _go_on_with(self, left: Sequence[Task]) -> None:
        """Tasks that an earlier process left unfinished, or another node."""
        for task in left:
            try:
                if task.request is None:
                    raise InvalidRequest("its request is not on record")
                salt = self._salt_of(task.tenant)
                caller = Caller(tenant=task.tenant, key_id="resumed", scopes=frozenset(), salt=salt)
                order = place(task.request, self.model, caller)
                self.pipeline.check_room(order)
            except Error as error:
                self.ledger.give_up(task, f"could not be resumed: {error}")
            else:
                span = None
                if self._resumed is not None and task.trace is not None:
                    span = self._resumed(task.trace)
                with under(span):
                    self.ledger.resume(replace(task, brief=order.brief), order)
        if left:
            log.info("%d unfinished tasks go on", len(left))

    # Asking.

    def place(self, request: QueryRequest, caller: Caller = ITSELF) -> Order:
        """The order of a caller for a checked request."""
        with self.metrics.stage("validate"):
            return place(request, self.model, caller)

    def answer_from_cache(self, order: Order, request: QueryRequest) -> Task | None:
        """A finished task if the answer is cached. Quick: no queue, no model, no database."""
        arrived = time.monotonic()
        found = self.pipeline.lookup(order)  # untimed: noting it would take longer
        if found is None:
            return None
        asked = Asked(order, request, time.time())
        return self.ledger.answered(asked, found.answer, arrived=arrived, tier=found.tier)

    def enqueue(self, order: Order, request: QueryRequest, key_id: str = ITSELF.key_id) -> Task:
        """A task for an answer that is not cached here: finished if another node has it, durable if
        not. Waits for Redis and the database.

        Raises InvalidRequest if the query is too long for the model, Overloaded if too much waits
        already or the service is stopping, StorageUnavailable.
        """
        arrived, asked = time.monotonic(), Asked(order, request, time.time(), key_id)
        (answer,) = self.pipeline.elsewhere([(order, order.wishes)])
        if answer is None:
            return self.ledger.begin([asked])[0]
        task = self.ledger.answered(asked, answer, arrived=arrived, tier="redis")
        if told := asked.callbacks(task):
            self.archive.add((), told)
        return task

    def tell(self, task: Task, url: str, key_id: str) -> None:
        """Have a URL told of a task that ended at once. Waits for the database."""
        told = Callback(tenant=task.tenant, key_id=key_id, url=url, task_id=task.id)
        self.archive.add((), [told])

    def cancel(self, task_id: str, *, tenant: str = ITSELF.tenant) -> Task:
        """End a task. Raises UnknownTask, AlreadyFinished, StorageUnavailable."""
        task = self.task(task_id, tenant=tenant)
        return task if task.status == "cancelled" else self.ledger.cancel(task)

    # Reading. What memory does not have is read from the database, so none of it belongs on a loop.

    def task(self, task_id: str, *, tenant: str = ITSELF.tenant) -> Task:
        """A tenant's task as it is now. Raises UnknownTask, for those of other tenants as well."""
        task = self.tasks.find(task_id, tenant=tenant)
        if task is None:
            with counting(self.metrics.storage_failed, "read"):
                task = self.archive.task(task_id, tenant=tenant)
        if task is None:
            raise UnknownTask(task_id)
        return task

    def listed(
        self, *, tenant: str, page: int, limit: int, status: Status | None = None
    ) -> Page[Task]:
        """A tenant's tasks, newest first, as they are now."""
        with counting(self.metrics.storage_failed, "read"):
            found = self.archive.tasks(tenant=tenant, page=page, limit=limit, status=status)
        return Page(
            tuple(self.tasks.find(row.id, tenant=tenant) or row for row in found.items),
            found.total,
        )

    def written(self, document_id: str, *, tenant: str) -> Written:
        """A tenant's document. Raises UnknownDocument."""
        with counting(self.metrics.storage_failed, "read"):
            found = self.archive.document(document_id, tenant=tenant)
        if found is None:
            raise UnknownDocument(document_id)
        return found

    def documents(self, *, tenant: str, **options: Any) -> Page[Written]:
        """A tenant's documents, newest first; the options are those of ``Archive.documents``."""
        with counting(self.metrics.storage_failed, "read"):
            return self.archive.documents(tenant=tenant, **options)

    def document(
        self, task: Task, format: str | None = None, *, style: str | None = None
    ) -> Rendered:
        """A completed task's document, in its own format and style or another."""
        if task.written is None:
            raise InvalidRequest(f"task {task.id} is {task.status}; it has no document")
        look = task.look if style is None else replace(task.look, style=style)
        return self.press.render(task.written, format or task.format, tenant=task.tenant, look=look)

    def forget(self, key: str, caller: Caller = ITSELF) -> bool:
        """Drop the cached answer that a tenant knows by this name; whether there was one. Tasks keep
        theirs."""
        digest = digest_of(key, caller.salt)
        return digest is not None and self.pipeline.forget(digest)

    def clear(self) -> int:
        """Forget every cached answer and prefix, on every node that shares answers; returns how many
        answers there were here. Tasks keep theirs, and a folder that another process writes keeps its blocks."""
        entries = len(self.pipeline.cache)
        self.pipeline.clear()
        self._clear_blocks()
        return entries

    def _clear_blocks(self) -> None:
        if self._blocks is not None and not self._blocks.read_only:
            self._blocks.clear(everyone=True)

    # Running.

    def pause(self) -> None:
        """Write nothing new until ``go_on``; what comes waits, and hits are answered."""
        self.queue.pause()

    def go_on(self) -> None:
        """End a pause."""
        self.queue.resume()

    def drain(self) -> None:
        """Take nothing new, begin nothing; what is being written is finished."""
        self._draining_since = self._draining_since or time.monotonic()
        self.ledger.stop()
        self.writers.drain()
        self.chats.stop()

    def close(self, *, seconds: float | None = None) -> None:
        """Drain for at most ``seconds`` (``drain_seconds``) since that began, write the rows that are
        left, and end.

        What is unfinished then goes on where the archive is next opened.
        """
        if self._closed:
            return
        self._closed = True
        seconds = self.settings.drain_seconds if seconds is None else seconds
        self.drain()
        passed = time.monotonic() - (self._draining_since or 0.0)
        self.writers.close(seconds=max(0.0, seconds * (1.0 - _FLUSH_SHARE) - passed))
        self._recorder.close()
        self._adopter.close()
        self.archive.close()
        self.backups.close()
        self.pipeline.close()
