"""The original's entries as records of this version.

A record keeps the entry as it was: the old key, the value, what else was known of it. Its own key is a
digest of the old key, so that a later file's entry replaces an earlier one's. Requests of this version
are named by other digests, so a migrated entry is never served as an answer; it can be listed, exported
and looked up by its old key.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blatam_kv._core import framed_digest
from blatam_kv.errors import Unsupported
from blatam_kv.migrate.guard import Value, read_untrusted
from blatam_kv.record import Kind, Record

_PERSON = b"blatamkv-migrate"
# What a row may tell beside key and value.
COLUMNS = ("created_at", "accessed_at", "session_id", "metadata")


def key_of(old_key: str) -> bytes:
    """The name of the record that holds an entry of the original."""
    return framed_digest([old_key.encode("utf-8", "surrogatepass")], person=_PERSON)


def entries_of(folder: Path, name: str) -> Iterator[Record]:
    """The entries of one file. Raises Unsupported for one that cannot be read as plain data."""
    path = folder / name
    if path.suffix.lower() in (".db", ".sqlite", ".sqlite3"):
        yield from _rows(path)
    else:
        for value in read_untrusted(path):
            yield _record(value, {"file": name}, 0)


def row_record(key: object, value: object, about: dict[str, Any]) -> Record:
    """A row of the table cache_entries; of what is known about it, None is left out."""
    about = {name: _plain(each) for name, each in about.items() if each is not None}
    return _record(Value(str(key), "json", _column(value)), about, _microseconds(about))


def _record(value: Value, about: dict[str, Any], created_us: int) -> Record:
    codec = {"json": "migrated_json", "safetensors": "migrated_st"}[value.form]
    head = json.dumps({"key": value.key, **about}, sort_keys=True).encode()
    # The head's length, the head, the value: both can be had without the other.
    payload = len(head).to_bytes(4, "little") + head + value.data
    return Record(
        key_of(value.key), Kind.RESPONSE, payload, codec=codec, created_us=max(created_us, 0)
    )


def unfold(record: Record) -> tuple[dict[str, Any], bytes]:
    """What is known of a migrated entry, its old key among it, and its value as JSON or safetensors."""
    payload = bytes(record.payload)
    end = 4 + int.from_bytes(payload[:4], "little")
    return json.loads(payload[4:end]), payload[end:]


def _rows(path: Path) -> Iterator[Record]:
    """Of the table cache_entries, with the columns that v2.0 added or without."""
    try:
        # A copy, with what is not yet in the file itself: reading would write beside the original.
        with TemporaryDirectory() as folder, closing(_copied(path, Path(folder))) as database:
            names = [row[1] for row in database.execute("PRAGMA table_info(cache_entries)")]
            if not {"key", "value"} <= set(names):
                raise Unsupported(f"{path} has no table cache_entries with key and value")
            extra = [name for name in COLUMNS if name in names]
            columns = ", ".join(("key", "value", *extra))
            for row in database.execute(f"SELECT {columns} FROM cache_entries ORDER BY rowid"):
                about = dict(zip(extra, row[2:], strict=True))
                yield row_record(row[0], row[1], about | {"file": path.name})
    except sqlite3.Error as error:
        raise Unsupported(f"{path} is not a database that can be read: {error}") from error


def _copied(path: Path, folder: Path) -> sqlite3.Connection:
    for name in (path.name, f"{path.name}-wal"):
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), folder / name)
    return sqlite3.connect(folder / path.name)


def _plain(value: object) -> object:
    """What is known of an entry, as JSON has it."""
    return value.isoformat() if isinstance(value, datetime) else value


def _column(value: object) -> bytes:
    """A value as JSON; text that is JSON already stays as it is."""
    if isinstance(value, bytes | memoryview):
        return json.dumps({"bytes": bytes(value).hex()}).encode()
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return json.dumps(value, ensure_ascii=False).encode()
        return value.encode()
    return json.dumps(value).encode()


def _microseconds(about: dict[str, Any]) -> int:
    when = about.get("created_at")
    try:
        if isinstance(when, int | float):
            return int(when * 1e6)
        moment = datetime.fromisoformat(str(when))
    except (ValueError, OverflowError):
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)
