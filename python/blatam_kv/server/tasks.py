"""Endpoints of tasks: ask for a document, see how far it is, fetch, cancel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.order import Order, place
from blatam_kv.bul.request import (
    QueryRequest,
    RequestRejected,
    parse_request,
)
from blatam_kv.bul.service import Service
from blatam_kv.bul.wanted import Wanted
from blatam_kv.bul.wishes import wishes_of
from blatam_kv.errors import InvalidRequest
from blatam_kv.server.body import Recent
from blatam_kv.server.fields import field
from blatam_kv.server.files import file_reply
from blatam_kv.server.gate import Door
from blatam_kv.server.options import PAGES, RENDERING, STATUS, read_options
from blatam_kv.server.outdated import original
from blatam_kv.server.prefix import prefix_of
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import (
    cache_status,
    describe,
    describe_now,
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
}


class TaskDesk:
    """The endpoints. Plain functions run in a thread, so neither rendering nor a database holds up
    the loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        write: dict[str, Any] = {"scope": Scope.WRITE, "policy": "write"}
        ask: dict[str, Any] = {"method": "POST", "once": True} | write
        query: dict[str, Any] = {
            "answer": self.query,
            "read": Recent(_wanted),
            "body": QueryRequest,
            "example": {
                "query": "Plan de negocio para una panadería artesanal",
                "format": "pdf",
                "company_name": "Horno La Espiga",
                "cache": {"ttl": 3600},
            },
        }
        cancel: dict[str, Any] = {"method": "DELETE"} | write
        return [
            Door(path="/query", **query, **ask),
            Door(path="/api/query", outdated=original("/query"), **query, **ask),
            Door(path="/documents/generate", outdated=original("/query"), **query, **ask),
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
        ]

    async def query(
        self, request: Request, caller: Caller, wanted: Wanted[QueryRequest, Order]
    ) -> Response:
        """Ask for a document: 200 with a finished task on a hit, 202 with a queued one if not."""
        order, asked = wanted.order(self._service.model, caller), wanted.request
        header = field(request.scope, b"cache-control")
        if header or asked.cache is not None:
            wishes = wishes_of(asked.cache, header)
            namespace = None if asked.cache is None else asked.cache.namespace
            order = replace(order, wishes=wishes)
            asked = asked.model_copy(update={"cache": wishes.body(namespace)})
        if asked.callback_url is not None:
            self._service.outbound.check(asked.callback_url, field="callback_url")
        task = self._service.answer_from_cache(order, asked)
        if task is not None and asked.callback_url is not None:
            await run_in_threadpool(self._service.tell, task, asked.callback_url, caller.key_id)
        if task is None:
            if order.wishes.only_if_cached:
                raise Problem(504, "the answer is not in the cache, and only-if-cached was asked")
            task = await run_in_threadpool(self._service.enqueue, order, asked, caller.key_id)
        brief = order.brief
        prefix = prefix_of(request)
        here = f"{prefix}/task/{task.id}"
        body = describe_now(self._service, task, prefix=prefix) | {
            "language": brief.language,
            "document_type": brief.document_type,
            "business_area": brief.business_area,
            "inferred": order.inferred,
            "links": {"status": f"{here}/status", "documents": f"{here}/documents"},
        }
        headers = cache_status(self._service, task, order.key)
        headers["Location"] = f"{here}/status"
        return json_reply(body, status=200 if task.cache == "hit" else 202, headers=headers)

    async def status(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a task is."""
        key, tenant = request.path_params["id"], caller.tenant
        task = self._service.tasks.find(key, tenant=tenant)
        if task is None:  # a database knows; it must not hold up the loop
            task = await run_in_threadpool(self._service.task, key, tenant=tenant)
        body = describe_now(self._service, task, prefix=prefix_of(request))
        return json_reply(body, headers=cache_status(self._service, task))

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
            response = file_reply(request, rendered, task.written.answer.born)
            response.headers.update(headers)
            return response
        href = f"{prefix_of(request)}/task/{task.id}/documents"
        href += f"?format={rendered.format}&download=1"
        entry = with_content(task.written, rendered, href, task.inferred)
        return json_reply(summary(task) | {"documents": [entry]}, headers=headers)

    def listing(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A tenant's tasks, newest first."""
        options = {"page": 1, "limit": 20} | read_options(request, {**PAGES, "status": STATUS})
        found = self._service.listed(tenant=caller.tenant, **options)
        entries = [
            describe(task, prefix=prefix_of(request))
            | {"created": task.created, "finished": task.finished}
            for task in found.items
        ]
        paging = {"page": options["page"], "limit": options["limit"], "total": found.total}
        return json_reply({"tasks": entries} | paging)

    def cancel(self, request: Request, caller: Caller, wanted: None) -> Response:
        """End a task that is not finished."""
        task = self._service.cancel(request.path_params["id"], tenant=caller.tenant)
        return json_reply(describe(task, prefix=prefix_of(request)))


def _wanted(payload: object) -> Wanted[QueryRequest, Order]:
    try:
        return Wanted(parse_request(payload), place)
    except RequestRejected as error:
        raise rejected(error) from None


def rejected(error: InvalidRequest) -> Problem:
    """The problem that names every bad field."""
    if isinstance(error, RequestRejected):
        fields = [(problem.field, problem.detail) for problem in error.problems]
        return Problem(422, f"the request is not valid: {error}", errors=fields)
    detail = f"the request is not valid: {error.field}: {error}"
    return Problem(422, detail, errors=[(error.field or "", str(error))])
