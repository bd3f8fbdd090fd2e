"""Who writes an answer that many wait for, when the one that was writing it dies, pauses or is cut off.

The leases here last ten minutes: whoever gets one sooner got it for another reason than time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lease_holder import DIGEST, LEASE_SECONDS, SALT, answer_of, shared
from redis import Redis as Client
from redis_server import Redis, redis
from test_bul_shared import eventually

from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.shared import Shared
from blatam_kv.tiers.leases import Leases
from blatam_kv.tiers.notices import Notices
from blatam_kv.tiers.redis import RedisTier

PATIENCE_SECONDS = 60.0
LEASE = b"blatam-kv:lease:" + DIGEST.hex().encode()


@pytest.fixture
def server() -> Iterator[Redis]:
    with redis() as started:
        yield started


@pytest.fixture
def client(server: Redis) -> Any:  # Any: redis-py's own client
    return Client.from_url(server.url)


def tier(server: Redis) -> RedisTier:
    return RedisTier(server.url, timeout=10.0)


class Holder:
    """Another process that is writing the answer."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("lease_holder.py")), url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.says("writing")

    def says(self, what: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{what}\n"

    def let(self) -> None:
        """Let it write."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def holder(url: str) -> Iterator[Holder]:
    begun = Holder(url)
    try:
        yield begun
    finally:
        begun.end()


class Waiter:
    """A node that wants the same answer."""

    def __init__(self, url: str, calls: list[str]) -> None:
        self.shared: Shared = shared(url)
        self.got: tuple[Answer, bool] | None = None
        self.looked = threading.Event()
        assert self.shared._notices.listening.wait(PATIENCE_SECONDS)

        def compute() -> Answer:
            calls.append("here")
            return answer_of("written here")

        def wait() -> None:
            self.got = self.shared.once(DIGEST, SALT, compute, check=self.looked.set)

        self._thread = threading.Thread(target=wait)
        self._thread.start()
        assert self.looked.wait(PATIENCE_SECONDS)

    def answer(self) -> str:
        self._thread.join(PATIENCE_SECONDS)
        assert self.got is not None
        self.shared.close()
        return self.got[0].text


def silent(client: Any) -> bool:
    """Whether nobody has renewed the lease lately."""
    left: int = client.pttl(LEASE)
    return 0 < left < 1000 * LEASE_SECONDS - 1000


# ---- with processes -----------------------------------------------------------------------------


def test_when_a_writing_process_is_killed_one_that_waits_writes_and_no_other(
    server: Redis, client: Any
) -> None:
    calls: list[str] = []
    with holder(server.url) as writing:
        waiting = [Waiter(server.url, calls) for _ in range(3)]
        assert calls == []
        writing.end()
        assert [waiter.answer() for waiter in waiting] == ["written here"] * 3
    assert calls == ["here"]
    assert not client.exists(LEASE)


def test_a_writing_process_that_is_paused_is_waited_for(server: Redis, client: Any) -> None:
    calls: list[str] = []
    with holder(server.url) as writing:
        waiter = Waiter(server.url, calls)
        writing.process.send_signal(signal.SIGSTOP)
        eventually(lambda: silent(client))
        for _ in range(20):  # as often as one likes
            assert not waiter.shared._leases.bury(DIGEST)
        writing.process.send_signal(signal.SIGCONT)
        writing.let()
        assert waiter.answer() == "its own"
        writing.says("written")
    assert calls == []


def test_a_node_that_has_just_begun_to_listen_calls_nobody_dead(server: Redis, client: Any) -> None:
    with holder(server.url) as writing:
        new = shared(server.url, settled=LEASE_SECONDS)
        old = shared(server.url)
        for node in (new, old):
            assert node._notices.listening.wait(PATIENCE_SECONDS)
        writing.end()
        eventually(lambda: silent(client))
        assert not new._leases.bury(DIGEST)
        eventually(lambda: old._leases.bury(DIGEST))
        for node in (new, old):
            node.close()


# ---- signs, one by one --------------------------------------------------------------------------


def of(node: str, gone: bool, server: Redis) -> Leases:
    return Leases(tier(server), seconds=LEASE_SECONDS, node=node, gone=lambda name: gone)


def left(client: Any, seconds: float) -> None:
    """As if it had been renewed so long ago."""
    client.pexpire(LEASE, int(1000 * (LEASE_SECONDS - seconds)))


@pytest.fixture
def held(server: Redis) -> Iterator[Leases]:
    leases = of("aa", gone=False, server=server)
    leases._stopped.set()  # nobody renews but the tests
    assert leases.take(DIGEST)
    yield leases
    leases.close()


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("ago", [0.0, 100.0])
def test_both_signs_are_needed(
    server: Redis, client: Any, held: Leases, gone: bool, ago: float
) -> None:
    other = of("bb", gone, server)
    other._silent_below -= 50_000  # so that a slow machine is not silent
    left(client, ago)
    assert other.bury(DIGEST) == (gone and ago > 0)
    assert other.take(DIGEST) == (gone and ago > 0)
    other.close()


def test_who_renews_while_the_others_are_asked_about_it_keeps_its_lease(
    server: Redis, client: Any, held: Leases
) -> None:
    asked: list[str] = []

    def renewed(node: str) -> bool:
        asked.append(node)
        assert held.renew() == 1
        return True

    other = Leases(tier(server), seconds=LEASE_SECONDS, node="bb", gone=renewed)
    other._silent_below -= 50_000
    left(client, 100.0)
    assert not other.bury(DIGEST)
    assert asked == ["aa"]
    assert held.renew() == 1
    other.close()


def test_a_lease_of_nobody_or_without_a_name_is_left(
    server: Redis, client: Any, held: Leases
) -> None:
    other = of("bb", gone=True, server=server)
    assert not other.bury(b"another")
    client.set(LEASE, "of a node of an older version", px=1000)
    assert not other.bury(DIGEST)
    other.close()


def test_where_redis_says_no_or_nothing_no_lease_is_ended(
    server: Redis, client: Any, held: Leases
) -> None:
    client.execute_command(*"ACL SETUSER bul on >s3cret ~* &* +@all -pttl".split())
    path = server.url.removeprefix("unix://")
    limited = RedisTier(f"unix://bul:s3cret@{path}", timeout=10.0)
    other = Leases(limited, seconds=LEASE_SECONDS, node="bb", gone=lambda node: True)
    left(client, 100.0)
    assert not other.bury(DIGEST)
    server.stop()
    assert not other.bury(DIGEST)
    other.close()


def test_a_node_is_gone_when_its_connection_is(server: Redis) -> None:
    quiet: dict[str, Any] = {"heard": lambda kind, key: None, "missed": lambda: None}
    one = Notices(tier(server), **quiet)
    two = Notices(tier(server), settled=0.0, **quiet)
    for notices in (one, two):
        assert notices.listening.wait(PATIENCE_SECONDS)
    assert not two.gone(one.node)
    assert two.gone("of nobody")
    assert not one.gone("of nobody")  # it has not listened for long
    one.close()
    eventually(lambda: two.gone(one.node))
    server.stop()
    assert not two.gone(one.node)
    two.close()
