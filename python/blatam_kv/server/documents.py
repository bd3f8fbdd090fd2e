"""Endpoints of what has been written: documents listed, searched and fetched."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.service import Service
from blatam_kv.documents.styles import USUAL, Look
from blatam_kv.server.files import file_reply
from blatam_kv.server.gate import Door
from blatam_kv.server.options import AREA, PAGES, RENDERING, read_options, search_text
from blatam_kv.server.prefix import prefix_of
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import describe_written, json_reply, with_content

INDEX = {
    "GET /documents": "your documents, newest first; ?page, ?limit, ?business_area",
    "GET /documents/{id}": "one of them; ?format, ?style, ?download=1",
    "GET /search": "documents with all words of ?q; ?page, ?limit",
}


class DocumentDesk:
    """The endpoints. All ask the database, so all run in a thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        return [
            Door(
                path="/documents",
                answer=self.listing,
                scope=Scope.READ,
                options=(*PAGES, "business_area"),
            ),
            Door(
                path="/documents/{id}",
                answer=self.document,
                scope=Scope.READ,
                options=tuple(RENDERING),
            ),
            Door(path="/search", answer=self.search, scope=Scope.READ, options=(*PAGES, "q")),
        ]

    def listing(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A tenant's documents, newest first."""
        return self._listed(
            request, caller, read_options(request, {**PAGES, "business_area": AREA})
        )

    def search(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A tenant's documents with all the words of a text, newest first."""
        options = read_options(request, {**PAGES, "q": search_text})
        if "q" not in options:
            raise Problem(
                422,
                "the request is not valid: q: is required; say what to look for",
                errors=[("q", "is required; say what to look for")],
            )
        return self._listed(request, caller, options | {"text": options.pop("q")})

    def document(self, request: Request, caller: Caller, wanted: None) -> Response:
        """One document; with ``download`` its bytes."""
        options = read_options(request, RENDERING)
        key = request.path_params["id"]
        written = self._service.written(key, tenant=caller.tenant)
        look = Look(style=options.get("style", USUAL.style))
        format = options.get("format", "markdown")
        rendered = self._service.press.render(written, format, tenant=caller.tenant, look=look)
        if options.get("download"):
            return file_reply(request, rendered, written.answer.born)
        href = f"{prefix_of(request)}/documents/{key}?format={rendered.format}&download=1"
        return json_reply(with_content(written, rendered, href))

    def _listed(self, request: Request, caller: Caller, options: dict[str, Any]) -> Response:
        options = {"page": 1, "limit": 20} | options
        found = self._service.documents(tenant=caller.tenant, **options)
        entries = [
            describe_written(
                written,
                "markdown",
                f"{prefix_of(request)}/documents/{written.answer.id}?format=markdown&download=1",
            )
            | {"created": written.answer.born}
            for written in found.items
        ]
        paging = {"page": options["page"], "limit": options["limit"], "total": found.total}
        return json_reply({"documents": entries} | paging)
