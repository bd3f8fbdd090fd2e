"""The documents of a batch as one ZIP, written while it is sent.

No more than one document is held at a time. The same documents give the same bytes: entries come in
the order of the batch, under names that begin with their number there, and none has a date.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import BatchRow
from blatam_kv.errors import InvalidRequest

# The earliest there is in a ZIP.
_DATE = (1980, 1, 1, 0, 0, 0)
MANIFEST = "manifest.json"


def bundle(
    service: Service, rows: Sequence[BatchRow], *, tenant: str, **look: Any
) -> Iterator[bytes]:
    """The bytes of the ZIP, a piece for each document. look: format and style, as
    ``Service.document`` takes them.

    Its last entry, ``manifest.json``, says of every task what became of it.
    """
    sink = _Sink()
    manifest = []
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, row in enumerate(rows, 1):
            entry: dict[str, object] = {"task_id": row.id, "status": row.status}
            if row.status == "completed":
                try:
                    rendered = service.document(service.task(row.id, tenant=tenant), **look)
                except InvalidRequest as error:  # its format cannot hold it
                    entry["error"] = str(error)
                else:
                    name = f"{number:04d} {rendered.filename}"
                    archive.writestr(_entry(name), rendered.content)
                    entry["file"] = name
            elif row.error is not None:
                entry["error"] = row.error
            manifest.append(entry)
            yield sink.taken()
        archive.writestr(_entry(MANIFEST), orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    yield sink.taken()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # whatever the machine, the bytes are the same
    entry.external_attr = 0o644 << 16
    return entry


class _Sink(io.RawIOBase):
    """What is written is taken from it; there is no going back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # Any: a buffer
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """All since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
