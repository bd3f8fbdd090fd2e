"""Traces: what was asked for, in order, read from files and arrays into the core's numbered form.

A file's name tells its format, and may end in ``.xz`` or ``.gz`` besides:

- ``.u32``: one little-endian uint32 for each request, the id of its object.
- ``.txt``: one key a line, any bytes; blank lines are no requests.
- ``.csv``: a header line that names the columns, then a line for each request. Its key is what stands
  in one of them, any text; another may hold its size in bytes.
- ``.jsonl``: one prompt a line, an object whose ``hash_ids`` are the ids of its blocks from the first
  on, as Mooncake publishes them: equal ids mean equal text up to the end of the block.

Whatever the format, a file is read in pieces; only the numbers stay.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from blatam_kv._core import Trace
from blatam_kv.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 1 << 16  # requests

# Any: what has a buffer, as array and numpy's arrays, or can become one, as those of pandas or torch.
Integers: TypeAlias = "Sequence[int] | Any"
StrPath: TypeAlias = "str | os.PathLike[str]"
# Called now and then with what has been read and what there is: bytes of a file, or requests.
Report: TypeAlias = Callable[[int, int], None]
_Piece: TypeAlias = "tuple[array[int] | memoryview, array[int] | memoryview | None]"


def read(
    source: StrPath | Integers,
    *,
    sizes: StrPath | Integers | None = None,
    column: str | None = None,
    size_column: str | None = None,
    report: Report = lambda done, total: None,
) -> Trace:
    """The trace in a file, or in a 1-D sequence of integers from 0 to 2**64-1.

    sizes: the bytes of what each request asks for: as many integers as there are requests, or a file
    of little-endian uint32 whose name ends in ``.sz`` (and ``.xz`` or ``.gz``). A file beside the
    trace is never taken without being named, because sizes change what a capacity means. column and
    size_column: names of columns in a CSV file; the key is in the first column by default.

    Raises InvalidRequest for what is not as above; it names the line, or the request.
    """
    path = _path(source)
    name = "trace" if path is None else str(path)
    format = None if path is None else _format(path, _FORMATS, "trace")
    if format != ".csv" and (column is not None or size_column is not None):
        raise InvalidRequest("column and size_column are for traces in CSV", field="column")
    if sizes is not None and (format == ".jsonl" or size_column is not None):
        why = "size_column names them" if size_column is not None else "all blocks are of one size"
        raise InvalidRequest(f"sizes cannot be given here: {why}", field="sizes")
    if path is None:
        pieces = _array_pieces(integers(source, "trace"), report)
    elif format == ".u32":
        pieces = _u32_pieces(path, report)
    elif format == ".txt":
        pieces = _text_pieces(path, report)
    elif format == ".csv":
        pieces = _csv_pieces(path, report, column, size_column)
    else:
        return _prompts(path, report)
    trace = Trace("objects" if sizes is None and size_column is None else "sized")
    return _numbered(pieces, name, _sizes(sizes), trace)


def _path(source: StrPath | Integers) -> Path | None:
    if not isinstance(source, str | os.PathLike):
        return None
    from pathlib import Path

    return Path(source)


def _numbered(pieces: Iterator[_Piece], name: str, sizes: memoryview | None, trace: Trace) -> Trace:
    for ids, weights in pieces:
        at = trace.requests
        if sizes is not None:
            weights = sizes[at : at + len(ids)]
            if len(weights) < len(ids):
                raise InvalidRequest(
                    f"there are only {len(sizes)} sizes but more requests in {name}", field="sizes"
                )
        taken, fault = trace.add(ids) if weights is None else trace.add_sized(ids, weights)
        if fault:
            raise InvalidRequest(f"request {at + taken} of {name}, from 0: {fault}", field="trace")
    if sizes is not None and len(sizes) > trace.requests:
        raise InvalidRequest(
            f"there are {len(sizes)} sizes but only {trace.requests} requests in {name}",
            field="sizes",
        )
    return _not_empty(trace, name)


def _not_empty(trace: Trace, name: str) -> Trace:
    if trace.requests == 0:
        raise InvalidRequest(f"{name} holds no requests", field="trace")
    return trace


# ---- arrays -------------------------------------------------------------------------------------


def integers(values: Integers, name: str) -> memoryview:
    """The values as a contiguous 1-D view of integers. Raises InvalidRequest for anything else."""
    if isinstance(values, list | tuple | range):
        try:
            values = array("Q", values)
        except TypeError as error:
            raise InvalidRequest(f"{name} must hold integers: {error}", field=name) from error
        except OverflowError as error:
            message = f"{name} must hold integers from 0 to 2**64-1"
            raise InvalidRequest(message, field=name) from error
    elif not isinstance(values, array | memoryview) and hasattr(values, "__array__"):
        import numpy

        values = numpy.asarray(values)  # also of what offers no buffer: pandas, torch
    try:
        if isinstance(values, bytes | bytearray):
            raise TypeError("bytes could be many things")
        view = memoryview(cast("Any", values))  # Any: it raises TypeError where there is no buffer
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"{name} must be a path or a 1-D array of integers, not {type(values).__name__}",
            field=name,
        ) from error
    letter = view.format.lstrip("@=" + ("<" if sys.byteorder == "little" else ">"))
    if view.ndim != 1 or letter not in set("bBhHiIlLqQ"):
        raise InvalidRequest(
            f"{name} must be a 1-D array of integers, not {view.ndim}-D of format "
            f"{view.format!r}; an array of numpy has astype('uint64')",
            field=name,
        )
    return view if view.c_contiguous else memoryview(view.tobytes()).cast(letter)  # type: ignore[call-overload]  # one of the letters above


def _array_pieces(view: memoryview, report: Report) -> Iterator[_Piece]:
    for at in range(0, len(view), PIECE):
        report(at, len(view))
        yield view[at : at + PIECE], None


def _sizes(sizes: StrPath | Integers | None) -> memoryview | None:
    if sizes is None:
        return None
    path = _path(sizes)
    if path is None:
        return integers(sizes, "sizes")
    _format(path, {".sz": "little-endian uint32"}, "sizes")
    numbers = array("I")
    for piece, _ in _u32_pieces(path, lambda done, total: None):
        numbers.extend(piece)
    return memoryview(numbers)


# ---- files --------------------------------------------------------------------------------------

_FORMATS = {
    ".u32": "little-endian uint32",
    ".txt": "one key a line",
    ".csv": "a header, then a request a line",
    ".jsonl": "a prompt a line, as Mooncake's",
}


def _format(path: Path, formats: dict[str, str], field: str) -> str:
    suffix = (path.with_suffix("") if path.suffix in (".xz", ".gz") else path).suffix
    if suffix not in formats:
        known = ", ".join(f"{known} ({what})" for known, what in formats.items())
        raise InvalidRequest(
            f"the name of {path} does not tell its format; it must end in {known}, then maybe in "
            ".xz or .gz",
            field=field,
        )
    return suffix


@contextmanager
def _opened(path: Path, report: Report) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """The file's content, unpacked, and a function that reports how far it has been read."""
    import gzip
    import io
    import lzma
    import zlib

    try:
        # Any: three ways to wrap a file, with nothing but that in common.
        unpack: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, nullcontext)
        with path.open("rb") as raw, unpack(raw) as unpacked:
            total = os.fstat(raw.fileno()).st_size
            # The unpackers' own readline is slow.
            file = io.BufferedReader(unpacked, PIECE)
            yield file, lambda: report(raw.tell(), total)
    except EOFError as error:
        raise InvalidRequest(f"{path} is truncated: {error}", field="trace") from error
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        message = f"{path} is damaged, or no {path.suffix} file: {error}"
        raise InvalidRequest(message, field="trace") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidRequest(f"cannot read {path}: {reason}", field="trace") from error


def _u32_pieces(path: Path, report: Report) -> Iterator[_Piece]:
    with _opened(path, report) as (file, tick):
        total = 0
        while content := file.read(4 * PIECE):
            total += len(content)
            if len(content) % 4:
                raise InvalidRequest(
                    f"{path} has {total} bytes, no multiple of 4: it is truncated, or not of uint32",
                    field="trace",
                )
            ids = array("I", content)
            if sys.byteorder == "big":
                ids.byteswap()
            tick()
            yield ids, None


def _text_pieces(path: Path, report: Report) -> Iterator[_Piece]:
    numbers: dict[Hashable, int] = {}
    with _opened(path, report) as (file, tick):
        while lines := list(islice(file, PIECE)):
            keys = (line.rstrip(b"\r\n") for line in lines)
            ids = array("Q", [numbers.setdefault(key, len(numbers)) for key in keys if key])
            tick()
            yield ids, None


def _csv_pieces(
    path: Path, report: Report, column: str | None, size_column: str | None
) -> Iterator[_Piece]:
    import csv
    import io

    numbers: dict[Hashable, int] = {}
    with _opened(path, report) as (file, tick):
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text)
        try:
            header = next(rows, [])
            key_at = 0 if column is None else _column(header, column, path)
            size_at = None if size_column is None else _column(header, size_column, path)
            if any(name.strip().isdecimal() for name in header):
                raise InvalidRequest(
                    f"line 1 of {path} must name the columns, but holds numbers", field="trace"
                )
            while True:
                ids, sizes = array("Q"), array("Q")
                for row in islice(rows, PIECE):
                    if not row:
                        continue
                    if len(row) != len(header):
                        raise InvalidRequest(
                            f"line {rows.line_num} of {path} has {len(row)} columns, the header "
                            f"{len(header)}",
                            field="trace",
                        )
                    ids.append(numbers.setdefault(row[key_at], len(numbers)))
                    if size_at is not None:
                        sizes.append(_size(row[size_at], rows.line_num, path))
                tick()
                if not ids:
                    return
                yield ids, None if size_at is None else sizes
        except csv.Error as error:
            message = f"line {rows.line_num} of {path} is not CSV: {error}"
            raise InvalidRequest(message, field="trace") from error
        finally:
            text.detach()


def _column(header: list[str], name: str, path: Path) -> int:
    if name in header:
        return header.index(name)
    known = ", ".join(header) or "none"
    raise InvalidRequest(
        f"no column of {path} is called {name!r}; there are: {known}", field="column"
    )


def _size(cell: str, line: int, path: Path) -> int:
    if cell.strip().isascii() and cell.strip().isdecimal() and len(cell) < 20:
        return int(cell)
    raise InvalidRequest(
        f"line {line} of {path}: a size must be a whole number of bytes, not {cell!r}",
        field="sizes",
    )


def _prompts(path: Path, report: Report) -> Trace:
    import json

    trace = Trace("prefixes")
    with _opened(path, report) as (file, tick):
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            where = f"line {line} of {path}"
            try:
                prompt = json.loads(content)
            except (ValueError, RecursionError) as error:
                message = f"{where} is not JSON; is the file truncated?"
                raise InvalidRequest(message, field="trace") from error
            blocks = prompt.get("hash_ids") if isinstance(prompt, dict) else None
            if not isinstance(blocks, list):
                raise InvalidRequest(
                    f"{where} has no list of hash_ids; a prompt looks like "
                    '{"hash_ids": [0, 1, 2]}',
                    field="trace",
                )
            try:
                if bool in map(type, blocks):
                    raise TypeError
                ids = array("Q", blocks)
            except (TypeError, OverflowError) as error:
                message = f"{where}: hash_ids must be integers from 0 to 2**64-1"
                raise InvalidRequest(message, field="trace") from error
            taken, fault = trace.add_prompt(ids)
            if fault:
                raise InvalidRequest(f"{where}: block {blocks[taken]}: {fault}", field="trace")
            if line % 256 == 0:
                tick()
    return _not_empty(trace, str(path))
