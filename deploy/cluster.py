"""`./run cluster`: several nodes and everything around them on this machine, with the real servers.

Redis, PostgreSQL, N nodes, nginx in front of them, the gateway in front of it and Prometheus, each with the configuration that is
shipped, in one folder that goes away at the end. With --check it asks for a document, kills the node
that wrote it, asks again, says what it saw and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from blatam_kv.cli.nginx import nginx, write_alone
from blatam_kv.cli.remote import connect
from blatam_kv.config import Secret, Settings

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60.0
_QUERY = {"query": "Plan de negocio para una panadería", "max_length": 60}


def main() -> int:
    """Run it; the exit status is 0 after a signal, or where --check found all well."""
    parser = argparse.ArgumentParser(description="several nodes on this machine")
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="(3)")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="of nginx (8080)")
    parser.add_argument("--prometheus-port", type=int, default=9090, metavar="N", help="(9090)")
    parser.add_argument("--check", action="store_true", help="prove it, and end")
    args = parser.parse_args()
    with ExitStack() as opened:
        # Directly below the system's folder: the paths of sockets must be short.
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="blatam-")))
        folder.chmod(0o755)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            cluster = Cluster(folder, opened)
            cluster.start(args.nodes, args.port or free_port(), args.prometheus_port or free_port())
            if args.check:
                return cluster.check()
            print("Ctrl-C ends it", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print()
    return 0


class Cluster:
    """The servers, ended with ``opened`` in reverse order."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self._folder = folder
        self._opened = opened
        self._secret = secrets.token_hex(32)
        self._nodes: list[tuple[subprocess.Popen[bytes], str]] = []
        self._url = ""

    def start(self, nodes: int, port: int, prometheus_port: int) -> None:
        """Start all, and say where each is."""
        redis, database = self._redis(), self._postgres()
        for number in range(nodes):
            self._node(number, redis, database)
        self._nginx(port)
        self._prometheus(prometheus_port, gateway=self._gateway())

    def check(self) -> int:
        """0 if an answer survives the node that wrote it, on every other node."""
        settings = replace(Settings(), data_dir=self._folder, hmac_secret=Secret(self._secret))
        with connect(self._url, settings) as client:
            document = client.document(_QUERY)
            print(f"a document of {len(document)} bytes, written by one node", flush=True)
            totals = []
            for _, url in self._nodes:
                with connect(url, settings) as node:
                    totals.append(node.request("GET", "/stats").json()["total_tasks"])
            killed = totals.index(max(totals))
            self._nodes[killed][0].kill()
            self._nodes[killed][0].wait()
            print(f"node {killed + 1} was killed", flush=True)
            reply = client.request("POST", "/query", _QUERY)
            known = reply.headers["Cache-Status"] or ""
            print(f"asked again: {reply.status}, {known}", flush=True)
            return 0 if reply.status == 200 and "; hit" in known else 1

    # ---- the servers ----------------------------------------------------------------------------

    def _redis(self) -> str:
        place = self._folder / "redis.sock"
        command = [
            _program("redis-server", "valkey-server"),
            "--port",
            "0",
            "--unixsocket",
            str(place),
        ]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        command += ["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lfu"]
        self._run("redis", command)
        self._until(place.is_socket, "redis")
        print(f"Redis       unix://{place}", flush=True)
        return f"unix://{place}"

    def _postgres(self) -> str:
        folder = self._folder / "postgres"
        folder.mkdir()
        user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        init = [_postgres_program("initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "bul"]
        quiet = subprocess.DEVNULL
        subprocess.run([*init, "--no-sync"], check=True, cwd=folder, stdout=quiet, **user)
        command = [_postgres_program("postgres"), "-D", str(folder / "data"), "-h", "", "-k"]
        self._run("postgres", [*command, str(folder)], stop=signal.SIGINT, cwd=folder, **user)
        ready = [_postgres_program("pg_isready"), "-q", "-h", str(folder)]
        self._until(lambda: subprocess.run(ready, check=False).returncode == 0, "postgres")
        subprocess.run(
            [_postgres_program("createdb"), "-h", folder, "-U", "bul", "bul"], check=True
        )
        print(f"PostgreSQL  {folder}", flush=True)
        return f"postgresql://bul@/bul?host={folder}"

    def _node(self, number: int, redis: str, database: str) -> None:
        data = self._folder / f"node{number + 1}"
        command = [
            sys.executable,
            "-m",
            "blatam_kv",
            "serve",
            "--port",
            "0",
            "--data-dir",
            str(data),
        ]
        environ = {
            "BUL_HMAC_SECRET": self._secret,
            "BUL_REDIS_URL": redis,
            "BUL_DATABASE_URL": database,
            "BUL_TRUSTED_PROXIES": "127.0.0.1/32",
        }
        process = self._run(f"node{number + 1}", command, environ=environ)
        log = self._folder / f"node{number + 1}.log"
        self._until(lambda: "BUL listens on" in log.read_text(), f"node{number + 1}")
        url = log.read_text().partition("BUL listens on ")[2].split()[0]
        self._nodes.append((process, url))
        print(f"node {number + 1}      {url}", flush=True)

    def _nginx(self, port: int) -> None:
        nodes = [url.removeprefix("http://") for _, url in self._nodes]
        write_alone(self._folder, nginx(nodes, listen=f"127.0.0.1:{port}"))
        command = [_program("nginx"), "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"]
        self._run("nginx", command)
        self._until(lambda: _listens(port), "nginx")
        self._url = f"http://127.0.0.1:{port}"
        print(f"nginx       {self._url}", flush=True)

    def _gateway(self) -> str:
        port = free_port()
        file = self._folder / "gateway.json"
        own = {"port": port, "trusted_proxies": ["127.0.0.1/32"]}
        file.write_text(json.dumps({"gateway": own, "systems": {"bul": {"url": self._url}}}))
        command = [sys.executable, "-m", "blatam_kv", "gateway", "--config", str(file)]
        command += ["--data-dir", str(self._folder / "gateway")]
        self._run("gateway", command, environ={"BUL_HMAC_SECRET": self._secret})
        self._until(lambda: _listens(port), "gateway")
        print(f"gateway     http://127.0.0.1:{port}", flush=True)
        return f"127.0.0.1:{port}"

    def _prometheus(self, port: int, *, gateway: str) -> None:
        folder = self._folder / "prometheus"
        shutil.copytree(ROOT / "deploy" / "prometheus", folder)
        targets = ", ".join(f'"{url.removeprefix("http://")}"' for _, url in self._nodes)
        file = folder / "prometheus.yml"
        text = file.read_text().replace('"127.0.0.1:8002"', targets)
        file.write_text(text.replace("127.0.0.1:8000", gateway))
        command = [
            _program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder}/data",
        ]
        self._run("prometheus", [*command, f"--web.listen-address=127.0.0.1:{port}"])
        self._until(lambda: _listens(port), "prometheus")
        print(f"Prometheus  http://127.0.0.1:{port}", flush=True)

    # ---- running --------------------------------------------------------------------------------

    def _run(
        self,
        name: str,
        command: Sequence[str],
        *,
        stop: signal.Signals = signal.SIGTERM,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """A process of its own group, so that a Ctrl-C is ours to pass on; its words go to a file."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environ or {})},
                **options,
            )

        def end() -> None:
            process.send_signal(stop)
            process.wait(PATIENCE_SECONDS)

        self._opened.callback(end)
        return process

    def _until(self, true: Any, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"{name} did not start:\n{(self._folder / f'{name}.log').read_text()}"
                )
            time.sleep(0.02)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _program(*names: str) -> str:
    for name in names:
        if path := shutil.which(name) or shutil.which(name, path="/usr/sbin"):
            return path
    raise SystemExit(f"{names[0]} is not on this machine; ./run cluster installs it")


def _postgres_program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else _program(name)


if __name__ == "__main__":
    sys.exit(main())
