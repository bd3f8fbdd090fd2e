"""The Redis tier against a dict, before a real server that is damaged, frozen, killed and strict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as Client
from redis_server import Redis, redis
from tier_fakes import contents, key_of, record_of

from blatam_kv.errors import ConfigError, TierUnavailable, Unavailable
from blatam_kv.record import Kind, Record, pack
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.protocol import Tier
from blatam_kv.tiers.redis import RedisTier

KEYS = [key_of(number) for number in range(8)]


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis() as running:
        yield running


@pytest.fixture
def tier(server: Redis) -> Iterator[RedisTier]:
    Client.from_url(server.url).flushall()
    tier = RedisTier(server.url, timeout=10.0)
    yield tier
    tier.close()


def raw(server: Redis) -> Any:  # Any: redis-py's own client
    return Client.from_url(server.url)


def name_of(number: int) -> str:
    return f"blatam-kv:1:{key_of(number).hex()}"


# ---- a model beside it --------------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["put", "delete", "get", "contains"]),
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
    st.binary(max_size=300),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=12))
def test_it_does_what_a_dict_does(
    tier: RedisTier, steps: list[tuple[str, list[int], bytes]]
) -> None:
    tier.delete_many(KEYS)
    model: dict[bytes, bytes] = {}
    for call, numbers, payload in steps:
        keys = [key_of(number) for number in numbers]
        if call == "put":
            records = [record_of(number, payload + bytes([number])) for number in numbers]
            assert tier.put_many(records) == len(numbers)
            model |= {record.key: bytes(record.payload) for record in records}
        elif call == "delete":
            assert tier.delete_many(keys) == len({*keys} & model.keys())
            for key in keys:
                model.pop(key, None)
        elif call == "get":
            found = [record and bytes(record.payload) for record in tier.get_many(keys)]
            assert found == [model.get(key) for key in keys]
        else:
            assert tier.contains_many(keys) == [key in model for key in keys]
        assert contents(tier, KEYS) == model


def test_it_is_a_tier_and_every_field_of_a_record_comes_back(tier: RedisTier) -> None:
    as_tier: Tier = tier
    record = Record(
        key_of(1),
        Kind.BLOCK,
        bytes(range(256)) * 40,
        tags=bytes(range(32)),
        codec="int4_kc",
        tokens=bytes(256),
        created_us=5,
        expires_us=int(time.time() * 1e6) + 10**9,
    )
    as_tier.put_many([record])
    assert as_tier.get_many([record.key]) == [record]


def test_batches_larger_than_a_round_trip_keep_their_order(tier: RedisTier) -> None:
    records = [record_of(number, b"%d" % number) for number in range(200)]
    assert tier.put_many(records) == 200
    keys = [record.key for record in records]
    found = tier.get_many([*reversed(keys), key_of(999)])
    assert [record and record.key for record in found] == [*reversed(keys), None]
    assert all(tier.contains_many(keys))
    assert tier.delete_many(keys) == 200
    assert tier.stats().puts == 200


def test_of_one_key_in_a_batch_the_last_one_stays(tier: RedisTier) -> None:
    tier.put_many([record_of(1, b"a"), record_of(1, b"b" * 200_000), record_of(1, b"c")])
    assert contents(tier, [key_of(1)]) == {key_of(1): b"c"}


# ---- time ---------------------------------------------------------------------------------------


def test_records_end_with_their_time_or_the_tiers(server: Redis) -> None:
    now = time.time()
    tier = RedisTier(server.url, ttl=50.0, timeout=10.0)
    tier.put_many([record_of(1, b"a"), record_of(2, b"b", expires_us=int((now + 20) * 1e6))])
    assert 40_000 < raw(server).pttl(name_of(1)) <= 50_000
    assert 10_000 < raw(server).pttl(name_of(2)) <= 20_000
    later = RedisTier(server.url, timeout=10.0, clock=lambda: now + 30)
    assert contents(later, [key_of(1), key_of(2)]) == {key_of(1): b"a"}
    assert later.stats().damaged == 0
    tier.put_many([record_of(1, b"late", expires_us=1)])
    assert contents(tier, [key_of(1)]) == {}


def test_two_namespaces_do_not_meet_and_clear_ends_one(server: Redis) -> None:
    one, two = (RedisTier(server.url, namespace=name, timeout=10.0) for name in ("one", "two"))
    for tier in (one, two):
        tier.put_many([record_of(number, tier.namespace.encode()) for number in range(1000)])
    assert contents(two, [key_of(1)]) == {key_of(1): b"two"}
    assert one.clear() == 1000
    assert contents(one, KEYS) == {}
    assert contents(two, [key_of(1)]) == {key_of(1): b"two"}
    assert two.clear() == 1000


# ---- what comes back is verified ----------------------------------------------------------------


def test_every_flipped_bit_and_every_cut_is_a_miss_that_is_counted(
    server: Redis, tier: RedisTier
) -> None:
    whole = b"".join(pack(record_of(1, b"answer")))
    client = raw(server)
    spoilt = [whole[:size] for size in range(len(whole))] + [whole + b"\0"]
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        spoilt.append(bytes(flipped))
    for at in range(0, len(spoilt), 50):
        some = spoilt[at : at + 50]
        client.mset({name_of(number): value for number, value in enumerate(some)})
        found = tier.get_many([key_of(number) for number in range(len(some))])
        assert found == [None] * len(some)
    assert tier.stats().damaged == len(spoilt)
    assert not client.exists(name_of(1))  # nobody need read it again
    client.set(name_of(1), whole)
    assert contents(tier, [key_of(1)]) == {key_of(1): b"answer"}


def test_a_record_under_another_key_is_a_miss(server: Redis, tier: RedisTier) -> None:
    raw(server).set(name_of(2), b"".join(pack(record_of(1, b"of one"))))
    assert tier.get_many([key_of(2)]) == [None]
    assert tier.stats().damaged == 1


def test_with_a_mac_key_only_what_its_holders_wrote_is_believed(server: Redis) -> None:
    ours = RedisTier(server.url, mac_key=b"k" * 32, timeout=10.0)
    theirs = RedisTier(server.url, mac_key=b"x" * 32, timeout=10.0)
    forger = RedisTier(server.url, timeout=10.0)
    ours.put_many([record_of(1, b"true")])
    assert contents(ours, [key_of(1)]) == {key_of(1): b"true"}
    for writer in (theirs, forger):
        writer.put_many([record_of(1, b"forged")])
        assert contents(ours, [key_of(1)]) == {}


def test_a_record_that_is_too_large_is_refused_and_takes_the_older_one_with_it(
    server: Redis,
) -> None:
    tier = RedisTier(server.url, record_bytes=1000, timeout=10.0)
    assert tier.put_many([record_of(1, b"a")]) == 1
    assert tier.put_many([record_of(1, b"b" * 1000), record_of(2, b"c")]) == 1
    assert contents(tier, KEYS) == {key_of(2): b"c"}
    assert tier.stats().refused == 1


# ---- a server that is away ----------------------------------------------------------------------


def test_a_server_that_is_away_is_asked_three_times_and_then_left_alone() -> None:
    now = 0.0
    breaker = Breaker(clock=lambda: now)
    with redis() as server:
        tier = RedisTier(server.url, timeout=10.0, breaker=breaker)
        tier.put_many([record_of(1, b"a")])
        server.stop()
        for _ in range(5):
            with pytest.raises(TierUnavailable) as caught:
                tier.get_many([key_of(1)])
            assert caught.value.reason is Unavailable.UNREACHABLE
        assert tier.stats().failures == {"cannot be reached": 3}
        assert tier.stats().left_alone
        server.start()
        with pytest.raises(TierUnavailable):
            tier.get_many([key_of(1)])
        now = 1.5
        assert tier.get_many([key_of(1)]) == [None]  # empty since, and asked again
        assert tier.stats().failing is None
        assert not tier.stats().left_alone


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_timeout() -> None:
    with redis() as server:
        tier = RedisTier(server.url, timeout=0.05)
        server.freeze()
        for _ in range(3):
            with pytest.raises(TierUnavailable) as caught:
                tier.get_many([key_of(1)])
            assert caught.value.reason is Unavailable.TIMED_OUT
        assert tier.stats().left_alone
        server.thaw()


def test_a_url_keeps_the_timeouts_and_waits_for_no_second_try(server: Redis) -> None:
    tier = RedisTier(server.url, timeout=0.25)
    options = tier.commands._servers.of(b"").client.connection_pool.connection_kwargs
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.25
    assert options["retry"].get_retries() == 1


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(server: Redis) -> None:
    tier = RedisTier(server.url, timeout=10.0)
    tier.put_many([record_of(1, b"a")])
    raw(server).client_kill_filter(_type="normal", skipme=True)
    assert contents(tier, [key_of(1)]) == {key_of(1): b"a"}
    assert tier.stats().failures == {}


def test_a_closed_tier_says_so(server: Redis) -> None:
    tier = RedisTier(server.url)
    tier.close()
    tier.close()
    with pytest.raises(TierUnavailable) as caught:
        tier.get_many([key_of(1)])
    assert caught.value.reason is Unavailable.CLOSED


# ---- a server that says no ----------------------------------------------------------------------


def test_users_passwords_and_rights_are_the_urls_and_never_shown(server: Redis) -> None:
    raw(server).execute_command(
        *"ACL SETUSER node on >s3cret resetkeys ~blatam-kv:* -@all +get +mget +set".split()
    )
    path = server.url.removeprefix("unix://")
    tier = RedisTier(f"unix://node:s3cret@{path}", timeout=10.0)
    tier.put_many([record_of(1, b"a")])
    assert contents(tier, [key_of(1)]) == {key_of(1): b"a"}
    with pytest.raises(TierUnavailable) as caught:
        tier.delete_many([key_of(1)])
    assert caught.value.reason is Unavailable.REFUSED
    wrong = RedisTier(f"unix://node:wr0ng@{path}", timeout=10.0)
    with pytest.raises(TierUnavailable) as caught:
        wrong.get_many([key_of(1)])
    assert caught.value.reason is Unavailable.REFUSED
    assert "wr0ng" not in str(caught.value)
    elsewhere = RedisTier(f"unix://node:s3cret@{path}", namespace="other", timeout=10.0)
    with pytest.raises(TierUnavailable):
        elsewhere.get_many([key_of(1)])
    raw(server).set(name_of(2), b"spoilt")
    assert contents(tier, KEYS) == {key_of(1): b"a"}  # though it may not remove what is damaged
    for each in (tier, wrong, elsewhere):
        assert not each.stats().left_alone  # it is there, and says no


def test_a_full_server_is_no_space_and_goes_on_answering() -> None:
    with redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        tier = RedisTier(server.url, timeout=10.0)
        tier.put_many([record_of(1, b"a")])
        records = (record_of(number, bytes(200_000)) for number in range(2, 100))
        with pytest.raises(TierUnavailable) as caught:
            tier.put_many(records)
        assert caught.value.reason is Unavailable.NO_SPACE
        assert contents(tier, [key_of(1)]) == {key_of(1): b"a"}


def test_tls_is_a_matter_of_the_url(tmp_path: Path) -> None:
    from nginx_server import free_port
    from test_nginx import certificate

    chain, key = certificate(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(chain), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(chain), "--tls-auth-clients", "no"]
    with redis(*options):
        trust = f"ssl_ca_certs={chain}&ssl_check_hostname=false"
        tier = RedisTier(f"rediss://127.0.0.1:{port}/0?{trust}", timeout=10.0)
        tier.put_many([record_of(1, b"a")])
        assert contents(tier, [key_of(1)]) == {key_of(1): b"a"}
        strict = RedisTier(f"rediss://127.0.0.1:{port}/0", timeout=10.0)
        with pytest.raises(TierUnavailable):
            strict.get_many([key_of(1)])


@pytest.mark.parametrize(
    ("url", "options", "complaint"),
    [
        ("http://h", {}, "must look like redis://"),
        ("redis://", {}, "must look like redis://"),
        ("redis://:s3cret@h:x", {}, "must look like redis://"),
        ("redis://h", {"namespace": "a b"}, "namespace"),
        ("redis://h", {"ttl": 0.0}, "ttl"),
        ("redis://h", {"timeout": 0.0}, "timeout"),
        ("redis://h", {"mac_key": b"short"}, "mac_key"),
        ("redis://h?socket_timeout=soon", {}, "option"),
    ],
)
def test_what_cannot_be_right_is_refused(url: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        RedisTier(url, **options)
    assert "s3cret" not in str(caught.value)


def test_a_tombstone_is_refused(tier: RedisTier) -> None:
    with pytest.raises(ConfigError, match="delete_many"):
        tier.put_many([replace(record_of(1, b""), kind=Kind.TOMBSTONE)])


# ---- the breaker --------------------------------------------------------------------------------


def test_a_breaker_against_its_rules_step_by_step() -> None:
    now = 0.0
    breaker = Breaker(failures=2, pause=1.0, longest=4.0, clock=lambda: now)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()  # never two in a row
    breaker.failed()
    for pause in (1.0, 2.0, 4.0, 4.0):
        assert breaker.open
        assert not breaker.allows()
        now += 0.99 * pause
        assert not breaker.allows()
        now += 0.02 * pause
        assert breaker.allows()
        assert not breaker.allows()  # one tries for all
        breaker.failed()
    now += 5.0
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.open
    assert breaker.allows()
    breaker.failed()
    assert breaker.allows()  # and the count begins anew
