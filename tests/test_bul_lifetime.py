"""How tasks end other than well, and how they outlive their process, their model and their database."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Faulty, Scripted, running, until
from test_bul_service import asked, finished, submit

from blatam_kv.bul import recorder, tasks, writers
from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.ledger import AlreadyFinished, Overloaded
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import StorageUnavailable, open_storage
from blatam_kv.bul.tasks import Task, UnknownBatch, UnknownTask
from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.endpoint import EndpointRefused


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def gated(model: Scripted) -> Scripted:
    """A model that waits in the middle of its first answer."""
    model.gate = threading.Event()
    return model


@pytest.fixture
def service(model: Scripted) -> Iterator[Service]:
    with running(model, max_concurrent_tasks=1) as service:
        yield service


def _stopped(service: Service) -> bool:
    busy = service.writers._being_written()
    return any(isinstance(job, writers.Writing) and job.stop.is_set() for job in busy)


def counted(service: Service, name: str) -> float:
    text = service.metrics.expose()[0].decode()
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(name)]
    return sum(map(float, values))


# Retries.


def test_what_fails_for_a_while_is_tried_again(model: Scripted) -> None:
    model.fails = 2
    with running(model, retry_attempts=3, retry_delay=0.01) as service:
        done = finished(service, submit(service, "bread"))
        assert (done.status, done.tries) == ("completed", 3)
        assert model.calls == ["bread"] * 3
        assert counted(service, "bul_retries_total") == 2


def test_who_has_failed_often_enough_fails_and_is_not_cached(model: Scripted) -> None:
    model.fails = 3
    with running(model, retry_attempts=2, retry_delay=0.01) as service:
        failed = finished(service, submit(service, "bread"))
        assert (failed.status, failed.error, failed.tries) == ("failed", "broke off", 3)
        assert len(service.pipeline.cache) == 0
        assert finished(service, submit(service, "bread")).status == "completed"


def test_what_will_never_succeed_is_not_tried_again(model: Scripted) -> None:
    model.error = EndpointRefused("wrong key", status=401)
    with running(model, retry_attempts=3, retry_delay=0.01) as service:
        failed = finished(service, submit(service, "bread"))
        assert (failed.error, failed.tries) == ("wrong key", 1)


def test_a_pause_before_a_retry_holds_up_nobody_else(model: Scripted) -> None:
    model.fails = 1
    with running(model, retry_attempts=1, retry_delay=1e6, max_concurrent_tasks=1) as service:
        first = submit(service, "fails")
        until(lambda: counted(service, "bul_retries_total") == 1)
        assert finished(service, submit(service, "other")).status == "completed"
        again = service.task(first.id)
        assert (again.status, again.progress) == ("queued", 0.0)
        assert service.ledger.position(again) is None


def test_an_answer_that_takes_too_long_is_ended(gated: Scripted) -> None:
    with running(gated, task_timeout=0.01, retry_attempts=3) as service:
        task = submit(service, "bread")
        until(lambda: _stopped(service))
        assert gated.gate is not None
        gated.gate.set()
        failed = finished(service, task)
        assert failed.error == "was not written within 0.01 s; BUL_TASK_TIMEOUT allows more"
        assert len(service.pipeline.cache) == 0


# Cancellation and deadlines.


def test_a_waiting_task_is_cancelled_and_never_written(service: Service, gated: Scripted) -> None:
    first = submit(service, "first")
    assert gated.writing.wait(30)
    waiting = submit(service, "waiting")
    assert service.ledger.position(waiting) == 1
    ended = service.cancel(waiting.id)
    assert (ended.status, ended.error) == ("cancelled", "was cancelled")
    assert service.cancel(waiting.id).status == "cancelled"
    assert sum(service.queue.depths().values()) == 0
    assert gated.gate is not None
    gated.gate.set()
    finished(service, first)
    assert gated.calls == ["first"]
    assert service.reports.stats()["cancelled_tasks"] == 1


def test_a_task_being_written_is_cancelled_and_its_writing_stops(
    service: Service, gated: Scripted
) -> None:
    task = submit(service, "bread")
    assert gated.writing.wait(30)
    assert service.cancel(task.id).status == "cancelled"
    # Asked for again before the writing has noticed: that is a new one, and it is written.
    again = submit(service, "bread")
    assert again.cache == "miss"
    assert gated.gate is not None
    gated.gate.set()
    assert finished(service, again).status == "completed"
    assert service.task(task.id).status == "cancelled"


def test_who_shares_an_answer_keeps_it_when_another_cancels(
    service: Service, gated: Scripted
) -> None:
    leaves, stays = submit(service, "bread"), submit(service, "bread")
    service.cancel(leaves.id)
    assert gated.gate is not None
    gated.gate.set()
    assert finished(service, stays).status == "completed"
    assert service.task(leaves.id).status == "cancelled"
    assert gated.calls == ["bread"]


def test_a_finished_task_cannot_be_cancelled(service: Service) -> None:
    done = finished(service, submit(service, "bread"))
    with pytest.raises(AlreadyFinished, match="is completed; it cannot be cancelled"):
        service.cancel(done.id)
    with pytest.raises(UnknownTask):
        service.cancel("0" * 32)


def test_what_is_not_written_before_its_deadline_fails(service: Service, gated: Scripted) -> None:
    first = submit(service, "first")
    assert gated.writing.wait(30)
    joined = submit(service, "first", deadline_seconds=0.01)
    alone = submit(service, "alone", deadline_seconds=0.01)
    hasty = submit(service, "shared", deadline_seconds=0.01)
    patient = submit(service, "shared")
    for task in (joined, alone, hasty):
        assert finished(service, task).error == "was not written before its deadline"
    assert gated.gate is not None
    gated.gate.set()
    assert [finished(service, task).status for task in (first, patient)] == ["completed"] * 2
    assert gated.calls == ["first", "shared"]


def test_who_joins_what_has_just_expired_is_written_all_the_same(
    model: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "TICK_SECONDS", 1e6)  # the test looks at the clock itself
    with running(model, continuous_mode=False) as service:
        late = submit(service, "bread", deadline_seconds=0.01)
        until(lambda: service.ledger.position(late) is None)
        patient = submit(service, "bread", priority=2)
        assert patient.cache == "collapsed"
        service.ledger.tick()
        assert service.task(late.id).error == "was not written before its deadline"
        assert service.ledger.position(patient) == 1
        service.go_on()
        assert finished(service, patient).status == "completed"


def test_tenants_take_turns_however_much_one_of_them_asks(
    service: Service, gated: Scripted
) -> None:
    submit(service, "first")
    assert gated.writing.wait(30)
    request = asked("theirs")
    other = Caller(tenant="other", key_id="k", scopes=frozenset(), salt=bytes(range(32)))
    tasks = [submit(service, f"ours {n}") for n in range(4)]
    tasks.append(service.enqueue(service.place(request, other), request))
    assert gated.gate is not None
    gated.gate.set()
    for task in tasks:
        finished(service, task)
    assert gated.calls.index("theirs") == 2
    assert counted(service, "bul_queue_wait_seconds_count") == 6


def test_who_joins_with_more_urgency_lifts_the_writing(service: Service, gated: Scripted) -> None:
    first = submit(service, "first")
    assert gated.writing.wait(30)
    tasks = [submit(service, "calm", priority=4), submit(service, "normal", priority=2)]
    tasks.append(submit(service, "calm", priority=0))
    assert gated.gate is not None
    gated.gate.set()
    for task in (first, *tasks):
        finished(service, task)
    assert gated.calls == ["first", "calm", "normal"]


# Position, pause, batches.


def test_position_and_time_left_are_told(service: Service, gated: Scripted) -> None:
    submit(service, "first")
    assert gated.writing.wait(30)
    waiting = [submit(service, f"q{n}") for n in range(3)]
    assert [service.ledger.position(task) for task in waiting] == [1, 2, 3]
    estimates = [
        service.writers.seconds_left(task.progress, service.ledger.position(task))
        for task in waiting
    ]
    assert estimates == sorted(estimates)
    assert estimates[0] > 0


def test_a_pause_writes_nothing_and_answers_hits(service: Service, model: Scripted) -> None:
    finished(service, submit(service, "bread"))
    service.pause()
    waiting = submit(service, "cake")
    assert submit(service, "bread").cache == "hit"
    assert service.reports.processor()["status"] == "paused"
    assert service.reports.processor()["queue_depth"] == 1
    service.go_on()
    assert finished(service, waiting).status == "completed"
    assert service.reports.processor()["status"] == "running"


def test_without_continuous_mode_writing_begins_when_told(model: Scripted) -> None:
    with running(model, continuous_mode=False) as service:
        task = submit(service, "bread")
        assert service.reports.processor()["status"] == "paused"
        service.go_on()
        assert finished(service, task).status == "completed"


def test_a_batch_is_hits_misses_and_shared_answers_in_its_order(
    service: Service, model: Scripted
) -> None:
    finished(service, submit(service, "cached"))
    queries = ["new", "cached", "new", "other"]
    batch, tasks = service.batches.ask([asked(query) for query in queries])
    assert [task.cache for task in tasks] == ["miss", "hit", "collapsed", "miss"]
    done = [finished(service, task) for task in tasks]
    assert {task.status for task in done} == {"completed"}
    rows = service.batches.rows(batch)
    assert [(row.id, row.status) for row in rows] == [(task.id, task.status) for task in done]
    assert sorted(model.calls) == ["cached", "new", "other"]
    with pytest.raises(UnknownBatch):
        service.batches.rows(batch, tenant="other")


def test_a_batch_that_does_not_fit_leaves_nothing(gated: Scripted) -> None:
    with running(gated, max_queued_tasks=3, max_concurrent_tasks=1) as service:
        submit(service, "first")
        assert gated.writing.wait(30)
        with pytest.raises(Overloaded, match="3 documents are waiting"):
            service.batches.ask([asked(f"q{n}") for n in range(4)])
        assert sum(service.queue.depths().values()) == 0
        assert service.archive.tasks(tenant="local").total == 1
        assert len(service.batches.ask([asked(f"q{n}") for n in range(3)])[1]) == 3


def test_after_much_work_nothing_is_left_behind(
    model: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "MAX_RECENT", 20)
    options: dict[str, Any] = {"retry_attempts": 1, "retry_delay": 0.001, "max_kept_tasks": 30}
    with running(model, **options) as service, caplog.at_level(logging.CRITICAL):
        for n in range(120):
            model.fails = n % 3
            begun = [submit(service, f"q{n}", deadline_seconds=3600), submit(service, f"q{n}")]
            if n % 5 == 0:
                with contextlib.suppress(AlreadyFinished):
                    service.cancel(begun[0].id)
            for task in begun:
                finished(service, task)
            for _ in range(10):
                submit(service, "q0")
        until(lambda: service.tasks.unsaved_count == 0)
        service.archive.retain(newest=30, days=1)
        service.clear()
        ledger, queue = service.ledger, service.queue
        until(lambda: not service.writers.busy)
        held = (ledger._writings, ledger._writing_of, service.tasks._unfinished, queue._by_tenant)
        assert [len(each) for each in held] == [0] * 4
        assert not any(queue._levels)
        assert len(queue._due) <= 64 + 8 * 2 + 1  # two wait at a time
        assert len(ledger._deadlines) <= 90
        assert len(service.tasks._recent) == 20
        assert service.archive.tasks(tenant="local").total == 30
        assert service.archive.documents(tenant="local").total <= 30


# Restarts.


def test_what_was_unfinished_goes_on_after_a_restart(gated: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with running(gated, max_concurrent_tasks=1, archive=open_storage(url)) as service:
        writing = submit(service, "writing", format="html", priority=0)
        joined = submit(service, "writing")
        waiting = submit(service, "waiting", seed=7, business_area="legal")
        assert gated.writing.wait(30)
        closer = threading.Thread(target=service.close, kwargs={"seconds": 0.0})
        closer.start()
        until(lambda: _stopped(service))
        with pytest.raises(Overloaded, match="stopping"):
            submit(service, "late")
        assert gated.gate is not None
        gated.gate.set()
        closer.join()
    model = Scripted()
    with running(model, archive=open_storage(url)) as service:
        done = [finished(service, service.task(task.id)) for task in (writing, joined, waiting)]
        assert [task.status for task in done] == ["completed"] * 3
        assert [(task.format, task.priority) for task in done[:2]] == [("html", 0), ("markdown", 1)]
        assert sorted(model.calls) == ["waiting", "writing"]
        assert model.samplings[model.calls.index("waiting")].seed == 7
        assert done[2].brief.business_area == "legal"
        assert submit(service, "writing").cache == "hit"
    with running(Scripted(), archive=open_storage(url)) as service:
        assert service.tasks.unfinished == 0
        assert service.task(writing.id).answer == done[0].answer


def test_a_stop_lets_what_is_being_written_finish(gated: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with running(gated, max_concurrent_tasks=1, archive=open_storage(url)) as service:
        writing, waiting = submit(service, "writing"), submit(service, "waiting")
        assert gated.writing.wait(30)
        closer = threading.Thread(target=service.close, kwargs={"seconds": 60.0})
        closer.start()
        until(lambda: service.queue.closed)
        assert gated.gate is not None
        gated.gate.set()
        closer.join()
        assert not any(thread.name.startswith("bul-") for thread in threading.enumerate())
    archive = open_storage(url)
    states = {task.id: task.status for task in archive.tasks(tenant="local").items}
    assert states == {writing.id: "completed", waiting.id: "queued"}
    archive.close()


def test_each_tenant_resumes_under_its_own_salt(gated: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    callers = [
        Caller(tenant=name, key_id="k", scopes=frozenset(), salt=name.encode() * 16)
        for name in ("aa", "bb")
    ]
    request = asked("bread")
    with running(gated, continuous_mode=False, archive=open_storage(url)) as service:
        tasks = [service.enqueue(service.place(request, each), request) for each in callers]
    from blatam_kv.config import Settings

    salts = {caller.tenant: caller.salt for caller in callers}
    service = Service(
        Scripted(),
        Settings(cache_persistence=False),
        version="9",
        archive=open_storage(url),
        salt_of=salts.__getitem__,
    )
    done = [finished(service, task) for task in tasks]
    assert done[0].answer is not done[1].answer
    for caller in callers:
        hit = service.answer_from_cache(service.place(request, caller), request)
        assert hit is not None
    assert service.answer_from_cache(service.place(request, ITSELF), request) is None
    service.close()


def test_a_task_that_cannot_be_resumed_says_why(gated: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with running(gated, continuous_mode=False, archive=open_storage(url)) as service:
        task = submit(service, "word " * 100)
    smaller = Scripted()
    smaller.context_tokens = 60
    with running(smaller, archive=open_storage(url)) as service:
        failed = service.task(task.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.startswith("could not be resumed: takes")


# The database.


def test_a_miss_has_its_row_before_it_is_answered(service: Service, gated: Scripted) -> None:
    task = submit(service, "bread")
    found = service.archive.task(task.id, tenant="local")
    assert found is not None
    assert (found.status, found.request) == ("queued", task.request)


def test_a_hit_touches_no_database_and_has_its_row_a_little_later(model: Scripted) -> None:
    archive = Faulty()
    with running(model, archive=archive) as service:
        written = finished(service, submit(service, "bread"))
        service.document(written, "html")  # its tenant's letterhead is known from now on
        archive.calls.clear()
        archive.broken = True
        hits = [submit(service, "bread", format="html") for _ in range(50)]
        assert {hit.cache for hit in hits} == {"hit"}
        assert service.document(service.task(hits[-1].id)).format == "html"
        archive.broken = False
        until(lambda: service.tasks.unsaved_count == 0)
        assert archive.archive.tasks(tenant="local").total == 51
        assert archive.archive.documents(tenant="local").total == 1
        assert set(archive.calls) == {"save"}


def test_hits_are_recorded_when_the_service_stops(model: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    with running(model, archive=open_storage(url)) as service:
        finished(service, submit(service, "bread"))
        hits = [submit(service, "bread") for _ in range(2500)]
    archive = open_storage(url)
    assert archive.tasks(tenant="local").total == 2501
    assert archive.task(hits[-1].id, tenant="local") is not None
    archive.close()


def test_without_a_database_misses_are_refused_and_hits_go_on(
    model: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    archive = Faulty()
    with running(model, archive=archive) as service, caplog.at_level(logging.CRITICAL):
        finished(service, submit(service, "bread"))
        archive.broken = True
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                submit(service, "cake")
        with pytest.raises(StorageUnavailable):
            service.batches.ask([asked("cake"), asked("bread")])
        with pytest.raises(StorageUnavailable):
            service.task("0" * 32)
        assert submit(service, "bread").cache == "hit"
        assert (service.tasks.unfinished, sum(service.queue.depths().values())) == (0, 0)
        assert counted(service, "bul_storage_errors_total") >= 5
        assert model.calls == ["bread"]
        archive.broken = False
        assert finished(service, submit(service, "cake")).status == "completed"


def test_an_answer_written_while_the_database_is_away_is_kept_and_recorded_later(
    gated: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    archive = Faulty()
    with running(gated, archive=archive) as service, caplog.at_level(logging.CRITICAL):
        task = submit(service, "bread")
        assert gated.writing.wait(30)
        archive.broken = True
        assert gated.gate is not None
        gated.gate.set()
        done = finished(service, task)
        assert done.status == "completed"
        assert service.document(done).content
        archive.broken = False
        until(lambda: service.tasks.unsaved_count == 0)
        found = archive.archive.task(task.id, tenant="local")
        assert found is not None
        assert found.answer == done.answer


def test_rows_that_wait_for_a_database_are_bounded(
    model: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "MAX_UNSAVED", 10)
    archive = Faulty()
    with running(model, archive=archive) as service, caplog.at_level(logging.CRITICAL):
        finished(service, submit(service, "bread"))
        archive.broken = True
        hits = [submit(service, "bread") for _ in range(25)]
        assert service.tasks.unsaved_count == 10
        assert service.tasks.dropped == 15
        assert service.task(hits[-1].id) is hits[-1]
        archive.broken = False


def test_only_the_newest_finished_tasks_are_kept(
    model: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETENTION_SECONDS", 0.0)
    monkeypatch.setattr(tasks, "MAX_RECENT", 1)
    with running(model, max_kept_tasks=3) as service:
        done = [finished(service, submit(service, f"q{n}")) for n in range(5)]
        until(lambda: service.archive.tasks(tenant="local").total == 3)
        for old in done[:2]:
            with pytest.raises(UnknownTask, match="what is old is not kept"):
                service.task(old.id)
        assert service.task(done[2].id).status == "completed"


def test_a_task_read_from_the_database_has_its_document(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MAX_RECENT", 0)
    done = finished(service, submit(service, "bread"))
    again = service.task(done.id)
    assert again is not done
    for format in ("markdown", "html", "txt", "json"):
        assert service.document(again, format) == service.document(done, format)


def described(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in ("status", "error", "tries")}


def test_a_failure_survives_a_restart(model: Scripted, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    model.error = ModelError("no")
    with running(model, archive=open_storage(url)) as service:
        failed = finished(service, submit(service, "bread"))
    with running(Scripted(), archive=open_storage(url)) as service:
        assert described(service.task(failed.id)) == described(failed)
