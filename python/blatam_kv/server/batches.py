"""Endpoints of batches: many documents asked for at once, in JSON or as a list, and fetched as a ZIP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blatam_kv.bul import lists
from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.outbound import target
from blatam_kv.bul.request import BATCH_PRIORITY, BatchRequest, RequestRejected, parse_batch
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import BatchRow
from blatam_kv.bul.tasks import FINISHED
from blatam_kv.errors import MissingExtra
from blatam_kv.server.body import JSON, check_type, parsed, read_body
from blatam_kv.server.bundle import bundle
from blatam_kv.server.files import disposition
from blatam_kv.server.gate import Door
from blatam_kv.server.options import RENDERING, Reader, read_options, switch, whole
from blatam_kv.server.prefix import prefix_of
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply
from blatam_kv.server.tasks import rejected

CSV = "text/csv"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

INDEX = {
    "POST /api/batch": "ask for 1 to 1,000 documents at once, in JSON, CSV or XLSX",
    "GET /api/batch/{id}": "how far they are; ?tasks=0 without each of them",
    "GET /api/batch/{id}/archive": "the documents as a ZIP; ?format, ?partial=1 before the end",
    "DELETE /api/batch/{id}": "cancel those that are not finished",
}


def _url(text: str) -> str:
    target(text)
    return text


# What a list cannot say of all its documents.
_OF_A_LIST: dict[str, Reader] = {"priority": whole(0, 4), "callback_url": _url}
_OF_AN_ARCHIVE: dict[str, Reader] = {
    **{name: reader for name, reader in RENDERING.items() if name != "download"},
    "partial": switch,
}


class BatchDesk:
    """The endpoints. All ask the database, so all run in a thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        write: dict[str, Any] = {"scope": Scope.WRITE, "policy": "write"}
        one = "/api/batch/{id}"
        return [
            Door(
                path="/api/batch",
                method="POST",
                answer=self.ask,
                read=read_batch,
                body=BatchRequest,
                example={
                    "documents": [{"query": "Plan de marketing"}, {"query": "Informe de ventas"}],
                    "priority": 3,
                },
                options=tuple(_OF_A_LIST),
                once=True,
                most_bytes=lists.MAX_BYTES,
                **write,
            ),
            Door(path=one, answer=self.status, scope=Scope.READ, options=("tasks",)),
            Door(
                path=f"{one}/archive",
                answer=self.archive,
                scope=Scope.READ,
                options=tuple(_OF_AN_ARCHIVE),
            ),
            Door(path=one, method="DELETE", answer=self.cancel, **write),
        ]

    def ask(self, request: Request, caller: Caller, wanted: BatchRequest) -> Response:
        """Ask for many documents: all are taken or none."""
        check = self._service.outbound.check
        if wanted.callback_url is not None:
            check(wanted.callback_url, field="callback_url")
        for number, each in enumerate(wanted.documents):
            if each.callback_url is not None:
                check(each.callback_url, field=f"documents.{number}.callback_url")
        batch, tasks = self._service.batches.ask(
            wanted.documents, caller, callback_url=wanted.callback_url
        )
        headers = {"Location": f"{prefix_of(request)}/api/batch/{batch}"}
        rows = [BatchRow(task.id, task.status, task.error) for task in tasks]
        return json_reply(
            self._described(request, caller, batch, rows), status=202, headers=headers
        )

    def status(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a batch is."""
        options = {"tasks": True} | read_options(request, {"tasks": switch})
        batch = request.path_params["id"]
        rows = self._service.batches.rows(batch, tenant=caller.tenant)
        return json_reply(self._described(request, caller, batch, rows, each=options["tasks"]))

    def archive(self, request: Request, caller: Caller, wanted: None) -> Response:
        """The documents of a batch as a ZIP, sent while it is made."""
        options = read_options(request, _OF_AN_ARCHIVE)
        batch = request.path_params["id"]
        rows = self._service.batches.rows(batch, tenant=caller.tenant)
        left = sum(row.status not in FINISHED for row in rows)
        if left and not options.pop("partial", False):
            raise Problem(
                409,
                f"{left:,} of {len(rows):,} documents are not finished; ?partial=1 does not wait",
            )
        options.pop("partial", None)
        pieces = bundle(self._service, rows, tenant=caller.tenant, **options)
        headers = {"Content-Disposition": disposition(f"batch-{batch}.zip")}
        return StreamingResponse(pieces, media_type="application/zip", headers=headers)

    def cancel(self, request: Request, caller: Caller, wanted: None) -> Response:
        """End what is not finished of a batch."""
        batch, tenant = request.path_params["id"], caller.tenant
        rows = self._service.batches.cancel(batch, tenant=tenant)
        return json_reply(self._described(request, caller, batch, rows))

    def _described(
        self,
        request: Request,
        caller: Caller,
        batch: str,
        rows: Sequence[BatchRow],
        *,
        each: bool = True,
    ) -> dict[str, object]:
        return describe_batch(
            self._service,
            batch,
            rows,
            tenant=caller.tenant,
            each=each,
            prefix=prefix_of(request),
        )


def describe_batch(
    service: Service,
    batch: str,
    rows: Sequence[BatchRow],
    *,
    tenant: str,
    each: bool,
    prefix: str,
) -> dict[str, object]:
    """How far a batch is. each: with every task of it. prefix: as ``prefix_of`` has it."""
    tasks: list[dict[str, object]] = []
    progress, counts = 0.0, Counter[str]()
    for row in rows:
        status, share, error = row.status, 1.0, row.error
        if status not in FINISHED:  # memory knows better
            task = service.tasks.find(row.id, tenant=tenant)
            share = 0.0 if task is None else task.progress
            if task is not None:
                status, error = task.status, task.error
        progress += share
        counts[status] += 1
        told: dict[str, object] = {"task_id": row.id, "status": status, "progress": round(share, 2)}
        if error is not None:
            told["error"] = {"code": "S001", "detail": error}
        tasks.append(told)
    finished = sum(counts[status] for status in FINISHED) == len(rows)
    body: dict[str, object] = {
        "batch_id": batch,
        "status": "completed" if finished else "processing",
        "progress": round(progress / len(rows), 4),
        "total": len(rows),
        **{status: counts[status] for status in ("queued", "processing", *FINISHED)},
        "links": {
            "status": f"{prefix}/api/batch/{batch}",
            "archive": f"{prefix}/api/batch/{batch}/archive",
        },
    }
    return body | {"tasks": tasks} if each else body


async def read_batch(request: Request) -> BatchRequest:
    """The checked batch in a body, of whatever kind. Raises Problem."""
    kind = check_type(request, JSON, CSV, XLSX)
    options = read_options(request, {} if kind == JSON else _OF_A_LIST)
    body = await read_body(request)
    try:
        # A thousand documents take longer to check than others should wait.
        return await run_in_threadpool(_parse, kind, body, options)
    except RequestRejected as error:
        raise rejected(error) from None
    except MissingExtra as error:
        raise Problem(415, f"lists in XLSX are not read here ({error}); send CSV") from None


def _parse(kind: str, body: bytes, options: dict[str, Any]) -> BatchRequest:
    if kind == JSON:
        return parse_batch(parsed(body))
    priority = options.get("priority", BATCH_PRIORITY)
    read = lists.read_csv if kind == CSV else lists.read_xlsx
    return BatchRequest.model_construct(
        documents=read(body, priority=priority),
        priority=priority,
        callback_url=options.get("callback_url"),
    )
