"""A small HTTP client for the running service, from the standard library."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from blatam_kv.errors import Error, InvalidRequest


class Unreachable(Error, ConnectionError):
    """Nobody answers at the address."""


class Refused(Error, RuntimeError):
    """The service answered with an error."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self, *keys: str) -> dict[str, Any]:
        """The body, an object with at least these keys (values of any type, hence Any).

        Raises Refused for a problem document, and for what BUL would never answer.
        """
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if isinstance(body, dict):
            if self.status >= 400 and "detail" in body:
                raise Refused(f"the service answered {self.status}: {body['detail']}")
            if all(key in body for key in keys):
                return body
        raise Refused(f"the service answered {self.status} and something strange; is it BUL?")


class Client:
    """One connection, kept open between requests. Use it in a ``with``, from one thread."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme != "http" or not parts.hostname or port == -1 or parts.path.strip("/"):
            raise InvalidRequest(f"--url must look like http://127.0.0.1:8002, not {url!r}")
        self._url = url
        self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def request(self, method: str, path: str, body: object = None) -> Reply:
        """Send, wait, read. Raises Unreachable."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(
                f"no service answers at {self._url} ({reason}); start one with: blatam-kv serve, "
                "or name another with --url"
            ) from error
