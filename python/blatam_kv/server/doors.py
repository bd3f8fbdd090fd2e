"""From a path and a method to a door, and from what goes wrong behind it to an answer.

Most paths are fixed and found in a dictionary; those with parameters are tried in turn. The
framework's router tries every route with a regular expression and wraps each call three times,
which cost more than all stages of the pipeline together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from blatam_kv.server.gate import Door, Gate
from blatam_kv.server.limited import Pairs
from blatam_kv.server.problem import Problem

# What an exception is answered with; the second part says whether it is a bug to be passed on.
Failed = Callable[[Request, Exception], tuple[Response, bool]]
_Methods = dict[str, Door]


class Doors:
    """The ASGI application of all doors. failed: what an exception is answered with."""

    def __init__(self, gate: Gate, doors: Sequence[Door], *, failed: Failed) -> None:
        self._gate = gate
        self._failed = failed
        by_path: dict[str, dict[str, Door]] = {}
        for door in doors:
            methods = by_path.setdefault(door.path, {})
            methods[door.method] = door
            if door.method == "GET":
                methods["HEAD"] = door
        self._fixed = {path: found for path, found in by_path.items() if "{" not in path}
        self._others = [
            (*compile_path(path), found) for path, found in by_path.items() if "{" in path
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; leaves the template of its path in ``scope["template"]``."""
        request = Request(scope, receive, send)
        told: Pairs = []
        scope["state"]["told"] = told
        bug: Exception | None = None
        try:
            response = await self._gate.through(self._find(scope), request)
            response.raw_headers += told
            await response(scope, receive, send)
            return
        except Exception as error:
            if "started" in scope["state"]:  # the envelope has seen the answer begin
                raise
            response, passed_on = self._failed(request, error)
            response.raw_headers += told
            bug = error if passed_on else None
        await response(scope, receive, send)
        if bug is not None:
            raise bug  # the server logs it

    def _find(self, scope: Scope) -> Door:
        path, method = scope["path"], scope["method"]
        if path in self._fixed:
            methods = self._fixed[path]
            scope["template"] = path
        else:
            methods = self._match(path, scope)
        door = methods.get(method)
        if door is None:
            allowed = ", ".join(sorted(methods))
            detail = f"{method[:20]} is not possible here; use {allowed}"
            raise Problem(405, detail, headers={"Allow": allowed})
        return door

    def _match(self, path: str, scope: Scope) -> _Methods:
        pattern: re.Pattern[str]
        for pattern, template, convertors, methods in self._others:
            if found := pattern.match(path):
                params: dict[str, Any] = found.groupdict()
                for name, value in params.items():
                    params[name] = convertors[name].convert(value)
                scope["path_params"], scope["template"] = params, template
                return methods
        raise Problem(404, "nothing is served at this path; GET / lists what is")
