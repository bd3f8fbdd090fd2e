"""The Redis tier on a real cluster: spread over its servers, and served by the rest when one is killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from block_fakes import LAYOUT, load, prompt_of, save
from bul_fakes import Scripted, running
from redis import Redis as Client
from redis.crc import key_slot
from redis_cluster import Cluster, Node, cluster
from test_bul_shared import asked, eventually, finished
from tier_fakes import contents, key_of, record_of

import blatam_kv as kv
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.shared_limits import SharedLimiter
from blatam_kv.errors import ConfigError, TierUnavailable, Unavailable
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.leases import Leases
from blatam_kv.tiers.notices import Notices
from blatam_kv.tiers.redis import RedisTier
from blatam_kv.tiers.trip import Trip

KEYS = [key_of(number) for number in range(300)]
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(servers: Cluster) -> None:
    for node in servers.nodes:
        if node.process.poll() is not None:
            node.start()
    servers.wait()
    for node in servers.nodes:
        client(node.port).flushall()


def client(port: int) -> Any:  # Any: redis-py's own client
    return Client(port=port)


def tier(servers: Cluster, **options: Any) -> RedisTier:
    given: dict[str, Any] = {"timeout": 10.0, "breaker": Breaker(pause=0.05, longest=0.1)}
    return RedisTier(servers.url, **given | options)


def sizes(servers: Cluster) -> list[int]:
    return [client(node.port).dbsize() for node in servers.nodes]


def test_it_does_what_a_single_server_does_and_spreads_over_all(servers: Cluster) -> None:
    shared = tier(servers)
    records = [record_of(number, b"%d" % number) for number in range(300)]
    assert shared.put_many(records) == 300
    assert sum(sizes(servers)) == 300
    assert min(sizes(servers)) > 60
    assert shared.get_many([*KEYS, key_of(999)]) == [*records, None]
    assert shared.get_many(KEYS[:1]) == records[:1]
    assert shared.contains_many([key_of(999), KEYS[1]]) == [False, True]
    assert shared.sizes_many([key_of(999), KEYS[1]])[0] == 0
    assert shared.delete_many(KEYS[:10]) == 10
    assert contents(shared, KEYS[:12]).keys() == set(KEYS[10:12])
    assert shared.delete_tagged(bytes([7]) * 32) == 0
    assert shared.clear() == 290
    assert sum(sizes(servers)) == 0
    assert not shared.stats().failures
    shared.close()


def test_a_batch_is_one_round_trip_to_each_server(
    servers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tier(servers)
    shared.put_many(record_of(number, b"a") for number in range(60))
    calls = []

    class Counted(Trip):
        def __init__(self, client: Any, *others: Any) -> None:
            calls.append(client)
            super().__init__(client, *others)

    monkeypatch.setattr("blatam_kv.tiers.commands.Trip", Counted)
    assert None not in shared.get_many(KEYS[:60])
    assert len(calls) == len({id(each) for each in calls}) == 3
    shared.close()


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """A server that takes what comes and says nothing, for the body of a ``with``."""
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


def of(shared: RedisTier, servers: Cluster, key: bytes) -> Node:
    """The server that has a key."""
    place = shared.commands._servers.of(shared._name(key)).place
    return next(node for node in servers.nodes if place.endswith(f":{node.port}"))


def gets(node: Node) -> int:
    """How often it was asked."""
    calls: int = client(node.port).info("commandstats").get("cmdstat_get", {}).get("calls", 0)
    return calls


def test_all_servers_are_asked_before_any_has_answered(servers: Cluster) -> None:
    shared = tier(servers, timeout=60.0)
    records = [record_of(number, b"%d" % number) for number in range(60)]
    shared.put_many(records)
    first = of(shared, servers, KEYS[0])  # the one that a loop would begin with
    others = [node for node in servers.nodes if node is not first]
    before = [gets(node) for node in others]
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.extend(shared.get_many(KEYS[:60])))
    with frozen(first):
        asking.start()
        eventually(
            lambda: all(gets(node) > then for node, then in zip(others, before, strict=True))
        )
        assert found == []
    asking.join()
    assert found == records
    shared.close()


def test_a_silent_server_costs_nobody_elses_answers_and_is_left_alone(servers: Cluster) -> None:
    shared = tier(servers, timeout=1.0, breaker=Breaker(pause=60.0))
    records = [record_of(number, b"%d" % number) for number in range(60)]
    eventually(lambda: served(shared, records))
    with frozen(of(shared, servers, KEYS[0])):
        eventually(lambda: lost(shared, records) == 1 and shared.stats().left_alone)
    # Who asks it where slots are, meanwhile, counts for its breaker and not here.
    assert shared.stats().failures[Unavailable.TIMED_OUT] >= 1
    shared.close()


def served(shared: RedisTier, records: list[Any]) -> bool:
    with suppress(TierUnavailable):
        return shared.put_many(records) == len(records) and None not in shared.get_many(KEYS[:60])
    return False


def lost(shared: RedisTier, records: list[Any]) -> int:
    """How many servers' records are missing; the others are right."""
    found = shared.get_many(KEYS[:60])
    assert all(one in (None, wanted) for one, wanted in zip(found, records, strict=True))
    there = [one is not None for one in found]
    places = [shared.commands._servers.of(shared._name(key)).place for key in KEYS[:60]]
    whole = {place for place, is_there in zip(places, there, strict=True) if is_there}
    return len(set(places) - whole)


def test_connections_that_servers_have_closed_are_made_again(servers: Cluster) -> None:
    shared = tier(servers)
    records = [record_of(number, b"%d" % number) for number in range(60)]
    shared.put_many(records)
    for node in servers.nodes:
        client(node.port).client_kill_filter(_type="normal", skipme=True)
    assert shared.get_many(KEYS[:60]) == records
    assert not shared.stats().failures
    shared.close()


@contextmanager
def moving(slot: int, source: Node, target: Node) -> Iterator[None]:
    """A slot that one server is just giving to another, for the body of a ``with``; then it stays."""
    one, two = client(source.port), client(target.port)
    ids = [each.execute_command("CLUSTER MYID").decode() for each in (one, two)]
    two.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    one.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    try:
        yield
    finally:
        for key in two.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            two.execute_command("ASKING")
            two.delete(key)
        for each in (two, one):
            each.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[0])


def test_a_slot_that_is_just_being_moved_is_asked_for_where_it_goes(servers: Cluster) -> None:
    shared = tier(servers)
    records = [record_of(number, b"%d" % number) for number in range(60)]
    shared.put_many(records)
    source = of(shared, servers, KEYS[0])
    target = next(node for node in servers.nodes if node is not source)
    name = shared._name(KEYS[0])
    slot = key_slot(name)
    with moving(slot, source, target):
        assert shared.get_many(KEYS[:60]) == records  # it has not left yet
        client(source.port).delete(name)
        assert shared.get_many(KEYS[:60]) == [None, *records[1:]]
        assert shared.put_many(records) == 60  # in a batch
        assert client(source.port).execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 0
        assert client(target.port).execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 1
        assert shared.get_many(KEYS[:60]) == records
        assert shared.get_many(KEYS[:1]) == records[:1]  # and alone
        assert shared.delete_many(KEYS[:1]) == 1
        script = shared.commands.script("return redis.call('SET', KEYS[1], ARGV[1])")
        assert script(name, b"by a script") == b"OK"  # which that server has not heard of
        assert shared.ask("get", name) == b"by a script"
    assert not shared.stats().failures
    shared.close()


def test_a_single_servers_url_that_leads_into_a_cluster_is_a_tier_that_fails(
    servers: Cluster,
) -> None:
    shared = RedisTier(f"redis://127.0.0.1:{servers.nodes[0].port}", timeout=10.0)
    with pytest.raises(TierUnavailable):
        shared.get_many(KEYS[:60])  # of several slots
    refused = 0
    for key in KEYS[:60]:
        try:
            shared.get_many([key])
        except TierUnavailable:
            refused += 1  # it is another's
    assert 0 < refused < 60
    shared.close()


def test_opening_one_asks_nobody_and_one_server_is_enough_to_find_the_others(
    servers: Cluster,
) -> None:
    port = servers.nodes[1].port
    shared = RedisTier(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}", timeout=10.0)
    shared.put_many(record_of(number, b"a") for number in range(60))
    assert min(sizes(servers)) > 0
    away = RedisTier("redis+cluster://127.0.0.1:1", timeout=0.2)
    for _ in range(5):
        with pytest.raises(TierUnavailable) as caught:
            away.get_many([KEYS[0], KEYS[1]])
        assert caught.value.reason is Unavailable.UNREACHABLE
        assert "redis cluster at 127.0.0.1:1" in str(caught.value)
    for each in (shared, away):
        each.close()


@pytest.mark.parametrize(
    "url", ["unix+cluster:///a", "redis+cluster://", "redis+cluster://a,", "redis://a,b"]
)
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis\+cluster://host"):
        RedisTier(url)


def test_the_password_is_never_shown(servers: Cluster) -> None:
    port = servers.nodes[0].port
    shared = RedisTier(f"redis+cluster://u:s3cret@127.0.0.1:{port}", timeout=10.0)
    with pytest.raises(TierUnavailable) as caught:
        shared.get_many([KEYS[0]])
    assert caught.value.reason is Unavailable.REFUSED
    assert "s3cret" not in str(caught.value)
    shared.close()


def test_with_one_server_killed_what_the_others_have_is_served(servers: Cluster) -> None:
    shared = tier(servers)
    records = [record_of(number, b"%d" % number) for number in range(300)]
    shared.put_many(records)
    kept = sum(sizes(servers)[1:])
    servers.nodes[0].stop()
    found = shared.get_many(KEYS)
    assert len(found) - found.count(None) == kept
    assert all(record in (None, wanted) for record, wanted in zip(found, records, strict=True))
    assert sum(shared.contains_many(KEYS)) == kept
    dead = next(key for key, record in zip(KEYS, found, strict=True) if record is None)
    living = next(key for key, record in zip(KEYS, found, strict=True) if record is not None)
    for _ in range(5):
        with pytest.raises(TierUnavailable):
            shared.get_many([dead])
        assert shared.get_many([living]) != [None]  # its server is not left alone
    assert shared.stats().left_alone
    with pytest.raises(TierUnavailable):  # what was to be forgotten may be there
        shared.delete_many([dead, living])
    assert shared.get_many([living]) == [None]
    later = [key_of(number) for number in range(300, 600)]
    with pytest.raises(TierUnavailable):
        shared.put_many(record_of(number, b"a") for number in range(300, 600))
    gone = f":{servers.nodes[0].port}"
    alive = [
        not shared.commands._servers.of(shared._name(key)).place.endswith(gone) for key in later
    ]
    assert shared.contains_many(later) == alive  # the others took theirs
    servers.nodes[0].start()

    def whole_again() -> bool:
        with suppress(TierUnavailable):
            return shared.put_many(records) == 300 and all(shared.contains_many(KEYS))
        return False

    eventually(whole_again)
    shared.close()


def test_a_slot_that_moved_is_followed(servers: Cluster) -> None:
    shared = tier(servers)
    shared.put_many(record_of(number, b"a") for number in range(100))
    one, two = (client(node.port) for node in servers.nodes[:2])
    name = next(name for name in one.keys("*"))
    key = bytes.fromhex(name.decode().rpartition(":")[2])
    slot = key_slot(name)
    target = two.execute_command("CLUSTER MYID")
    moved: list[bytes] = one.execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
    for each in moved:
        one.execute_command("DEL", each)
    for server in (one, two, client(servers.nodes[2].port)):
        server.execute_command("CLUSTER SETSLOT", slot, "NODE", target.decode())
    number = KEYS.index(key)
    assert shared.get_many([key, *KEYS[100:]])[0] is None  # a batch
    assert shared.put_many([record_of(number, b"b")]) == 1  # and one alone
    assert contents(shared, [key]) == {key: b"b"}
    assert two.exists(name)
    assert not shared.stats().failures
    shared.close()


def test_leases_limits_and_notices_touch_one_slot_each(servers: Cluster) -> None:
    one, two = Leases(tier(servers)), Leases(tier(servers))
    for number in range(20):
        assert one.take(key_of(number))
        assert not two.take(key_of(number))
    assert one.renew() == 20
    for number in range(20):
        one.end(key_of(number))
        assert two.take(key_of(number))
    limiter = SharedLimiter(Limiter(1000, 60.0), tier(servers))
    for name in "abcdef":
        assert limiter.take(name).allowed
    limiter.settle()
    assert not limiter._tier.stats().failures
    limiter.close()
    for leases in (one, two):
        leases.close()
        assert not leases._tier.stats().failures


def test_notices_are_heard_while_a_server_is_gone(servers: Cluster) -> None:
    heard = threading.Semaphore(0)
    quiet: dict[str, Any] = {"heard": lambda kind, key: heard.release(), "missed": lambda: None}
    one, two = Notices(tier(servers), **quiet), Notices(tier(servers), **quiet)
    for notices in (one, two):
        assert notices.listening.wait(PATIENCE_SECONDS)
    place = one._tier.commands._servers.of(one._tier.channel).place
    (node,) = (node for node in servers.nodes if place.endswith(f":{node.port}"))
    node.stop()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not heard.acquire(timeout=0.05):
        one.tell("a")
        assert time.monotonic() < deadline
    node.start()
    for notices in (one, two):
        notices.close()
        notices._tier.close()


def test_prefixes_and_answers_are_shared_through_a_cluster(servers: Cluster) -> None:
    prompt = prompt_of(range(1, 31))

    def store() -> kv.KVStore:
        given: dict[str, Any] = {"capacity_bytes": "1MiB", "model": "m", "shared": tier(servers)}
        return kv.KVStore(LAYOUT, **given)

    with store() as one, store() as two:
        save(one, prompt)
        one.flush()
        assert min(sizes(servers)) > 0
        assert load(two, prompt) == len(prompt)
    with (
        running(Scripted(), redis=tier(servers)) as here,
        running(Scripted(), redis=tier(servers)) as there,
    ):
        finished(here, asked(here))
        assert asked(there).cache == "hit"
        here.clear()
        eventually(lambda: len(there.pipeline.cache) == 0)
