"""What a hit of ``POST /query`` costs through everything, and whether memory stays flat over many.

The service runs as its own process, as ``blatam-kv serve`` starts it, with a key, a rate limit and
its database, so a hit passes every stage and leaves a row. Beside it runs a Starlette handler that
reads the body and returns one of the same size. Rounds alternate between the two; CPU is what the
scheduler accounted to each process, all its threads (the recorder's included), which other load on
the machine disturbs little. Then the service is asked on, and its resident memory is read ten times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RATIO_TARGET, MICROSECONDS_TARGET = 2.5, 80.0
# Memory that a run may take after its first third, a small part of what a leak of one object a
# request would cost.
GROWTH_TARGET = 8 << 20

CONNECTIONS = 16
QUERY = {"query": "Plan de negocio para una panadería artesanal", "max_length": 40}

TRIVIAL = """
import sys, uvicorn
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

app = Starlette(routes=[Route("/query", answer, methods=["POST"])])
config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False)
import logging; logging.disable()
Server(config).run()
"""


class Crowd:
    """Connections that send the same request at once, again and again: a server that sleeps between
    requests pays for waking up, which is not what is measured here."""

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._sockets = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = [f"POST /query HTTP/1.1\r\nHost: {host}:{port}", *lines]
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._request = "\r\n".join(head).encode() + b"\r\n\r\n" + body

    def ask(self) -> bytes:
        """One exchange on every connection; the last response, headers and all."""
        for each in self._sockets:
            each.sendall(self._request)
        return [_response(each) for each in self._sockets][-1]


def _response(connection: socket.socket) -> bytes:
    response = b""
    while (end := response.find(b"\r\n\r\n")) < 0:
        response += connection.recv(65536)
    found = re.search(rb"(?i)content-length: (\d+)", response[:end])
    assert found, response
    missing = end + 4 + int(found[1]) - len(response)
    while missing > 0:
        more = connection.recv(65536)
        response += more
        missing -= len(more)
    return response


@contextmanager
def running(command: list[str], *, stdin: bytes = b"", **environ: str) -> Iterator[tuple[int, str]]:
    """A process that prints its URL: its id and that URL. Killed at the end."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | environ)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(stdin)
        process.stdin.flush()
        line = process.stdout.readline().decode()
        yield process.pid, re.findall(r"http://\S+", line)[0]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """What the scheduler accounted to all threads of a process."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a process has in RAM."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def microseconds(pid: int, crowd: Crowd, requests: int) -> float:
    """CPU of the process for each of some requests."""
    before = cpu_seconds(pid)
    for _ in range(requests // CONNECTIONS):
        crowd.ask()
    time.sleep(0.6)  # the recorder's share comes a little later
    return (cpu_seconds(pid) - before) / requests * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000, help="of the soak (200000)")
    parser.add_argument("--round", type=int, default=2_000, help="requests a round (2000)")
    parser.add_argument("--rounds", type=int, default=7, help="of each contender (7)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    body = json.dumps(QUERY).encode()
    with tempfile.TemporaryDirectory() as folder:
        serve = [sys.executable, "-m", "blatam_kv", "serve", "--port", "0", "--data-dir", folder]
        serve += ["--log-level", "warning"]
        many = str(10**9)
        with running(serve, BUL_RATE_LIMIT_REQUESTS=many) as (service, url):
            keys = [sys.executable, "-m", "blatam_kv", "keys", "create", "--tenant", "bench"]
            made = subprocess.run(
                [*keys, "--json", "--data-dir", folder], check=True, capture_output=True
            )
            headers = {"X-API-Key": json.loads(made.stdout)["api_key"]}
            crowd = Crowd(url, headers, body)
            while b'"status":"completed"' not in (answer := crowd.ask()):
                time.sleep(0.1)
            assert b"; hit" in answer, answer
            content = answer.partition(b"\r\n\r\n")[2]
            trivial = [sys.executable, "-c", TRIVIAL]
            with running(trivial, stdin=content + b"\n") as (peer, peer_url):
                peer_crowd = Crowd(peer_url, headers, body)
                assert peer_crowd.ask().endswith(content + b"\n")
                pairs = [
                    (
                        microseconds(service, crowd, options.round),
                        microseconds(peer, peer_crowd, options.round),
                    )
                    for _ in range(options.rounds)
                ]
            memory = []
            for _ in range(10):
                for _ in range(options.requests // 10 // CONNECTIONS):
                    crowd.ask()
                memory.append(resident(service))
    hit = statistics.median(pair[0] for pair in pairs)
    plain = statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    report = {
        "hit_us": hit,
        "trivial_us": plain,
        "ratio": ratio,
        "ratios": [round(ours / theirs, 2) for ours, theirs in pairs],
        "requests": options.requests,
        "memory": memory,
        "growth": max(memory[3:]) - memory[2],
    }
    if options.json:
        print(json.dumps(report))
    else:
        print(f"hit      {hit:6.1f} us CPU (target {MICROSECONDS_TARGET:.0f})")
        print(f"trivial  {plain:6.1f} us CPU")
        print(f"ratio    {ratio:6.2f} (target {RATIO_TARGET}); rounds {report['ratios']}")
        steps = " ".join(f"{each / 2**20:.1f}" for each in memory)
        print(f"memory   {steps} MiB over {options.requests:,} hits")
        grown = (max(memory[3:]) - memory[2]) / 2**20
        print(f"growth   {grown:6.1f} MiB after the first third (target {GROWTH_TARGET >> 20})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
