"""Endpoints of the renderer: a document in, its bytes in any format out. Nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.exports import Export, ExportRequest, parse_export
from blatam_kv.documents import limits
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.rendering import FORMATS, SHOW_LETTERHEADS, render
from blatam_kv.documents.styles import STYLES
from blatam_kv.documents.templates import AREAS, TEMPLATES
from blatam_kv.errors import InvalidRequest
from blatam_kv.metrics import ServiceMetrics
from blatam_kv.server.body import read_json
from blatam_kv.server.files import sheet_reply
from blatam_kv.server.gate import Door
from blatam_kv.server.replies import json_reply
from blatam_kv.server.tasks import rejected

INDEX = {
    "POST /api/v1/export": "render a document: markdown or sections, in a format and a style",
    "POST /api/v1/export/validate": "whether it could be rendered",
    "GET /api/v1/export/formats": "formats, styles, types and limits",
}
# A tenant's letterhead, for documents that bring none.
LetterheadOf = Callable[[str], Letterhead | None]


class ExportDesk:
    """The endpoints. Rendering takes a thread, never the loop."""

    def __init__(
        self, metrics: ServiceMetrics, *, letterhead_of: LetterheadOf = lambda tenant: None
    ) -> None:
        self._metrics = metrics
        self._letterhead_of = letterhead_of

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        path = "/api/v1/export"
        taken: dict[str, Any] = {
            "method": "POST",
            "scope": Scope.WRITE,
            "policy": "write",
            "read": _read,
            "body": ExportRequest,
            "example": {"markdown": "# Plan\n\nUna panadería.", "format": "docx"},
        }
        return [
            Door(path=path, answer=self.export, **taken),
            Door(path=f"{path}/validate", answer=self.validate, **taken),
            Door(path=f"{path}/formats", answer=self.formats, scope=Scope.READ),
        ]

    def export(self, request: Request, caller: Caller, wanted: Export) -> Response:
        """Render a document; the answer is the file."""
        document, format = wanted.document, wanted.format
        if wanted.wants_letterhead and format in SHOW_LETTERHEADS:
            document = replace(document, letterhead=self._letterhead_of(caller.tenant))
        with self._metrics.document(format):
            rendered = render(document, format)
        return sheet_reply(rendered)

    def validate(self, request: Request, caller: Caller, wanted: Export) -> Response:
        """Whether a document can be rendered: 200 if so, else 422 with what is wrong."""
        limits.check(wanted.document, wanted.format)
        headings = [heading.heading for heading in wanted.document.sections if heading.level]
        return json_reply({"valid": True, "title": wanted.document.title, "headings": headings})

    async def formats(self, request: Request, caller: Caller, wanted: None) -> Response:
        """What can be rendered, and how large."""
        return json_reply(
            {
                "formats": FORMATS,
                "styles": list(STYLES),
                "document_types": list(TEMPLATES["en"]),
                "business_areas": list(AREAS["en"]),
                "max_characters": limits.MAX_CHARACTERS,
                "max_pieces": limits.MAX_PIECES,
                "max_columns": limits.MAX_COLUMNS,
            }
        )


async def _read(request: Request) -> Export:
    payload = await read_json(request)
    try:
        return await run_in_threadpool(parse_export, payload)
    except InvalidRequest as error:
        raise rejected(error) from None
