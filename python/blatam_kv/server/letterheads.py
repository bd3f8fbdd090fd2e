"""Endpoints of the letterhead: each tenant has one or none, and nobody else sees it."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.letterheads import LetterheadRequest, parse_letterhead
from blatam_kv.bul.service import Service
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.errors import InvalidRequest
from blatam_kv.server.body import read_json
from blatam_kv.server.gate import Door
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply
from blatam_kv.server.tasks import rejected

INDEX = {
    "GET /letterhead": "what stands at the head of your documents",
    "PUT /letterhead": "set it: company, lines, logo (PNG or JPEG in base64)",
    "DELETE /letterhead": "have none",
}


class LetterheadDesk:
    """The endpoints. All ask the database, so all run in a thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        write: dict[str, Any] = {"path": "/letterhead", "scope": Scope.WRITE, "policy": "write"}
        return [
            Door(path="/letterhead", answer=self.shown, scope=Scope.READ),
            Door(
                method="PUT",
                answer=self.put,
                read=_read,
                body=LetterheadRequest,
                example={"company": "Horno La Espiga", "lines": ["Calle Mayor 1", "Madrid"]},
                **write,
            ),
            Door(method="DELETE", answer=self.drop, **write),
        ]

    def shown(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A tenant's letterhead."""
        found = self._service.press.letterhead(tenant=caller.tenant)
        if found is None:
            raise Problem(404, "there is no letterhead; PUT /letterhead sets one")
        return json_reply(_described(found))

    def put(self, request: Request, caller: Caller, wanted: Letterhead) -> Response:
        """Set a tenant's letterhead; documents that are fetched from now on have it."""
        self._service.press.keep_letterhead(wanted, tenant=caller.tenant)
        return json_reply(_described(wanted))

    def drop(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Forget a tenant's letterhead."""
        if not self._service.press.drop_letterhead(tenant=caller.tenant):
            raise Problem(404, "there is no letterhead")
        return Response(status_code=204)


async def _read(request: Request) -> Letterhead:
    payload = await read_json(request)
    try:
        return await run_in_threadpool(parse_letterhead, payload)
    except InvalidRequest as error:
        raise rejected(error) from None


def _described(letterhead: Letterhead) -> dict[str, object]:
    logo = letterhead.logo
    return {
        "company": letterhead.company,
        "lines": letterhead.lines,
        "logo": None
        if logo is None
        else {
            "format": logo.format,
            "width": logo.width,
            "height": logo.height,
            "bytes": len(logo.content),
        },
    }
