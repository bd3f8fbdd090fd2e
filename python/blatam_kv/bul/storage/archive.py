"""``Archive``: tasks and documents in SQL, each read and written under its tenant's name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)

from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.storage import BatchRow, Callback, Node, Page
from blatam_kv.bul.storage.callbacks import Callbacks
from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.fence import CHUNK, Fence, Held
from blatam_kv.bul.storage.letterheads import Letterheads
from blatam_kv.bul.storage.nodes import Nodes
from blatam_kv.bul.storage.replies import Replies
from blatam_kv.bul.storage.schema import documents, tasks
from blatam_kv.bul.storage.words import searchable, words
from blatam_kv.bul.tasks import Status, Task, Written
from blatam_kv.documents.styles import USUAL, Look
from blatam_kv.truthgpt.brief import Brief
from blatam_kv.truthgpt.protocol import Usage

_ASKED = ("language", "document_type", "business_area")
# Of a brief, what a document shows.
_SHOWN = ("company_name", "target_audience")
_USAGE = tuple(field.name for field in fields(Usage))
_WRITTEN = tuple(field.name for field in fields(Answer) if field.name not in ("usage", "ttl"))


class Archive:
    """The rows. Safe from any thread; every call may wait for the database, so none belongs on an
    event loop, and each fails as ``Database`` says. replies, callbacks,
    letterheads: what else is kept in it.
    """

    def __init__(
        self, engine: Engine, *, node: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database = Database(engine, clock=clock)
        self._node = node
        self.replies = Replies(database, node=node)
        self.callbacks = Callbacks(database, node=node)
        self.letterheads = Letterheads(database)
        self._nodes = Nodes(database, node=node, clock=clock)
        self._fence = Fence(node=node)
        self._add = database.insert(tasks).on_conflict_do_nothing()
        # Hits make most of the rows. SQLAlchemy's own handling of each row costs as much as SQLite's
        # work, so the driver gets tuples; where parameters go by name it gets the rows as they are.
        named = [column.name for column in tasks.c if column is not tasks.c.fence]
        compiled = self._add.compile(dialect=engine.dialect, column_keys=named)
        self._add_sql = str(compiled)
        order = compiled.positiontup
        self._add_row = itemgetter(*order) if order else None
        self._add_documents = database.insert(documents).on_conflict_do_nothing()

    def close(self) -> None:
        """Let the database go."""
        self._nodes.close()
        self._database.close()

    # Writing.

    def add(self, begun: Iterable[Task], callbacks: Sequence[Callback] = ()) -> None:
        """Write unfinished tasks and who is to be told of their end, all or none; they are durable
        when this returns.

        A task that has a row already, because it was finished meanwhile, keeps that.
        """
        rows = [self._row(task) for task in begun]
        with self._database.transaction() as connection:
            if rows:
                connection.execute(self._add, rows)
            self.callbacks.add(callbacks, connection)
        if callbacks:
            self.callbacks.news.set()

    def save(self, finished: Sequence[Task]) -> list[Task]:
        """Write finished tasks over what they were, and the documents they got where these have no
        row yet. Returns those that are no longer this node's, of which nothing was written."""
        hits = [task for task in finished if task.cache == "hit"]
        lost: list[Task] = []
        with self._database.transaction() as connection:
            ended = []
            for task in finished:
                if task.cache == "hit":
                    continue
                held, row = Held(task.id, task.fence or 1), self._row(task)
                if not task.fence:  # it ended before its first row was written
                    begun = replace(task, status="queued", answer=None, error=None, finished=None)
                    connection.execute(self._add, [self._row(begun)])
                if self._fence.end(connection, held, row):
                    ended.append(task)
                elif not self._fence.has_ended(connection, held, row):
                    lost.append(task)
            self._add_answers(connection, [*hits, *ended])
            if ended:
                # Only now: a document that is pointed to has a row.
                points = update(tasks).where(tasks.c.id == bindparam("task"))
                points = points.values(document_id=bindparam("document"))
                answers = [
                    {"task": task.id, "document": task.answer.id}
                    for task in ended
                    if task.answer is not None
                ]
                if answers:
                    connection.execute(points, answers)
            if hits and self._add_row is None:
                connection.execute(self._add, list(map(self._row, hits)))
            elif hits and self._add_row is not None:
                rows = [self._add_row(self._row(task)) for task in hits]
                connection.exec_driver_sql(self._add_sql, rows)
        return lost

    def _add_answers(self, connection: Connection, finished: Sequence[Task]) -> None:
        answers = {task.answer.id: task for task in finished if task.answer is not None}
        missing = set(answers) - self._known_documents(connection, list(answers))
        if missing:
            new = [_document_row(answers[key]) for key in sorted(missing)]
            connection.execute(self._add_documents, new)

    def retain(self, *, newest: int, days: float, now: float | None = None) -> int:
        """Delete finished tasks beyond each tenant's ``newest`` or older than ``days``, and the
        documents that no task has any more; returns how many tasks went."""
        now = time.time() if now is None else now
        gone = 0
        with self._database.transaction(patient=True) as connection:
            old = tasks.c.finished < now - days * 86_400
            gone += connection.execute(delete(tasks).where(old)).rowcount
            for tenant in connection.scalars(select(tasks.c.tenant).distinct()).all():
                mine = and_(tasks.c.tenant == tenant, tasks.c.finished.is_not(None))
                newest_first = (tasks.c.created.desc(), tasks.c.id.desc())
                last = connection.execute(
                    select(tasks.c.created, tasks.c.id)
                    .where(mine)
                    .order_by(*newest_first)
                    .offset(newest)
                    .limit(1)
                ).first()
                if last is not None:
                    older = or_(
                        tasks.c.created < last.created,
                        and_(tasks.c.created == last.created, tasks.c.id <= last.id),
                    )
                    gone += connection.execute(delete(tasks).where(mine, older)).rowcount
            self.replies.retain(connection, now=now)
            self.callbacks.retain(connection, before=now - days * 86_400)
            if gone:
                wanted = select(tasks.c.id).where(tasks.c.document_id == documents.c.id)
                connection.execute(delete(documents).where(~wanted.exists()))
        return gone

    # Reading.

    def task(self, task_id: str, *, tenant: str) -> Task | None:
        """A tenant's task, None if there is none of this id."""
        query = _with_documents().where(tasks.c.id == task_id, tasks.c.tenant == tenant)
        found = self._database.read(query)
        return _task(found[0]) if found else None

    def tasks(
        self, *, tenant: str, page: int = 1, limit: int = 20, status: Status | None = None
    ) -> Page[Task]:
        """A tenant's tasks, newest first."""
        where = [tasks.c.tenant == tenant]
        if status is not None:
            where.append(tasks.c.status == status)
        order = (tasks.c.created.desc(), tasks.c.id.desc())
        query = _with_documents().where(*where).order_by(*order)
        return self._page(query, select(func.count()).select_from(tasks).where(*where), page, limit)

    @property
    def shared(self) -> bool:
        """Whether other nodes may use it."""
        return self._nodes.shared

    def live(self) -> bool:
        """Show that this node lives; see ``Nodes``."""
        return self._nodes.live()

    @property
    def lives(self) -> int:
        """How often this node had to show anew that it lives."""
        return self._nodes.lives

    # Taking.

    def take_up(self, known: Callable[[str], bool] = lambda task_id: False) -> list[Task]:
        """Take again what this node left undone and does not know of, oldest first, whoever asked
        for it."""
        mine = select(tasks.c.id).where(tasks.c.node == self._node, tasks.c.status == "queued")
        left = [row.id for row in self._database.read(mine) if not known(row.id)]
        held: list[Held] = []
        for start in range(0, len(left), CHUNK):
            ids = left[start : start + CHUNK]
            with self._database.transaction() as connection:
                still = and_(tasks.c.id.in_(ids), tasks.c.node == self._node)
                held += self._fence.take(connection, still)
        return sorted(self._held(held), key=lambda task: (task.created, task.id))

    def adopt(self) -> list[Task]:
        """What nodes that died left undone, and this one goes on with, oldest first. Their callbacks
        are this node's, too."""
        left = self._nodes.adopt()
        if left.callbacks:
            self.callbacks.news.set()
        return self._held(left.tasks)

    def lost(self, held: Sequence[Task]) -> list[Task]:
        """Of unfinished tasks of this node, those that another has taken meanwhile."""
        rows = [Held(task.id, task.fence) for task in held if task.fence]
        with self._database.connection() as connection:
            gone = self._fence.lost(connection, rows)
        return [task for task in held if task.id in gone]

    def _held(self, held: Sequence[Held]) -> list[Task]:
        return [
            replace(_task(row), fence=each.fence)
            for each in held
            for row in self._database.read(_with_documents().where(tasks.c.id == each.id))
        ]

    def nodes(self) -> list[Node]:
        """Who shares the database; see ``Nodes.everyone``."""
        return self._nodes.everyone()

    def document(self, document_id: str, *, tenant: str) -> Written | None:
        """A tenant's document, None if there is none of this id."""
        where = (documents.c.id == document_id, documents.c.tenant == tenant)
        found = self._database.read(select(documents).where(*where))
        return _written(found[0]) if found else None

    def documents(
        self,
        *,
        tenant: str,
        page: int = 1,
        limit: int = 20,
        business_area: str | None = None,
        text: str = "",
    ) -> Page[Written]:
        """A tenant's documents, newest first: of one area, or with all the words of a text.

        A word is found where one in title, query or document begins so; case and accents do not
        count. A text without words finds nothing.
        """
        where = [documents.c.tenant == tenant]
        if business_area is not None:
            where.append(documents.c.business_area == business_area)
        if text:
            wanted = words(text)
            if not wanted:
                return Page((), 0)
            # Words are letters and digits only: there is no wildcard to escape.
            where += [documents.c.words.like(f"% {word}%") for word in wanted]
        query = select(documents).where(*where)
        query = query.order_by(documents.c.born.desc(), documents.c.id.desc())
        count = select(func.count()).select_from(documents).where(*where)
        with self._database.connection() as connection:
            rows = connection.execute(query.offset((page - 1) * limit).limit(limit)).all()
            return Page(tuple(map(_written, rows)), connection.execute(count).scalar_one())

    def batch_rows(self, batch: str, *, tenant: str) -> list[BatchRow]:
        """A tenant's tasks of one batch in the order in which they were asked for, without their
        documents, which of a large batch are many."""
        query = select(tasks.c.id, tasks.c.status, tasks.c.error)
        query = query.where(tasks.c.batch == batch, tasks.c.tenant == tenant)
        rows = self._database.read(query.order_by(tasks.c.created, tasks.c.id))
        return [BatchRow(row.id, row.status, row.error) for row in rows]

    @property
    def well(self) -> bool:
        """Whether the last call succeeded."""
        return self._database.well

    def _page(
        self, query: Select[Any], count: Select[Any], page: int, limit: int
    ) -> Page[Task]:  # Any: columns of two tables
        with self._database.connection() as connection:
            rows = connection.execute(query.offset((page - 1) * limit).limit(limit)).all()
            return Page(tuple(map(_task, rows)), connection.execute(count).scalar_one())

    def _known_documents(self, connection: Connection, ids: list[str]) -> set[str]:
        known: set[str] = set()
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            known |= set(
                connection.scalars(select(documents.c.id).where(documents.c.id.in_(chunk)))
            )
        return known

    # Rows.

    def _row(self, task: Task) -> dict[str, object]:
        brief, answer = task.brief, task.answer
        request = None
        if answer is None and task.request is not None:
            request = task.request.model_dump_json(exclude_none=True, by_alias=True)
        return {
            "id": task.id,
            "tenant": task.tenant,
            "node": self._node,
            "batch": task.batch,
            "status": task.status if task.is_finished else "queued",
            "cache": task.cache,
            "stored": task.stored,
            "format": task.format,
            "priority": task.priority,
            "language": brief.language,
            "document_type": brief.document_type,
            "business_area": brief.business_area,
            "inferred": " ".join(task.inferred),
            "request": request,
            "document_id": answer.id if answer is not None else None,
            "error": task.error,
            "tries": task.tries,
            "created": task.created,
            "finished": task.finished,
            "deadline": task.deadline,
            "trace": task.trace,
            "look": None if task.look == USUAL else json.dumps(asdict(task.look)),
        }


def _document_row(task: Task) -> dict[str, object]:
    answer, brief = task.answer, task.brief
    assert answer is not None
    return {
        "tenant": task.tenant,
        "query": brief.query,
        "words": searchable(answer.title, brief.query, answer.text),
        **{name: getattr(answer, name) for name in _WRITTEN},
        **{name: getattr(brief, name) for name in (*_ASKED, *_SHOWN)},
        **asdict(answer.usage),
    }


def _with_documents() -> Select[Any]:  # Any: columns of two tables
    """Tasks, each with the document it got, whose columns are called document_…"""
    of_document = [column.label(f"document_{column.name}") for column in documents.columns]
    columns = [column for column in tasks.columns if column is not tasks.c.document_id]
    return select(*columns, *of_document).select_from(tasks.outerjoin(documents))


def _task(row: Row[Any]) -> Task:  # Any: columns of two tables
    values = dict(row._mapping)
    document = {column.name: values.pop(f"document_{column.name}") for column in documents.c}
    answer = None if document["id"] is None else _answer(document)
    request = None
    if values["request"] is not None:
        request = QueryRequest.model_validate_json(values.pop("request"))
    query = document["query"] or (request.query if request is not None else "")
    look = values.pop("look")
    shown = {name: document[name] or "" for name in _SHOWN}
    return Task(
        brief=Brief(query=query, **{name: values.pop(name) for name in _ASKED}, **shown),
        look=USUAL if look is None else Look(**json.loads(look)),
        inferred=tuple(values.pop("inferred").split()),
        answer=answer,
        request=request,
        progress=1.0 if values["finished"] is not None else 0.0,
        **{
            name: values[name]
            for name in (
                *("id", "tenant", "batch", "status", "cache", "stored", "format", "priority"),
                *("error", "tries", "created", "finished", "deadline", "trace"),
            )
        },
    )


def _answer(values: dict[str, Any]) -> Answer:  # Any: a row's values
    return Answer(
        usage=Usage(**{name: values[name] for name in _USAGE}),
        **{name: values[name] for name in _WRITTEN},
    )


def _written(row: Row[Any]) -> Written:  # Any: a row's values
    values = dict(row._mapping)
    known = {name: values[name] for name in (*_ASKED, *_SHOWN)}
    brief = Brief(query=values["query"], **known)
    return Written(_answer(values), brief)
