"""Transactions on a database, for all who keep something in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Engine, Row, Select, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.storage.engine import LOCK_SECONDS, STATEMENT_SECONDS, is_memory, unavailable
from blatam_kv.bul.storage.watch import Watch

SLOW_SECONDS, REST_SECONDS = 0.5, 1.0
# A server that says nothing for so long has failed: at a greeting, at a transaction, which may wait
# for a lock, and at one that has much to do.
_PING_SECONDS, _ANSWER_SECONDS = 2.0, LOCK_SECONDS + 3.0
_PATIENT_SECONDS = STATEMENT_SECONDS + 5.0


class Database:
    """One engine, asked under the rules of its kind. Safe from any thread.

    Each call raises StorageUnavailable if the database fails, and then nothing has changed; where
    failing took long, calls fail at once for the next REST_SECONDS. So does a server that is there and
    says nothing.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._problem: str | None = None  # what the last call met
        self._resting_until = 0.0
        # The dialect's own insert, which knows ON CONFLICT.
        self.insert = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert
        # SQLite lets one write at a time; to wait here is fairer than its polling. In memory there
        # is one connection, for readers as well.
        lock = threading.RLock() if engine.dialect.name == "sqlite" else None
        self._writing: AbstractContextManager[Any] = lock or nullcontext()
        self._reading: AbstractContextManager[Any] = (
            lock if lock is not None and is_memory(engine) else nullcontext()
        )
        self._watch: Watch | None = None
        if engine.dialect.name == "postgresql":
            self._watch = Watch()
            event.listen(engine, "checkout", self._greet)

    def close(self) -> None:
        """Let the database go. May be called again."""
        self.engine.dispose()
        if self._watch is not None:
            self._watch.close()

    @property
    def well(self) -> bool:
        """Whether the last call succeeded."""
        return self._problem is None

    def read(self, query: Select[Any] | CompoundSelect[Any]) -> Sequence[Row[Any]]:
        """All rows of a query."""
        with self.connection() as connection:
            return connection.execute(query).all()

    @contextmanager
    def transaction(self, *, patient: bool = False) -> Iterator[Connection]:
        """For writing: all of the body or nothing. patient: it may take long."""
        with (
            self._writing,
            self._explained(),
            self.engine.connect() as connection,
            self.watched(connection, _PATIENT_SECONDS if patient else _ANSWER_SECONDS),
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """For reading."""
        with (
            self._reading,
            self._explained(),
            self.engine.connect() as connection,
            self.watched(connection, _ANSWER_SECONDS),
        ):
            yield connection

    def watched(
        self, connection: Connection, seconds: float = _PING_SECONDS
    ) -> AbstractContextManager[None]:
        """For the body, a connection that fails if the server says nothing for so long."""
        if self._watch is None:
            return nullcontext()
        driver: Any = connection.connection.dbapi_connection  # psycopg's
        return self._watch.over(driver.fileno(), seconds=seconds)

    def _greet(self, driver: Any, record: object, proxy: object) -> None:  # Any: as above
        """Ask a connection that was kept whether it is still one. Its server was away if not, and none
        of the others is either."""
        assert self._watch is not None
        dialect = self.engine.dialect
        try:
            with self._watch.over(driver.fileno(), seconds=_PING_SECONDS):
                dialect.do_ping(driver)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        began = self._clock()
        if self._problem is not None and began < self._resting_until:
            raise StorageUnavailable(self._problem)
        try:
            yield
        except SQLAlchemyError as error:
            problem = unavailable(error, self.engine)
            self._problem = str(problem)
            ended = self._clock()
            # A server that lets callers wait before it fails would take every thread there is.
            self._resting_until = ended + (REST_SECONDS if ended - began > SLOW_SECONDS else 0.0)
            raise problem from error
        self._problem = None
