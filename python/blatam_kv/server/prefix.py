"""The path that lies before ours where a client finds us, so that what we call our paths leads back here.

A gateway or proxy that takes such a path off says so in ``X-Forwarded-Prefix``. It is believed of
trusted proxies only, and only if it is a path: anyone else could have links lead to wherever they like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from starlette.requests import Request

from blatam_kv.server.fields import fields
from blatam_kv.server.hosts import is_in

HEADER = b"x-forwarded-prefix"
_KEY = "blatam_kv.prefix"
_MOST = 200
# One step up, or a second slash, would lead elsewhere.
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")


class Prefixes:
    """Finds the prefix of each request. proxies: networks whose word is taken."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        self._proxies = tuple(ip_network(text) for text in proxies)

    def note(self, scope: Any, mount: str) -> None:  # Any: an ASGI scope, a dict of many types
        """Remember what ``prefix_of`` says of a request. mount: of ours, if its path began with that."""
        prefix = mount
        if self._proxies and HEADER in fields(scope):
            prefix = self._forwarded(scope) + mount
        if prefix:
            scope[_KEY] = prefix

    def _forwarded(self, scope: Any) -> str:
        client = scope.get("client")
        if client is None or not is_in(str(client[0]), self._proxies):
            return ""
        said = fields(scope)[HEADER]
        text = said[0].rstrip("/")
        return text if len(said) == 1 and is_path(text) else ""


def is_path(text: str) -> bool:
    """Whether it can stand before a path of ours."""
    return len(text) <= _MOST and _PATH.fullmatch(text) is not None


def prefix_of(request: Request) -> str:
    """What a client puts before our paths, without a slash at its end; mostly nothing."""
    prefix: str = request.scope.get(_KEY, "")
    return prefix
