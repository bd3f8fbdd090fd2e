"""A small system to put behind the gateway: it says what it was asked, streams, and talks back.

It stands in for the systems that are not part of this project, in its tests and wherever a gateway
is to be tried out:

    python examples/upstream.py --name gamma --port 8003
    blatam-kv gateway
    curl http://127.0.0.1:8000/api/v1/gamma/echo?a=1

    GET  /health             200, or 503 once POST /ill was asked; POST /well mends it
    any  /echo               method, path, query, headers and the size and digest of the body
    GET  /events?count=N     N server-sent events, &seconds=S between two
    GET  /bytes?count=N      N bytes, in pieces
    GET  /sleep?seconds=S    an answer that takes its time
    GET  /redirect?to=URL    302
    GET  /calls              how often each path was asked
    WS   /talk               every message comes back; "bye" closes with 4000
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

_PIECE = 64 << 10
_ANY = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Upstream:
    """The endpoints, and what they remember."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.well = True
        self.calls: Counter[str] = Counter()
        self.left = 0

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/ill", self.ill, methods=["POST"]),
                Route("/well", self.ill, methods=["POST"]),
                Route("/events", self.events),
                Route("/bytes", self.bytes),
                Route("/sleep", self.sleep),
                Route("/redirect", self.redirect),
                Route("/calls", self.called),
                WebSocketRoute("/talk", self.talk),
                Route("/{path:path}", self.echo, methods=_ANY),
            ]
        )

    async def health(self, request: Request) -> Response:
        """Whether it is well."""
        state = "ok" if self.well else "ill"
        return JSONResponse({"name": self.name, "status": state}, 200 if self.well else 503)

    async def ill(self, request: Request) -> Response:
        """Make it ill, or well."""
        self.well = request.url.path == "/well"
        return JSONResponse({"well": self.well})

    async def called(self, request: Request) -> Response:
        """What it was asked."""
        return JSONResponse({"calls": dict(self.calls), "left": self.left})

    async def echo(self, request: Request) -> Response:
        """What it was asked just now."""
        self.calls[request.url.path] += 1
        digest, size = hashlib.sha256(), 0
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
        headers = [(name.decode(), value.decode("latin-1")) for name, value in request.headers.raw]
        return JSONResponse(
            {
                "name": self.name,
                "method": request.method,
                "path": request.scope["raw_path"].decode("latin-1"),
                "query": request.scope["query_string"].decode("latin-1"),
                "headers": headers,
                "size": size,
                "sha256": digest.hexdigest(),
            },
            headers={"X-System": self.name, "Connection": "x-private", "X-Private": "1"},
        )

    async def events(self, request: Request) -> Response:
        """Events, one after the other."""
        count = int(request.query_params.get("count", "3"))
        seconds = float(request.query_params.get("seconds", "0.01"))

        async def told() -> AsyncIterator[bytes]:
            whole = False
            try:
                for number in range(count):
                    yield b"data: %d\n\n" % number
                    await asyncio.sleep(seconds)
                whole = True
            finally:
                self.left += not whole

        return StreamingResponse(told(), media_type="text/event-stream")

    async def bytes(self, request: Request) -> Response:
        """Many bytes."""
        count = int(request.query_params.get("count", "1000000"))

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, count, _PIECE):
                yield b"x" * min(_PIECE, count - start)

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    async def sleep(self, request: Request) -> Response:
        """Takes its time; a client that goes away is counted."""
        self.calls["/sleep"] += 1
        seconds = float(request.query_params.get("seconds", "1"))
        work = asyncio.ensure_future(asyncio.sleep(seconds))
        gone = asyncio.ensure_future(_until_gone(request))
        done, _ = await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()
        self.left += gone in done
        return JSONResponse({"name": self.name, "slept": seconds})

    async def redirect(self, request: Request) -> Response:
        """Elsewhere."""
        answer = RedirectResponse(request.query_params["to"], 302)
        answer.set_cookie("blatam_kv_session", "stolen")
        answer.set_cookie("own", "1")
        return answer

    async def talk(self, socket: WebSocket) -> None:
        """Says everything back."""
        wanted = socket.scope["subprotocols"]
        await socket.accept(subprotocol=wanted[0] if wanted else None)
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text") == "bye":
                    await socket.close(4000, "bye")
                    return
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_bytes(message["bytes"])
        except WebSocketDisconnect:
            return


async def _until_gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)


def main() -> None:
    """Serve one system until told to stop."""
    parser = argparse.ArgumentParser(description="a system to put behind the gateway")
    parser.add_argument("--name", default="upstream")
    parser.add_argument("--port", type=int, default=8003, help="0 takes a free one (8003)")
    args = parser.parse_args()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", args.port))
        listener.listen(256)
        print(f"{args.name} listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            Upstream(args.name).app(),
            access_log=False,
            log_level="warning",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        # uvicorn raises the signal once more when it has ended: it has ended well.
        signal.signal(signal.SIGTERM, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
