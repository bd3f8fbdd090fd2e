"""One limit for several nodes: the script against the limiter, and nodes against their sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as Client
from redis_server import Redis, redis

from blatam_kv.bul.security import shared_limits
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.shared_limits import _SPEND, SharedLimiter, leased
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.redis import RedisTier

# So long a window that nothing recovers while a test runs.
WINDOW = 36_000.0


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis() as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(server: Redis) -> None:
    Client.from_url(server.url).flushall()


class Node:
    """A limiter that settles when it is told to, and not by itself."""

    def __init__(self, server: Redis, limit: int) -> None:
        tier = RedisTier(server.url, timeout=10.0)
        self.limiter = SharedLimiter(Limiter(limit, WINDOW), tier)
        self.limiter.close()
        self.limit = limit

    def take(self, times: int, name: str = "a") -> int:
        return sum(self.limiter.take(name).allowed for _ in range(times))

    def settle(self) -> None:
        self.limiter.settle()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 5)), min_size=1, max_size=20))
def test_the_script_keeps_the_arrival_time_that_the_limiter_keeps(
    server: Redis, steps: list[tuple[int, int]]
) -> None:
    client = Client.from_url(server.url)
    client.delete("t")
    spend = client.register_script(_SPEND)
    now, due = 1_700_000_000_000_000, 0.0
    interval = 250_000
    for step, cells in steps:
        now += step
        due = max(due, now) + cells * interval
        assert int(spend(keys=["t"], args=[cells, interval, now])) == due - now


def test_the_script_reads_the_servers_clock_and_its_keys_go_away(server: Redis) -> None:
    client = Client.from_url(server.url)
    spend = client.register_script(_SPEND)
    hour = 3_600_000_000  # in which whatever the machine is slow at counts little
    assert int(spend(keys=["t"], args=[4, hour // 4, ""])) == hour
    ahead = int(spend(keys=["t"], args=[4, hour // 4, ""]))
    assert hour < ahead <= 2 * hour
    assert 0 < client.pttl("t") <= 2 * hour // 1000 + 1


def test_one_node_alone_lets_through_what_a_limiter_does(server: Redis) -> None:
    node, alone = Node(server, 100), Limiter(100, WINDOW)
    for _ in range(12):
        assert node.take(10) == sum(alone.take("a").allowed for _ in range(10))
        node.settle()


def test_nodes_that_settle_share_one_limit(server: Redis) -> None:
    nodes = [Node(server, 100) for _ in range(3)]
    passed = 0
    for turn in range(150):
        passed += nodes[turn % 3].take(1)
        nodes[turn % 3].settle()
    assert 100 <= passed <= 102  # each hears of the others with its own next settlement
    for node in nodes:
        assert node.take(1) == 0
        assert node.take(1, "b") == 1


def test_a_burst_on_all_nodes_at_once_exceeds_the_limit_by_a_lease_for_each_other_node(
    server: Redis,
) -> None:
    nodes = [Node(server, 200) for _ in range(3)]
    lease = leased(200)
    passed = 0
    for _ in range(20):
        passed += sum(node.take(1000) for node in nodes)
        for node in nodes:
            node.settle()
    assert 200 <= passed <= 200 + 2 * lease
    assert passed > 200  # else nothing here was seen to be bounded


@pytest.mark.parametrize(("limit", "lease"), [(1, 1), (10, 10), (100, 32), (6000, 1500)])
def test_a_lease_is_a_quarter_of_the_limit_or_what_one_settlement_lets_through(
    limit: int, lease: int
) -> None:
    assert leased(limit) == lease


def test_what_was_not_settled_yet_counts_when_it_is(server: Redis) -> None:
    one, two = Node(server, 100), Node(server, 100)
    two.take(20)
    two.settle()
    one.take(10)
    spend = one.limiter._spend

    def meanwhile(*arguments: object) -> object:
        assert one.take(5) == 5  # while the settlement is on its way
        return spend(*arguments)

    one.limiter._spend = meanwhile
    one.settle()
    one.limiter._spend = spend
    verdict = one.limiter.take("a")
    assert verdict.left == 100 - 20 - 10 - 5 - 1


def test_without_redis_each_node_keeps_to_its_share_and_comes_back() -> None:
    with redis() as server:
        breaker = Breaker(pause=0.001, longest=0.001)
        tier = RedisTier(server.url, timeout=10.0, breaker=breaker)
        clients: list[Any] = [Client.from_url(server.url) for _ in range(4)]
        listeners = [client.pubsub() for client in clients]
        for each in listeners:
            each.subscribe("blatam-kv:notices")
            each.get_message(timeout=10)
        limiter = SharedLimiter(Limiter(100, WINDOW), tier)
        limiter.close()
        assert limiter.take("a").allowed
        limiter.settle()
        server.stop()
        limiter.take("b")
        limiter.settle()
        assert sum(limiter.take("c").allowed for _ in range(100)) == 25
        server.start()
        assert limiter.take("d").allowed
        limiter.settle()
        assert limiter._share == 1
        for each in listeners:
            each.close()


def test_it_settles_by_itself_and_ends(server: Redis) -> None:
    client = Client.from_url(server.url)
    limiter = SharedLimiter(Limiter(100, WINDOW), RedisTier(server.url, timeout=10.0))
    assert limiter.take("a").allowed
    while not client.exists("blatam-kv:limit:a"):
        pass
    limiter.close()
    assert not limiter._thread.is_alive()


def test_what_was_let_through_between_two_settlements_is_settled_at_the_end(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_limits, "_PAUSE_SECONDS", 3600.0)
    limiter = SharedLimiter(Limiter(100, WINDOW), RedisTier(server.url, timeout=10.0))
    assert limiter.take("a").allowed
    limiter.close()
    assert Client.from_url(server.url).exists("blatam-kv:limit:a")
