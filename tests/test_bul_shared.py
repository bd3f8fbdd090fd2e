"""Nodes that share a Redis: one writes, all know; and each goes on alone where Redis does not."""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, running
from redis import Redis as Client
from redis_server import Redis, redis
from server_browser import browsing
from test_server_process import serve, serving

from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.chat import ChatRequest, orders, parse
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.shared_limits import SharedLimiter
from blatam_kv.bul.service import Service
from blatam_kv.bul.shared import Shared
from blatam_kv.bul.tasks import Task
from blatam_kv.cli.remote import connect
from blatam_kv.config import Secret, Settings
from blatam_kv.errors import Unavailable
from blatam_kv.tiers.leases import Leases
from blatam_kv.tiers.notices import Notices
from blatam_kv.tiers.redis import RedisTier

QUERY = {"query": "Plan de negocio"}
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis() as running_server:
        yield running_server


@pytest.fixture(autouse=True)
def _empty(server: Redis) -> None:
    Client.from_url(server.url).flushall()


def tier(server: Redis) -> RedisTier:
    return RedisTier(server.url, timeout=10.0, mac_key=b"m" * 32)


@contextmanager
def nodes(server: Redis, count: int, **settings: Any) -> Iterator[list[tuple[Service, Scripted]]]:
    """So many services beside one another, each with a model of its own."""
    with ExitStack() as opened:
        made = []
        for _ in range(count):
            model = Scripted()
            service = opened.enter_context(running(model, redis=tier(server), **settings))
            made.append((service, model))
        for service, _ in made:
            assert service.shared is not None
            assert service.shared._notices.listening.wait(PATIENCE_SECONDS)
        yield made


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def asked(service: Service, caller: Caller = ITSELF, **fields: Any) -> Task:
    """As the HTTP face asks: the cache first, then the rest."""
    request = parse_request(QUERY | fields)
    order = service.place(request, caller)
    return service.answer_from_cache(order, request) or service.enqueue(order, request)


def finished(service: Service, task: Task) -> Task:
    eventually(lambda: service.task(task.id, tenant=task.tenant).is_finished)
    return service.task(task.id, tenant=task.tenant)


# ---- one writes, all know -----------------------------------------------------------------------


def test_what_one_node_wrote_is_a_hit_on_another(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        written = finished(one, asked(one))
        task = asked(two)
        assert (task.cache, task.status) == ("hit", "completed")
        assert task.answer == written.answer
        assert model.calls == []
        assert asked(two).cache == "hit"  # and from then on from its own memory
        text = two.metrics.expose()[0].decode()
        assert 'kv_cache_requests_total{status="hit",tier="redis"} 1.0' in text
        assert 'kv_cache_requests_total{status="hit",tier="memory"} 1.0' in text
        assert 'kv_tier_requests_total{result="hit",store="answers",tier="redis"} 1.0' in text
        assert 'kv_tier_circuit_open{store="answers",tier="redis"} 0.0' in text
        name = "kv_tier_operation_duration_seconds_count"
        assert f'{name}{{operation="get",store="answers",tier="redis"}} 1.0' in text
        assert two.reports.readiness()["redis"] == "ok"


def test_a_batch_asks_for_all_at_once(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        for number in range(3):
            finished(one, asked(one, query=f"plan {number}"))
        requests = [parse_request({"query": f"plan {number}"}) for number in range(5)]
        client = Client.from_url(server.url)
        client.config_resetstat()
        _, tasks = two.batches.ask(requests)
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 1
        assert [task.cache for task in tasks] == ["hit", "hit", "hit", "miss", "miss"]
        for task in tasks:
            assert finished(two, task).status == "completed"
        assert len(model.calls) == 2


def test_of_all_who_miss_on_all_nodes_one_model_is_called_once(server: Redis) -> None:
    with nodes(server, 3) as made:
        gate = threading.Event()
        for _, model in made:
            model.gate = gate
        tasks: list[tuple[Service, Task]] = []

        def ask(service: Service) -> None:
            tasks.extend((service, asked(service)) for _ in range(100))

        threads = [threading.Thread(target=ask, args=(service,)) for service, _ in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: any(model.writing.is_set() for _, model in made))
        gate.set()
        ended = [finished(service, task) for service, task in tasks]
        assert len(ended) == 300
        assert {task.status for task in ended} == {"completed"}
        assert len({task.answer.id for task in ended if task.answer is not None}) == 1
        assert sum(len(model.calls) for _, model in made) == 1


def test_a_hit_asks_redis_nothing(server: Redis) -> None:
    client = Client.from_url(server.url)

    def calls() -> dict[str, int]:
        """What was asked so far, but for this question, and that of who listens: whether it is there."""
        told = client.info("commandstats")
        others = told.keys() - {"cmdstat_info", "cmdstat_ping"}
        return {name: told[name]["calls"] for name in others}

    with nodes(server, 1) as [(service, _)]:
        finished(service, asked(service))
        eventually(lambda: not client.keys("blatam-kv:lease:*"))
        before = calls()
        assert {asked(service).cache for _ in range(100)} == {"hit"}
        assert calls() == before


# ---- nodes that fail ----------------------------------------------------------------------------


def test_a_node_that_dies_holds_up_the_others_for_its_lease_only(server: Redis) -> None:
    with nodes(server, 1) as [(service, model)]:
        order = service.place(parse_request(QUERY))
        lease = f"blatam-kv:lease:{order.digest.hex()}"
        client = Client.from_url(server.url)
        client.set(lease, "of a dead node", px=3_600_000)
        task = asked(service)
        eventually(lambda: service.task(task.id).status == "processing")
        assert model.calls == []
        client.pexpire(lease, 1)
        assert finished(service, task).status == "completed"
        assert len(model.calls) == 1


def test_a_failure_is_its_nodes_alone_and_the_next_one_takes_its_turn(server: Redis) -> None:
    with nodes(server, 2) as [(one, bad), (two, good)]:
        bad.gate, bad.error = threading.Event(), ValueError("a bug")
        first = asked(one)
        assert bad.writing.wait(PATIENCE_SECONDS)
        second = asked(two)
        eventually(lambda: two.task(second.id).status == "processing")
        assert good.calls == []
        bad.gate.set()
        assert finished(one, first).status == "failed"
        assert finished(two, second).status == "completed"
        assert len(good.calls) == 1


def test_a_task_that_waits_for_another_node_can_be_cancelled(server: Redis) -> None:
    with nodes(server, 2) as [(one, slow), (two, model)]:
        slow.gate = threading.Event()
        asked(one)
        assert slow.writing.wait(PATIENCE_SECONDS)
        task = asked(two)
        eventually(lambda: two.task(task.id).status == "processing")
        two.cancel(task.id)
        eventually(lambda: two.writers.busy == 0)
        assert model.calls == []
        slow.gate.set()


# ---- Redis that fails ---------------------------------------------------------------------------


def test_without_redis_each_node_works_as_if_alone_and_says_so() -> None:
    with redis() as server, nodes(server, 2, retry_delay=0.01) as made:
        server.stop()
        for service, model in made:
            for number in range(3):
                task = asked(service, query=f"plan {number}")
                assert finished(service, task).status == "completed"
            assert len(model.calls) == 3
            assert asked(service, query="plan 0").cache == "hit"
            assert service.reports.readiness()["redis"] == "degraded"
            text = service.metrics.expose()[0].decode()
            assert 'kv_tier_failing{store="answers",tier="redis"} 1.0' in text


def test_redis_that_dies_while_a_node_waits_for_another_leaves_no_one_waiting() -> None:
    with redis() as server, nodes(server, 2) as [(one, slow), (two, model)]:
        slow.gate = threading.Event()
        asked(one)
        assert slow.writing.wait(PATIENCE_SECONDS)
        task = asked(two)
        eventually(lambda: two.task(task.id).status == "processing")
        server.stop()
        assert finished(two, task).status == "completed"
        assert len(model.calls) == 1
        slow.gate.set()


# ---- forgetting ---------------------------------------------------------------------------------


def test_a_clear_on_one_node_is_one_on_all(server: Redis) -> None:
    with nodes(server, 3) as made:
        for service, _ in made:
            finished(service, asked(service))
        assert made[0][0].clear() == 1
        for service, _ in made:
            eventually(lambda service=service: len(service.pipeline.cache) == 0)  # type: ignore[misc]
        assert asked(made[1][0]).cache == "miss"


def test_an_answer_dropped_on_one_node_is_dropped_on_all_and_no_other(server: Redis) -> None:
    with nodes(server, 3) as made:
        for service, _ in made:
            finished(service, asked(service))
            finished(service, asked(service, query="stays"))
        order = made[0][0].place(parse_request(QUERY))
        assert made[0][0].forget(order.key)
        for service, _ in made:
            eventually(lambda service=service: len(service.pipeline.cache) == 1)  # type: ignore[misc]
        assert asked(made[1][0], query="stays").cache == "hit"
        assert asked(made[1][0]).cache == "miss"


def test_an_answer_that_only_redis_has_is_dropped_there(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, _)]:
        finished(one, asked(one))
        order = two.place(parse_request(QUERY))
        one.pipeline.cache.clear()
        assert two.forget(order.key)
        assert not two.forget(order.key)
        assert asked(one).cache == "miss"


def test_a_clear_that_was_not_heard_is_made_up_for() -> None:
    heard = threading.Semaphore(0)
    with redis() as server:
        one = Shared(tier(server), ttl=None)
        two = Shared(tier(server), ttl=None, cleared=heard.release)
        assert two._notices.listening.wait(PATIENCE_SECONDS)
        client = Client.from_url(server.url)
        one._notices.tell = lambda kind, key=b"": None  # type: ignore[method-assign]  # lost
        one.clear()
        client.client_kill_filter(_type="pubsub")
        assert heard.acquire(timeout=PATIENCE_SECONDS)
        for shared in (one, two):
            shared.close()


# ---- tenants and time ---------------------------------------------------------------------------


def test_tenants_do_not_share_even_where_a_record_is_put_under_anothers_name(
    server: Redis,
) -> None:
    client = Client.from_url(server.url)
    with nodes(server, 2) as [(one, _), (two, model)]:
        mine = replace(ITSELF, tenant="one", salt=b"1" * 32)
        theirs = replace(ITSELF, tenant="two", salt=b"2" * 32)
        finished(one, asked(one, mine))
        task = asked(two, theirs)
        assert task.cache == "miss"
        assert finished(two, task).status == "completed"
        request = parse_request(QUERY)
        names = [f"blatam-kv:1:{two.place(request, who).digest.hex()}" for who in (mine, theirs)]
        assert client.exists(*names) == 2
        record = client.get(names[0])
        assert isinstance(record, bytes)
        client.set(names[1], record)
        two.pipeline.cache.clear()
        assert asked(two, theirs).cache != "hit"
        assert len(model.calls) >= 1


def test_a_digest_that_two_tenants_had_in_common_would_not_be_believed(server: Redis) -> None:
    with nodes(server, 1) as [(service, _)]:
        assert service.shared is not None
        answer = finished(service, asked(service)).answer
        assert answer is not None
        digest = service.place(parse_request(QUERY)).digest
        assert service.shared.fetch([(digest, ITSELF.salt)]) == [answer]
        assert service.shared.fetch([(digest, b"2" * 32)]) == [None]


def test_an_answer_lives_from_its_birth_wherever_it_is(server: Redis) -> None:
    with nodes(server, 2, cache_ttl=100.0) as [(one, _), (two, _)]:
        assert one.shared is not None
        answer = finished(one, asked(one)).answer
        assert answer is not None
        order = one.place(parse_request(QUERY))
        one.shared.keep(order.digest, order.salt, replace(answer, born=answer.born - 70))
        milliseconds = Client.from_url(server.url).pttl(f"blatam-kv:1:{order.digest.hex()}")
        assert 20_000 < milliseconds <= 30_000
        task = asked(two)
        assert task.cache == "hit"
        assert task.answer is not None
        left = two.pipeline.seconds_left(task.answer)
        assert left is not None
        assert 20 < left <= 30
        one.shared.keep(order.digest, order.salt, replace(answer, born=answer.born - 170))
        assert two.shared is not None
        assert two.shared.fetch([(order.digest, order.salt)]) == [None]


def test_an_answer_with_a_life_of_its_own_has_it_wherever_it_is(server: Redis) -> None:
    with nodes(server, 2, cache_ttl=1000.0) as [(one, _), (two, _)]:
        order = one.place(parse_request(QUERY))
        finished(one, asked(one, cache={"ttl": 50.0}))
        milliseconds = Client.from_url(server.url).pttl(f"blatam-kv:1:{order.digest.hex()}")
        assert 30_000 < milliseconds <= 50_000
        task = asked(two)
        assert task.cache == "hit"
        assert task.answer is not None
        left = two.pipeline.seconds_left(task.answer)
        assert left is not None
        assert 30 < left <= 50


# ---- wishes and callbacks -----------------------------------------------------------------------


def test_who_does_not_look_is_written_for_and_that_answer_is_everybodys(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        old = finished(one, asked(one)).answer
        new = finished(two, asked(two, cache={"no-cache": True})).answer
        assert len(model.calls) == 1
        one.pipeline.cache.clear()
        assert asked(one).answer == new != old


def test_an_answer_of_another_node_that_is_too_old_will_not_do(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        assert one.shared is not None
        answer = finished(one, asked(one)).answer
        assert answer is not None
        order = one.place(parse_request(QUERY))
        one.shared.keep(order.digest, order.salt, replace(answer, born=answer.born - 70))
        assert asked(two, cache={"s-maxage": 60.0}).cache == "miss"
        eventually(lambda: len(model.calls) == 1)
        assert asked(one, cache={"s-maxage": 90.0}).cache == "hit"


def test_who_stores_nothing_tells_nobody(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        finished(two, asked(two, cache={"no-store": True}))
        assert len(model.calls) == 1
        assert asked(one).cache == "miss"


def test_who_asks_for_a_callback_is_called_for_a_hit_of_another_node_too(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, _)]:
        finished(one, asked(one))
        task = asked(two, callback_url="https://example.org/done")
        assert task.cache == "hit"
        (told,) = two.archive.callbacks.due(now=time.time() + 1, limit=9)
        assert (told.task_id, told.url) == (task.id, "https://example.org/done")


# ---- conversations ------------------------------------------------------------------------------


def chat(service: Service, words: str) -> tuple[str, str]:
    """A conversation's answer, and how the cache knew it."""
    asked_for = parse({"messages": [{"role": "user", "content": words}]}, ChatRequest)
    (order,) = orders(asked_for, service.model, ITSELF)

    async def hear() -> tuple[str, str]:
        telling, how = await asyncio.to_thread(service.chats.ask, order)
        listener = telling.listener()
        try:
            return (await listener.wait()).text, how
        finally:
            listener.close()

    return asyncio.run(hear())


def test_a_conversation_answered_on_one_node_is_a_hit_on_another(server: Redis) -> None:
    with nodes(server, 2) as [(one, _), (two, model)]:
        text, how = chat(one, "Hola")
        assert how == "miss"
        assert chat(two, "Hola") == (text, "hit")
        assert model.calls == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversations_hit_in_redis_is_counted_as_one(server: Redis, stream: bool) -> None:
    with (
        browsing(Scripted(), redis=tier(server)) as one,
        browsing(Scripted(), redis=tier(server)) as two,
    ):
        question = {"messages": [{"role": "user", "content": "Hola"}], "stream": stream}
        for browser in (one, two, two):
            assert browser.post("/v1/chat/completions", json=question).status_code == 200
        text = two.service.metrics.expose()[0].decode()
        assert 'kv_cache_requests_total{status="hit",tier="redis"} 1.0' in text
        assert 'kv_cache_requests_total{status="hit",tier="memory"} 1.0' in text
        assert 'kv_cache_requests_total{status="miss",tier="none"} 0.0' in text


def test_the_same_conversation_on_two_nodes_at_once_is_written_once(server: Redis) -> None:
    with nodes(server, 2) as [(one, slow), (two, model)]:
        slow.gate = threading.Event()
        heard: list[str] = []
        threads = [threading.Thread(target=lambda: heard.append(chat(one, "Hola")[0]))]
        threads[0].start()
        assert slow.writing.wait(PATIENCE_SECONDS)
        threads.append(threading.Thread(target=lambda: heard.append(chat(two, "Hola")[0])))
        threads[1].start()
        eventually(lambda: two.writers.busy == 1)
        slow.gate.set()
        for thread in threads:
            thread.join()
        assert len(heard) == 2
        assert len(set(heard)) == 1
        assert model.calls == []


# ---- as processes ---------------------------------------------------------------------------------


def test_two_services_share_what_is_written_and_show_no_password(
    server: Redis, tmp_path: Path
) -> None:
    path = server.url.removeprefix("unix://")
    rights = "ACL SETUSER bul on >s3cret resetkeys ~blatam-kv:* resetchannels &blatam-kv:* +@all"
    client: Any = Client.from_url(server.url)  # untyped where commands are written out
    client.execute_command(*rights.split())
    secret = hashlib.sha256(b"of both").hexdigest()
    flags = ("--redis-url", f"unix://bul:s3cret@{path}")
    with ExitStack() as opened:
        processes, clients = [], []
        for _ in range(2):
            process, client = opened.enter_context(serving(*flags, BUL_HMAC_SECRET=secret))
            processes.append(process)
            settings = replace(Settings(), data_dir=tmp_path, hmac_secret=Secret(secret))
            clients.append(opened.enter_context(connect(client.url, settings)))
        text = clients[0].document(QUERY | {"max_length": 40})
        reply = clients[1].request("POST", "/query", QUERY | {"max_length": 40})
        assert "; hit" in reply.headers["Cache-Status"]
        assert clients[1].document(QUERY | {"max_length": 40}) == text
        assert clients[1].request("GET", "/readyz").json()["checks"]["redis"] == "ok"
        clients[0].request("POST", "/api/v1/kv-cache/clear")
        stats = "/api/v1/kv-cache/stats"
        eventually(lambda: clients[1].request("GET", stats).json()["entries"] == 0)
        for process in processes:
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0, errors
            assert "s3cret" not in output + errors


def test_a_redis_url_that_cannot_be_stops_the_service_and_is_not_shown() -> None:
    done = serve("--port", "0", "--redis-url", "http://:s3cret@h")
    assert done.returncode == 2
    assert "must look like redis://" in done.stderr
    assert "s3cret" not in done.stderr


# ---- leases and notices -------------------------------------------------------------------------


def test_a_lease_is_one_nodes_until_it_ends_it(server: Redis) -> None:
    one, two = Leases(tier(server)), Leases(tier(server))
    assert one.take(b"a")
    assert not two.take(b"a")
    assert two.take(b"b")
    two.end(b"a")  # which is not its own
    assert not two.take(b"a")
    one.end(b"a")
    one.end(b"a")
    assert two.take(b"a")
    for leases in (one, two):
        leases.close()
    assert not Client.from_url(server.url).keys("*")


def test_a_lease_is_renewed_for_as_long_as_its_holder_lives(server: Redis) -> None:
    client, name = Client.from_url(server.url), "blatam-kv:lease:" + b"a".hex()
    leases, other = Leases(tier(server), seconds=3.0), Leases(tier(server))
    assert leases.take(b"a")
    for _ in range(2):
        client.pexpire(name, 3_600_000)  # longer than its holder wants it: it is seen to be renewed
        eventually(lambda: 0 < client.pttl(name) <= 3000)
        assert not other.take(b"a")
    leases._stopped.set()  # as if it had died
    assert leases._keeper is not None
    leases._keeper.join()
    client.pexpire(name, 1)
    eventually(lambda: other.take(b"a"))
    leases.close()  # its own is over, and the other's stays
    assert not leases.take(b"a")
    other.close()


def test_renewing_tells_which_were_lost(server: Redis) -> None:
    leases = Leases(tier(server), seconds=60)
    assert leases.take(b"a")
    assert leases.take(b"b")
    Client.from_url(server.url).set("blatam-kv:lease:" + b"a".hex(), "another's")
    assert leases.renew() == 1
    leases.close()
    assert Client.from_url(server.url).keys("*") == [b"blatam-kv:lease:61"]


def test_notices_are_heard_by_the_others_and_again_after_a_restart() -> None:
    with redis() as server:
        heard: list[tuple[str, bytes]] = []
        missed = threading.Semaphore(0)
        quiet: dict[str, Any] = {"heard": lambda kind, key: None, "missed": lambda: None}
        one = Notices(tier(server), **quiet)
        two = Notices(
            tier(server), heard=lambda kind, key: heard.append((kind, key)), missed=missed.release
        )
        assert missed.acquire(timeout=PATIENCE_SECONDS)
        assert two.listening.wait(PATIENCE_SECONDS)
        two.tell("x", b"its own")
        one.tell("a", b"key")
        eventually(lambda: heard == [("a", b"key")])
        server.stop()
        one.tell("b")  # to nobody
        server.start()
        assert missed.acquire(timeout=PATIENCE_SECONDS)

        def tell() -> bool:
            one.tell("c")
            return ("c", b"") in heard

        eventually(tell)
        for notices in (one, two):
            notices.close()
        assert one._tier.stats().failures.get(Unavailable.UNREACHABLE, 0) >= 1


def test_the_rights_on_the_page_are_enough_and_no_more_than_that(server: Redis) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "DEPLOY.md").read_text()
    rights = re.findall(r"^ACL SETUSER bul .*$", page, re.MULTILINE)[0]
    client: Any = Client.from_url(server.url)
    client.execute_command(*rights.split())
    path = server.url.removeprefix("unix://")
    with ExitStack() as opened:
        made = []
        for _ in range(2):
            tier = RedisTier(f"unix://bul:PASSWORD@{path}", timeout=10.0)
            made.append(opened.enter_context(running(Scripted(), redis=tier)))
        for service in made:
            assert service.shared is not None
            assert service.shared._notices.listening.wait(PATIENCE_SECONDS)
        one, two = made
        finished(one, asked(one))
        assert asked(two).cache == "hit"
        _, tasks = one.batches.ask(
            [parse_request({"query": f"plan {number}"}) for number in range(3)]
        )
        for task in tasks:
            finished(one, task)
        two.clear()
        eventually(lambda: len(one.pipeline.cache) == 0)
        assert [service.reports.readiness()["redis"] for service in made] == ["ok", "ok"]
        assert all(not service.shared.stats().failures for service in made if service.shared)
        tier = RedisTier(f"unix://bul:PASSWORD@{path}", timeout=10.0)
        limiter = SharedLimiter(Limiter(10, 60.0), tier)
        assert limiter.take("a").allowed
        limiter.close()
        assert not tier.stats().failures
    assert [entry["object"] for entry in client.acl_log()] == []
