"""``doctor`` on a Redis: one that is fit, and every way to be unfit, each with its remedy."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client
from redis_cluster import cluster
from redis_server import Redis, redis

from blatam_kv.cli.doctor import examine as doctor
from blatam_kv.config import Secret, Settings
from blatam_kv.tiers import redis_probe
from blatam_kv.tiers.redis_probe import RIGHTS, RedisReport, examine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "DEPLOY.md"
FIT = {"maxmemory": "64mb", "maxmemory-policy": "volatile-lfu", "appendonly": "yes"}


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis() as started:
        yield started


@pytest.fixture
def client(server: Redis) -> Iterator[Any]:  # Any: untyped where commands are written out
    client: Any = Client.from_url(server.url)
    for name, value in FIT.items():
        client.config_set(name, value)
    yield client
    client.execute_command("ACL", "DELUSER", "bul")


def asked(url: str, **options: Any) -> RedisReport:
    return examine(url, "BUL_REDIS_URL", **options)


def test_one_that_is_fit_is_described_and_left_as_it_was(server: Redis, client: Any) -> None:
    before = client.keys("*")
    report = asked(server.url)
    assert (report.reason, report.advice, report.lacks) == (None, (), ())
    assert report.version == client.info("server")["redis_version"]
    assert (report.servers, report.maxmemory_bytes, report.policy) == (1, 64 << 20, "volatile-lfu")
    assert report.appendonly
    assert report.milliseconds is not None
    assert report.milliseconds > 0
    assert client.keys("*") == before


def test_the_rights_on_the_page_are_those_that_are_asked_for(server: Redis, client: Any) -> None:
    line = re.findall(r"^ACL SETUSER bul .*$", PAGE.read_text(), re.MULTILINE)[0]
    assert set(re.findall(r"\+(\S+)", line)) == set(RIGHTS)
    client.execute_command(*line.split())
    path = server.url.removeprefix("unix://")
    report = asked(f"unix://bul:PASSWORD@{path}")
    assert (report.reason, report.lacks) == (None, ())
    assert client.execute_command("ACL", "LOG") == []


@pytest.mark.parametrize("right", [right for right in RIGHTS if right not in ("select", "info")])
def test_each_right_that_is_missing_is_named(server: Redis, client: Any, right: str) -> None:
    line = re.findall(r"^ACL SETUSER bul .*$", PAGE.read_text(), re.MULTILINE)[0]
    client.execute_command(*line.split())
    client.execute_command("ACL", "SETUSER", "bul", f"-{right}")
    report = asked(f"unix://bul:PASSWORD@{server.url.removeprefix('unix://')}")
    client.execute_command("ACL", "LOG", "RESET")
    assert report.reason is not None
    assert f"+{right}" in report.lacks
    assert not client.keys("*doctor*") or right in ("del", "unlink")
    assert f"ACL SETUSER USER {' '.join(report.lacks)}" in report.reason
    assert "PASSWORD" not in str(report)


@pytest.mark.parametrize(("without", "lacks"), [("resetkeys", "~"), ("resetchannels", "&")])
def test_names_that_are_not_the_users_are_named(
    server: Redis, client: Any, without: str, lacks: str
) -> None:
    line = re.findall(r"^ACL SETUSER bul .*$", PAGE.read_text(), re.MULTILINE)[0]
    client.execute_command(*line.split())
    client.execute_command("ACL", "SETUSER", "bul", without)
    report = asked(f"unix://bul:PASSWORD@{server.url.removeprefix('unix://')}")
    client.execute_command("ACL", "LOG", "RESET")
    assert report.reason is not None
    assert f"{lacks}blatam-kv:*" in report.reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maxmemory", "0", "without a bound: CONFIG SET maxmemory"),
        ("maxmemory-policy", "noeviction", "takes nothing new: CONFIG SET maxmemory-policy"),
        ("maxmemory-policy", "allkeys-lfu", "evict what it remembers of drops"),
        ("appendonly", "no", "CONFIG SET appendonly yes"),
    ],
)
def test_what_would_be_better_otherwise_is_said_and_is_no_problem(
    server: Redis, client: Any, name: str, value: str, words: str
) -> None:
    client.config_set(name, value)
    report = asked(server.url)
    assert report.reason is None
    (advice,) = report.advice
    assert words in advice


def test_a_redis_for_blocks_alone_may_evict_what_it_likes(server: Redis, client: Any) -> None:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    client.config_set("appendonly", "no")
    assert asked(server.url, drops=False).advice == ()


def test_who_may_not_see_the_memory_policy_is_told_so(server: Redis, client: Any) -> None:
    client.execute_command(*"ACL SETUSER bul on >x ~* &* +@all -info".split())
    report = asked(f"unix://bul:x@{server.url.removeprefix('unix://')}")
    assert (report.reason, report.version, report.policy) == (None, None, None)
    assert "+info allows that" in report.advice[0]


# ---- unfit --------------------------------------------------------------------------------------


def test_each_reason_names_its_remedy_and_no_password(server: Redis, client: Any) -> None:
    path = server.url.removeprefix("unix://")
    client.execute_command(*"ACL SETUSER bul on >right ~* &* +@all".split())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"redis://u:s3cret@127.0.0.1:{unused.getsockname()[1]}"
        cases = [
            ("http://:s3cret@h", "must look like redis://"),
            (gone, "cannot be reached; start it, or correct BUL_REDIS_URL"),
            ("redis+" + gone.replace("redis", "cluster", 1), "cannot be reached"),
            (f"unix://bul:s3cret@{path}", "does not take this user and password"),
        ]
        for url, words in cases:
            report = asked(url)
            assert report.reason is not None
            assert words in report.reason
            assert "s3cret" not in str(report)


def test_one_that_wants_a_password_is_silent_full_or_a_replica_says_so() -> None:
    with redis("--maxmemory", "1100kb", "--maxmemory-policy", "noeviction") as own:
        client: Any = Client.from_url(own.url)
        own.freeze()
        report = asked(own.url, timeout=0.05)
        own.thaw()
        assert "does not answer in time" in (report.reason or "")
        client.config_set("maxmemory", "1")
        assert "is full" in (asked(own.url).reason or "")
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", 1)
        assert "is a replica" in (asked(own.url).reason or "")
        client.replicaof("no", "one")
        client.config_set("requirepass", "s3cret")
        report = asked(own.url)
        assert "user and" in (report.reason or "")
        assert "password" in (report.reason or "")


def test_a_cluster_is_asked_server_by_server() -> None:
    with cluster() as servers:
        report = asked(servers.url)
        assert (report.reason, report.servers) == (None, 3)
        port = servers.nodes[0].port
        single = asked(f"redis://127.0.0.1:{port}")
        assert "write redis+cluster:// in BUL_REDIS_URL" in (single.reason or "")
        client: Any = Client(port=port)
        client.execute_command(*"ACL SETUSER bul on >x ~* &* +@all -cluster|slots".split())
        url = f"redis+cluster://bul:x@127.0.0.1:{port}"
        assert "+cluster|slots" in (asked(url).reason or "")
        for node in servers.nodes:
            Client(port=node.port).execute_command(  # type: ignore[no-untyped-call]
                *"ACL SETUSER bul on >x ~* &* +@all".split()
            )
        assert asked(url).reason is None
        last: Any = Client(port=servers.nodes[2].port)
        last.execute_command(*"ACL SETUSER bul -xadd".split())
        assert "lacks +xadd" in (asked(url).reason or "")
        servers.nodes[1].stop()
        assert "cannot be reached" in (asked(servers.url).reason or "")


def test_one_that_is_too_old_is_to_be_upgraded(
    server: Redis, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_probe, "OLDEST", (99, 0))
    assert "streams need 99.0 or newer: upgrade it" in (asked(server.url).reason or "")


def test_one_server_is_no_cluster(server: Redis, client: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with redis("--port", str(port)):
        report = asked(f"redis+cluster://127.0.0.1:{port}")
        assert "is no cluster; write redis:// in BUL_REDIS_URL" in (report.reason or "")


# ---- the command --------------------------------------------------------------------------------


def test_doctor_asks_both_and_fails_where_one_is_unfit(server: Redis, tmp_path: Path) -> None:
    settings = replace(Settings(), data_dir=tmp_path, redis_url=Secret(server.url))
    report: Any = doctor(settings)
    assert report["redis"]["reason"] is None
    assert "kv_redis" not in report
    away = replace(settings, kv_redis_url=Secret("unix://u:s3cret@/nowhere.sock"))
    report = doctor(away)
    (problem,) = report["problems"]
    assert problem.startswith("kv_redis: unix:///nowhere.sock cannot be reached")
    assert "BUL_KV_REDIS_URL" in problem
    assert "s3cret" not in json.dumps(report, default=str)
