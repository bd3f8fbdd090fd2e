"""The original's entries in PostgreSQL: the table cache_entries, by URL, read and never written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from blatam_kv.errors import InvalidRequest, MissingExtra, Unsupported
from blatam_kv.migrate.entries import COLUMNS, row_record
from blatam_kv.record import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

TABLE = "cache_entries"
CONNECT_SECONDS = 10
# Rows that are in memory at once.
_BATCH = 200


class Extent(NamedTuple):
    """How much there is: rows, and bytes of their values as text."""

    rows: int
    bytes: int


class Database:
    """The table in one database. It holds no connection between calls.

    url: ``postgresql://user@host/name``; what it lacks, the password among it, libpq finds in its
    environment and in ~/.pgpass. Raises InvalidRequest for another kind of URL, MissingExtra,
    Unsupported if it cannot be reached or has no such table.
    """

    def __init__(self, url: str) -> None:
        try:
            from sqlalchemy import URL, NullPool, create_engine, make_url
            from sqlalchemy.exc import ArgumentError
        except ImportError as error:
            raise MissingExtra("sqlalchemy", extra="server") from error
        try:
            parsed = make_url(url)
        except ArgumentError:
            parsed = None
        if parsed is None or parsed.drivername.partition("+")[0] not in ("postgresql", "postgres"):
            # The text may hold a password, so it is not repeated.
            raise InvalidRequest(
                "the database must look like postgresql://user@host:5432/name; a SQLite file is "
                "found by itself where it lies in the folder",
                field="database",
            )
        # For people: whatever could be a secret is left out.
        host = parsed.host or str(parsed.query.get("host", "")) or None
        self.name = str(
            URL.create(
                "postgresql", parsed.username, None, host, parsed.port, parsed.database
            ).render_as_string()
        )
        try:
            self._engine: Engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                poolclass=NullPool,
                connect_args={"connect_timeout": CONNECT_SECONDS},
            )
        except ModuleNotFoundError as error:
            raise MissingExtra("psycopg", extra="postgres") from error
        with self._reading() as connection:
            self._table = self._reflected(connection)

    def extent(self) -> Extent:
        """How much there is now."""
        from sqlalchemy import Text, cast, func, select

        value = self._table.c.value
        size = func.coalesce(func.sum(func.octet_length(cast(value, Text))), 0)
        with self._reading() as connection:
            rows, total = connection.execute(select(func.count(), size)).one()
        return Extent(int(rows), int(total))

    def __len__(self) -> int:
        return self.extent().rows

    def __iter__(self) -> Iterator[Record]:
        """Every row as a record, the oldest first, as of one moment."""
        from sqlalchemy import JSON, Text, cast, select

        columns = self._table.c
        extra = [name for name in COLUMNS if name in columns]
        # JSON as the text it is: parsing would round its numbers.
        is_json = isinstance(columns.value.type, JSON)
        value = cast(columns.value, Text) if is_json else columns.value
        first = [columns.created_at.nulls_first()] if "created_at" in columns else []
        query = select(columns.key, value, *(columns[name] for name in extra))
        query = query.order_by(*first, columns.key)
        with self._reading() as connection:
            for row in connection.execute(query.execution_options(yield_per=_BATCH)):
                about = dict(zip(extra, row[2:], strict=True))
                yield row_record(row[0], row[1], about | {"database": self.name})

    def _reflected(self, connection: Connection) -> Table:
        from sqlalchemy import MetaData, Table
        from sqlalchemy.exc import NoSuchTableError

        try:
            table = Table(TABLE, MetaData(), autoload_with=connection)
        except NoSuchTableError:
            raise Unsupported(f"{self.name} has no table {TABLE}") from None
        if not {"key", "value"} <= set(table.c.keys()):
            raise Unsupported(f"{self.name}: the table {TABLE} has no columns key and value")
        return table

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One transaction that sees one moment and can change nothing."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip()
            raise Unsupported(f"{self.name} cannot be read: {reason.splitlines()[0]}") from error
