"""What callers are told when an answer cannot be given. The words are always ours."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from blatam_kv.bul.ledger import AlreadyFinished, Overloaded
from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import NotFound
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.server.problem import DATABASE, Problem, respond
from blatam_kv.server.tasks import rejected

log = logging.getLogger("blatam_kv.server")

# A database that is away is worth asking again after so many seconds.
_DATABASE_RETRY = 5


def failed(request: Request, error: Exception) -> tuple[Response, bool]:
    """The answer to a request that ended with this error, and whether that is a bug of ours."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400), False  # nobody is there to read it
    problem = _problem(request, error)
    if problem is not None:
        return respond(request, problem), False
    log.error("request %s failed: %s", request.state.request_id, type(error).__name__)
    detail = "the service failed at this request; its log has the reason under the request id"
    return respond(request, Problem(500, detail)), True


def _problem(request: Request, error: Exception) -> Problem | None:
    match error:
        case Problem():
            return error
        case NotFound():
            return Problem(404, str(error))
        case InvalidRequest():
            return rejected(error)
        case AlreadyFinished():
            return Problem(409, str(error))
        case Overloaded():
            return Problem(503, str(error), headers={"Retry-After": str(error.retry_after)})
        case StorageUnavailable():
            # Its text says where the database is, which callers need not know.
            log.error("request %s: %s", request.state.request_id, error)
            detail = "tasks and documents cannot be recorded or read now; cached answers are served"
            headers = {"Retry-After": str(_DATABASE_RETRY)}
            return Problem(503, detail, headers=headers, code=DATABASE)
        case ModelError():
            return Problem(503, str(error))
        case _:
            return None
