"""Errors as RFC 9457 problem documents, with the original system's codes.

A002 bad request, A003 not found, S001 the service cannot do it now, S002 its database, A001 not
allowed. The text is always ours: no exception's text and no stack trace of unknown origin reaches a
caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
NOT_ALLOWED, BAD_REQUEST, NOT_FOUND = "A001", "A002", "A003"
UNAVAILABLE, DATABASE = "S001", "S002"

_CODES = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    421: NOT_ALLOWED,
    404: NOT_FOUND,
    500: UNAVAILABLE,
    503: UNAVAILABLE,
    504: NOT_FOUND,
}
_QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_TYPES = {
    429: _QUOTA,
    503: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
}


_OPENAI = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    502: ("server_error", "bad_gateway"),
    503: ("server_error", "overloaded"),
    504: ("server_error", "gateway_timeout"),
}


class Problem(Exception):
    """Raised by an endpoint to answer with an error.

    errors: pairs of field and detail. code: None for the usual one of the status. more: further
    members of the problem document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.code = code
        self.more = more


def _openai_body(status: int, detail: str, errors: Sequence[tuple[str, str]]) -> dict[str, object]:
    """OpenAI's form of an error; its clients read exactly these four."""
    kind, code = _OPENAI.get(status, ("invalid_request_error", "invalid_request"))
    param = errors[0][0] or None if errors else None
    return {"error": {"message": detail, "type": kind, "param": param, "code": code}}


def problem_response(
    *,
    status: int,
    detail: str,
    path: str,
    request_id: str,
    errors: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
    more: Mapping[str, object] | None = None,
) -> Response:
    """The problem document as a response; under ``/v1/`` in OpenAI's form. more: further members."""
    if path.startswith("/v1/"):
        compatible = orjson.dumps(_openai_body(status, detail, errors))
        return Response(compatible, status, headers=headers, media_type="application/json")
    body: dict[str, object] = {
        "type": _TYPES.get(status, "about:blank"),
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": path[:200],
        "code": code or _CODES.get(status, BAD_REQUEST),
        "request_id": request_id,
        **(more or {}),
    }
    if errors:
        body["errors"] = [{"field": field, "detail": text} for field, text in errors]
    body |= more or {}
    return Response(orjson.dumps(body), status, headers=headers, media_type=MEDIA_TYPE)


def respond(request: Request, problem: Problem) -> Response:
    """The response for a problem raised while handling ``request``."""
    return problem_response(
        status=problem.status,
        detail=problem.detail,
        path=request.url.path,
        request_id=request.state.request_id,
        errors=problem.errors,
        headers=problem.headers,
        code=problem.code,
        more=problem.more,
    )
