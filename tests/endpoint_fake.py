"""A model server on loopback for the tests: speaks like vLLM, and fails as it is told.

``turns`` holds what happens to the next chat requests, in order; when it is empty the server
answers as it should. Every request is kept in ``requests``.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "acme/writer-7b"
USAGE = {
    "prompt_tokens": 42,
    "completion_tokens": 5,
    "total_tokens": 47,
    "prompt_tokens_details": {"cached_tokens": 32},
}
TEXTS = ("# Plan", "\n\n", "Panadería ", "«El ", "Horno» 🥐", "\n")

Turn = Callable[["Connection"], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any  # JSON


class Fake:
    """The server's state. Set the attributes to change what it says."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.turns: deque[Turn] = deque()
        self.models: Any = {
            "object": "list",
            "data": [{"id": MODEL, "owned_by": "vllm", "root": "/w", "max_model_len": 2048}],
        }
        self.tokenizer = "vllm"  # or "llama.cpp", or ""
        self.others: dict[str, Turn] = {}  # path -> what happens instead
        self.released = threading.Event()  # ends the silence of `silent`
        self.url = ""

    def asked(self, path: str) -> list[Asked]:
        return [request for request in self.requests if request.path == path]

    @property
    def chats(self) -> list[Any]:
        return [request.body for request in self.asked("/v1/chat/completions")]


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake
    body: Any = None  # JSON, of this request

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        fake = self.fake
        self.body = body
        fake.requests.append(Asked(self.command, self.path, dict(self.headers), body))
        if self.path in fake.others:
            fake.others[self.path](self)
        elif self.path == "/v1/chat/completions":
            (fake.turns.popleft() if fake.turns else answer())(self)
        elif self.path == "/v1/models":
            self.reply(200, fake.models)
        elif self.path == "/tokenize" and fake.tokenizer == "vllm":
            self.reply(200, {"count": 17, "max_model_len": 2048, "tokens": [1] * 17})
        elif self.path == "/tokenize" and fake.tokenizer == "llama.cpp":
            self.reply(200, {"tokens": list(range(len(body.get("content", ""))))})
        elif self.path == "/apply-template" and fake.tokenizer == "llama.cpp":
            self.reply(200, {"prompt": "|".join(m["content"] for m in body["messages"])})
        elif self.path == "/props" and fake.tokenizer == "llama.cpp":
            self.reply(200, {"default_generation_settings": {"n_ctx": 3000}})
        else:
            self.reply(404, {"detail": "Not Found"})

    def reply(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def begin_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str | None = None, reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}}
    return event({"choices": [choice | {"finish_reason": reason}], "usage": None} | more)


def whole(texts: tuple[str, ...] = TEXTS, reason: str = "stop", usage: Any = USAGE) -> bytes:
    """A complete stream as vLLM writes it."""
    parts = [delta("", role="assistant"), b": ping\n\n", *(delta(text) for text in texts)]
    parts.append(delta(reason=reason))
    if usage is not None:
        parts.append(event({"choices": [], "usage": usage}))
    return b"".join([*parts, b"data: [DONE]\n\n"])


# Turns.


def sent(stream: bytes, *, size: int = 1 << 20, cut: bool = False) -> Turn:
    """These bytes, ``size`` at a time; cut: the connection drops where they end."""

    def turn(connection: Connection) -> None:
        connection.begin_events()
        for start in range(0, len(stream), size):
            connection.chunk(stream[start : start + size])
        if cut:
            connection.close_connection = True
        else:
            connection.chunk(b"")

    return turn


def answer(*texts: str, **more: Any) -> Turn:
    return sent(whole(texts or TEXTS, **more))


def refused(status: int, body: object = b"", **headers: str) -> Turn:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda connection: connection.reply(status, body, named)


def error(status: int, message: str, code: str | None = None) -> Turn:
    kind = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return refused(status, {"error": kind})


def hang_up(connection: Connection) -> None:
    """Close without a word."""
    connection.close_connection = True


def silent(connection: Connection) -> None:
    """Say nothing until the test is over."""
    connection.fake.released.wait(30)
    connection.close_connection = True


@contextmanager
def endpoint() -> Iterator[Fake]:
    """A running fake; ``url`` is its base URL."""
    fake = Fake()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that goes away in the middle is what some tests are about

    handler = type("Bound", (Connection,), {"fake": fake})
    with Server(("127.0.0.1", 0), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            fake.released.set()
            server.shutdown()
            thread.join()
