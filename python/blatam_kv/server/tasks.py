"""Endpoints of tasks: ask for a document or a batch of them, see how far they are, fetch, cancel."""

from __future__ import annotations

from collections import Counter
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.order import Order, place
from blatam_kv.bul.request import (
    BatchRequest,
    QueryRequest,
    RequestRejected,
    parse_batch,
    parse_request,
)
from blatam_kv.bul.service import Service
from blatam_kv.bul.tasks import Task
from blatam_kv.bul.wanted import Wanted
from blatam_kv.errors import InvalidRequest
from blatam_kv.server.body import Recent, read_json
from blatam_kv.server.gate import Door
from blatam_kv.server.options import PAGES, RENDERING, STATUS, read_options
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import (
    cache_status,
    describe,
    file_reply,
    json_reply,
    summary,
    with_content,
)

INDEX = {
    "POST /query": "ask for a document",
    "GET /tasks": "your tasks, newest first; ?page, ?limit, ?status",
    "GET /task/{id}/status": "how far it is, and its place in the queue",
    "GET /task/{id}/documents": "the document; ?format=markdown|html|txt|json|docx|pdf, ?style, ?download=1",
    "DELETE /task/{id}": "cancel it",
    "GET /tasks/{id}/status": "the same as /task/{id}/status",
    "DELETE /tasks/{id}": "the same as DELETE /task/{id}",
    "POST /api/batch": "ask for 1 to 1,000 documents at once",
    "GET /api/batch/{id}": "how far they are",
    "DELETE /api/batch/{id}": "cancel those that are not finished",
}


class TaskDesk:
    """The endpoints. Plain functions run in a thread, so neither rendering nor a database holds up
    the loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        write: dict[str, Any] = {"scope": Scope.WRITE, "policy": "write"}
        ask: dict[str, Any] = {"method": "POST"} | write
        cancel: dict[str, Any] = {"method": "DELETE"} | write
        return [
            Door(path="/query", answer=self.query, read=Recent(_wanted), body=QueryRequest, **ask),
            Door(path="/tasks", answer=self.listing, scope=Scope.READ, options=(*PAGES, "status")),
            *(
                door
                for path in ("/task/{id}", "/tasks/{id}")
                for door in (
                    Door(path=path, answer=self.cancel, **cancel),
                    Door(path=f"{path}/status", answer=self.status, scope=Scope.READ),
                    Door(
                        path=f"{path}/documents",
                        answer=self.documents,
                        scope=Scope.READ,
                        options=tuple(RENDERING),
                    ),
                )
            ),
            Door(
                path="/api/batch", answer=self.ask_batch, read=read_batch, body=BatchRequest, **ask
            ),
            Door(path="/api/batch/{id}", answer=self.batch, scope=Scope.READ),
            Door(path="/api/batch/{id}", answer=self.cancel_batch, **cancel),
        ]

    async def query(
        self, request: Request, caller: Caller, wanted: Wanted[QueryRequest, Order]
    ) -> Response:
        """Ask for a document: 200 with a finished task on a hit, 202 with a queued one if not."""
        order = wanted.order(self._service.model, caller)
        task = self._service.answer_from_cache(order, wanted.request)
        if task is None:
            task = await run_in_threadpool(self._service.enqueue, order, wanted.request)
        brief = order.brief
        body = self._described(task) | {
            "language": brief.language,
            "document_type": brief.document_type,
            "business_area": brief.business_area,
            "inferred": order.inferred,
            "links": {
                "status": f"/task/{task.id}/status",
                "documents": f"/task/{task.id}/documents",
            },
        }
        headers = cache_status(self._service, task) | {"Location": f"/task/{task.id}/status"}
        return json_reply(body, status=200 if task.cache == "hit" else 202, headers=headers)

    async def status(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a task is."""
        key, tenant = request.path_params["id"], caller.tenant
        task = self._service.tasks.find(key, tenant=tenant)
        if task is None:  # a database knows; it must not hold up the loop
            task = await run_in_threadpool(self._service.task, key, tenant=tenant)
        return json_reply(self._described(task), headers=cache_status(self._service, task))

    def documents(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A task's documents; with ``download`` the bytes of one."""
        options = read_options(request, RENDERING)
        task = self._service.task(request.path_params["id"], tenant=caller.tenant)
        headers = cache_status(self._service, task)
        if task.written is None:
            if options.get("download"):
                reason = task.error or f"ask again when /task/{task.id}/status says completed"
                raise Problem(409, f"task {task.id} is {task.status}: {reason}")
            return json_reply(summary(task) | {"documents": []}, headers=headers)
        rendered = self._service.document(task, options.get("format"), style=options.get("style"))
        if options.get("download"):
            response = file_reply(rendered)
            response.headers.update(headers)
            return response
        href = f"/task/{task.id}/documents?format={rendered.format}&download=1"
        entry = with_content(task.written, rendered, href, task.inferred)
        return json_reply(summary(task) | {"documents": [entry]}, headers=headers)

    def listing(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A tenant's tasks, newest first."""
        options = {"page": 1, "limit": 20} | read_options(request, {**PAGES, "status": STATUS})
        found = self._service.listed(tenant=caller.tenant, **options)
        entries = [
            describe(task) | {"created": task.created, "finished": task.finished}
            for task in found.items
        ]
        paging = {"page": options["page"], "limit": options["limit"], "total": found.total}
        return json_reply({"tasks": entries} | paging)

    def cancel(self, request: Request, caller: Caller, wanted: None) -> Response:
        """End a task that is not finished."""
        task = self._service.cancel(request.path_params["id"], tenant=caller.tenant)
        return json_reply(describe(task))

    def ask_batch(self, request: Request, caller: Caller, wanted: list[QueryRequest]) -> Response:
        """Ask for many documents: all are taken or none."""
        batch, tasks = self._service.ask_all(wanted, caller)
        headers = {"Location": f"/api/batch/{batch}"}
        return json_reply(_describe_batch(batch, tasks), status=202, headers=headers)

    def batch(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a batch is."""
        batch = request.path_params["id"]
        return json_reply(_describe_batch(batch, self._service.batch(batch, tenant=caller.tenant)))

    def cancel_batch(self, request: Request, caller: Caller, wanted: None) -> Response:
        """End what is not finished of a batch."""
        batch, tenant = request.path_params["id"], caller.tenant
        tasks = self._service.cancel_all(self._service.batch(batch, tenant=tenant))
        return json_reply(_describe_batch(batch, tasks))

    def _described(self, task: Task) -> dict[str, object]:
        """A task, and when it will be done."""
        if task.is_finished:
            return describe(task) | {"estimated_time": 0.0}
        position = self._service.position(task)
        seconds = self._service.estimated_seconds(task, position=position)
        return describe(task) | {
            "priority": task.priority,
            "position": position,
            "estimated_time": seconds,
        }


def _describe_batch(batch: str, tasks: list[Task]) -> dict[str, object]:
    counts = Counter(task.status for task in tasks)
    progress = sum(task.progress for task in tasks) / len(tasks)
    finished = all(task.is_finished for task in tasks)
    return {
        "batch_id": batch,
        "status": "completed" if finished else "processing",
        "progress": round(progress, 4),
        "total": len(tasks),
        **{status: counts[status] for status in ("queued", "processing")},
        **{status: counts[status] for status in ("completed", "failed", "cancelled")},
        "tasks": [summary(task) for task in tasks],
    }


def _wanted(payload: object) -> Wanted[QueryRequest, Order]:
    try:
        return Wanted(parse_request(payload), place)
    except RequestRejected as error:
        raise rejected(error) from None


async def read_batch(request: Request) -> list[QueryRequest]:
    """The checked requests in a body. Raises Problem."""
    payload = await read_json(request)
    try:
        return parse_batch(payload)
    except RequestRejected as error:
        raise rejected(error) from None


def rejected(error: InvalidRequest) -> Problem:
    """The problem that names every bad field."""
    if isinstance(error, RequestRejected):
        fields = [(problem.field, problem.detail) for problem in error.problems]
        return Problem(422, f"the request is not valid: {error}", errors=fields)
    detail = f"the request is not valid: {error.field}: {error}"
    return Problem(422, detail, errors=[(error.field or "", str(error))])
