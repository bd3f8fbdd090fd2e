"""Nodes behind nginx with a Redis, a PostgreSQL and a model, and lines between them that can fail.

Everything is a process of its own but for the model, which answers in the test and counts what it
is asked. What is asked of the service carries a mark, ``[tenant-number]``, and so does its answer.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from endpoint_fake import MODEL, USAGE, Connection, Fake, delta, endpoint, event
from nginx_server import free_port, nginx
from postgres_server import Postgres, postgres
from redis_server import Redis, redis
from sqlalchemy import text
from wire import Wire, wire

from blatam_kv.bul.security.keys import FILE, KeyRing
from blatam_kv.bul.security.master import Master
from blatam_kv.bul.storage import open_storage
from blatam_kv.bul.storage.archive import Archive
from blatam_kv.bul.storage.nodes import lock_of
from blatam_kv.cli.nginx import nginx as configuration
from blatam_kv.client import Client

PATIENCE_SECONDS = 240.0
SECRET = hashlib.sha256(b"of the cluster").hexdigest()
TENANTS = ("ada", "bea")
MARK = re.compile(r"\[(\w+)-(\w+)\]")


def eventually(true: Callable[[], object], what: str = "") -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Model:
    """Answers with the mark of what it is asked, after a moment, and counts."""

    def __init__(self, fake: Fake) -> None:
        self.url = fake.url
        self.calls: Counter[str] = Counter()
        self.seconds = 0.03
        self.gate: threading.Event | None = None  # between the first piece and the others
        self.speaking = threading.Event()
        self._never = threading.Event()
        fake.others["/v1/chat/completions"] = self._turn

    def _turn(self, connection: Connection) -> None:
        messages = connection.body["messages"]
        mark = next(found[0] for each in messages if (found := MARK.search(each["content"])))
        if all(each["role"] != "assistant" for each in messages):  # else it is a later section
            self.calls[mark] += 1
        gate = self.gate
        connection.begin_events()
        connection.chunk(delta(f"# Of {mark}"))
        if gate is not None:
            self.speaking.set()
            assert gate.wait(PATIENCE_SECONDS)
        self._never.wait(self.seconds)
        connection.chunk(delta("\n\nText.\n") + delta(reason="stop"))
        connection.chunk(event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")
        connection.chunk(b"")


class Node:
    """One ``blatam-kv serve``, with lines of its own to what it shares. Its port and its folder stay."""

    def __init__(self, folder: Path, environ: dict[str, str], lines: tuple[Wire, Wire]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.redis, self.database = lines
        self._environ = os.environ | environ
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; ``wait`` until it answers."""
        command = [sys.executable, "-m", "blatam_kv", "serve", "--port", str(self.port)]
        command += ["--data-dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ
            )

    def wait(self) -> None:
        """Until it answers."""
        eventually(self._answers, self.log)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            with Client(self.url, timeout=5) as client:
                return client.request("GET", "/healthz").status == 200
        except ConnectionError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send it one."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]


class Cluster:
    """All of them, and a key for each tenant."""

    def __init__(
        self, nodes: list[Node], store: Redis, server: Postgres, model: Model, folder: Path
    ) -> None:
        self.nodes, self.redis, self.postgres = nodes, store, server
        self.model, self.folder, self.url = model, folder, ""
        self.keys: dict[str, str] = {}
        self.judge: Archive

    def client(self, tenant: str, *, url: str | None = None, timeout: float = 120.0) -> Client:
        """One of a tenant, through nginx if no node is named."""
        return Client(url or self.url, api_key=self.keys[tenant], timeout=timeout)

    def node_of(self, tenant: str) -> Node:
        """The node that nginx sends a tenant to."""
        before = [self._asked(node, tenant) for node in self.nodes]
        with self.client(tenant) as client:
            for _ in range(3):
                client.request("GET", "/stats")
                client.request("POST", "/query", {"query": f"whose [{tenant}-whose]"})
        after = [self._asked(node, tenant) for node in self.nodes]
        changes = [now - then for then, now in zip(before, after, strict=True)]
        return self.nodes[changes.index(max(changes))]

    def part(self, one: str, other: str) -> None:
        """Have two tenants on different nodes, with new keys for the second until they are: else, when
        the node of one is away, nobody would be heard."""
        while self.node_of(one) is self.node_of(other):
            first = self.nodes[0].folder
            ring = KeyRing(first, Master(bytes.fromhex(SECRET)))
            self.keys[other] = ring.create(other, role="writer").api_key
            for node in self.nodes[1:]:
                shutil.copy(first / FILE, node.folder / FILE)
            for node in self.nodes:
                with self.client(other, url=node.url) as client:

                    def known(client: Client = client) -> bool:
                        return client.request("GET", "/stats").status == 200

                    eventually(known, "a node does not know a new key")

    def _asked(self, node: Node, tenant: str) -> int:
        with self.client(tenant, url=node.url) as client:
            total: int = client.request("GET", "/stats").json()["total_tasks"]
            return total

    def repair(self) -> None:
        """Everything runs, every line is whole."""
        self.model.gate = None
        self.redis.thaw()
        self.postgres.thaw()
        for node in self.nodes:
            for line in (node.redis, node.database):
                line.mend()
            assert node.process is not None
            if node.process.poll() is None:
                node.signal(signal.SIGCONT)
            else:
                node.start()
        for node in self.nodes:
            node.wait()
        eventually(lambda: all(map(self._is_ready, self.nodes)), "a node is not ready")

    @staticmethod
    def _is_ready(node: Node) -> bool:
        try:
            with Client(node.url, timeout=10) as client:
                return client.request("GET", "/readyz").status == 200
        except ConnectionError:
            return False

    def think_dead(self, node: Node) -> None:
        """Have the database end what stands for a node's life, as it does after ten seconds."""
        name = (node.folder / "node").read_text().strip()
        high, low = divmod(lock_of(name) % (1 << 64), 1 << 32)
        with self.judge._database.transaction() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND granted AND classid = :high AND objid = :low"
                ),
                {"high": high, "low": low},
            )

    def unfinished_of(self, node: Node) -> int:
        """Tasks that are a node's to do."""
        name = (node.folder / "node").read_text().strip()
        query = text("SELECT count(*) FROM tasks WHERE node = :node AND status = 'queued'")
        with self.judge._database.connection() as connection:
            return int(connection.execute(query, {"node": name}).scalar_one())

    def documents_of_nobody(self) -> int:
        """Documents that no task points to: what a node wrote that had lost its task."""
        with self.judge._database.connection() as connection:
            count = text(
                "SELECT count(*) FROM documents WHERE NOT EXISTS"
                " (SELECT 1 FROM tasks WHERE document_id = documents.id)"
            )
            return int(connection.execute(count).scalar_one())


@contextmanager
def cluster(*, nodes: int = 3, tenants: Sequence[str] = TENANTS) -> Iterator[Cluster]:
    """One for the body of a ``with``."""
    with ExitStack() as opened:
        folder = Path(tempfile.mkdtemp(prefix="blatam-cluster-"))
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        model = Model(opened.enter_context(endpoint()))
        # What it has acknowledged it knows when it was killed; nobody cuts the power here.
        server = opened.enter_context(postgres("synchronous_commit=on"))
        store = opened.enter_context(redis())
        database = server.database()
        made: list[Node] = []
        keys: dict[str, str] = {}
        for number in range(nodes):
            lines = (
                opened.enter_context(wire(store.folder / "r.sock")),
                opened.enter_context(wire(server.folder / ".s.PGSQL.5432")),
            )
            name = database.partition("@/")[2].partition("?")[0]
            environ = {
                "BUL_HMAC_SECRET": SECRET,
                "BUL_TRUSTED_PROXIES": "127.0.0.1/32",
                "BUL_RATE_LIMIT_ENABLED": "false",
                "BUL_REDIS_URL": f"redis://127.0.0.1:{lines[0].port}",
                "BUL_DATABASE_URL": f"postgresql://postgres:x@127.0.0.1:{lines[1].port}/{name}",
                "BUL_MAX_CONCURRENT_TASKS": "8",
                "BUL_MODEL": "openai",
                "BUL_OPENAI_BASE_URL": model.url,
                "BUL_OPENAI_MODEL": MODEL,
                "BUL_OPENAI_API_KEY": "k",
                "NO_PROXY": "127.0.0.1",
            }
            data = folder / f"node{number}"
            data.mkdir(mode=0o700)
            if made:
                shutil.copy(made[0].folder / FILE, data / FILE)
            else:
                ring = KeyRing(data, Master(bytes.fromhex(SECRET)))
                keys = {tenant: ring.create(tenant, role="writer").api_key for tenant in tenants}
            made.append(Node(data, environ, lines))
        for node in made:
            node.start()
        for node in made:
            opened.callback(node.kill)
        for node in made:
            node.wait()
        port = free_port()
        places = [node.url.removeprefix("http://") for node in made]
        site = configuration(places, listen=f"127.0.0.1:{port}", rate=0)
        opened.enter_context(nginx(folder, site, port=port))
        running = Cluster(made, store, server, model, folder)
        running.keys, running.url = keys, f"http://127.0.0.1:{port}"
        running.judge = open_storage(database, node="judge")
        opened.callback(running.judge.close)
        if nodes > 1:
            running.part(*tenants[:2])
        yield running
