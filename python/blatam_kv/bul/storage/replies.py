"""Replies to requests that may be repeated, each under its tenant, route and Idempotency-Key.

Who claims a key answers its request. A node that dies in the middle leaves a claim behind: the next
one who sends the request, to a node that lives, gets the claim. Should the first come back, because
it was only paused, its claim is an old one and its reply is not kept.
"""

from __future__ import annotations

import json
import time

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from blatam_kv.bul.storage import Claim, Earlier, Reply
from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.nodes import is_dead
from blatam_kv.bul.storage.schema import replies

KEEP_SECONDS = 86_400.0
# Whoever has not answered by then never will: its node has gone and does not come back.
STALE_SECONDS = 900.0


class Replies:
    """The rows. Each call waits for the database and fails as ``Database`` says."""

    def __init__(self, database: Database, *, node: str) -> None:
        self._database = database
        self._node = node
        self._shared = database.engine.dialect.name == "postgresql"
        self._claim = database.insert(replies).on_conflict_do_nothing().returning(replies.c.key)

    def claim(
        self, tenant: str, route: str, key: str, request: str, *, now: float | None = None
    ) -> Claim | Earlier:
        """Take a key for a request, known by the digest of its body; or who had it before."""
        now = time.time() if now is None else now
        mine = Claim(tenant, route, key, now)
        stale = and_(replies.c.status.is_(None), replies.c.began < now - STALE_SECONDS)
        row = {"tenant": tenant, "route": route, "key": key, "request": request}
        with self._database.transaction() as connection:
            old = or_(replies.c.began < now - KEEP_SECONDS, stale)
            connection.execute(delete(replies).where(_named(mine), old))
            made = connection.execute(self._claim, row | {"node": self._node, "began": now})
            if made.first() is not None:
                return mine
            # A claim that was given back this very moment is a key that is being answered.
            found = connection.execute(select(replies).where(_named(mine))).first()
            if found is None:
                return Earlier(request, None, elsewhere=True)
            if found.status is None:
                elsewhere = found.node != self._node
                if elsewhere and found.request == request and self._shared:
                    was = Claim(tenant, route, key, found.began)
                    if is_dead(connection, found.node) and self._take(connection, was, now):
                        return mine
                return Earlier(found.request, None, elsewhere=elsewhere)
        headers = [(name, value) for name, value in json.loads(found.headers)]
        return Earlier(found.request, Reply(found.status, headers, found.body))

    def _take(self, connection: Connection, was: Claim, now: float) -> bool:
        """Take a dead node's claim, unless somebody just did."""
        taken = update(replies).where(_named(was), replies.c.began == was.began)
        taken = taken.where(replies.c.status.is_(None)).values(node=self._node, began=now)
        return connection.execute(taken).rowcount == 1

    def keep(self, claim: Claim, reply: Reply) -> None:
        """Answer from now on with this reply, if the claim still holds."""
        kept = {"status": reply.status, "headers": json.dumps(list(reply.headers))}
        with self._database.transaction() as connection:
            mine = self._held(claim)
            connection.execute(update(replies).where(mine).values(**kept, body=reply.body))

    def release(self, claim: Claim) -> None:
        """Give a key back: there was no reply that may be repeated."""
        with self._database.transaction() as connection:
            connection.execute(delete(replies).where(self._held(claim)))

    def release_all(self) -> None:
        """Give back what this node left when it was stopped in the middle of answering."""
        left = and_(replies.c.node == self._node, replies.c.status.is_(None))
        with self._database.transaction() as connection:
            connection.execute(delete(replies).where(left))

    def retain(self, connection: Connection, *, now: float) -> None:
        """Delete what is older than is kept."""
        connection.execute(delete(replies).where(replies.c.began < now - KEEP_SECONDS))

    def _held(self, claim: Claim) -> ColumnElement[bool]:
        mine = and_(_named(claim), replies.c.node == self._node, replies.c.status.is_(None))
        return and_(mine, replies.c.began == claim.began)


def _named(claim: Claim) -> ColumnElement[bool]:
    mine = and_(replies.c.tenant == claim.tenant, replies.c.route == claim.route)
    return and_(mine, replies.c.key == claim.key)
