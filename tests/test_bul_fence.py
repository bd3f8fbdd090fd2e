"""A task's end is committed once: by the node that took it last, whoever else comes back and is done."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from bul_fakes import Scripted, asked_task, finished_task, running, until
from endpoint_fake import Connection, answer, endpoint
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from postgres_server import Postgres, postgres
from sqlalchemy import select, text
from test_bul_courier import KEY, OWN, delivering, receiving
from test_server_process import asked, serving

from blatam_kv.bul.courier import Courier
from blatam_kv.bul.outbound import Outbound
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import Callback, StorageUnavailable, open_storage
from blatam_kv.bul.storage.archive import Archive
from blatam_kv.bul.storage.nodes import GRACE_SECONDS, LIFE_SECONDS, is_dead
from blatam_kv.bul.storage.schema import callbacks, documents, tasks
from blatam_kv.bul.tasks import Task
from blatam_kv.cli.remote import connect
from blatam_kv.config import Secret, Settings

NODES = ("one", "two")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running_server:
        yield running_server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


def let_die(archive: Archive) -> None:
    """Have the server end every connection that stands for a node's life, as it does with one that is
    paused or cut off."""
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
    )
    with archive._database.transaction() as connection:
        connection.execute(
            text(f"{end} (SELECT oid FROM pg_database WHERE datname = current_database())")
        )


def is_known_dead(archive: Archive, node: str) -> bool:
    """Whether the server has heard of it."""
    with archive._database.transaction() as connection:
        return is_dead(connection, node)


# ---- two nodes against a model of them ----------------------------------------------------------


@dataclass
class Row:
    """What there should be of a task."""

    holder: str
    fence: int = 1
    status: str = "queued"
    document: str | None = None
    teller: str = ""
    told: bool = False


@dataclass
class Model:
    rows: dict[str, Row] = field(default_factory=dict)
    documents: set[str] = field(default_factory=set)


class TwoNodes(RuleBasedStateMachine):
    """Each node begins, takes and ends tasks, with every right to one that it ever had: the last alone
    may write. A node that ends a task with an old right is one that was paused or cut off."""

    url: str
    rights: Bundle[tuple[str, Task]] = Bundle("rights")

    @initialize()
    def empty(self) -> None:
        self.model = Model()
        self.archives = {name: open_storage(self.url, node=name) for name in NODES}
        with self.archives["one"]._database.transaction() as connection:
            for table in (callbacks, tasks, documents):
                connection.execute(table.delete())
        for archive in self.archives.values():
            assert archive.live()

    def teardown(self) -> None:
        for archive in self.archives.values():
            archive.close()

    @rule(target=rights, node=st.sampled_from(NODES))
    def begin(self, node: str) -> tuple[str, Task]:
        task = asked_task("bread", created=1000.0 + len(self.model.rows))
        told = Callback(tenant=task.tenant, key_id="k", url="http://x/", task_id=task.id, due=0.0)
        self.archives[node].add([task], [replace(told, id=task.id)])
        self.model.rows[task.id] = Row(node, teller=node)
        return node, replace(task, fence=1)

    @rule(target=rights, node=st.sampled_from(NODES), others=st.booleans(), data=st.data())
    def take(self, node: str, others: bool, data: st.DataObject) -> tuple[str, Task]:
        """Its own, as at a start, or the other's."""
        archive = self.archives[node]
        left = next(name for name in NODES if name != node) if others else node
        if not others:
            taken = archive.take_up()
        elif archive.shared:
            self.archives[left]._nodes.close()
            until(lambda: is_known_dead(archive, left))
            taken = archive.adopt()
            assert self.archives[left].live()
            self.archives[left]._nodes._judges_from = 0.0
            for row in self.model.rows.values():
                if row.teller == left and not row.told:
                    row.teller = node
        else:
            with archive._database.transaction() as connection:
                held = archive._fence.take(connection, tasks.c.node == left)
            taken = archive._held(held)
        mine = {key for key, row in self.model.rows.items() if row.holder == left}
        expected = {key for key in mine if self.model.rows[key].status == "queued"}
        assert {task.id for task in taken} == expected
        for task in taken:
            row = self.model.rows[task.id]
            row.holder, row.fence = node, row.fence + 1
            assert task.fence == row.fence
        if not taken:  # a right to nothing
            return node, replace(asked_task("never begun"), fence=7)
        return node, data.draw(st.sampled_from(taken))

    @rule(right=rights, well=st.booleans(), twice=st.booleans())
    def end(self, right: tuple[str, Task], well: bool, twice: bool) -> None:
        node, task = right
        ended = finished_task(task, text="# Bread")
        if not well:
            ended = replace(ended, status="failed", answer=None, error="no")
        row = self.model.rows.get(task.id)
        held = row is not None and (row.holder, row.fence) == (node, task.fence)
        mine = held and row is not None and row.status == "queued"
        again = held and row is not None and row.status == ended.status
        assert bool(self.archives[node].lost([task])) != held
        lost = self.archives[node].save([ended])
        assert [each.id for each in lost] == ([] if mine or again else [task.id])
        if mine and row is not None:
            row.status = ended.status
            if ended.answer is not None:
                row.document = ended.answer.id
                self.model.documents.add(ended.answer.id)
            if twice:  # the commit was not heard of
                assert self.archives[node].save([ended]) == []

    @rule(right=rights, node=st.sampled_from(NODES))
    def tell(self, right: tuple[str, Task], node: str) -> None:
        key = right[1].id
        rows, row = self.archives[node].callbacks, self.model.rows.get(key)
        told = Callback(tenant="local", key_id="k", url="http://x/", task_id=key, id=key, due=0.0)
        mine = row is not None and row.teller == node and not row.told
        assert rows.mine(told) == mine
        rows.delivered(told)
        if row is not None:
            row.told = row.told or mine

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.archives["one"]._database.connection() as connection:
            there = connection.execute(select(tasks)).all()
            written = connection.execute(select(documents.c.id)).scalars().all()
            tellers = connection.execute(select(callbacks)).all()
        assert {row.id: (row.node, row.fence, row.status, row.document_id) for row in there} == {
            key: (row.holder, row.fence, row.status, row.document)
            for key, row in self.model.rows.items()
        }
        assert set(written) == self.model.documents
        assert len(written) == len(self.model.documents)
        assert {row.id: (row.node, row.ended is not None) for row in tellers} == {
            key: (row.teller, row.told) for key, row in self.model.rows.items()
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_all_who_ever_had_a_task_the_last_alone_ends_it(
    kind: str, tmp_path: Path, server: Postgres
) -> None:
    where = f"sqlite:///{tmp_path / 'bul.db'}" if kind == "sqlite" else server.database()
    machine: Any = type("Bound", (TwoNodes,), {"url": where})
    few = settings(max_examples=10, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=few)


# ---- what a node does that was thought dead -----------------------------------------------------


def enqueue(service: Service, query: str, **fields: Any) -> Task:
    request = parse_request({"query": query, **fields})
    return service.enqueue(service.place(request), request)


def looks(service: Service) -> bool:
    """Has a service look at what is its own; the server may hear of an end a moment later."""
    service._adopter.look()
    return True


def takes(archive: Archive) -> list[Task]:
    """What a node gets that looks until there is something."""
    taken: list[Task] = []

    def look() -> bool:
        assert archive.live()
        taken.extend(archive.adopt())
        return bool(taken)

    until(look)
    return taken


def test_a_node_that_was_thought_dead_drops_what_it_wrote(url: str) -> None:
    model = Scripted()
    model.gate = threading.Event()
    with (
        running(model, archive=open_storage(url, node="one")) as service,
        closing(open_storage(url, node="two")) as two,
    ):
        task = enqueue(service, "bread")
        assert model.writing.wait(30)
        service._adopter.close()  # it is too slow to look
        let_die(two)
        (mine,) = takes(two)
        model.gate.set()
        until(lambda: service.writers.busy == 0)
        assert service.task(task.id).status == "queued"  # as another node does it
        assert two.documents(tenant="local").total == 0
        ended = finished_task(mine, text="# Of two")
        assert two.save([ended]) == []
        found = service.task(task.id)
        assert found.answer is not None
        assert ended.answer is not None
        assert found.answer.id == ended.answer.id
        assert two.documents(tenant="local").total == 1
        assert service.reports.stats()["total_tasks"] == 0  # nor does it count
        exposed = service.metrics.expose()[0].decode()
        assert 'bul_tasks_taken_total{by="another"} 1.0' in exposed
        # Its own cache may have what it wrote: that answers the question all the same.
        request = parse_request({"query": "bread"})
        assert service.answer_from_cache(service.place(request), request) is not None


def test_a_node_that_lives_again_lets_go_of_what_others_took(url: str) -> None:
    model = Scripted()
    model.gate = threading.Event()
    with (
        running(model, archive=open_storage(url, node="one")) as service,
        closing(open_storage(url, node="two")) as two,
    ):
        task = enqueue(service, "bread")
        kept = enqueue(service, "cake")
        assert model.writing.wait(30)
        service._adopter.close()
        let_die(two)
        with two._database.transaction() as connection:
            two._fence.take(connection, tasks.c.id == task.id)
        until(lambda: looks(service) and service.tasks.find(task.id, tenant="local") is None)
        assert service.tasks.find(kept.id, tenant="local") is not None
        model.gate.set()
        until(lambda: service.task(kept.id).is_finished)
        assert service.task(task.id).status == "queued"


def test_a_task_that_was_lost_and_came_back_is_written_once(url: str) -> None:
    model = Scripted()
    model.gate = threading.Event()
    with (
        running(model, archive=open_storage(url, node="one")) as service,
        closing(open_storage(url, node="two")) as two,
    ):
        task = enqueue(service, "bread")
        assert model.writing.wait(30)
        service._adopter.close()
        with two._database.transaction() as connection:
            two._fence.take(connection, tasks.c.id == task.id)
        with two._database.transaction() as connection:
            (back,) = service.archive._fence.take(connection, tasks.c.id == task.id)
        service._go_on_with(service.archive._held([back]))
        model.gate.set()
        until(lambda: service.task(task.id).is_finished)
        assert service.task(task.id).status == "completed"
        assert len(model.calls) == 1
        assert two.documents(tenant="local").total == 1


def test_what_was_written_without_being_heard_of_goes_on(url: str) -> None:
    """The commit of a new task whose answer was lost with the connection."""
    archive = open_storage(url, node="one")
    with running(Scripted(), archive=archive) as service:
        service._adopter.close()
        add = archive.add

        def deaf(*arguments: Any) -> None:
            add(*arguments)
            raise StorageUnavailable("the connection was lost")

        archive.add = deaf  # type: ignore[assignment, method-assign]
        with pytest.raises(StorageUnavailable):
            enqueue(service, "bread")
        archive.add = add  # type: ignore[method-assign]
        let_die(archive)
        until(lambda: looks(service) and archive.tasks(tenant="local", status="completed").total)
        service._adopter.look()  # and it knows that all is well
    assert service.tasks.unfinished == 0


def test_an_end_that_was_written_without_being_heard_of_is_no_loss(url: str) -> None:
    with closing(open_storage(url)) as archive:
        task = asked_task("bread")
        archive.add([task])
        ended = finished_task(replace(task, fence=1))
        assert archive.save([ended]) == []
        assert archive.save([ended]) == []
        assert archive.documents(tenant="local").total == 1


def test_what_is_old_and_deleted_does_not_come_back(url: str) -> None:
    with closing(open_storage(url)) as archive:
        task = asked_task("bread", created=0.0)
        archive.add([task])
        (again,) = archive.take_up()
        archive.save([finished_task(again)])
        assert archive.retain(newest=9, days=1) == 1
        late = finished_task(replace(task, fence=1))
        assert archive.save([late]) == [late]
        assert archive.tasks(tenant="local").total == archive.documents(tenant="local").total == 0


# ---- who is thought dead, and when --------------------------------------------------------------


def setting(archive: Archive, name: str, *, of_life: bool = False) -> str:
    if of_life:
        life = archive._nodes._life
        assert life is not None
        return str(life.execute(text(f"SHOW {name}")).scalar_one())
    with archive._database.connection() as connection:
        return str(connection.execute(text(f"SHOW {name}")).scalar_one())


def test_a_life_is_silent_for_ten_seconds_at_most_and_a_transaction_too(url: str) -> None:
    with closing(open_storage(url, node="one")) as one:
        assert one.live()
        assert setting(one, "idle_session_timeout", of_life=True) == f"{LIFE_SECONDS}s"
        assert setting(one, "idle_session_timeout") == "0"  # connections that wait are not lives
        assert setting(one, "idle_in_transaction_session_timeout") == "10s"


def test_a_node_that_says_nothing_for_as_long_as_its_life_is_dead(url: str) -> None:
    quick = f"{url}&options=-c%20idle_session_timeout%3D1s"  # an operator's own setting holds
    with closing(open_storage(quick, node="one")) as one, closing(open_storage(url)) as two:
        assert one.live()
        one.add([asked_task("bread")])
        assert [task.brief.query for task in takes(two)] == ["bread"]
        assert one.lives == 1
        assert one.live()
        assert one.lives == 2


def test_after_a_restart_of_the_server_nobody_is_judged_for_a_while() -> None:
    now = 0.0
    with postgres() as server:
        from blatam_kv.bul.storage.engine import connect as engine

        url = server.database()
        one = open_storage(url, node="one")
        two = Archive(engine(url), node="two", clock=lambda: now)
        with closing(one), closing(two):
            one.add([asked_task("bread")])
            assert two.live()
            server.stop()
            with pytest.raises(StorageUnavailable):
                two.live()
            server.start()
            now += 1.0
            assert two.live()
            assert two.adopt() == []
            now += GRACE_SECONDS
            assert len(two.adopt()) == 1


# ---- those who are told -------------------------------------------------------------------------


def test_what_a_dead_node_had_to_tell_is_told_by_the_next(url: str) -> None:
    with receiving() as told:
        with running(
            Scripted(), archive=open_storage(url, node="one"), continuous_mode=False
        ) as service:
            asked_first = enqueue(service, "bread", callback_url=told.url)
            service.archive.add(
                (), [Callback(tenant="local", key_id="k", url=told.url, batch="b" * 32)]
            )
        with (
            running(Scripted(), archive=open_storage(url, node="two")) as service,
            delivering(service),
        ):
            until(lambda: told.heard)
        assert told.events[0]["data"]["task_id"] == asked_first.id


def test_a_node_that_lost_a_callback_does_not_tell_it(url: str) -> None:
    with (
        receiving() as told,
        running(Scripted(), archive=open_storage(url, node="one")) as service,
        closing(open_storage(url, node="two")) as two,
    ):
        service._adopter.close()
        task = enqueue(service, "bread", callback_url=told.url)
        until(lambda: service.task(task.id).is_finished)
        (callback,) = service.archive.callbacks.due(now=time.time() + 1, limit=9)

        def too_slow(tenant: str, key_id: str) -> tuple[str, bytes]:
            let_die(two)
            until(lambda: two.live() and (two.adopt(), two.callbacks.waiting())[1])
            return key_id, KEY

        courier = Courier(service.archive.callbacks, service, too_slow, Outbound(OWN))
        assert not courier._send(callback)
        assert told.heard == []
        # Nor does what it says of the delivery count.
        service.archive.callbacks.tried(callback, error="no", again=None)
        assert two.callbacks.mine(callback)
        courier._pool.shutdown()


# ---- a real process that is paused --------------------------------------------------------------


def test_a_paused_node_that_comes_back_writes_no_second_end(url: str, tmp_path: Path) -> None:
    secret = hashlib.sha256(b"of both").hexdigest()
    keys = replace(Settings(), data_dir=tmp_path, hmac_secret=Secret(secret))
    begun, may_end = threading.Event(), threading.Event()

    def held(connection: Connection) -> None:
        begun.set()
        assert may_end.wait(60)
        answer("# Too late", "\n")(connection)

    options = {"BUL_HMAC_SECRET": secret, "BUL_DATABASE_URL": url, "NO_PROXY": "127.0.0.1"}
    options |= {"BUL_OPENAI_API_KEY": "k", "BUL_CALLBACK_ALLOW": "127.0.0.0/8"}
    with endpoint() as fake, receiving() as told, closing(open_storage(url, node="me")) as here:
        flags = ["--model", "openai", "--openai-base-url", fake.url]
        flags += ["--openai-model", "acme/writer-7b"]
        with (
            serving(*flags, **options) as (process, first),  # type: ignore[arg-type]
            connect(first.url, keys) as one,
        ):
            fake.turns.append(held)
            body = {"query": "Plan de negocio", "callback_url": told.url}
            task = one.request("POST", "/query", body).json("task_id")["task_id"]
            assert begun.wait(60)
            with (
                serving(*flags, **options) as (_, second),  # type: ignore[arg-type]
                connect(second.url, keys) as two,
            ):
                fake.turns.append(answer("# In time", "\n"))
                process.send_signal(signal.SIGSTOP)
                let_die(here)  # the second one's life as well, which takes its name again
                path = f"/task/{task}/status"
                until(lambda: two.request("GET", path).json()["status"] == "completed")
                until(lambda: told.heard)
                may_end.set()
                process.send_signal(signal.SIGCONT)
                status = two.request("GET", path).json()
                until(lambda: one.request("GET", path).json()["documents"] == status["documents"])
                until(lambda: one.request("GET", "/stats").json()["unfinished_tasks"] == 0)
                listed = two.request("GET", "/documents").json()
                assert [each["title"] for each in listed["documents"]] == ["In time"]
                asked(one, "Otro plan")  # it works on
    assert len(told.heard) == 1
