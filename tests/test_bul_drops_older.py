"""A Redis that comes back as it was some time ago: what was dropped since is dropped again.

The server here writes a snapshot when it is told to, is killed, and reads it when it starts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, running
from redis import Redis as Client
from redis_server import Redis, redis
from test_bul_drops import KEYS, Node, drop, holds, pair, tier
from test_bul_shared import QUERY, asked, eventually, finished
from tier_fakes import key_of, record_of

from blatam_kv.bul import drops
from blatam_kv.bul.request import parse_request
from blatam_kv.errors import TierUnavailable

STREAM = "blatam-kv:drops"


@pytest.fixture
def server() -> Iterator[Redis]:
    with redis() as started:
        yield started


class Older:
    """The server, and the moment that it can be set back to."""

    def __init__(self, server: Redis) -> None:
        self._server = server
        self.client: Any = Client.from_url(server.url)

    def save(self) -> None:
        self.client.save()

    def back(self) -> None:
        """It crashes, and is as it was when it was saved."""
        self._server.stop()
        self._server.start()

    def length(self) -> int:
        length: int = self.client.xlen(STREAM)
        return length


@pytest.fixture
def older(server: Redis) -> Older:
    return Older(server)


def keep(node: Node, number: int) -> None:
    node.tier.put_many([record_of(number, b"old")])


def there(node: Node, number: int) -> bool:
    found = node.tier.contains_many([key_of(number)])
    return found == [True]


def follow(node: Node) -> None:
    """As who is connected again does, until it is done."""
    node.drops.follow()
    eventually(lambda: (not node.drops._pending and not node.drops._behind) or retried(node))


def retried(node: Node) -> bool:
    node.drops.catch_up()
    return False


@pytest.mark.parametrize("back", ["who told it", "who followed it"])
def test_what_was_dropped_since_is_dropped_again_by_whoever_knows(
    server: Redis, older: Older, back: str
) -> None:
    one, two = Node(server.url), Node(server.url)
    for node in (one, two):
        node.drops.follow()
    for number in (0, 1):
        keep(one, number)
    older.save()
    assert one.drops.tell(key_of(0))
    two.drops.follow()
    assert not there(one, 0)
    older.back()
    assert there(one, 0)  # dropped, and here again
    node = one if back == "who told it" else two
    node.has.add(key_of(0))  # and fetched meanwhile
    follow(node)
    assert not there(one, 0)
    assert there(one, 1)
    assert key_of(0) not in node.has
    follow(two if node is one else one)
    assert not there(one, 0)


def test_it_is_told_once_and_by_one_of_them(server: Redis, older: Older) -> None:
    nodes = [Node(server.url) for _ in range(3)]
    for node in nodes:
        node.drops.follow()
    older.save()
    for number in range(4):
        assert nodes[number % 3].drops.tell(key_of(number))
    for node in nodes:
        node.drops.follow()
    older.back()
    before = older.length()
    for _ in range(3):
        for node in nodes:
            follow(node)
    assert older.length() == before + 4


def test_everything_is_dropped_again_where_everything_was(server: Redis, older: Older) -> None:
    node = Node(server.url)
    node.drops.follow()
    keep(node, 0)
    older.save()
    node.drops.tell(None)
    node.drops.tell(key_of(3))
    older.back()
    follow(node)
    assert not there(node, 0)
    assert node.has == set()


def test_who_does_not_know_all_of_it_has_everything_dropped(
    server: Redis, older: Older, tmp_path: Path
) -> None:
    place = tmp_path / "drops"
    first = Node(server.url, place)
    first.drops.follow()
    keep(first, 0)
    older.save()
    first.drops.tell(key_of(0))
    first.drops.follow()
    older.back()
    again = Node(server.url, place)  # a new process: it knows how far it had read, and no more
    follow(again)
    assert not there(again, 0)
    before = older.length()
    other = Node(server.url, place)
    follow(other)
    assert older.length() == before


def test_more_than_can_be_remembered_is_everything(
    server: Redis, older: Older, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "MOST", 3)
    node = Node(server.url)
    node.drops.follow()
    keep(node, 0)
    older.save()
    for number in range(5):
        node.drops.tell(key_of(number))
    older.back()
    assert there(node, 0)
    follow(node)
    assert not there(node, 0)


def test_a_redis_that_is_as_it_was_or_empty_is_told_nothing(server: Redis, older: Older) -> None:
    node = Node(server.url)
    node.drops.follow()
    node.drops.tell(KEYS[0])
    older.save()
    older.back()
    before = older.length()
    follow(node)
    assert older.length() == before
    node.drops.tell(KEYS[1])
    older.client.flushall()
    follow(node)
    assert older.length() == 1  # where the stream begins
    assert node.has == set()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_no_dropped_answer_is_there_when_all_have_followed(
    server: Redis, older: Older, seed: int
) -> None:
    chance = random.Random(seed)
    nodes = [Node(server.url) for _ in range(3)]
    for node in nodes:
        node.drops.follow()
    older.save()
    version, dropped = 0, dict.fromkeys(range(4), 0)  # up to which version each was dropped

    def check() -> None:
        for number, last in dropped.items():
            (record,) = nodes[0].tier.get_many([key_of(number)])
            assert record is None or int(bytes(record.payload)) > last

    for _ in range(60):
        node, number, what = chance.choice(nodes), chance.randrange(4), chance.random()
        if what < 0.4:
            version += 1
            node.tier.put_many([record_of(number, b"%d" % version)])
        elif what < 0.65:
            every = chance.random() < 0.1
            assert node.drops.tell(None if every else key_of(number))
            dropped |= dict.fromkeys(dropped if every else [number], version)
        elif what < 0.85:
            node.drops.follow()
        elif what < 0.93:
            older.save()
        else:
            older.back()
            for each in chance.sample(nodes, len(nodes)):
                follow(each)
        check()


def test_services_drop_again_what_redis_forgot_that_it_had_dropped(
    server: Redis, older: Older
) -> None:
    with pair(server) as (one, two, _):
        older.save()
        drop(one)
        eventually(lambda: not holds(two))
        older.back()

        eventually(lambda: not older.client.keys("blatam-kv:1:*"))
        assert asked(two).cache == "miss"


def test_a_service_that_starts_again_has_it_dropped(
    server: Redis, older: Older, tmp_path: Path
) -> None:
    def node() -> Any:
        return running(Scripted(), redis=tier(server.url), data_dir=tmp_path)

    with node() as service:
        finished(service, asked(service))
        older.save()
        drop(service)
    # What it dropped itself it reads when it starts; that is how far it remembers.
    with node() as service:
        pass
    older.back()
    with node() as service:
        assert service.shared is not None
        shared = service.shared._tier
        digest = service.place(parse_request(QUERY)).digest

        def away() -> bool:
            try:
                return not shared.contains_many([digest])[0]
            except TierUnavailable:
                return False

        eventually(away)
