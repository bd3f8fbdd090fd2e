"""Replies to requests that may be repeated, each under its tenant, route and Idempotency-Key."""

from __future__ import annotations

import json
import time

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from blatam_kv.bul.storage import Earlier, Reply
from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.schema import replies

KEEP_SECONDS = 86_400.0
# Whoever has not answered by then never will: its node has gone and does not come back.
STALE_SECONDS = 900.0


class Replies:
    """The rows. Each call waits for the database and fails as ``Database`` says."""

    def __init__(self, database: Database, *, node: str) -> None:
        self._database = database
        self._node = node
        self._claim = database.insert(replies).on_conflict_do_nothing().returning(replies.c.key)

    def claim(
        self, tenant: str, route: str, key: str, request: str, *, now: float | None = None
    ) -> Earlier | None:
        """Take a key for a request, known by the digest of its body; None if it is ours now, else
        who had it before."""
        now = time.time() if now is None else now
        mine = _named(tenant, route, key)
        stale = and_(replies.c.status.is_(None), replies.c.began < now - STALE_SECONDS)
        row = {"tenant": tenant, "route": route, "key": key, "request": request}
        with self._database.transaction() as connection:
            old = or_(replies.c.began < now - KEEP_SECONDS, stale)
            connection.execute(delete(replies).where(mine, old))
            made = connection.execute(self._claim, row | {"node": self._node, "began": now})
            if made.first() is not None:
                return None
            found = connection.execute(select(replies).where(mine)).one()
        if found.status is None:
            return Earlier(found.request, None)
        headers = [(name, value) for name, value in json.loads(found.headers)]
        return Earlier(found.request, Reply(found.status, headers, found.body))

    def keep(self, tenant: str, route: str, key: str, reply: Reply) -> None:
        """Answer from now on with this reply."""
        kept = {"status": reply.status, "headers": json.dumps(list(reply.headers))}
        with self._database.transaction() as connection:
            mine = _named(tenant, route, key)
            connection.execute(update(replies).where(mine).values(**kept, body=reply.body))

    def release(self, tenant: str, route: str, key: str) -> None:
        """Give a key back: there was no reply that may be repeated."""
        with self._database.transaction() as connection:
            mine = and_(_named(tenant, route, key), replies.c.status.is_(None))
            connection.execute(delete(replies).where(mine))

    def release_all(self) -> None:
        """Give back what this node left when it was stopped in the middle of answering."""
        left = and_(replies.c.node == self._node, replies.c.status.is_(None))
        with self._database.transaction() as connection:
            connection.execute(delete(replies).where(left))

    def retain(self, connection: Connection, *, now: float) -> None:
        """Delete what is older than is kept."""
        connection.execute(delete(replies).where(replies.c.began < now - KEEP_SECONDS))


def _named(tenant: str, route: str, key: str) -> ColumnElement[bool]:
    return and_(replies.c.tenant == tenant, replies.c.route == route, replies.c.key == key)
