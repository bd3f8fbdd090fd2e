"""Who else is there: nodes of one database by name and age, nodes of one Redis by number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bul_fakes import Faulty, Scripted, running, until
from postgres_server import Postgres, postgres
from redis_server import Redis, redis
from test_bul_takeover import node, tasks_of

from blatam_kv.bul.neighbours import LOOK_SECONDS, Neighbours, Seen
from blatam_kv.bul.storage import Node, StorageUnavailable, open_storage
from blatam_kv.tiers.redis import RedisTier


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running_server:
        yield running_server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


@pytest.fixture(scope="module")
def shared() -> Iterator[Redis]:
    with redis() as running_server:
        yield running_server


def test_nodes_that_live_are_known_by_name_and_age_and_those_that_are_gone_by_their_work(
    url: str,
) -> None:
    began = time.time()
    with node(url, "gone") as gone:
        gone.add(tasks_of(3))
    with node(url, "oldest") as oldest, node(url, "idle"), node(url, "neither", lives=False):
        oldest.add([])
        found = oldest.nodes()
        assert [(each.name, each.unfinished, each.this) for each in found] == [
            ("oldest", 0, True),
            ("idle", 0, False),
            ("gone", 3, False),
        ]
        ages = [each.since for each in found]
        assert ages[2] is None
        assert began - 5 <= ages[0] <= ages[1] <= time.time()  # type: ignore[operator]  # not None
    with node(url, "last") as last:
        assert [each.name for each in last.nodes()] == ["last", "gone"]


def test_nodes_of_another_database_of_the_server_are_others(server: Postgres, url: str) -> None:
    with node(server.database(), "elsewhere"), node(url, "here") as here:
        assert [each.name for each in here.nodes()] == ["here"]


def test_a_name_longer_than_the_server_keeps_is_found_whole(url: str) -> None:
    name = "a-very-long-name-" * 5
    with node(url, name) as one, node(url, "other") as other:
        assert [each.name for each in one.nodes()] == [name, "other"]
        one.add(tasks_of(1))
        found = {each.name: each for each in other.nodes()}
        assert found[name].unfinished == 1
        assert found[name].since is not None


def test_a_file_has_one_node_which_is_this_one(tmp_path: Path) -> None:
    with node(f"sqlite:///{tmp_path / 'bul.db'}", "one") as one:
        one.add(tasks_of(2))
        (only,) = one.nodes()
        assert (only.name, only.unfinished, only.this) == ("one", 2, True)
        assert only.since is not None


class Register:
    """A database that does as it is told, and counts."""

    shared = True

    def __init__(self) -> None:
        self.asked, self.away = 0, False

    def nodes(self) -> list[Node]:
        self.asked += 1
        if self.away:
            raise StorageUnavailable("away")
        return [Node(name="n", since=1.0, unfinished=0, this=True)]


def test_however_many_look_the_servers_are_asked_once_in_a_while() -> None:
    now, register = [0.0], Register()
    neighbours = Neighbours(register, lambda: 2, clock=lambda: now[0])
    first = neighbours.seen()
    assert first == Seen(nodes=tuple(register.nodes()), database=True, redis=True, listening=2)
    register.asked = 0
    for _ in range(20):
        assert neighbours.seen() is first
    now[0] += LOOK_SECONDS
    register.away = True
    away = neighbours.seen()
    assert register.asked == 1
    assert away.nodes is None
    assert away.described()["listening"] == 2


def test_nodes_that_share_a_redis_hear_one_another(shared: Redis) -> None:
    def tier() -> RedisTier:
        return RedisTier(shared.url, namespace="neighbours")

    with running(Scripted(), redis=tier()) as one, running(Scripted(), redis=tier()) as two:
        assert one.shared is not None
        assert two.shared is not None
        until(lambda: one.shared.listening() == two.shared.listening() == 2)  # type: ignore[union-attr]
        seen = one.neighbours.seen()
        assert (seen.redis, seen.database) == (True, False)
    with running(Scripted(), redis=RedisTier("redis://127.0.0.1:1")) as alone:
        seen = alone.neighbours.seen()
        assert (seen.redis, seen.listening) == (True, None)


def test_a_database_that_is_away_is_no_reason_to_show_nothing() -> None:
    archive = Faulty()
    with running(Scripted(), archive=archive) as service:
        archive.broken = True
        assert service.neighbours.seen().nodes is None
        archive.broken = False


def test_each_service_of_a_shared_database_sees_the_other(url: str) -> None:
    with (
        running(Scripted(), archive=open_storage(url, node="one")) as one,
        running(Scripted(), archive=open_storage(url, node="two")) as two,
    ):
        for service, this in ((one, "one"), (two, "two")):
            nodes = service.neighbours.seen().nodes
            assert nodes is not None
            assert {each.name: each.this for each in nodes} == {
                "one": this == "one",
                "two": this == "two",
            }
