"""How far tasks and batches are, told as it happens: as server-sent events, or through a WebSocket.

Both say the same: what the status endpoint would answer, each time it changes, and the last time
when it will not change any more. A WebSocket passes the same stages as every request; a browser,
which cannot send it a header, shows a ticket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import orjson
from anyio import create_task_group
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.tickets import LIFE_SECONDS
from blatam_kv.bul.service import Service
from blatam_kv.server.batches import describe_batch
from blatam_kv.server.fields import WEBSOCKET
from blatam_kv.server.gate import Door
from blatam_kv.server.prefix import prefix_of
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import describe_now, json_reply

INDEX = {
    "GET /task/{id}/events": "how far it is, as it happens; WebSocket /ws/task/{id}",
    "GET /api/batch/{id}/events": "the same of a batch; WebSocket /ws/batch/{id}",
    "POST /api/ticket": "a ticket to open a WebSocket with, good once for 30 seconds",
}

log = logging.getLogger("blatam_kv.server")

# Proxies and clients give up on a connection that is silent for longer.
SILENCE_SECONDS = 15.0
# How often is looked for what another node has done: nobody tells this one.
_ELSEWHERE_SECONDS = 1.0
# Not more often than anyone can read.
_REST_SECONDS = 0.1
MOST_LISTENERS, MOST_OF_A_TENANT = 1_000, 100

Body = dict[str, object]
# What is told, and whether that is the end.
Describe = Callable[[], tuple[Body, bool]]


class ProgressDesk:
    """The endpoints."""

    def __init__(self, service: Service, guard: Guard) -> None:
        self._service = service
        self._guard = guard
        self._listeners: dict[str, int] = {}

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        read: dict[str, Any] = {"scope": Scope.READ}
        socket = read | {"method": WEBSOCKET, "ticket": True}
        return [
            Door(path="/task/{id}/events", answer=self.task_events, **read),
            Door(path="/api/batch/{id}/events", answer=self.batch_events, **read),
            Door(path="/ws/task/{id}", answer=self.task_socket, **socket),
            Door(path="/ws/batch/{id}", answer=self.batch_socket, **socket),
            Door(path="/api/ticket", method="POST", answer=self.ticket, **read),
        ]

    async def ticket(self, request: Request, caller: Caller, wanted: None) -> Response:
        """A ticket for who cannot send a key: ?ticket= of a WebSocket, good once."""
        made = self._guard.tickets.make(caller.key_id)
        return json_reply({"ticket": made, "expires_in": LIFE_SECONDS})

    async def task_events(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a task is, each time that changes, as server-sent events."""
        return _as_events(await self._told_of_task(request, caller))

    async def task_socket(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a task is, each time that changes, through a WebSocket."""
        return Told(await self._told_of_task(request, caller))

    async def batch_events(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a batch is, each time that changes, as server-sent events."""
        return _as_events(await self._told_of_batch(request, caller))

    async def batch_socket(self, request: Request, caller: Caller, wanted: None) -> Response:
        """How far a batch is, each time that changes, through a WebSocket."""
        return Told(await self._told_of_batch(request, caller))

    async def _told_of_task(
        self, request: Request, caller: Caller
    ) -> AsyncGenerator[Body | None, None]:
        key, tenant = request.path_params["id"], caller.tenant
        prefix = prefix_of(request)

        def describe() -> tuple[Body, bool]:
            task = self._service.task(key, tenant=tenant)
            return describe_now(self._service, task, prefix=prefix), task.is_finished

        await run_in_threadpool(describe)  # raises what there is to raise before anything is sent
        return self._changes([key], describe, tenant)

    async def _told_of_batch(
        self, request: Request, caller: Caller
    ) -> AsyncGenerator[Body | None, None]:
        batch, tenant, service = request.path_params["id"], caller.tenant, self._service
        prefix = prefix_of(request)

        def describe() -> tuple[Body, bool]:
            rows = service.batches.rows(batch, tenant=tenant)
            body = describe_batch(service, batch, rows, tenant=tenant, each=False, prefix=prefix)
            return body, body["status"] == "completed"

        rows = await run_in_threadpool(service.batches.rows, batch, tenant=tenant)
        return self._changes([row.id for row in rows], describe, tenant)

    def _changes(
        self, ids: Sequence[str], describe: Describe, tenant: str
    ) -> AsyncGenerator[Body | None, None]:
        mine, everyone = self._listeners.get(tenant, 0), sum(self._listeners.values())
        if mine >= MOST_OF_A_TENANT or everyone >= MOST_LISTENERS:
            headers = {"Retry-After": "10"}
            raise Problem(503, "too many listen already; ask for the status", headers=headers)
        return self._watched(ids, describe, tenant)

    async def _watched(
        self, ids: Sequence[str], describe: Describe, tenant: str
    ) -> AsyncGenerator[Body | None, None]:
        """What is told, each time it changes; None after a silence."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        self._listeners[tenant] = self._listeners.get(tenant, 0) + 1
        stop = self._service.tasks.watch(ids, wake)
        try:
            last: Body | None = None
            told = loop.time()
            while True:
                news.clear()
                body, over = await run_in_threadpool(describe)
                if body != last:
                    last, told = body, loop.time()
                    yield body
                if over:
                    return
                here = any(map(self._service.tasks.knows, ids))
                try:
                    async with asyncio.timeout(SILENCE_SECONDS if here else _ELSEWHERE_SECONDS):
                        await news.wait()
                except TimeoutError:
                    if loop.time() - told >= SILENCE_SECONDS:
                        told = loop.time()
                        yield None
                await asyncio.sleep(_REST_SECONDS)
        finally:
            stop()
            self._listeners[tenant] -= 1
            if not self._listeners[tenant]:
                del self._listeners[tenant]


def _as_events(told: AsyncGenerator[Body | None, None]) -> Response:
    async def events() -> AsyncIterator[bytes]:
        async for body in told:
            if body is None:
                yield b": still here\n\n"
            else:
                yield b"event: progress\ndata: " + orjson.dumps(body) + b"\n\n"
        yield b"event: end\ndata: {}\n\n"

    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


class Told(Response):
    """An accepted WebSocket that is told things until they end or it hangs up."""

    def __init__(self, told: AsyncGenerator[Body | None, None]) -> None:
        self.raw_headers = []
        self._told = told

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        async with create_task_group() as group:

            async def until_hung_up() -> None:
                await _hung_up(receive)
                group.cancel_scope.cancel()

            group.start_soon(until_hung_up)
            await self._tell(send)
            group.cancel_scope.cancel()

    async def _tell(self, send: Send) -> None:
        code, reason = 1000, "that is all"
        try:
            async with aclosing(self._told) as told:
                async for body in told:
                    if body is not None:  # the server itself pings in a silence
                        text = orjson.dumps(body).decode()
                        await send({"type": "websocket.send", "text": text})
        except OSError:
            return  # it has hung up
        except Exception:
            log.exception("telling of progress failed")
            code, reason = 1011, "it cannot be read now"
        with suppress(OSError):
            await send({"type": "websocket.close", "code": code, "reason": reason})


async def _hung_up(receive: Receive) -> None:
    """Until the other side goes. What it says meanwhile is not listened to."""
    while (await receive())["type"] != "websocket.disconnect":
        pass
