"""Where tasks and documents outlive the process: SQLite in the data directory, or PostgreSQL.

``open_storage`` is the door. SQLAlchemy and alembic live behind it: no other module of this room
may be imported at the top of a module outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from blatam_kv.errors import Error, MissingExtra

if TYPE_CHECKING:
    from blatam_kv.bul.storage.archive import Archive


T = TypeVar("T")

# Most items on a page of a listing.
MAX_LIMIT = 100


class StorageUnavailable(Error, RuntimeError):
    """The database cannot be reached, read or written now; the message never holds a password."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing, newest first; total: how many there are in all."""

    items: tuple[T, ...]
    total: int


def open_storage(url: str, *, node: str = "local") -> Archive:
    """The archive behind a database URL, migrated to this version's schema.

    url: ``sqlite:///FILE``, ``sqlite://`` (in memory, gone when closed) or ``postgresql://…``.
    node: the name under which this process leaves unfinished tasks and finds them again.

    Raises ConfigError for a URL that is none, MissingExtra, and StorageUnavailable if nobody
    answers, nothing may be written, or a newer version has been here.
    """
    _need_libraries()
    from blatam_kv.bul.storage.archive import Archive
    from blatam_kv.bul.storage.engine import connect

    return Archive(connect(url), node=node)


def probe(url: str) -> str | None:
    """The revision a database is at, None for one that is empty or not made yet. Changes nothing.

    Raises as ``open_storage`` does.
    """
    _need_libraries()
    from blatam_kv.bul.storage.engine import probe

    return probe(url)


def _need_libraries() -> None:
    try:
        import alembic  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "sqlalchemy", extra="server") from error
