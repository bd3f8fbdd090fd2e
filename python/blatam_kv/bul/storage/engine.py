"""A database made ready: reached, allowed to write, at this version's schema."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event, inspect, make_url, text
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.storage.schema import REVISION, metadata
from blatam_kv.errors import ConfigError, MissingExtra

# Nobody waits longer than this for a connection, a lock or a statement.
CONNECT_SECONDS, LOCK_SECONDS, STATEMENT_SECONDS = 3, 5, 30
# Nor for a node that was paused in the middle of a transaction, whose rows nobody could take.
PAUSE_SECONDS = 10

_MIGRATIONS = Path(__file__).with_name("migrations")
# Any number that no other program is likely to lock in the same database.
_MIGRATION_LOCK = 0x626C6174


def connect(url: str) -> Engine:
    """An engine for the database. Raises as ``open_storage`` does."""
    parsed = _parse(url)
    engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    try:
        with engine.begin() as connection:
            if is_memory(engine):
                metadata.create_all(connection)
            elif _revision(connection) != REVISION:
                migrate(connection)
            else:
                # Whether it may be written shows only when one writes.
                connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
    except SQLAlchemyError as error:
        engine.dispose()
        raise unavailable(error, engine) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def probe(url: str) -> str | None:
    """The revision a database is at, None for one that is empty or not made yet."""
    parsed = _parse(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and "uri" not in parsed.query and not Path(parsed.database or "").is_file():
        return None
    engine = _sqlite(parsed) if is_sqlite else _postgresql(parsed)
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except SQLAlchemyError as error:
        raise unavailable(error, engine) from error
    finally:
        engine.dispose()


def migrate(connection: Connection, *, revision: str = "head") -> None:
    """Bring the schema to a revision, up or down, in the connection's transaction.

    Raises StorageUnavailable if a newer version has been here.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":  # several nodes may start at once
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    script = ScriptDirectory.from_config(config)
    known = {each.revision for each in script.walk_revisions()}
    now = _revision(connection)
    if now is not None and now not in known:
        raise StorageUnavailable(
            f"the database is at revision {now}, which this version does not know: a newer "
            "blatam-kv has written it. Use that version, or another BUL_DATABASE_URL"
        )
    order = [None, *reversed([each.revision for each in script.walk_revisions()])]
    target = order[-1] if revision == "head" else None if revision == "base" else revision
    if order.index(target) >= order.index(now):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)


def is_memory(engine: Engine) -> bool:
    """Whether the database is gone with the engine."""
    return engine.dialect.name == "sqlite" and not engine.url.database


def unavailable(error: SQLAlchemyError, engine: Engine) -> StorageUnavailable:
    """The error to raise instead of SQLAlchemy's, whose text may hold what was written."""
    reason = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
    where = engine.url.render_as_string(hide_password=True)
    return StorageUnavailable(f"the database {where} fails: {reason[0] if reason else 'unknown'}")


def _revision(connection: Connection) -> str | None:
    """The migration the database is at; None for one that is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername.partition("+")[0] not in (
        "sqlite",
        "postgresql",
        "postgres",
    ):
        # The text may hold a password, so it is not repeated.
        raise ConfigError(
            "BUL_DATABASE_URL must look like sqlite:////var/lib/bul.db or "
            "postgresql://user:password@host:5432/name"
        )
    return parsed


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        # One connection for all threads; Archive lets one in at a time.
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
    else:
        if "uri" not in url.query:  # a file: URI says itself what is to be made
            _make_private_file(Path(url.database))
        # The connection used last is used next: each has a cache of pages of its own.
        engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS}, pool_use_lifo=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:  # Any: a connection of sqlite3 or a stand-in
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _make_private_file(path: Path) -> None:
    """Make the file for its owner alone; its journals get the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageUnavailable(
            f"the database {path} cannot be made ({error.strerror}); choose another place with "
            "BUL_DATA_DIR or BUL_DATABASE_URL"
        ) from error


def _postgresql(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingExtra("psycopg", extra="postgres") from error
    limits = f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={LOCK_SECONDS}s"
    limits += f" -c idle_in_transaction_session_timeout={PAUSE_SECONDS}s"
    theirs = url.query.get("options", "")  # a later one wins, so theirs come last
    return create_engine(
        url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
        pool_timeout=CONNECT_SECONDS,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            # A host that is gone is noticed in seconds, not after the system's two hours.
            "tcp_user_timeout": 1000 * LOCK_SECONDS,
            "keepalives_idle": LOCK_SECONDS,
            "keepalives_interval": 1,
            "keepalives_count": LOCK_SECONDS,
            "options": f"{limits} {theirs if isinstance(theirs, str) else ' '.join(theirs)}",
        },
    )
