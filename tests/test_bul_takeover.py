"""Nodes that share a PostgreSQL: what a dead one left undone goes on elsewhere, once."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from bul_fakes import Scripted, asked_task, running
from postgres_server import Postgres, postgres
from test_server_process import asked, serving

from blatam_kv.bul.adopter import Adopter
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.storage import StorageUnavailable, open_storage
from blatam_kv.bul.storage.archive import Archive
from blatam_kv.bul.tasks import Task
from blatam_kv.cli.remote import connect
from blatam_kv.config import Secret, Settings

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running_server:
        yield running_server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


@contextmanager
def node(url: str, name: str, *, lives: bool = True) -> Iterator[Archive]:
    archive = open_storage(url, node=name)
    try:
        if lives:
            assert archive.live()
        yield archive
    finally:
        archive.close()


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tasks_of(count: int) -> list[Task]:
    return [asked_task(f"plan {number}", created=1000.0 + number) for number in range(count)]


# ---- whose work it is ---------------------------------------------------------------------------


def test_the_tasks_of_a_node_that_lives_are_its_own(url: str) -> None:
    with node(url, "one") as one, node(url, "two") as two:
        one.add(tasks_of(3))
        assert two.adopt() == []
        assert len(one.take_up()) == 3


def test_what_a_dead_node_left_is_taken_over_once_and_in_its_order(url: str) -> None:
    begun = tasks_of(5)
    with node(url, "one") as one:
        one.add(reversed(begun))
    with node(url, "two") as two, node(url, "three") as three:
        adopted = two.adopt()
        assert [task.id for task in adopted] == [task.id for task in begun]
        assert adopted[0].request == begun[0].request
        assert three.adopt() == []
        assert len(two.take_up()) == 5
    with node(url, "one") as one:
        assert one.take_up() == []


def test_two_that_look_at_once_never_take_the_same_task(url: str) -> None:
    begun = tasks_of(250)
    with node(url, "one") as one:
        one.add(begun)
    taken: list[list[str]] = [[] for _ in range(4)]

    def look(mine: list[str], name: str) -> None:
        with node(url, name) as archive:
            together.wait(PATIENCE_SECONDS)
            for _ in range(6):
                mine += [task.id for task in archive.adopt()]
            together.wait(PATIENCE_SECONDS)  # else the first to leave would be dead

    together = threading.Barrier(4)
    threads = [
        threading.Thread(target=look, args=(mine, f"n{number}"))
        for number, mine in enumerate(taken)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [key for mine in taken for key in mine]
    assert len(every) == len(set(every))
    assert set(every) <= {task.id for task in begun}
    assert len(every) >= 100


def test_finished_tasks_are_nobodys_to_take(url: str) -> None:
    with node(url, "one") as one:
        one.add(tasks_of(2))
        (first, _) = one.take_up()
        one.save([replace(first, status="failed", error="no", finished=2000.0, progress=1.0)])
    with node(url, "two") as two:
        assert [task.brief.query for task in two.adopt()] == ["plan 1"]


def test_a_node_that_was_thought_dead_changes_nothing_that_has_ended(url: str) -> None:
    with node(url, "one", lives=False) as zombie, node(url, "two") as two:
        zombie.add(tasks_of(1))
        (mine,) = zombie.take_up()
        (adopted,) = two.adopt()
        two.save([replace(adopted, status="cancelled", finished=2000.0, progress=1.0)])
        zombie.save([replace(mine, status="failed", error="late", finished=2001.0, progress=1.0)])
        row = two.task(mine.id, tenant=mine.tenant)
        assert row is not None
        assert (row.status, row.error, row.finished) == ("cancelled", None, 2000.0)


def test_sqlite_has_one_node_that_always_lives(tmp_path: Path) -> None:
    with node(f"sqlite:///{tmp_path / 'bul.db'}", "one") as one:
        assert not one.shared
        one.add(tasks_of(1))
        assert one.adopt() == []


def test_a_lost_connection_is_a_life_that_goes_on_and_a_lost_server_is_said() -> None:
    with postgres() as server, node(server.database(), "one") as one:

        def lives() -> bool:
            with suppress(StorageUnavailable):  # a server that was slow to fail is left alone first
                return one.live()
            return False

        one.add(tasks_of(1))
        server.stop()
        with pytest.raises(StorageUnavailable):
            one.live()
        server.start()
        eventually(lives)
        assert one.live()


# ---- the one who looks --------------------------------------------------------------------------


class Scene:
    """An estate, and hands, that do as they are told."""

    def __init__(self) -> None:
        self.alive, self.left, self.away = True, tasks_of(2), False
        self.lives = 1
        self.mine, self.theirs, self.forgotten = list[Task](), list[Task](), list[Task]()

    def live(self) -> bool:
        if self.away:
            raise StorageUnavailable("away")
        return self.alive

    def adopt(self) -> list[Task]:
        left, self.left = self.left, []
        return left

    def lost(self, held: Sequence[Task]) -> list[Task]:
        return [task for task in held if task in self.theirs]

    def take_up(self, known: Callable[[str], bool]) -> list[Task]:
        return [task for task in self.forgotten if not known(task.id)]

    def held(self) -> list[Task]:
        return self.mine

    def knows(self, task_id: str) -> bool:
        return task_id in {task.id for task in self.mine}

    def let_go(self, tasks: Sequence[Task]) -> None:
        self.mine = [task for task in self.mine if task not in tasks]


def test_who_is_thought_dead_takes_nothing_and_a_database_that_is_away_is_counted() -> None:
    scene, went_on, failed = Scene(), list[Task](), list[str]()
    adopter = Adopter(scene, scene, go_on=went_on.extend, failed=failed.append)
    scene.alive = False
    adopter.look()
    scene.away = True
    adopter.look()
    assert (went_on, failed) == ([], ["adopt"])
    scene.alive, scene.away = True, False
    adopter.look()
    assert len(went_on) == 2
    adopter.close()


def test_after_a_time_that_a_node_knows_nothing_of_it_finds_out_what_is_its_own() -> None:
    scene, went_on = Scene(), list[Task]()
    scene.left = []
    adopter = Adopter(scene, scene, go_on=went_on.extend, failed=lambda what: None)
    kept, lost, forgotten = tasks_of(3)
    adopter.look()
    scene.mine, scene.theirs, scene.forgotten = [kept, lost], [lost], [kept, forgotten]
    adopter.look()
    assert (scene.mine, went_on) == ([kept, lost], [])  # the same life: nothing was missed
    scene.lives = 2
    adopter.look()
    assert (scene.mine, went_on) == ([kept], [forgotten])
    adopter.close()


def test_a_service_writes_what_another_left(url: str) -> None:
    with running(
        Scripted(), archive=open_storage(url, node="one"), continuous_mode=False
    ) as service:
        requests = [parse_request({"query": f"plan {number}"}) for number in range(3)]
        left = [service.enqueue(service.place(request), request) for request in requests]
    model = Scripted()
    with running(model, archive=open_storage(url, node="two")) as service:
        for task in left:
            eventually(lambda task=task: service.task(task.id).is_finished)  # type: ignore[misc]
            found = service.task(task.id)
            assert found.status == "completed"
            assert found.created == task.created
        assert len(model.calls) == 3


def test_kill_9_of_a_node_and_its_tasks_are_done_by_the_other(url: str, tmp_path: Path) -> None:
    secret = hashlib.sha256(b"of both").hexdigest()
    options = {"BUL_HMAC_SECRET": secret, "BUL_DATABASE_URL": url}
    settings = replace(Settings(), data_dir=tmp_path, hmac_secret=Secret(secret))
    with (
        serving(BUL_CONTINUOUS_MODE="false", **options) as (process, one),  # type: ignore[arg-type]
        serving(**options) as (_, two),  # type: ignore[arg-type]
        connect(one.url, settings) as dying,
        connect(two.url, settings) as living,
    ):
        left = [asked(dying, f"Plan de negocio {number}") for number in range(3)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        for task in left:
            status = f"/task/{task}/status"
            eventually(lambda: living.request("GET", status).json()["status"] == "completed")  # noqa: B023
