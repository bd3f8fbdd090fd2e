"""Callers of a cluster: each asks on and on, and notes what it hears."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster_servers import TENANTS, Cluster, eventually

from blatam_kv.client import Client, Unreachable

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one request. kind: hit, document or chat; wrong: what should not have been said."""

    kind: str
    mark: str
    status: int
    seconds: float
    wrong: str = ""


@dataclass
class Load:
    """What all callers heard, and the tasks that were taken on."""

    heard: list[Heard] = field(default_factory=list)
    tasks: dict[str, tuple[str, str]] = field(default_factory=dict)  # id → tenant, mark

    def of(self, *kinds: str) -> list[Heard]:
        return [each for each in self.heard if each.kind in kinds]

    def wrong(self) -> list[Heard]:
        """Whatever was not answered, or not as it should be."""
        return [each for each in self.heard if each.wrong or each.status not in (200, 202)]


class _Caller:
    """One tenant's, on one thread."""

    def __init__(self, cluster: Cluster, tenant: str, load: Load, stop: threading.Event) -> None:
        self._cluster, self._tenant, self._load, self._stop = cluster, tenant, load, stop

    def run(self) -> None:
        while not self._stop.is_set():
            with self._cluster.client(self._tenant) as client:
                for kind in ("hit", "hit", "document", "hit", "chat"):
                    if not self._stop.is_set():
                        self._ask(client, kind)

    def _ask(self, client: Client, kind: str) -> None:
        number = "warm" if kind == "hit" else str(next(_numbers))
        mark = f"[{self._tenant}-{number}]"
        path, body = "/v1/chat/completions", chat(mark)
        key = None
        if kind == "document":
            path, body = "/query", {"query": f"Plan {mark}"}
            key = f"key-{number}" if int(number) % 2 else None
        began, status, wrong = time.monotonic(), 0, ""
        try:
            reply = client.request("POST", path, body, idempotency_key=key)
            status = reply.status
            if status == 503 and "Retry-After" not in reply.headers:
                wrong = "no Retry-After"
            elif status == 202:
                self._load.tasks[reply.json("task_id")["task_id"]] = (self._tenant, mark)
            elif status == 200 and kind != "document" and mark not in reply.content.decode():
                wrong = f"another answer: {reply.content[:300]!r}"
            elif status not in (200, 202):
                wrong = f"{reply.content[:300]!r}" if status != 503 else ""
        except Unreachable as error:
            if isinstance(error.__cause__, http.client.IncompleteRead):
                return  # its answer had begun
            wrong = f"{error.__cause__!r}"
        seconds = time.monotonic() - began
        self._load.heard.append(Heard(kind, mark, status, seconds, wrong))


def chat(mark: str, **more: object) -> dict[str, object]:
    """A conversation whose answer has the mark."""
    return {"messages": [{"role": "user", "content": f"Say {mark}"}], **more}


@contextmanager
def load(cluster: Cluster, *, callers: int = 2) -> Iterator[Load]:
    """Callers of each tenant for the body of a ``with``; they end their last request with it."""
    heard, stop = Load(), threading.Event()
    for tenant in TENANTS:
        with cluster.client(tenant) as client:  # in the memory of every node
            for url in (cluster.url, *(node.url for node in cluster.nodes)):
                with cluster.client(tenant, url=url) as near:
                    near.request("POST", "/v1/chat/completions", chat(f"[{tenant}-warm]"))
            assert client.request("GET", "/stats").status == 200
    threads = [
        threading.Thread(target=_Caller(cluster, tenant, heard, stop).run)
        for tenant in TENANTS
        for _ in range(callers)
    ]
    for thread in threads:
        thread.start()
    try:
        heard_more(heard, 5)
        yield heard
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def heard_more(heard: Load, count: int, *, kind: str = "hit") -> None:
    """Wait until so many more answers of a kind were heard, well or not."""
    wanted = len(heard.of(kind)) + count
    while (there := len(heard.of(kind))) < wanted:
        eventually(lambda there=there: len(heard.of(kind)) > there, f"no {kind} is answered")  # type: ignore[misc]


def check_all_done(cluster: Cluster, heard: Load) -> None:
    """Every task that was taken on has ended, once, with its own tenant's document."""
    for key, (tenant, mark) in heard.tasks.items():
        with cluster.client(tenant) as client:

            def done(client: Client = client, key: str = key) -> bool:
                reply = client.request("GET", f"/task/{key}/status")
                return reply.status == 200 and reply.json()["status"] in ("completed", "failed")

            eventually(done, f"task {key} is not done")
            task = client.request("GET", f"/task/{key}/status").json()
            assert task["status"] == "completed", task
            assert mark in task["documents"][0]["title"]
        others = next(name for name in TENANTS if name != tenant)
        with cluster.client(others) as stranger:
            assert stranger.request("GET", f"/task/{key}/status").status == 404
    assert cluster.documents_of_nobody() == 0
