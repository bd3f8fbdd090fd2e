"""Tasks and writers: who waits, who joins, what happens when things go wrong or end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from bul_fakes import Scripted, running

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.ledger import Overloaded
from blatam_kv.bul.request import QueryRequest, parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.tasks import Task, UnknownTask
from blatam_kv.errors import InvalidRequest, ModelError


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def service(model: Scripted) -> Iterator[Service]:
    with running(model, max_concurrent_tasks=1) as service:
        yield service


def asked(query: str, **fields: Any) -> QueryRequest:
    return parse_request({"query": query, **fields})


def submit(service: Service, query: str, **fields: Any) -> Task:
    """What ``POST /query`` does."""
    request = asked(query, **fields)
    order = service.place(request)
    return service.answer_from_cache(order, request) or service.enqueue(order, request)


def finished(service: Service, task: Task) -> Task:
    while not task.is_finished:
        task = service.task(task.id, tenant=task.tenant)
    return task


def test_a_miss_is_queued_then_completed_and_the_second_time_is_a_hit(
    service: Service, model: Scripted
) -> None:
    first = submit(service, "bread")
    assert (first.status, first.cache, first.progress) == ("queued", "miss", 0.0)
    done = finished(service, first)
    assert (done.status, done.progress, done.stored) == ("completed", 1.0, True)
    second = submit(service, "bread")
    assert (second.status, second.cache) == ("completed", "hit")
    assert second.answer is done.answer
    assert model.calls == ["bread"]


def test_a_hit_renders_the_same_bytes_as_the_miss_in_every_format(service: Service) -> None:
    miss = finished(service, submit(service, "bread"))
    hit = submit(service, "bread", format="html")
    for format in ("markdown", "html", "txt", "json"):
        assert service.document(miss, format) == service.document(hit, format)
    assert service.document(hit).format == "html"


def test_a_thousand_identical_misses_run_the_model_once(service: Service, model: Scripted) -> None:
    model.gate = threading.Event()
    barrier = threading.Barrier(4)
    tasks: list[Task] = []

    def ask() -> None:
        barrier.wait()
        for _ in range(250):
            tasks.append(submit(service, "bread"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.gate.set()
    done = [finished(service, task) for task in tasks]
    assert {task.status for task in done} == {"completed"}
    assert model.calls == ["bread"]
    assert sum(task.cache == "miss" for task in done) == 1
    assert sum(task.cache == "collapsed" for task in done) == 999
    assert len({id(task.answer) for task in done}) == 1
    cache = service.reports.cache_stats()
    assert (cache["total_requests"], cache["collapsed_requests"]) == (1000, 999)
    assert (cache["hit_rate"], cache["miss_rate"]) == (0.0, 1.0)


def test_the_urgent_are_written_first(service: Service, model: Scripted) -> None:
    model.gate = threading.Event()
    tasks = [submit(service, "first")]
    assert model.writing.wait(30)
    tasks += [submit(service, f"p{priority}", priority=priority) for priority in (4, 2, 0, 2)]
    tasks.append(submit(service, "second p2", priority=2))
    model.gate.set()
    for task in tasks:
        finished(service, task)
    assert model.calls == ["first", "p0", "p2", "second p2", "p4"]


def test_a_full_queue_refuses_and_says_when_to_come_back(model: Scripted) -> None:
    model.gate = threading.Event()
    with running(model, max_concurrent_tasks=1, max_queued_tasks=2) as service:
        tasks = [submit(service, "writing")]
        assert model.writing.wait(30)
        tasks += [submit(service, f"waiting {n}") for n in range(2)]
        with pytest.raises(Overloaded, match="2 documents are waiting") as caught:
            submit(service, "too much")
        assert caught.value.retry_after >= 1
        tasks.append(submit(service, "waiting 0"))  # joins, so it needs no place
        assert tasks[-1].cache == "collapsed"
        assert service.queue.depths()[1] == 2
        model.gate.set()
        assert {finished(service, task).status for task in tasks} == {"completed"}
        assert submit(service, "too much").status == "queued"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("weights are gone"), "weights are gone"),
        (ZeroDivisionError("secret detail"), "the model failed (ZeroDivisionError); try again"),
    ],
)
def test_a_failing_model_fails_the_task_caches_nothing_and_works_next_time(
    service: Service,
    model: Scripted,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    model.error = error
    with caplog.at_level(logging.CRITICAL):
        failed = finished(service, submit(service, "bread"))
    assert (failed.status, failed.error, failed.answer) == ("failed", told, None)
    with pytest.raises(InvalidRequest, match="has no document"):
        service.document(failed)
    model.error = None
    again = submit(service, "bread")
    assert again.cache == "miss"
    assert finished(service, again).status == "completed"


def test_a_failure_reaches_everyone_who_joined(service: Service, model: Scripted) -> None:
    model.gate = threading.Event()
    model.error = ModelError("no")
    tasks = [submit(service, "bread") for _ in range(3)]
    model.gate.set()
    assert [finished(service, task).error for task in tasks] == ["no", "no", "no"]


def test_a_query_too_long_for_the_model_is_refused_at_once(
    service: Service, model: Scripted
) -> None:
    model.context_tokens = 50
    with pytest.raises(InvalidRequest, match="shorten it"):
        submit(service, "word " * 100)
    assert service.reports.stats()["total_tasks"] == 0


def test_unfinished_tasks_are_never_too_many(model: Scripted) -> None:
    with running(model, max_unfinished_tasks=3, max_concurrent_tasks=1) as service:
        finished(service, submit(service, "cached"))
        model.gate = threading.Event()
        tasks = [submit(service, query) for query in ("a", "a", "b")]
        for query in ("a", "c"):
            with pytest.raises(Overloaded, match="3 tasks are unfinished already"):
                submit(service, query)
        hits = [submit(service, "cached") for _ in range(9)]
        assert {task.cache for task in hits} == {"hit"}
        assert service.tasks.unfinished == 3
        model.gate.set()
        assert {finished(service, task).status for task in tasks} == {"completed"}
        assert finished(service, submit(service, "c")).status == "completed"


def test_what_is_refused_leaves_no_place_taken(model: Scripted) -> None:
    with running(model, max_unfinished_tasks=1, max_concurrent_tasks=1) as service:
        model.gate = threading.Event()
        first = submit(service, "first")
        assert model.writing.wait(30)
        for n in range(5):
            with pytest.raises(Overloaded):
                submit(service, f"too much {n}")
        assert sum(service.queue.depths().values()) == 0
        assert service.archive.tasks(tenant="local").total == 1
        model.gate.set()
        assert finished(service, first).status == "completed"


def test_clear_forgets_answers_but_not_tasks(service: Service, model: Scripted) -> None:
    done = finished(service, submit(service, "bread"))
    assert service.clear() == 1
    assert service.document(service.task(done.id)).content
    assert submit(service, "bread").cache == "miss"


def test_what_expired_is_a_miss(model: Scripted) -> None:
    with running(model, cache_ttl=1e-6) as service:
        finished(service, submit(service, "bread"))
        assert submit(service, "bread").cache == "miss"


def test_totals_add_up(service: Service, model: Scripted) -> None:
    finished(service, submit(service, "bread", business_area="sales"))
    for _ in range(3):
        submit(service, "bread", business_area="sales")
    model.error = ModelError("no")
    finished(service, submit(service, "cake", business_area="legal"))
    stats, cache = service.reports.stats(), service.reports.cache_stats()
    assert (stats["total_tasks"], stats["completed_tasks"], stats["failed_tasks"]) == (5, 4, 1)
    assert stats["business_area_distribution"] == {"legal": 1, "sales": 4}
    assert (cache["total_requests"], cache["cached_requests"]) == (5, 3)
    assert cache["hit_rate"] == stats["cache_hit_rate"] == 0.6
    assert cache["miss_rate"] == 0.4
    assert cache["entries"] == 1
    latencies = [cache[f"p{q}_latency_ms"] for q in (50, 95, 99)]
    assert latencies == sorted(latencies)  # type: ignore[type-var]  # numbers, seen as objects
    assert service.reports.cache_health()["status"] == "healthy"


def test_two_tenants_share_neither_answers_nor_writings_nor_tasks(
    service: Service, model: Scripted
) -> None:
    model.gate = threading.Event()
    request = asked("bread")
    other = replace(ITSELF, tenant="other", salt=bytes(range(32)))
    ours = service.enqueue(service.place(request), request)
    theirs = service.enqueue(service.place(request, other), request)
    assert (ours.cache, theirs.cache) == ("miss", "miss")
    model.gate.set()
    finished(service, ours)
    finished(service, theirs)
    assert model.calls == ["bread", "bread"]
    assert model.salts == [ITSELF.salt, other.salt]
    for task_id, tenant in ((theirs.id, "local"), (ours.id, "other")):
        with pytest.raises(UnknownTask):
            service.task(task_id, tenant=tenant)
        with pytest.raises(UnknownTask):
            service.cancel(task_id, tenant=tenant)
