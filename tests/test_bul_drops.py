"""An answer that was dropped while a node heard nothing: cut off, paused, restarted, or not running."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, running
from redis import Redis as Client
from redis_server import Redis, redis
from tcp_proxy import Proxy, proxy
from test_bul_shared import QUERY, asked, eventually, finished
from tier_fakes import record_of

from blatam_kv.bul import drops
from blatam_kv.bul.drops import Drops
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.shared import open_redis
from blatam_kv.config import Secret, Settings
from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.redis import RedisTier

PATIENCE_SECONDS = 60.0
KEYS = [bytes([number]) * 32 for number in range(6)]


@pytest.fixture
def server() -> Iterator[Redis]:
    with redis() as started:
        yield started


def tier(url: str, timeout: float = 10.0, breaker: Breaker | None = None) -> RedisTier:
    breaker = breaker or Breaker(pause=0.02, longest=0.05)
    return RedisTier(url, timeout=timeout, breaker=breaker.like())


class Node:
    """What a node has, and how it follows."""

    def __init__(self, url: str, place: Path | None = None) -> None:
        self.has = set(KEYS)
        self.tier = tier(url)
        self.drops = Drops(
            self.tier,
            forget=self.has.discard,
            clear=self.has.clear,
            doubt=self.has.clear,
            told=lambda: None,
            place=place,
        )


# ---- the stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_who_follows_at_any_time_has_forgotten_all_that_was_dropped_since(
    server: Redis, seed: int
) -> None:
    chance = random.Random(seed)
    nodes = [Node(server.url) for _ in range(3)]
    dropped: list[set[bytes]] = [set(), set(), set()]  # since each one had it
    for node in nodes:
        node.drops.follow()
    for _ in range(60):
        at = chance.randrange(3)
        what = chance.random()
        if what < 0.3:
            key = chance.choice(KEYS) if chance.random() < 0.9 else None
            assert nodes[at].drops.tell(key)
            nodes[at].has -= set(KEYS if key is None else [key])
            for other in dropped:
                other |= set(KEYS if key is None else [key])
        elif what < 0.6:
            nodes[at].drops.follow()
            assert not nodes[at].has & dropped[at]
        else:
            # A new answer: who has not yet followed an older drop may lose it, and no more.
            nodes[at].drops.follow()
            key = chance.choice(KEYS)
            nodes[at].has.add(key)
            dropped[at].clear()


def test_ones_own_drops_are_not_followed(server: Redis) -> None:
    node = Node(server.url)
    node.drops.follow()
    assert node.drops.tell(KEYS[0])
    node.drops.follow()
    assert node.has == set(KEYS)


def test_a_gap_longer_than_the_stream_forgets_all(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = Client.from_url(server.url)
    one, two = Node(server.url), Node(server.url)
    two.drops.follow()
    for number in range(5):
        assert one.drops.tell(bytes([90 + number]) * 32)
    client.xtrim("blatam-kv:drops", maxlen=3, approximate=False)
    two.drops.follow()
    assert two.has == set()
    two.has.add(KEYS[0])
    one.drops.tell(KEYS[1])
    two.drops.follow()  # and from there on as ever
    assert two.has == {KEYS[0]}


def test_many_drops_are_followed_in_portions(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "_PORTION", 3)
    one, two = Node(server.url), Node(server.url)
    two.drops.follow()
    for key in KEYS:
        one.drops.tell(key)
    two.drops.follow()
    assert two.has == set()


def test_how_far_was_read_outlives_the_process(server: Redis, tmp_path: Path) -> None:
    one = Node(server.url)
    Node(server.url, tmp_path / "drops").drops.follow()
    one.drops.tell(KEYS[2])
    again = Node(server.url, tmp_path / "drops")
    again.drops.follow()
    assert again.has == set(KEYS) - {KEYS[2]}
    Client.from_url(server.url).flushall()
    again = Node(server.url, tmp_path / "drops")
    again.drops.follow()
    assert again.has == set()
    (tmp_path / "drops").write_bytes(b"nonsense")
    again = Node(server.url, tmp_path / "drops")
    again.drops.follow()
    assert again.has == set()


def test_what_could_not_be_told_is_not_fetched_and_told_later(server: Redis) -> None:
    one, two = Node(server.url), Node(server.url)
    two.drops.follow()
    server.stop()
    assert not one.drops.tell(KEYS[0])
    assert one.drops.waits(KEYS[0])
    assert not one.drops.waits(KEYS[1])
    assert not one.drops.tell(None)
    assert one.drops.waits(KEYS[1])
    server.start()
    eventually(one.drops.retry)
    assert not one.drops.waits(KEYS[1])

    def followed() -> bool:
        two.drops.follow()
        return two.has == set()

    eventually(followed)


def test_of_too_many_that_could_not_be_told_everything_is(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "MOST", 3)
    node = Node(server.url)
    server.stop()
    for key in KEYS:
        assert not node.drops.tell(key)
    assert all(node.drops.waits(bytes([99]) * 32) for _ in KEYS)


def test_what_is_dropped_again_while_it_is_being_told_is_told_again(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two it came back: another node had just written it."""
    node, again = Node(server.url), Node(server.url)
    delete, deleted = node.tier.delete_many, list[bytes]()

    def deleting(keys: list[bytes]) -> int:
        known = delete(keys)
        deleted.extend(keys)
        if len(deleted) == 1:
            again.tier.put_many([record_of(0, b"new")])
            with monkeypatch.context() as patched:
                patched.setattr(node.drops, "retry", lambda: True)  # another thread, a step behind
                node.drops.tell(KEYS[0])
        return known

    monkeypatch.setattr(node.tier, "delete_many", deleting)
    assert node.drops.tell(KEYS[0])
    assert deleted == [KEYS[0]] * 2
    assert again.tier.get_many([KEYS[0]]) == [None]


def test_who_is_cut_off_behind_another_thread_knows_that_it_is_behind(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(server.url)
    node.drops.follow()
    portion, lock, comers = node.drops._portion, threading.Lock(), threading.Semaphore(0)

    class Door:
        """Lets one in at a time, and tells who comes."""

        def __enter__(self) -> None:
            comers.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr(node.drops, "_reading", Door())
    second = threading.Thread(target=node.drops.follow)

    def slow() -> int:
        """The first has read what there is; then a second wants to follow, and Redis goes."""
        found = portion()
        monkeypatch.setattr(node.drops, "_portion", gone)
        second.start()
        for _ in range(2):
            assert comers.acquire(timeout=PATIENCE_SECONDS)
        return found

    def gone() -> int:
        raise TierUnavailable(Unavailable.UNREACHABLE, "gone")

    monkeypatch.setattr(node.drops, "_portion", slow)
    node.drops.follow()
    second.join()
    assert node.drops._behind


# ---- services -----------------------------------------------------------------------------------


@contextmanager
def pair(
    server: Redis,
    *,
    patience: tuple[float, float] = (10.0, 1.0),
    breaker: Breaker | None = None,
    **settings: Any,
) -> Iterator[tuple[Service, Service, Proxy]]:
    """Two services with the same answer, the second one behind a network of its own. patience: the
    seconds for which each waits for Redis; whose is cut off or paused is to lose it soon."""
    path = server.url.removeprefix("unix://")
    with ExitStack() as opened:
        between = opened.enter_context(proxy(path))
        urls = (server.url, f"redis://127.0.0.1:{between.port}")
        one, two = (
            opened.enter_context(running(Scripted(), redis=tier(url, wait, breaker), **settings))
            for url, wait in zip(urls, patience, strict=True)
        )
        for service in (one, two):
            assert service.shared is not None
            assert service.shared._notices.listening.wait(PATIENCE_SECONDS)
            finished(service, asked(service))
            assert asked(service).cache == "hit"
        yield one, two, between


def drop(service: Service) -> None:
    service.forget(service.place(parse_request(QUERY)).key)


def holds(service: Service) -> bool:
    return service.place(parse_request(QUERY)).digest in service.pipeline.cache


def test_a_node_that_was_cut_off_forgets_what_was_dropped_meanwhile(server: Redis) -> None:
    with pair(server) as (one, two, between):
        between.cut()
        drop(one)
        assert not holds(one)
        assert asked(two).cache == "hit"  # it cannot know
        between.mend()
        eventually(lambda: not holds(two))


@pytest.mark.parametrize("dropper", ["itself", "another"])
def test_an_answer_that_is_dropped_while_it_is_fetched_is_not_kept(
    server: Redis, dropper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pair(server, patience=(10.0, 10.0)) as (one, two, _):
        two.pipeline.cache.clear()
        assert two.shared is not None
        fetch = two.shared.fetch

        def slow(wanted: Any) -> Any:
            found = fetch(wanted)
            before = two.pipeline.dropped
            drop(one if dropper == "another" else two)
            eventually(lambda: two.pipeline.dropped != before)
            return found

        monkeypatch.setattr(two.shared, "fetch", slow)
        assert asked(two).cache == "hit"  # it was there when it was asked for
        assert not holds(two)


def test_who_is_back_reads_on_at_once_though_redis_was_to_be_left_alone(server: Redis) -> None:
    breaker = Breaker(failures=1, pause=3600.0, longest=3600.0)
    with pair(server, breaker=breaker) as (one, two, between):
        assert two.shared is not None
        between.cut()
        two.shared.fetch([(KEYS[0], b"")])
        assert two.shared.stats().left_alone
        drop(one)
        between.mend()
        eventually(lambda: not holds(two))


def test_what_has_no_end_gets_one_in_redis_so_that_drops_are_not_evicted_for_it() -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "volatile-lfu")
    with redis(*options) as full:
        settings = replace(Settings(), redis_url=Secret(full.url), cache_ttl=None)
        shared = open_redis(settings, mac_key=b"k" * 32)
        assert shared is not None
        follower = Node(full.url)
        follower.drops.follow()
        for number in range(200):
            shared.put_many([record_of(number, bytes(50_000))])
        client: Any = Client.from_url(full.url)
        assert client.info("stats")["evicted_keys"] > 100
        follower.drops.follow()
        assert follower.has == set(KEYS)  # its place was still there


def test_a_node_that_was_cut_off_while_redis_lost_its_memory_forgets_it_too(server: Redis) -> None:
    with pair(server) as (one, two, between):
        between.cut()
        drop(one)
        server.stop()
        server.start()
        between.mend()
        eventually(lambda: not holds(two))


def test_what_was_dropped_while_redis_was_paused_is_dropped_when_it_goes_on(server: Redis) -> None:
    with pair(server, patience=(0.2, 0.2)) as (one, two, _):
        server.freeze()
        drop(one)
        assert asked(two).cache == "hit"
        server.thaw()
        eventually(lambda: not holds(two))
        assert not Client.from_url(server.url).keys("blatam-kv:1:*")


def test_what_was_dropped_while_redis_was_gone_is_dropped_when_it_is_back(server: Redis) -> None:
    with pair(server) as (one, two, _):
        server.stop()
        drop(one)
        server.start()
        eventually(lambda: not holds(two))


def test_a_node_that_was_not_running_forgets_what_was_dropped_meanwhile(
    server: Redis, tmp_path: Path
) -> None:
    def node(name: str) -> Any:
        return running(Scripted(), redis=tier(server.url), data_dir=tmp_path / name)

    with node("one") as one:
        with node("two") as two:
            finished(two, asked(two))
        with node("two") as two:
            assert holds(two)  # answers outlive the process
        finished(one, asked(one))
        drop(one)
        with node("two") as two:
            assert not holds(two)


def test_a_node_whose_redis_is_silent_notices(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blatam_kv.tiers import notices

    monkeypatch.setattr(notices, "_ASK_SECONDS", 0.05)
    monkeypatch.setattr(notices, "_SILENCE_SECONDS", 0.5)
    with pair(server) as (_, two, between):
        assert two.shared is not None
        between.cut()
        eventually(lambda: not two.shared._notices.listening.is_set())  # type: ignore[union-attr]
        with pytest.raises(TierUnavailable):
            two.shared._tier.ask("get", b"blatam-kv:nothing")
        between.mend()
        assert two.shared._notices.listening.wait(PATIENCE_SECONDS)
