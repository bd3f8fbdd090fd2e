"""What the tables of the service share: servers as processes, a crowd that asks, CPU and memory.

CPU is what the scheduler accounted to a process, all its threads: unlike wall time it hardly depends
on what else the machine does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

from blatam_kv.bul.security.keys import KeyRing, NewKey
from blatam_kv.bul.security.master import load_master

RATIO_TARGET, MICROSECONDS_TARGET = 2.5, 80.0
CONNECTIONS = 16
CHAT = "/v1/chat/completions"
BODY = json.dumps(
    {
        "model": "truthgpt",
        "messages": [
            {"role": "system", "content": "You write for a bakery of 48 people. " * 6},
            {"role": "user", "content": "Plan de negocio para una panadería artesanal"},
        ],
        "max_tokens": 120,
        "temperature": 0.3,
    }
).encode()
QUERY = json.dumps({"query": "Plan de negocio para una panadería", "max_length": 60}).encode()

# A handler that reads the body and returns what came on its standard input.
_TRIVIAL = """
import logging, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

content = sys.stdin.buffer.readline()

async def answer(request):
    await request.body()
    return Response(content, media_type="application/json")

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)

app = Starlette(routes=[Route("/", answer, methods=["POST"])])
config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False)
logging.disable()
Server(config).run()
"""

Headers = Callable[[], dict[str, str]]


@contextmanager
def running(
    command: list[str], *, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """A server that prints its URL: its process id and that URL. Stopped at the end."""
    pipe, environment = subprocess.PIPE, {**os.environ, **(environ or {})}
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(stdin)
            server.stdin.flush()
            while not (found := re.search(r"http://[\d.]+:\d+", line := _line(server.stdout))):
                if not line:
                    raise SystemExit("a server did not start")
            yield server.pid, found[0]
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        finally:
            server.kill()


def _line(output: IO[bytes]) -> str:
    return output.readline().decode()


@contextmanager
def trivial(content: bytes) -> Iterator[tuple[int, str]]:
    """The floor: a Starlette handler that reads the body and returns this line."""
    with running([sys.executable, "-c", _TRIVIAL], stdin=content + b"\n") as server:
        yield server


@contextmanager
def bul(folder: str, **environ: str) -> Iterator[tuple[int, str, NewKey]]:
    """``blatam-kv serve`` on a free port, without a rate limit that anyone reaches, and a key."""
    command = [sys.executable, "-m", "blatam_kv", "serve", "--port", "0", "--data-dir", folder]
    command += ["--log-level", "warning"]
    environ = {"BUL_RATE_LIMIT_REQUESTS": str(10**9)} | environ
    with running(command, environ=environ) as (pid, url):
        yield pid, url, KeyRing(Path(folder), load_master(Path(folder))).create("bench")


def cpu_seconds(pid: int) -> float:
    """What the scheduler accounted to all threads of a process so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a process has in RAM."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


class Crowd:
    """Connections that ask at once, again and again: a server that sleeps between requests pays for
    waking up, which is not what is measured here."""

    def __init__(self, url: str, path: str, body: bytes, headers: Headers) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._sockets: list[socket.socket] = []
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        self._body, self._headers = body, headers

    def __enter__(self) -> Self:
        self._sockets = [socket.create_connection(self._address) for _ in range(CONNECTIONS)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._sockets:
            each.close()

    def ask(self) -> bytes:
        """One exchange on every connection; the last response, headers and all."""
        for each in self._sockets:
            lines = "".join(f"{name}: {text}\r\n" for name, text in self._headers().items())
            each.sendall(f"{self._head}{lines}\r\n".encode() + self._body)
        return [_response(each) for each in self._sockets][-1]

    def microseconds(self, pid: int, requests: int) -> float:
        """CPU of the process for each of about so many requests."""
        with self:  # a server closes connections that rest while others are measured
            self.ask()
            before, turns = cpu_seconds(pid), -(-requests // CONNECTIONS)
            for _ in range(turns):
                self.ask()
            time.sleep(0.6)  # the recorder's share comes a little later
            return (cpu_seconds(pid) - before) / (turns * CONNECTIONS) * 1e6


def first_bytes(url: str, path: str, body: bytes, headers: Headers, n: int) -> list[float]:
    """Milliseconds from a request on a kept connection to the first byte of its answer's body."""
    parts = urlsplit(url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    took = []
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(n):
            lines = "".join(f"{name}: {text}\r\n" for name, text in headers().items())
            request = f"{head}{lines}\r\n".encode() + body
            began = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) == end + 4:
                answer += _received(connection)
            took.append((time.perf_counter() - began) * 1e3)
            if b"chunked" in answer[:end]:
                while not answer.endswith(b"0\r\n\r\n"):
                    answer += _received(connection)
            else:
                found = re.search(rb"(?i)content-length: (\d+)", answer[:end])
                assert found
                while len(answer) < end + 4 + int(found[1]):
                    answer += _received(connection)
    return took


def _response(connection: socket.socket) -> bytes:
    response = b""
    while (end := response.find(b"\r\n\r\n")) < 0:
        response += _received(connection)
    found = re.search(rb"(?i)content-length: (\d+)", response[:end])
    if found is None or not response.startswith(b"HTTP/1.1 20"):
        raise SystemExit(f"the server answered {response[:300]!r}")
    missing = end + 4 + int(found[1]) - len(response)
    while missing > 0:
        more = _received(connection)
        response += more
        missing -= len(more)
    return response


def _received(connection: socket.socket) -> bytes:
    content = connection.recv(65536)
    if not content:
        raise SystemExit("the server hung up")
    return content
