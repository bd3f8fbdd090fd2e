"""The HTTP face of BUL (:8002): each endpoint translates, the service does the work."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from blatam_kv.bul.document import Rendered
from blatam_kv.bul.request import FORMATS, RequestRejected, canonical_format, one_of, parse_request
from blatam_kv.bul.service import Overloaded, Service
from blatam_kv.bul.tasks import Task, UnknownTask
from blatam_kv.config import did_you_mean
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.server.body import read_json
from blatam_kv.server.envelope import Envelope
from blatam_kv.server.problem import Problem, respond

log = logging.getLogger("blatam_kv.server")

INDEX = {
    "POST /query": "ask for a document",
    "GET /task/{id}/status": "how far it is",
    "GET /task/{id}/documents": "the document; ?format=markdown|html|txt|json, ?download=1",
    "GET /stats": "totals of the service",
    "GET /api/v1/kv-cache/stats": "totals and latencies of the cache",
    "GET /api/v1/kv-cache/health": "state of the cache",
    "POST /api/v1/kv-cache/clear": "forget every cached answer and prefix",
    "GET /healthz": "200 while the process lives",
    "GET /metrics": "Prometheus metrics",
    "GET /version": "version and model",
}


def create_app(service: Service) -> ASGIApp:
    """The application for a service; its shutdown closes the service."""
    face = Face(service)
    routes = [
        Route("/", face.index),
        Route("/query", face.query, methods=["POST"]),
        Route("/task/{id}/status", face.status),
        Route("/task/{id}/documents", face.documents),
        Route("/stats", face.stats),
        Route("/api/v1/kv-cache/stats", face.cache_stats),
        Route("/api/v1/kv-cache/health", face.cache_health),
        Route("/api/v1/kv-cache/clear", face.clear, methods=["POST"]),
        Route("/healthz", face.healthz),
        Route("/metrics", face.metrics),
        Route("/version", face.version),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            Problem: _on_problem,
            UnknownTask: _on_unknown_task,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
    )
    # A redirect would be the one answer that is neither ours nor a problem document.
    app.router.redirect_slashes = False
    templates = {route.endpoint: route.path for route in routes}
    return Envelope(app, metrics=service.metrics, routes=templates)


class Face:
    """The endpoints. Plain functions run in a thread, so rendering never holds up the loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def query(self, request: Request) -> Response:
        """Ask for a document: 200 with a finished task on a hit, 202 with a queued one if not."""
        payload = await read_json(request)
        try:
            wanted = parse_request(payload)
            order = self._service.place(wanted)
            task = self._service.answer_from_cache(order, wanted)
            if task is None:
                task = await run_in_threadpool(self._service.enqueue, order, wanted)
        except RequestRejected as error:
            fields = [(problem.field, problem.detail) for problem in error.problems]
            raise Problem(422, f"the request is not valid: {error}", errors=fields) from None
        except InvalidRequest as error:
            detail = f"the request is not valid: {error.field}: {error}"
            raise Problem(422, detail, errors=[(error.field or "", str(error))]) from None
        except Overloaded as error:
            headers = {"Retry-After": str(error.retry_after)}
            raise Problem(503, str(error), headers=headers) from None
        except ModelError as error:
            raise Problem(503, str(error)) from None
        brief = order.brief
        body = self._describe(task) | {
            "estimated_time": self._service.estimated_seconds(task),
            "language": brief.language,
            "document_type": brief.document_type,
            "business_area": brief.business_area,
            "inferred": order.inferred,
            "links": {
                "status": f"/task/{task.id}/status",
                "documents": f"/task/{task.id}/documents",
            },
        }
        response = self._json(body, task=task, status=200 if task.cache == "hit" else 202)
        response.headers["Location"] = f"/task/{task.id}/status"
        return response

    async def status(self, request: Request) -> Response:
        """How far a task is."""
        task = self._service.tasks.get(request.path_params["id"])
        return self._json(self._describe(task), task=task)

    def documents(self, request: Request) -> Response:
        """A task's documents; with ``download`` the bytes of one."""
        format, download = _document_options(request)
        task = self._service.tasks.get(request.path_params["id"])
        if task.answer is None:
            if download:
                reason = task.error or f"ask again when {_href(task, 'status')} says completed"
                raise Problem(409, f"task {task.id} is {task.status}: {reason}")
            return self._json(self._summary(task) | {"documents": []}, task=task)
        rendered = self._service.document(task, format)
        if download:
            return self._file(rendered, task)
        entry = self._describe_document(task, rendered.format) | {
            "filename": rendered.filename,
            "media_type": rendered.media_type,
            "model": self._service.model.model_id,
            "finish_reason": task.answer.finish_reason,
            "usage": {
                "prompt_tokens": task.answer.usage.prompt_tokens,
                "completion_tokens": task.answer.usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": task.answer.usage.cached_tokens},
            },
            "seconds": round(task.answer.seconds, 6),
            "seconds_to_first_text": round(task.answer.seconds_to_first_text, 6),
            "content": rendered.content.decode(),
        }
        return self._json(self._summary(task) | {"documents": [entry]}, task=task)

    async def index(self, request: Request) -> Response:
        """What is served here."""
        name = {"service": "BUL, documents through the cache", "version": self._service.version}
        return self._json(name | {"endpoints": INDEX})

    async def healthz(self, request: Request) -> Response:
        """200 while the loop runs; asks nothing else."""
        return self._json({"status": "ok"})

    async def version(self, request: Request) -> Response:
        """Which program and which model."""
        model = self._service.model
        return self._json(
            {
                "name": "blatam-kv",
                "version": self._service.version,
                "model": model.model_id,
                "model_fingerprint": model.fingerprint,
            }
        )

    async def stats(self, request: Request) -> Response:
        """Totals of the service."""
        return self._json(self._service.stats())

    async def cache_stats(self, request: Request) -> Response:
        """Totals and latencies of the cache."""
        return self._json(self._service.cache_stats())

    async def cache_health(self, request: Request) -> Response:
        """State of the cache; 503 when documents can no longer be written."""
        health = self._service.cache_health()
        return self._json(health, status=200 if health["status"] == "healthy" else 503)

    async def clear(self, request: Request) -> Response:
        """Forget every cached answer, and every prefix."""
        return self._json({"cleared": self._service.clear()})

    def metrics(self, request: Request) -> Response:
        """What Prometheus scrapes."""
        text, media_type = self._service.metrics.expose()
        return Response(text, media_type=media_type)

    # How things are written down.

    def _json(self, body: object, *, task: Task | None = None, status: int = 200) -> Response:
        response = Response(orjson.dumps(body), status, media_type="application/json")
        if task is not None:
            response.headers["Cache-Status"] = self._cache_status(task)
        return response

    def _file(self, rendered: Rendered, task: Task) -> Response:
        name = quote(rendered.filename, safe="")
        return Response(
            rendered.content,
            headers={
                "Content-Type": rendered.media_type,
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
                # Should a browser show it all the same: nothing runs, nothing is fetched.
                "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
                "Cache-Status": self._cache_status(task),
            },
        )

    def _cache_status(self, task: Task) -> str:
        """RFC 9211: what the cache did for this task so far."""
        if task.cache == "hit":
            left = self._service.seconds_left(task)
            return "blatam-kv; hit" + ("" if left is None else f"; ttl={left}")
        how = "; collapsed" if task.cache == "collapsed" else "; stored" if task.stored else ""
        return f"blatam-kv; fwd=miss{how}"

    def _summary(self, task: Task) -> dict[str, object]:
        body: dict[str, object] = {
            "task_id": task.id,
            "status": task.status,
            "progress": round(task.progress, 2),
        }
        if task.error is not None:
            body["error"] = {"code": "S001", "detail": task.error}
        return body

    def _describe(self, task: Task) -> dict[str, object]:
        documents = [self._describe_document(task, task.format)] if task.answer else []
        return self._summary(task) | {"documents": documents}

    def _describe_document(self, task: Task, format: str) -> dict[str, object]:
        brief = task.order.brief
        return {
            "title": task.answer.title if task.answer else "",
            "format": format,
            "language": brief.language,
            "document_type": brief.document_type,
            "business_area": brief.business_area,
            "inferred": task.order.inferred,
            "href": f"/task/{task.id}/documents?format={format}&download=1",
        }


def _href(task: Task, part: str) -> str:
    return f"/task/{task.id}/{part}"


def _document_options(request: Request) -> tuple[str | None, bool]:
    options = dict(request.query_params)
    known = ("format", "download")
    errors = [
        (name[:100], f"is not a known option{did_you_mean(name[:100], known)}")
        for name in options
        if name not in known
    ]
    format: str | None = None
    if "format" in options:
        try:
            format = str(canonical_format(options["format"]))
            if format not in FORMATS:
                errors.append(("format", one_of(format, FORMATS)))
        except ValueError as error:
            errors.append(("format", str(error)))
    if options.get("download", "0") not in ("0", "1"):
        errors.append(("download", "must be 0 or 1"))
    if errors:
        detail = "; ".join(f"{field}: {text}" for field, text in errors)
        raise Problem(422, f"the request is not valid: {detail}", errors=errors)
    return format, options.get("download") == "1"


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(request, error)


async def _on_unknown_task(request: Request, error: Exception) -> Response:
    return respond(request, Problem(404, str(error)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        detail = "nothing is served at this path; GET / lists what is"
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
        detail = f"{request.method} is not possible here; use {headers['Allow']}"
    return respond(request, Problem(error.status_code, detail, headers=headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _on_bug(request: Request, error: Exception) -> Response:
    detail = "the service failed at this request; its log has the reason under the request id"
    # The framework hands the exception on to the server, which logs the trace.
    log.error("request %s failed: %s", request.state.request_id, type(error).__name__)
    return respond(request, Problem(500, detail))
