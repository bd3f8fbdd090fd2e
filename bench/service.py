"""What a cache hit over HTTP costs the server, beside a handler that does nothing.

Both run in processes of their own under uvicorn with uvloop and httptools, and are asked in turn over
sixteen kept connections at once. The cost is the CPU time that the scheduler gave the process, per request: unlike
wall time it hardly depends on what else the machine does.

    python bench/service.py [--rounds 9] [--requests 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.master import load_master
from blatam_kv.client import Client
from blatam_kv.signature import sign

ROUNDS, REQUESTS, CONNECTIONS = 9, 2000, 16
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
TRIVIAL = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
body = b'{"text": "' + b"x" * 880 + b'"}'
async def answer(request):
    await request.body()
    return Response(body, media_type="application/json")
app = Starlette(routes=[Route("/", answer, methods=["POST"])])
config = uvicorn.Config(app, host="127.0.0.1", port=0, loop="uvloop", http="httptools",
                        access_log=False, log_level="info")
uvicorn.Server(config).run()
"""


@contextmanager
def process(*command: str) -> Iterator[tuple[int, str]]:
    """A server by its process id and URL; stopped at the end."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as server:
        try:
            assert server.stdout is not None
            line = ""
            while not (found := re.search(r"http://[\d.]+:\d+", line)):
                ready, _, _ = select.select([server.stdout], [], [], 120)
                line = server.stdout.readline().decode() if ready else ""
                if not line:
                    raise SystemExit("a server did not start")
            yield server.pid, found[0]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process so far."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total


class Crowd:
    """Connections that ask at once, again and again: a server that sleeps between requests pays for
    waking up, which is not what is measured here."""

    def __init__(self, url: str, path: str, body: bytes) -> None:
        parts = urlsplit(url)
        address = (parts.hostname or "", parts.port or 0)
        self._sockets = [socket.create_connection(address) for _ in range(CONNECTIONS)]
        self._head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._body = body

    def ask(self, headers: Callable[[], dict[str, str]], n: int) -> None:
        """Ask n times or a few more; every answer must be a success."""
        for _ in range(0, n, CONNECTIONS):
            for each in self._sockets:
                lines = "".join(f"{name}: {text}\r\n" for name, text in headers().items())
                head = f"{self._head}{lines}Content-Length: {len(self._body)}\r\n\r\n"
                each.sendall(head.encode() + self._body)
            for each in self._sockets:
                self._read(each)

    def _read(self, connection: socket.socket) -> None:
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += connection.recv(65536)
        found = re.search(rb"(?i)content-length: (\d+)", answer[:end])
        if found is None or not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered {answer[:200]!r}")
        missing = end + 4 + int(found[1]) - len(answer)
        while missing > 0:
            missing -= len(connection.recv(65536))

    def close(self) -> None:
        """Hang up."""
        for each in self._sockets:
            each.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BUL_RATE_LIMIT_REQUESTS"] = "1000000000"
        os.environ["BUL_DATA_DIR"] = folder
        with (
            process(sys.executable, "-c", TRIVIAL) as (trivial, trivial_url),
            process(sys.executable, "-m", "blatam_kv", "serve", "--port", "0") as (bul, url),
        ):
            made = KeyRing(Path(folder), load_master(Path(folder))).create("bench")
            json_type = {"Content-Type": "application/json"}
            with_key = json_type | {"X-API-Key": made.api_key}

            def signed(path: str, body: bytes) -> Callable[[], dict[str, str]]:
                return lambda: sign(
                    "POST", url + path, key_id=made.key.key_id, key=made.signing_key, body=body
                )

            with Client(url, api_key=made.api_key) as client:
                client.document(json.loads(QUERY))
            cases = {
                "trivial handler": (trivial, trivial_url, "/", BODY, lambda: json_type),
                "chat hit, API key": (bul, url, CHAT, BODY, lambda: with_key),
                "chat hit, signed": (bul, url, CHAT, BODY, signed(CHAT, BODY)),
                "document hit, signed": (bul, url, "/query", QUERY, signed("/query", QUERY)),
            }
            costs: dict[str, list[float]] = {name: [] for name in cases}
            crowds = {
                name: Crowd(where, path, body) for name, (_, where, path, body, _) in cases.items()
            }
            asked = -(-options.requests // CONNECTIONS) * CONNECTIONS
            for turn in range(options.rounds + 1):
                for name, (pid, _, _, _, headers) in cases.items():
                    before = cpu_ns(pid)
                    crowds[name].ask(headers, asked)
                    if turn:  # the first one warms up
                        costs[name].append((cpu_ns(pid) - before) / asked / 1000)
            for crowd in crowds.values():
                crowd.close()
    floor = statistics.median(costs["trivial handler"])
    print(f"{'CPU of the server a request':<28} {'µs':>7}  {'of trivial':>10}  {'a second':>9}")
    for name, values in costs.items():
        value = statistics.median(values)
        print(f"{name:<28} {value:>7.1f}  {value / floor:>9.2f}x  {1e6 / value:>9,.0f}")
    print("target, chat hit: at most 80 µs and 2.5x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
