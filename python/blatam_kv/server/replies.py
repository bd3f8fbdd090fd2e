"""How tasks and documents are written down: as JSON, as files, with what the cache did."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict

import orjson
from starlette.responses import Response

from blatam_kv.bul.service import Service
from blatam_kv.bul.tasks import Task, Written
from blatam_kv.documents.rendering import Rendered

# How OpenAI's streams end if all went well.
END_OF_STREAM = b"data: [DONE]\n\n"


class Ready(Response):
    """A response whose bytes are there; made in a third of the framework's time."""

    def __init__(
        self,
        content: bytes,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        media_type: bytes = b"application/json",
    ) -> None:
        self.status_code, self.body, self.background = status, content, None
        self.raw_headers = [
            (b"content-length", b"%d" % len(content)),
            (b"content-type", media_type),
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode(), value.encode("latin-1")))


def json_reply(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A value as JSON."""
    return Ready(orjson.dumps(body), status, headers)


def cache_status(service: Service, task: Task, key: str | None = None) -> dict[str, str]:
    """What the cache did for this task so far (RFC 9211), and the age of what it had. key: the
    tenant's name for the answer there."""
    named = "" if key is None else f'; key="{key}"'
    if task.cache == "hit" and task.answer is not None:
        left = service.pipeline.seconds_left(task.answer)
        ttl = "" if left is None else f"; ttl={max(0, int(left))}"
        age = max(0, int(time.time() - task.answer.born))
        return {"Cache-Status": f"blatam-kv; hit{ttl}{named}", "Age": str(age)}
    how = "; collapsed" if task.cache == "collapsed" else "; stored" if task.stored else ""
    return {"Cache-Status": f"blatam-kv; fwd=miss{how}{named}"}


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


def describe(task: Task, *, prefix: str) -> dict[str, object]:
    """A task with its document, without the text of it. prefix: as ``prefix_of`` has it, here and
    below."""
    documents = []
    if task.written is not None:
        href = f"{prefix}/task/{task.id}/documents?format={task.format}&download=1"
        documents.append(describe_written(task.written, task.format, href, task.inferred))
    return summary(task) | {"documents": documents}


def describe_now(service: Service, task: Task, *, prefix: str) -> dict[str, object]:
    """A task, and when it will be done."""
    if task.is_finished:
        return describe(task, prefix=prefix) | {"estimated_time": 0.0}
    position = service.ledger.position(task)
    seconds = service.writers.seconds_left(task.progress, position)
    return describe(task, prefix=prefix) | {
        "priority": task.priority,
        "position": position,
        "estimated_time": seconds,
    }


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
