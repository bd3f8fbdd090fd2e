"""What somebody asks for, the task that it becomes, and who is to be told of its end."""

from __future__ import annotations

from typing import NamedTuple

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.order import Order
from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.storage import Callback
from blatam_kv.bul.tasks import CacheResult, Task
from blatam_kv.tracing import TRACEPARENT, carried


class Asked(NamedTuple):
    """One request and its order. created: when it came, Unix time; key_id: with which key."""

    order: Order
    request: QueryRequest
    created: float
    key_id: str = ITSELF.key_id

    def task(
        self,
        cache: CacheResult,
        *,
        arrived: float,
        batch: str | None = None,
        answer: Answer | None = None,
    ) -> Task:
        """The task: it ends as it begins if the answer is there, which it is for a hit and for nothing
        else. arrived: the same moment as ``created``, on the monotonic clock."""
        order, request, created, _ = self
        hit = answer is not None
        seconds = request.deadline_seconds
        return Task(
            tenant=order.tenant,
            brief=order.brief,
            inferred=order.inferred,
            format=request.format,
            look=request.look,
            priority=request.priority,
            cache=cache,
            status="completed" if hit else "queued",
            progress=1.0 if hit else 0.0,
            answer=answer,
            stored=hit,
            request=None if hit else request,
            batch=batch,
            deadline=None if hit or seconds is None else created + seconds,
            trace=None if hit else carried().get(TRACEPARENT),
            arrived=arrived,
            created=created,
            finished=created if hit else None,
        )

    def callbacks(self, task: Task) -> list[Callback]:
        """What is to be written for who wants to be told of the task's end, if anybody does."""
        url = self.request.callback_url
        if url is None:
            return []
        return [Callback(tenant=task.tenant, key_id=self.key_id, url=url, task_id=task.id)]
