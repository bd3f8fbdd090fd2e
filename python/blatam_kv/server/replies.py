"""How tasks and documents are written down: as JSON, as files, with what the cache did."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from urllib.parse import quote

import orjson
from starlette.responses import Response

from blatam_kv.bul.service import Service
from blatam_kv.bul.tasks import Task, Written
from blatam_kv.documents.rendering import Rendered


def json_reply(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A value as JSON."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def file_reply(rendered: Rendered) -> Response:
    """A document as a file to keep."""
    name = quote(rendered.filename, safe="")
    return Response(
        rendered.content,
        headers={
            "Content-Type": rendered.media_type,
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            # Should a browser show it all the same: nothing runs, nothing is fetched.
            "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        },
    )


def cache_status(service: Service, task: Task) -> dict[str, str]:
    """The header of RFC 9211: what the cache did for this task so far."""
    if task.cache == "hit":
        left = service.seconds_left(task)
        return {"Cache-Status": "blatam-kv; hit" + ("" if left is None else f"; ttl={left}")}
    how = "; collapsed" if task.cache == "collapsed" else "; stored" if task.stored else ""
    return {"Cache-Status": f"blatam-kv; fwd=miss{how}"}


def summary(task: Task) -> dict[str, object]:
    """A task in a few words."""
    body: dict[str, object] = {
        "task_id": task.id,
        "status": task.status,
        "progress": round(task.progress, 2),
    }
    if task.part is not None and not task.is_finished:
        body["section"] = asdict(task.part)
    if task.error is not None:
        body["error"] = {"code": "S001", "detail": task.error}
    return body


def describe(task: Task) -> dict[str, object]:
    """A task with its document, without the text of it."""
    documents = []
    if task.written is not None:
        href = f"/task/{task.id}/documents?format={task.format}&download=1"
        documents.append(describe_written(task.written, task.format, href, task.inferred))
    return summary(task) | {"documents": documents}


def describe_written(
    written: Written, format: str, href: str, inferred: tuple[str, ...] | None = None
) -> dict[str, object]:
    """A document without its text; inferred: fields that were guessed for a task."""
    brief = written.brief
    body: dict[str, object] = {
        "document_id": written.answer.id,
        "title": written.answer.title,
        "format": format,
        "language": brief.language,
        "document_type": brief.document_type,
        "business_area": brief.business_area,
    }
    if inferred is not None:
        body["inferred"] = inferred
    return body | {"href": href}


def with_content(
    written: Written, rendered: Rendered, href: str, inferred: tuple[str, ...] | None = None
) -> dict[str, object]:
    """A document with all there is to say about it, and its text."""
    answer = written.answer
    return describe_written(written, rendered.format, href, inferred) | {
        "filename": rendered.filename,
        "media_type": rendered.media_type,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.usage.cached_tokens},
        },
        "seconds": round(answer.seconds, 6),
        "seconds_to_first_text": round(answer.seconds_to_first_text, 6),
        **_content(rendered),
    }


def _content(rendered: Rendered) -> dict[str, str]:
    """The bytes as JSON can hold them."""
    if rendered.is_text:
        return {"encoding": "utf-8", "content": rendered.content.decode()}
    return {"encoding": "base64", "content": b64encode(rendered.content).decode()}
