"""Where tasks and documents outlive the process: SQLite in the data directory, or PostgreSQL.

``open_storage`` is the door. SQLAlchemy and alembic live behind it: no other module of this room
may be imported at the top of a module outside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A task of a batch without its document."""

    id: str
    status: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One end that somebody wants to be told of, of a task or of a batch.

    key_id: whose signing key signs it. due: Unix time, not to be tried before.
    """

    tenant: str
    key_id: str
    url: str
    task_id: str | None = None
    batch: str | None = None
    tries: int = 0
    due: float = field(default_factory=time.time)
    created: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: os.urandom(16).hex())


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered. headers: pairs of lower-case name and value."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Earlier:
    """A request under the same key. reply: None while it is being answered; elsewhere: by another
    node, so that it may yet be found to be dead."""

    request: str
    reply: Reply | None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that is this node's, for as long as nobody has claimed it since. began: when that was;
    whoever claims it again has another moment."""

    tenant: str
    route: str
    key: str
    began: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One of those that share a database. since: Unix time when it began to live, None for one that is
    gone. unfinished: tasks that are its work; this: whether it is the node that says so."""

    name: str
    since: float | None
    unfinished: int
    this: bool


@contextmanager
def counting(failed: Callable[[str], object], operation: str) -> Iterator[None]:
    """For the body, ``failed`` is told the operation if the database cannot do it."""
    try:
        yield
    except StorageUnavailable:
        failed(operation)
        raise


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
