"""Many documents asked for at once: all are taken or none."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from blatam_kv.bul.asked import Asked
from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.ledger import AlreadyFinished, Ledger
from blatam_kv.bul.order import Order
from blatam_kv.bul.pipeline import Found, Pipeline
from blatam_kv.bul.recorder import Recorder
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.storage import BatchRow, Callback, counting
from blatam_kv.bul.tasks import Task, TaskBook, UnknownBatch
from blatam_kv.metrics import ServiceMetrics

if TYPE_CHECKING:
    from blatam_kv.bul.storage.archive import Archive


class Batches:
    """Safe from any thread. Each call waits for the database, so none belongs on a loop.

    place: makes the order of a request.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        book: TaskBook,
        archive: Archive,
        recorder: Recorder,
        metrics: ServiceMetrics,
        *,
        place: Callable[[QueryRequest, Caller], Order],
    ) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._book = book
        self._archive = archive
        self._recorder = recorder
        self._metrics = metrics
        self._place = place

    def ask(
        self,
        requests: Sequence[QueryRequest],
        caller: Caller = ITSELF,
        *,
        callback_url: str | None = None,
    ) -> tuple[str, list[Task]]:
        """A batch: its id, and a task for each request in their order. All are taken or none.

        callback_url: told when all have ended.

        Raises InvalidRequest if a query is too long for the model, Overloaded if too much waits
        already or the service is stopping, StorageUnavailable.
        """
        batch, now, arrived = uuid.uuid4().hex, time.time(), time.monotonic()
        asked = [
            # A microsecond apart, so that a listing by time keeps their order.
            Asked(self._place(request, caller), request, now + number * 1e-6, caller.key_id)
            for number, request in enumerate(requests)
        ]
        found = [self._pipeline.lookup(each.order) for each in asked]
        others = [at for at, there in enumerate(found) if there is None]
        orders = [asked[at].order for at in others]
        answers = self._pipeline.elsewhere([(order, order.wishes) for order in orders])
        for at, answer in zip(others, answers, strict=True):
            found[at] = None if answer is None else Found(answer, "redis")
        missing = [each for each, there in zip(asked, found, strict=True) if there is None]
        begun = iter(self._ledger.begin(missing, batch=batch))
        tasks = [
            next(begun)
            if there is None
            else self._ledger.answered(
                each, there.answer, arrived=arrived, batch=batch, tier=there.tier
            )
            for each, there in zip(asked, found, strict=True)
        ]
        self._recorder.flush()  # who asks how far the batch is, is told what the rows say
        told = [
            callback
            for each, task in zip(asked, tasks, strict=True)
            if task.cache == "hit"
            for callback in each.callbacks(task)
        ]
        if callback_url is not None:
            key = caller.key_id
            told.append(Callback(tenant=caller.tenant, key_id=key, url=callback_url, batch=batch))
        if told:
            self._archive.add((), told)
        return batch, tasks

    def rows(self, batch: str, *, tenant: str = ITSELF.tenant) -> list[BatchRow]:
        """The tasks of a tenant's batch in a few words each, in their order, as the database has them;
        the book knows more of what is unfinished. Raises UnknownBatch, StorageUnavailable."""
        with counting(self._metrics.storage_failed, "read"):
            rows = self._archive.batch_rows(batch, tenant=tenant)
        if not rows:
            raise UnknownBatch(batch)
        return rows

    def cancel(self, batch: str, *, tenant: str = ITSELF.tenant) -> list[BatchRow]:
        """End what this node has not finished of a tenant's batch; returns its tasks as they are then.
        Raises UnknownBatch, StorageUnavailable."""
        for row in self.rows(batch, tenant=tenant):
            task = self._book.find(row.id, tenant=tenant)
            if task is not None and not task.is_finished:
                with suppress(AlreadyFinished):
                    self._ledger.cancel(task)
        return self.rows(batch, tenant=tenant)
