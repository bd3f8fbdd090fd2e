"""What the gateway adds to a request, beside nginx doing the same hop where it is installed.

All stand in front of one server that answers 880 bytes at once, in a process of its own, and are asked
in turn over sixteen kept connections. The cost is the CPU time that the scheduler gave the process,
per request. The second table asks for a stream of events and says when the first one came: directly,
and through the gateway.

    python bench/gateway.py [--rounds 9] [--requests 2000] [--events 50]
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from _served import BODY, Crowd, running

from blatam_kv.cli.nginx import write_alone

ROUNDS, REQUESTS = 9, 2000
PATH = "/api/v1/gamma/answer"
TARGET_US, TARGET_FIRST_MS = 120.0, 1.0
SYSTEM = """
import asyncio, uvicorn
body = b'{"text": "' + b"x" * 880 + b'"}'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    events = scope["path"].endswith("events")
    kind, length = b"application/json", [(b"content-length", b"892")]
    if events:
        kind, length = b"text/event-stream", []
    headers = [(b"content-type", kind), *length]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if not events:
        await send({"type": "http.response.body", "body": body})
        return
    for number in range(3):
        event = b"data: %d\\n\\n" % number
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0.005)
    await send({"type": "http.response.body"})
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)

config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False,
                        lifespan="off", log_level="error")
Server(config).run()
"""
# The same hop and no more: none of what `deploy nginx` has beside it.
SITE = """
keepalive_requests 1000000;
upstream system {{ server {system}; keepalive 64; keepalive_requests 1000000; }}
server {{
  listen 127.0.0.1:{port};
  location /api/v1/gamma/ {{
    proxy_pass http://system/; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Request-ID $request_id; proxy_buffering off;
  }}
}}
"""


@contextmanager
def nginx(system: str) -> Iterator[tuple[int, str]]:
    """nginx in front of a system, by the id of its worker and its URL."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        write_alone(Path(folder), SITE.format(system=urlsplit(system).netloc, port=port))
        command = ["nginx", "-p", folder, "-c", "nginx.conf", "-e", f"{folder}/error.log"]
        with subprocess.Popen(command) as server:
            try:
                children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
                for _ in range(200):
                    if found := children.read_text().split():
                        break
                    time.sleep(0.01)
                yield int(found[0]), f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(30)


def first_event_ms(url: str, path: str) -> float:
    """From the request's last byte to the first event, over a new connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        start = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        answer = b""
        while b"data: 0" not in answer:
            answer += connection.recv(65536)
        return 1000 * (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--events", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        system, system_url = stack.enter_context(running([sys.executable, "-c", SYSTEM]))
        file = Path(folder, "gateway.yaml")
        file.write_text(f"gateway: {{port: 0}}\nsystems: {{gamma: {{url: '{system_url}'}}}}\n")
        command = [sys.executable, "-m", "blatam_kv", "gateway", "--config", str(file)]
        gateway, url = stack.enter_context(running([*command, "--data-dir", folder]))
        cases = {"the system alone": (system, system_url), "gateway": (gateway, url)}
        if shutil.which("nginx"):
            cases["nginx"] = stack.enter_context(nginx(system_url))
        costs: dict[str, list[float]] = {name: [] for name in cases}
        headers = {"X-API-Key": "bkv_" + "x" * 56}
        crowds = {
            name: Crowd(where, PATH, BODY, lambda: headers) for name, (_, where) in cases.items()
        }
        for turn in range(options.rounds + 1):
            for name, (pid, _) in cases.items():
                cost = crowds[name].microseconds(pid, options.requests)
                if turn:  # the first one warms up
                    costs[name].append(cost)
        firsts: dict[str, list[float]] = {"the system alone": [], "gateway": []}
        for _ in range(options.events):
            for name, times in firsts.items():
                times.append(first_event_ms(cases[name][1], "/api/v1/gamma/events"))
    floor = statistics.median(costs["the system alone"])
    print(f"{'CPU a request':<20} {'µs':>7} {'spread':>15}  {'of the system':>13}")
    for name, values in costs.items():
        spread = f"{min(values):.1f}-{max(values):.1f}"
        middle = statistics.median(values)
        print(f"{name:<20} {middle:>7.1f} {spread:>15}  {middle / floor:>12.2f}x")
    alone, through = (statistics.median(times) for times in firsts.values())
    print(f"first event: {alone:.2f} ms alone, {through:.2f} ms through the gateway")
    added = through - alone
    print(
        f"targets: gateway at most {TARGET_US:g} µs; adds {added:.2f} ms, target {TARGET_FIRST_MS:g}"
    )
    load = re.split(r"\s", Path("/proc/loadavg").read_text())[0]
    print(f"load average {load}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
