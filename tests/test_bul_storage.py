"""Tasks and documents in SQL: each test on SQLite and on PostgreSQL, against plain lists."""

from __future__ import annotations

import itertools
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from bul_fakes import Scripted, asked_task, finished_task, running, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_server import Postgres, postgres
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import StorageUnavailable, open_storage, probe
from blatam_kv.bul.storage.archive import Archive
from blatam_kv.bul.storage.engine import connect, migrate
from blatam_kv.bul.storage.schema import REVISION, documents, metadata, tasks
from blatam_kv.bul.storage.words import searchable, words
from blatam_kv.bul.tasks import Task, Written
from blatam_kv.errors import ConfigError

Url = Callable[[], str]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bul.db'}"
    server: Postgres = request.getfixturevalue("server")
    return server.database()


@pytest.fixture
def archive(url: str) -> Iterator[Archive]:
    archive = open_storage(url)
    yield archive
    archive.close()


def count(url: str, table: Any) -> int:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM {table.name}")).scalar_one()
    engine.dispose()
    return found


# What is written is read.


def test_a_task_comes_back_as_it_was(archive: Archive) -> None:
    begun = asked_task(
        "bread", inferred=("language", "business_area"), deadline=99.5, batch="b" * 32
    )
    archive.add([begun])
    (found,) = archive.take_up()
    assert found.fence == 2  # it was taken again
    assert replace(found, arrived=begun.arrived, brief=begun.brief, fence=0) == begun
    assert found.brief.query == "bread"
    ended = finished_task(replace(begun, fence=found.fence), text="# Bread\n\nñandú €")
    archive.save([ended])
    back = archive.task(begun.id, tenant="local")
    assert back is not None
    assert replace(
        back, arrived=ended.arrived, brief=ended.brief, request=None, fence=2
    ) == replace(ended, request=None)
    assert archive.take_up() == []


def test_a_failed_task_keeps_what_was_asked(archive: Archive) -> None:
    begun = asked_task("bread", format="html")
    archive.add([begun])
    archive.save([replace(begun, status="failed", error="no", finished=5.0, tries=4)])
    back = archive.task(begun.id, tenant="local")
    assert back is not None
    assert (back.status, back.error, back.tries, back.request) == ("failed", "no", 4, begun.request)


def test_a_task_that_was_finished_before_its_first_row_stays_finished(archive: Archive) -> None:
    begun = asked_task("bread")
    archive.save([finished_task(begun)])
    archive.add([begun])
    back = archive.task(begun.id, tenant="local")
    assert back is not None
    assert back.status == "completed"


def test_an_answer_is_kept_once_however_many_got_it(archive: Archive, url: str) -> None:
    first = finished_task(asked_task("bread"))
    others = [
        finished_task(asked_task("bread"), answer=first.answer, cache="hit") for _ in range(1500)
    ]
    archive.save([first, *others[:700]])
    archive.save(others[700:])
    assert count(url, tasks) == 1501
    assert count(url, documents) == 1
    assert archive.documents(tenant="local").total == 1


def test_what_one_process_adds_another_finds(url: str) -> None:
    first, second = open_storage(url), open_storage(url)
    task = asked_task("bread")
    first.add([task])
    assert second.task(task.id, tenant="local") is not None
    first.close()
    second.close()


def test_a_node_finds_only_what_it_left_itself(url: str) -> None:
    one, two = open_storage(url, node="one"), open_storage(url, node="two")
    task = asked_task("bread")
    one.add([task])
    assert [found.id for found in one.take_up()] == [task.id]
    assert two.take_up() == []
    one.close()
    two.close()


def test_an_archive_in_memory_is_one_for_all_threads_and_gone_when_closed() -> None:
    import threading

    archive = open_storage("sqlite://")
    threads = [
        threading.Thread(target=lambda: archive.save([finished_task(asked_task("bread"))]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archive.tasks(tenant="local").total == 8
    archive.close()
    assert open_storage("sqlite://").tasks(tenant="local").total == 0


def test_a_service_keeps_and_resumes_its_work_in_either(url: str) -> None:
    def ended(service: Service, task: Task) -> Task:
        while not task.is_finished:
            task = service.task(task.id)
        return task

    requests = [parse_request({"query": query}) for query in ("bread", "cake", "bread")]
    with running(Scripted(), continuous_mode=False, archive=open_storage(url)) as service:
        batch, begun = service.batches.ask(requests)
        service.cancel(begun[1].id)
    with running(Scripted(), archive=open_storage(url)) as service:
        done = [ended(service, service.task(task.id)) for task in begun]
        assert [task.status for task in done] == ["completed", "cancelled", "completed"]
        order = service.place(requests[0])
        hits = [service.answer_from_cache(order, requests[0]) for _ in range(50)]
        assert all(hits)
    archive = open_storage(url)
    assert archive.tasks(tenant="local").total == 53
    assert archive.documents(tenant="local", text="bread").total == 1
    assert [row.status for row in archive.batch_rows(batch, tenant="local")] == [
        task.status for task in done
    ]
    archive.close()


# Listings against plain lists.

TEXTS = st.lists(
    st.sampled_from(["Plan", "política", "POLITICA", "pan", "panadería", "24/7", "%", "_", "ß"]),
    max_size=4,
).map(" ".join)


@st.composite
def histories(draw: st.DrawFn) -> list[Task]:
    """Finished tasks of two tenants, some with the answer of an earlier one."""
    made: list[Task] = []
    for number in range(draw(st.integers(0, 12))):
        tenant = draw(st.sampled_from(["a", "b"]))
        area = draw(st.sampled_from(["sales", "legal"]))
        begun = asked_task(draw(TEXTS), tenant=tenant, area=area, created=float(number // 2))
        earlier = [task.answer for task in made if task.tenant == tenant and task.answer]
        if draw(st.integers(0, 4)) == 0:
            task = replace(begun, status="failed", error="no", finished=begun.created + 1)
        elif earlier and draw(st.integers(0, 1)) == 1:
            answer = draw(st.sampled_from(earlier))
            same = next(task for task in made if task.answer is answer)
            task = finished_task(replace(begun, brief=same.brief), answer=answer)
        else:
            task = finished_task(begun, text=draw(TEXTS), title=draw(TEXTS))
        made.append(task)
    return made


def newest_first(made: list[Task]) -> list[Task]:
    return sorted(made, key=lambda task: (task.created, task.id), reverse=True)


def documents_of(made: list[Task]) -> list[Written]:
    unique = {task.answer.id: task.written for task in made if task.answer and task.written}
    found = [written for written in unique.values() if written]
    return sorted(found, key=lambda each: (each.answer.born, each.answer.id), reverse=True)


def is_found(written: Written, wanted: str) -> bool:
    def folded(text: str) -> list[str]:
        plain = unicodedata.normalize("NFD", text.casefold())
        plain = "".join(char if char.isalnum() else " " for char in plain if ord(char) < 0x300)
        return plain.split()

    answer = written.answer
    there = folded(f"{answer.title} {written.brief.query} {answer.text}")
    asked = folded(wanted)
    return bool(asked) and all(any(word.startswith(each) for word in there) for each in asked)


def in_pages(listing: Callable[..., Any], limit: int) -> list[Any]:
    found: list[Any] = []
    for page in itertools.count(1):
        part = listing(page=page, limit=limit)
        found += part.items
        if len(part.items) < limit:
            assert part.total == len(found)
            return found
    raise AssertionError


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=histories(), limit=st.integers(1, 4), wanted=TEXTS)
def test_listings_and_search_are_those_of_a_plain_list(
    archive: Archive, made: list[Task], limit: int, wanted: str
) -> None:
    with archive._database.transaction() as connection:
        connection.execute(tasks.delete())
        connection.execute(documents.delete())
    if made:
        archive.save(made)
    for tenant in ("a", "b", "c"):
        mine = [task for task in made if task.tenant == tenant]
        listed = in_pages(lambda **page: archive.tasks(tenant=tenant, **page), limit)  # noqa: B023
        assert [task.id for task in listed] == [task.id for task in newest_first(mine)]
        failed = archive.tasks(tenant=tenant, status="failed").items
        assert {task.id for task in failed} == {t.id for t in mine if t.status == "failed"}
        there = documents_of(mine)
        listed = in_pages(
            lambda **page: archive.documents(tenant=tenant, **page),  # noqa: B023
            limit,
        )
        assert [each.answer for each in listed] == [each.answer for each in there]
        sales = archive.documents(tenant=tenant, business_area="sales").items
        assert [each.answer.id for each in sales] == [
            each.answer.id for each in there if each.brief.business_area == "sales"
        ]
        found = archive.documents(tenant=tenant, text=wanted or " ").items
        assert [each.answer.id for each in found] == [
            each.answer.id for each in there if is_found(each, wanted)
        ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=histories(), newest=st.integers(0, 4), age=st.integers(0, 8))
def test_only_the_newest_of_each_tenant_and_the_young_are_kept(
    archive: Archive, made: list[Task], newest: int, age: int
) -> None:
    with archive._database.transaction() as connection:
        connection.execute(tasks.delete())
        connection.execute(documents.delete())
    waiting = asked_task("never deleted", tenant="a", created=-1e6)
    archive.add([waiting])
    if made:
        archive.save(made)
    now = 8.0
    gone = archive.retain(newest=newest, days=age / 86_400, now=now)
    kept: list[Task] = []
    for tenant in ("a", "b"):
        mine = [t for t in made if t.tenant == tenant and (t.finished or 0) >= now - age]
        kept += newest_first(mine)[:newest]
    assert gone == len(made) - len(kept)
    there = {t.id for tenant in "ab" for t in archive.tasks(tenant=tenant).items}
    assert there == {task.id for task in kept} | {waiting.id}
    left = {w.answer.id for tenant in "ab" for w in archive.documents(tenant=tenant).items}
    if gone:
        assert left == {task.answer.id for task in kept if task.answer}


def test_nobody_sees_what_another_tenant_owns(archive: Archive) -> None:
    task = finished_task(asked_task("secret plan", tenant="a", batch="b" * 32))
    archive.save([task])
    assert task.answer is not None
    for tenant, sees in (("a", True), ("b", False), ("", False), ("%", False)):
        assert (archive.task(task.id, tenant=tenant) is not None) == sees
        assert (archive.document(task.answer.id, tenant=tenant) is not None) == sees
        assert bool(archive.batch_rows("b" * 32, tenant=tenant)) == sees
        assert bool(archive.tasks(tenant=tenant).items) == sees
        assert bool(archive.documents(tenant=tenant, text="secret").items) == sees


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("politica", True),
        ("POLÍTICA vacaciones", True),
        ("vacac polí", True),
        ("acaciones", False),
        ("%", False),
        ("_", False),
        ("' OR 1=1 --", False),
        ("24/7", True),
        ("\x00", False),
    ],
)
def test_search_takes_what_a_user_types(archive: Archive, typed: str, found: bool) -> None:
    archive.save([finished_task(asked_task("x"), text="Política de vacaciones, 24/7, 100 %")])
    assert bool(archive.documents(tenant="local", text=typed).items) == found


@settings(max_examples=300)
@given(st.text(max_size=50))
def test_words_hold_no_wildcard_and_stay_what_they_are(text: str) -> None:
    for word in words(text):
        assert word.isalnum()
        assert words(word) == [word] or len(word) == 64
    assert words(searchable(text)) == words(text)


# The schema.


def test_the_migrations_build_what_the_code_expects(url: str) -> None:
    engine = connect(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION
    engine.dispose()


def test_migrations_go_down_and_up_again(url: str) -> None:
    engine = connect(url)
    with engine.begin() as connection:
        migrate(connection, revision="base")
    with engine.connect() as connection:
        tables = set(engine.dialect.get_table_names(connection))
    assert tables <= {"alembic_version"}
    engine.dispose()
    archive = open_storage(url)
    archive.save([finished_task(asked_task("bread"))])
    archive.close()
    again = open_storage(url)  # nothing to migrate, nothing lost
    assert again.tasks(tenant="local").total == 1
    again.close()


def test_a_database_that_a_newer_version_has_written_is_refused(url: str) -> None:
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StorageUnavailable, match="revision 9999, which this version does not know"):
        open_storage(url)


def test_a_probe_tells_the_revision_and_changes_nothing(url: str, tmp_path: Path) -> None:
    assert probe(url) is None
    assert probe(url) is None
    assert not (tmp_path / "bul.db").exists()
    open_storage(url).close()
    assert probe(url) == REVISION


# What goes wrong.


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bul.db",
        "mysql://user:s3cret@h/db",
        "sqlite",
        "redis://h",
        "postgres:s3cret",
        "://s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"BUL_DATABASE_URL must look like") as caught:
        open_storage(url)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        open_storage(f"postgresql://bul:s3cret@/bul?host={tmp_path}")
    assert "s3cret" not in str(caught.value)
    assert "the database postgresql+psycopg://bul:***@" in str(caught.value)


def test_a_database_that_may_not_be_written_is_refused_at_once(url: str) -> None:
    open_storage(url).close()
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        read_only = f"sqlite:///file:{path}?mode=ro&uri=true"
    else:
        read_only = url + "&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(StorageUnavailable, match=r"read-?\s?only"):
        open_storage(read_only)


def test_a_place_where_no_file_can_be_made_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="BUL_DATA_DIR or BUL_DATABASE_URL"):
        open_storage(f"sqlite:///{tmp_path / 'file' / 'bul.db'}")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "bul.db").write_text("not a database, but long enough to look like one" * 99)
    with pytest.raises(StorageUnavailable, match="not a database"):
        open_storage(f"sqlite:///{tmp_path / 'bul.db'}")


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    archive = open_storage(f"sqlite:///{tmp_path / 'new' / 'bul.db'}")
    archive.add([asked_task("bread")])
    for path in (tmp_path / "new").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    archive.close()


def test_a_server_that_goes_away_is_unavailable_and_comes_back() -> None:
    with postgres() as server:
        archive = open_storage(server.database())
        archive.add([asked_task("bread")])
        server.stop()
        for call in (
            lambda: archive.add([asked_task("cake")]),
            lambda: archive.tasks(tenant="local"),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                call()
            assert "s3cret" not in str(caught.value)
        server.start()

        def total() -> int | None:
            try:
                return archive.tasks(tenant="local").total
            except StorageUnavailable:  # one that was slow to fail is left alone for a second
                return None

        until(lambda: total() is not None)
        assert total() == 1
        archive.close()


def test_a_database_that_fails_slowly_is_left_alone_for_a_moment(tmp_path: Path) -> None:
    now = waits = 0.0

    def fail(*_: object) -> None:
        nonlocal now
        now += waits
        raise OperationalError("statement", {}, Exception("no answer"))

    archive = Archive(connect(f"sqlite:///{tmp_path / 'bul.db'}"), node="n", clock=lambda: now)
    event.listen(archive._database.engine, "begin", fail)
    for waits in (0.0, 3.0):  # noqa: B007  # fail reads it
        with pytest.raises(StorageUnavailable, match="no answer"):
            archive.tasks(tenant="local")
    assert not archive.well
    before = now
    with pytest.raises(StorageUnavailable, match="no answer"):
        archive.tasks(tenant="local")
    assert now == before  # it was not even asked
    event.remove(archive._database.engine, "begin", fail)
    now += 1.0
    assert archive.tasks(tenant="local").total == 0
    assert archive.well
    archive.close()
