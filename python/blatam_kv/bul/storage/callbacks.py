"""Callbacks that are to be delivered: who is to be told of which end, and how often it was tried."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from blatam_kv.bul.storage import Callback
from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.schema import callbacks, tasks


class Callbacks:
    """The rows. Each call waits for the database and fails as ``Database`` says. news: set when there
    may be something to deliver."""

    def __init__(self, database: Database, *, node: str) -> None:
        self.news = threading.Event()
        self._database = database
        self._node = node

    def add(self, new: Sequence[Callback], connection: Connection) -> None:
        """Write them in the transaction that writes what they wait for."""
        rows = [
            {
                "id": each.id,
                "tenant": each.tenant,
                "key_id": each.key_id,
                "node": self._node,
                "task_id": each.task_id,
                "batch": each.batch,
                "url": each.url,
                "tries": each.tries,
                "due": each.due,
                "created": each.created,
            }
            for each in new
        ]
        if rows:
            connection.execute(self._database.insert(callbacks), rows)

    def due(self, *, now: float, limit: int, without: Sequence[str] = ()) -> list[Callback]:
        """This node's whose task or batch has ended, the longest due first; none of the tenants
        ``without``."""
        subject = or_(tasks.c.id == callbacks.c.task_id, tasks.c.batch == callbacks.c.batch)
        unfinished = select(tasks.c.id).where(tasks.c.finished.is_(None), subject)
        query = (
            select(callbacks)
            .where(
                callbacks.c.node == self._node,
                callbacks.c.ended.is_(None),
                callbacks.c.due <= now,
                callbacks.c.tenant.not_in(without),
                ~unfinished.exists(),
            )
            .order_by(callbacks.c.due, callbacks.c.id)
            .limit(limit)
        )
        return [
            Callback(
                id=row.id,
                tenant=row.tenant,
                key_id=row.key_id,
                url=row.url,
                task_id=row.task_id,
                batch=row.batch,
                tries=row.tries,
                due=row.due,
                created=row.created,
            )
            for row in self._database.read(query)
        ]

    def waiting(self) -> bool:
        """Whether this node has any to deliver, now or later."""
        query = select(callbacks.c.id)
        query = query.where(callbacks.c.node == self._node, callbacks.c.ended.is_(None)).limit(1)
        return bool(self._database.read(query))

    def mine(self, callback: Callback) -> bool:
        """Whether it is still this node's to deliver: another may have taken it, and told them."""
        return bool(self._database.read(select(callbacks.c.id).where(self._held(callback))))

    def tried(self, callback: Callback, *, error: str, again: float | None) -> None:
        """It was not delivered. again: Unix time of the next try, None to give up."""
        what: dict[str, object] = {"tries": callback.tries + 1, "error": error}
        what |= {"ended": time.time()} if again is None else {"due": again}
        self._set(callback, what)

    def delivered(self, callback: Callback) -> None:
        """It was taken."""
        self._set(callback, {"tries": callback.tries + 1, "error": None, "ended": time.time()})

    def _set(self, callback: Callback, what: dict[str, object]) -> None:
        with self._database.transaction() as connection:
            connection.execute(update(callbacks).where(self._held(callback)).values(**what))

    def _held(self, callback: Callback) -> ColumnElement[bool]:
        mine = and_(callbacks.c.id == callback.id, callbacks.c.node == self._node)
        return and_(mine, callbacks.c.ended.is_(None))

    def retain(self, connection: Connection, *, before: float) -> None:
        """Delete those that were asked for before then."""
        connection.execute(delete(callbacks).where(callbacks.c.created < before))
