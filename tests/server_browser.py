"""A client that calls the ASGI application itself, no socket in between.

It has a key with every scope; ``browser.key`` can be set to another one, or to None.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from bul_fakes import Scripted, running
from starlette.types import ASGIApp

from blatam_kv.bul.security.audit import AuditLog
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.master import Master
from blatam_kv.bul.service import Service
from blatam_kv.server.bul import create_app


class Browser:
    """Requests straight into an ASGI application, no socket in between."""

    service: Service  # behind the application, for tests that need it

    def __init__(self, app: ASGIApp, key: str | None, keys: KeyRing) -> None:
        self.app = app
        self.key = key
        self.keys = keys

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        if self.key is not None:
            given = options.get("headers") or []
            pairs = list(given.items()) if isinstance(given, dict) else list(given)
            options["headers"] = [("X-API-Key", self.key), *pairs]

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            base_url = "http://127.0.0.1:8002"
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def ask(self, **fields: Any) -> httpx.Response:
        """``POST /query``."""
        return self.post("/query", json=fields)

    def finished(self, task_id: str) -> dict[str, Any]:
        """The status of a task once it has ended."""
        while True:
            status: dict[str, Any] = self.get(f"/task/{task_id}/status").json()
            assert "task_id" in status, status
            if status["status"] in ("completed", "failed", "cancelled"):
                return status


@contextmanager
def browsing(model: Scripted, **settings: Any) -> Iterator[Browser]:
    """The whole face of a service with this model, its keys in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder, running(model, **settings) as service:
        keys = KeyRing(Path(folder), Master(bytes(range(32))))
        guard = Guard(
            keys, limiter=None, audit=AuditLog(Path(folder)), count=service.metrics.rejected
        )
        with closing(guard):
            key = keys.create("acme", role="admin").api_key
            browser = Browser(create_app(service, guard), key, keys)
            browser.service = service
            yield browser
