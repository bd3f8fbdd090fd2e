"""Which nodes live, and the work of those that do not. Only PostgreSQL has several: SQLite has one.

A node holds an advisory lock under its name on a connection of its own, for as long as it lives.
When its process ends, however it ends, the server lets go of the lock; so there are no clocks to
compare and no table of heartbeats to keep. The server also ends a connection that says nothing for
LIFE_SECONDS, which is how a node that is paused or cut off is thought dead. Who finds a lock free
takes over a batch of that node's work, under the lock: a node that comes back meanwhile waits for
its name, and what it still writes stops at the fence (``fence``). The connection is called after the
node, so that the server's own list of connections says who lives, and since when.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, column, extract, func, select, table, text, union, update
from sqlalchemy.exc import SQLAlchemyError

from blatam_kv._core import framed_digest
from blatam_kv.bul.storage import Node
from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.fence import Fence, Held
from blatam_kv.bul.storage.schema import callbacks, tasks

_PERSON = b"blatamkv-node-v1"
# Tasks, and callbacks, taken over at a time; the rest is left for other nodes, or for the next round.
_BATCH = 100
# A node that says nothing for so long is dead. An operator's own setting is left alone; a server
# before PostgreSQL 14 has none, and a paused node lives there for as long as its connection.
LIFE_SECONDS = 10
# When the server was away, every node has to take its name again before the others may judge it.
GRACE_SECONDS = 5.0

_ENDS_WHEN_SILENT = text(
    "SELECT set_config(name, :ms, false) FROM pg_settings"
    " WHERE name = 'idle_session_timeout' AND setting = '0'"
)
# Before a node's name in the list of connections, whose names the server cuts at 63 bytes.
_CALLED = "blatam-kv node "
_LONGEST = 63 - len(_CALLED)
_connections = table(
    "pg_stat_activity", column("application_name"), column("backend_start"), column("datname")
)


@dataclass(slots=True)
class Left:
    """What dead nodes left and this one has now: tasks, oldest first, and a number of callbacks."""

    tasks: list[Held] = field(default_factory=list)
    callbacks: int = 0


class Nodes:
    """This node's life, and its look at the others'. For one thread at a time, but for ``everyone``.

    lives: how often the name was taken; what happened between two lives is not known.
    """

    def __init__(
        self, database: Database, *, node: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lives = 0
        self.shared = database.engine.dialect.name == "postgresql"
        self._database = database
        self._node = node
        self._fence = Fence(node=node)
        self._clock = clock
        self._life: Connection | None = None
        self._judges_from = 0.0
        self._began = time.time()

    def live(self) -> bool:
        """Hold this node's lock, or hold it again after the connection was lost; False while
        another node takes over its tasks. Raises StorageUnavailable."""
        if not self.shared:
            return True
        if self._life is not None:
            try:
                with self._database.watched(self._life):
                    self._life.execute(select(1))
                    self._life.commit()
                return True
            except SQLAlchemyError:
                self.close()
        with self._database.connection():  # says in our own words what is wrong with the server
            pass
        life = self._database.engine.connect()
        try:
            with self._database.watched(life):
                life.execute(_ENDS_WHEN_SILENT, {"ms": str(1000 * LIFE_SECONDS)})
                held = select(func.pg_try_advisory_lock(lock_of(self._node)))
                alive = bool(life.execute(held).scalar_one())
                if alive:
                    called = func.set_config("application_name", _CALLED + self._node, False)
                    life.execute(select(called))
                life.commit()
        except SQLAlchemyError:
            life.invalidate()
            raise
        if alive:
            self._life = life
            if self.lives:
                self._judges_from = self._clock() + GRACE_SECONDS
            self.lives += 1
        else:
            life.invalidate()  # its setting is not for others
            life.close()
        return alive

    def adopt(self) -> Left:
        """Take over the unfinished tasks of nodes that are dead, and the callbacks they have not
        delivered. Raises StorageUnavailable."""
        left = Left()
        if not self.shared or self._clock() < self._judges_from:
            return left
        unfinished = select(tasks.c.node).where(tasks.c.status == "queued")
        untold = select(callbacks.c.node).where(callbacks.c.ended.is_(None))
        others = union(
            unfinished.where(tasks.c.node != self._node),
            untold.where(callbacks.c.node != self._node),
        )
        for row in self._database.read(others):
            self._adopt_from(row.node, left)
        return left

    def _adopt_from(self, node: str, found: Left) -> None:
        with self._database.transaction() as connection:
            if not is_dead(connection, node):
                return
            # Rows that somebody is just writing are passed over, not waited for.
            left = (
                select(tasks.c.id)
                .where(tasks.c.node == node, tasks.c.status == "queued")
                .order_by(tasks.c.created, tasks.c.id)
                .limit(_BATCH)
                .with_for_update(skip_locked=True)
            )
            held = self._fence.take(connection, tasks.c.id.in_(left))
            untold = (
                select(callbacks.c.id)
                .where(callbacks.c.node == node, callbacks.c.ended.is_(None))
                .order_by(callbacks.c.due, callbacks.c.id)
                .limit(_BATCH)
                .with_for_update(skip_locked=True)
            )
            taken = update(callbacks).where(callbacks.c.id.in_(untold)).values(node=self._node)
            told = connection.execute(taken).rowcount
        found.tasks += held
        found.callbacks += told

    def everyone(self) -> list[Node]:
        """The nodes that live, the oldest first, then those that are gone and have left work. From any
        thread. Raises StorageUnavailable."""
        queued = select(tasks.c.node, func.count().label("left"))
        queued = queued.where(tasks.c.status == "queued").group_by(tasks.c.node)
        unfinished = {row.node: int(row.left) for row in self._database.read(queued)}
        living = {self._node: self._began}
        if self.shared:
            living = self._living()
            # A name that the server has cut stands for the whole one.
            for name in (self._node, *unfinished):
                if name not in living and (since := living.pop(name[:_LONGEST], None)) is not None:
                    living[name] = since
        names = sorted(living, key=lambda name: (living[name], name))
        names += sorted(unfinished.keys() - living.keys())
        return [
            Node(
                name=name,
                since=living.get(name),
                unfinished=unfinished.get(name, 0),
                this=name == self._node,
            )
            for name in names
        ]

    def _living(self) -> dict[str, float]:
        """When each node's connection was made, Unix time."""
        seen = select(
            func.substr(_connections.c.application_name, len(_CALLED) + 1).label("name"),
            # By the server's clock how long ago, by ours when.
            extract("epoch", func.clock_timestamp() - _connections.c.backend_start).label(
                "seconds"
            ),
        ).where(
            _connections.c.datname == func.current_database(),
            func.starts_with(_connections.c.application_name, _CALLED),
        )
        now, found = time.time(), dict[str, float]()
        for row in self._database.read(seen):
            found[row.name] = min(now - float(row.seconds), found.get(row.name, now))
        return found

    def close(self) -> None:
        """Let go of this node's name."""
        if self._life is not None:
            self._life.invalidate()
            self._life.close()
            self._life = None


def is_dead(connection: Connection, node: str) -> bool:
    """Whether a node is; until the transaction ends it cannot come back."""
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(lock_of(node)))).scalar())


def lock_of(node: str) -> int:
    """The number that stands for a node's name among the server's locks."""
    digest = framed_digest([node.encode()], person=_PERSON)
    return int.from_bytes(digest[:8], "big", signed=True)
