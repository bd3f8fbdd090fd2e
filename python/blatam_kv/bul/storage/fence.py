"""Whose a task is: the fence that grows each time that a node takes it.

A node that was paused or cut off is thought dead, and another goes on with its tasks. It may come
back in the middle of a sentence, not knowing. No clock and no lock can keep it from finishing; but
the row's fence is higher than the one it holds, so what it finished is not committed: no status, no
document. It is told so, and lets go.

The node that begins a task holds fence 1. Every taking adds one: another node's, and this node's
own when it starts again, for what its earlier life sent may still be on the way to the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select, update

from blatam_kv.bul.storage.schema import tasks

# Below the least number of parameters that a statement may have anywhere.
CHUNK = 500
# What the end of a task changes in its row; the document comes after, when it has a row itself.
_END = ("status", "stored", "request", "error", "tries", "finished")


class Held(NamedTuple):
    """A task, and the fence under which a node holds it."""

    id: str
    fence: int


class Fence:
    """One node's right to its tasks. Each call is a part of the caller's transaction."""

    def __init__(self, *, node: str) -> None:
        self._node = node

    def take(self, connection: Connection, which: ColumnElement[bool]) -> list[Held]:
        """Take unfinished tasks, whoever had them; returns what is held now, oldest first."""
        taken = (
            update(tasks)
            .where(which, tasks.c.status == "queued")
            .values(node=self._node, fence=tasks.c.fence + 1)
            .returning(tasks.c.id, tasks.c.fence, tasks.c.created)
        )
        rows = connection.execute(taken).all()
        return [Held(row.id, row.fence) for row in sorted(rows, key=lambda r: (r.created, r.id))]

    def end(self, connection: Connection, held: Held, row: Mapping[str, object]) -> bool:
        """Write how a task ended if it is still this node's, and keep its row until the transaction
        ends; False, and nothing is written, if it is not."""
        ends = update(tasks).where(self._is(held), tasks.c.status == "queued")
        return connection.execute(ends.values({name: row[name] for name in _END})).rowcount == 1

    def has_ended(self, connection: Connection, held: Held, row: Mapping[str, object]) -> bool:
        """Whether this end was written before, by a commit that nobody was told of."""
        written = (tasks.c.status == row["status"], tasks.c.finished == row["finished"])
        found = connection.execute(select(tasks.c.id).where(self._is(held), *written))
        return found.first() is not None

    def _is(self, held: Held) -> ColumnElement[bool]:
        mine = and_(tasks.c.node == self._node, tasks.c.fence == held.fence)
        return and_(tasks.c.id == held.id, mine)

    def lost(self, connection: Connection, held: Sequence[Held]) -> set[str]:
        """Those that have another holder by now, or have ended under another."""
        there: set[Held] = set()
        for start in range(0, len(held), CHUNK):
            ids = [each.id for each in held[start : start + CHUNK]]
            query = select(tasks.c.id, tasks.c.fence)
            query = query.where(tasks.c.id.in_(ids), tasks.c.node == self._node)
            there |= {Held(row.id, row.fence) for row in connection.execute(query)}
        return {each.id for each in held if each not in there}
