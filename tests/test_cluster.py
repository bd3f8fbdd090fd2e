"""Three nodes under load while one part after another fails: who asked hears an answer, nothing is lost
or done twice, and all goes on without a restart. Longer with BLATAM_KV_SOAK (``./run soak``)."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead

import pytest
from cluster_load import Load, chat, check_all_done, heard_more, load
from cluster_servers import Cluster, cluster, eventually

# How many answers are heard while something is broken.
LONG = 10 if "BLATAM_KV_SOAK" in os.environ else 1


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def whole(running: Cluster) -> Iterator[Cluster]:
    """The cluster, and whole again afterwards."""
    running.model.calls.clear()
    yield running
    running.repair()


def refused(heard: Load) -> list[str]:
    """Kinds of what was refused with 503 and Retry-After, in order."""
    return [each.kind for each in heard.heard if each.status == 503 and not each.wrong]


def only_refused(heard: Load, *kinds: str) -> None:
    """All well but for those kinds, which may have been refused in the right form."""
    wrong = [each for each in heard.wrong() if each.wrong or each.kind not in kinds]
    assert wrong == []
    assert set(refused(heard)) <= set(kinds)


def test_a_node_is_killed(whole: Cluster) -> None:
    victim = whole.node_of("ada")
    with load(whole) as heard:
        heard_more(heard, 10)
        victim.kill()
        heard_more(heard, 30 * LONG)
        victim.start()
        victim.wait()
        heard_more(heard, 10)
    only_refused(heard)
    check_all_done(whole, heard)
    # Once, and at most once more for the death of who was writing it.
    assert max(whole.model.calls.values()) <= 2


def test_redis_is_killed_and_comes_back_empty(whole: Cluster) -> None:
    with load(whole) as heard:
        whole.redis.stop()
        heard_more(heard, 30 * LONG)
        whole.redis.start()
        heard_more(heard, 10)
    only_refused(heard)
    check_all_done(whole, heard)


def test_redis_is_paused(whole: Cluster) -> None:
    with load(whole) as heard:
        whole.redis.freeze()
        heard_more(heard, 30 * LONG)
        whole.redis.thaw()
        heard_more(heard, 10)
    only_refused(heard)
    check_all_done(whole, heard)


def test_postgresql_is_killed_and_recovers(whole: Cluster) -> None:
    with load(whole) as heard:
        whole.postgres.kill()
        heard_more(heard, 30 * LONG)
        heard_more(heard, 2, kind="document")
        whole.postgres.start()
        accepted = len(heard.tasks)
        eventually(lambda: len(heard.tasks) > accepted + 3, "nothing is accepted again")
    only_refused(heard, "document")
    assert "document" in refused(heard)
    check_all_done(whole, heard)


def test_postgresql_is_paused(whole: Cluster) -> None:
    with load(whole) as heard:
        whole.postgres.freeze()
        heard_more(heard, 3 * LONG, kind="document")
        whole.postgres.thaw()
        accepted = len(heard.tasks)
        eventually(lambda: len(heard.tasks) > accepted + 3, "nothing is accepted again")
    only_refused(heard, "document")
    assert "document" in refused(heard)
    check_all_done(whole, heard)


def test_a_node_is_paused_is_thought_dead_and_comes_back(whole: Cluster) -> None:
    victim = whole.node_of("ada")
    with load(whole) as heard:
        heard_more(heard, 10)
        victim.signal(signal.SIGSTOP)
        if LONG == 1:  # else the ten seconds are waited for
            whole.think_dead(victim)
        heard_more(heard, 10)  # of the tenants of the others
        eventually(lambda: not whole.unfinished_of(victim), "its tasks are not taken over")
        victim.signal(signal.SIGCONT)
        heard_more(heard, 10)
    only_refused(heard)
    check_all_done(whole, heard)


@pytest.mark.parametrize("kind", ["slow", "narrow", "silent", "cut"])
def test_a_nodes_lines_to_what_it_shares_are(whole: Cluster, kind: str) -> None:
    node = whole.node_of("ada")
    with load(whole) as heard:
        for line in (node.redis, node.database):
            if kind == "slow":
                line.delay = 0.03
            elif kind == "narrow":
                line.bytes_per_second = 50_000
            else:
                getattr(line, kind)()
        heard_more(heard, 20 * LONG)
        heard_more(heard, 3, kind="document")
        for line in (node.redis, node.database):
            line.mend()
        heard_more(heard, 10)
    only_refused(heard)
    check_all_done(whole, heard)


# ---- a stream whose node dies -------------------------------------------------------------------


class Stream:
    """One request whose answer is read as it comes."""

    def __init__(self, whole: Cluster, tenant: str, method: str, path: str, body: object) -> None:
        port = int(whole.url.rpartition(":")[2])
        self._connection = HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"X-API-Key": whole.keys[tenant], "Content-Type": "application/json"}
        content = None
        if body is not None:
            headers["Idempotency-Key"] = "stream-1"
            content = json.dumps(body)
        self._connection.request(method, path, content, headers)
        self.reply = self._connection.getresponse()
        self.heard = b""

    def until(self, what: bytes) -> None:
        """Read until this comes."""
        while what not in self.heard:
            line = self.reply.readline()
            assert line, self.heard
            self.heard += line

    def rest(self) -> bytes:
        """All of it. Raises IncompleteRead where it breaks off."""
        try:
            self.heard += self.reply.read()
        finally:
            self._connection.close()
        return self.heard


def test_streams_whose_node_dies_end_visibly_and_go_on_under_their_key(whole: Cluster) -> None:
    victim = whole.node_of("ada")
    mark, plan = "[ada-stream]", "[ada-plan]"
    said, asked = chat(mark, stream=True), {"query": f"Plan {plan}"}
    gate = whole.model.gate = threading.Event()
    chatting = Stream(whole, "ada", "POST", "/v1/chat/completions", said)
    chatting.until(mark.encode())
    task = json.loads(Stream(whole, "ada", "POST", "/query", asked).rest())["task_id"]
    watching = Stream(whole, "ada", "GET", f"/task/{task}/events", None)
    watching.until(b"data: ")
    eventually(lambda: whole.model.calls[plan], "the document is not begun")
    victim.kill()
    for broken in (chatting, watching):
        with pytest.raises(IncompleteRead):
            broken.rest()
        assert b"[DONE]" not in broken.heard
        assert b"event: end" not in broken.heard
    whole.model.gate = None
    gate.set()

    again = Stream(whole, "ada", "POST", "/v1/chat/completions", said)
    assert again.reply.status == 200, again.rest()
    assert again.reply.headers["Idempotency-Replayed"] is None
    assert again.rest().endswith(b"data: [DONE]\n\n")
    assert mark in again.heard.decode()
    repeated = Stream(whole, "ada", "POST", "/v1/chat/completions", said)
    assert repeated.reply.headers["Idempotency-Replayed"] == "true"
    assert repeated.rest() == again.heard

    sent_again = Stream(whole, "ada", "POST", "/query", asked)
    assert sent_again.reply.headers["Idempotency-Replayed"] == "true"
    assert json.loads(sent_again.rest())["task_id"] == task
    rest = Stream(whole, "ada", "GET", f"/task/{task}/events", None).rest()
    assert rest.endswith(b"event: end\ndata: {}\n\n")
    assert b'"status":"completed"' in rest
    assert plan.encode() in rest
    # Once, and once more for the death of who was writing it.
    assert (whole.model.calls[mark], whole.model.calls[plan]) == (2, 2)

    # The same key and body of another tenant is another request.
    theirs = Stream(whole, "bea", "POST", "/v1/chat/completions", said)
    assert theirs.reply.headers["Idempotency-Replayed"] is None
    assert theirs.rest() != again.heard
    assert whole.model.calls[mark] == 3


# ---- an answer whose writer dies ----------------------------------------------------------------


def test_when_the_writer_of_an_answer_dies_one_of_those_who_wait_elsewhere_writes_it(
    whole: Cluster,
) -> None:
    victim = whole.node_of("ada")
    others = [node for node in whole.nodes if node is not victim]
    mark = "[ada-awaited]"
    gate = whole.model.gate = threading.Event()
    heard: list[str] = []

    def ask(url: str) -> None:
        with whole.client("ada", url=url) as client:
            reply = client.request("POST", "/v1/chat/completions", chat(mark))
            heard.append(f"{reply.status} {mark in reply.content.decode()}")

    callers = [threading.Thread(target=ask, args=(whole.url,))]
    callers[0].start()
    eventually(lambda: whole.model.calls[mark], "nobody writes it")
    callers += [threading.Thread(target=ask, args=(node.url,)) for node in others]
    for caller in callers[1:]:
        caller.start()
    victim.kill()
    eventually(lambda: whole.model.calls[mark] == 2, "nobody else writes it")
    gate.set()
    for caller in callers:
        caller.join()
    assert heard == ["200 True"] * 3
    assert whole.model.calls[mark] == 2
