"""A small HTTP client for the running service, from the standard library.

    with Client("http://127.0.0.1:8002", api_key="bkv_...") as client:
        document = client.document({"query": "Plan de negocio para una panadería"})

With a signing key in place of the API key, every request is signed (``blatam_kv.signature``) and no
secret travels.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

from blatam_kv.errors import Error, InvalidRequest
from blatam_kv.signature import sign


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
    """One connection, kept open between requests. Use it in a ``with``, from one thread.

    api_key, or key_id and signing_key (32 bytes): who asks. Without, only open pages answer.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        key_id: str | None = None,
        signing_key: bytes | None = None,
        timeout: float = 30.0,
    ) -> None:
        if (key_id is None) != (signing_key is None) or (api_key and key_id):
            raise InvalidRequest("pass api_key, or key_id with signing_key")
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme != "http" or not parts.hostname or port == -1 or parts.query:
            raise InvalidRequest(f"the URL must look like http://127.0.0.1:8002, not {url!r}")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")  # that a gateway has the service under
        self._api_key = api_key
        self._key_id, self._signing_key = key_id, signing_key
        self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        file: bytes | None = None,
        content_type: str = "application/json",
        idempotency_key: str | None = None,
    ) -> Reply:
        """Send, wait, read. Raises Unreachable.

        body: a JSON value; file: bytes of another type in its place. A kept connection that the
        service has closed meanwhile is opened again, once; with an idempotency_key it does not
        matter whether the request had arrived by then.
        """
        content = file if body is None else json.dumps(body).encode()
        if content is None and method in ("POST", "PUT", "PATCH"):
            content = b""
        headers = self._headers(method, path, content, content_type)
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        kept = self._connection.sock is not None
        try:
            try:
                return self._once(method, path, content, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                if not kept:
                    raise
                self._connection.close()
                # A signature is good once.
                headers |= self._headers(method, path, content, content_type)
                return self._once(method, path, content, headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def download(self, path: str, file: BinaryIO) -> None:
        """Write what is there into a file, a piece at a time. Raises Refused, Unreachable."""
        try:
            self._connection.request(
                "GET", self._prefix + path, headers=self._headers("GET", path, None)
            )
            response = self._connection.getresponse()
            if response.status != 200:
                Reply(response.status, response.headers, response.read()).json("never")
            shutil.copyfileobj(response, file, 1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _once(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        self._connection.request(method, self._prefix + path, content, dict(headers))
        response = self._connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def _unreachable(self, error: Exception) -> Unreachable:
        self._connection.close()
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(
            f"no service answers at {self.url} ({reason}); start one with: blatam-kv serve, "
            "or name the URL of one that runs"
        )

    def document(self, query: Mapping[str, object], *, seconds: float = 300.0) -> bytes:
        """Ask for a document (the fields of ``POST /query``) and wait for its bytes.

        Raises Refused if the service will not, cannot, or does not in time; Unreachable.
        """
        deadline = time.monotonic() + seconds
        task = self.request("POST", "/query", dict(query)).json("task_id", "status")
        wait = 0.01
        while task["status"] in ("queued", "processing"):
            if time.monotonic() > deadline:
                raise Refused(f"task {task['task_id']} took more than {seconds:g} seconds")
            time.sleep(wait)
            wait = min(1.0, 1.5 * wait)
            task |= self.request("GET", f"/task/{task['task_id']}/status").json("status")
        if task["status"] != "completed":
            raise Refused(f"the document {task['status']}: {task['error']['detail']}")
        # The service says where it lies for us, which is where we ask already.
        reply = self.request("GET", task["documents"][0]["href"].removeprefix(self._prefix))
        if reply.status != 200:
            reply.json("never")
        return reply.content

    def _headers(
        self,
        method: str,
        path: str,
        content: bytes | None,
        content_type: str = "application/json",
    ) -> dict[str, str]:
        headers = {} if content is None else {"Content-Type": content_type}
        if self._api_key is not None:
            headers["X-API-Key"] = self._api_key
        elif self._key_id is not None and self._signing_key is not None:
            headers |= sign(
                method,
                self.url + path,
                key_id=self._key_id,
                key=self._signing_key,
                body=content,
                content_type=content_type,
            )
        return headers
