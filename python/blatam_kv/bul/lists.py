"""Lists of documents to write, as a spreadsheet program saves them: CSV and XLSX.

The first row names the fields of a request; each further row is one document, an empty cell says
nothing of its field. Every cell is read as text, a formula as the text it is: nothing is calculated.
What does not fit is named by its row, as the spreadsheet counts, and column.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from blatam_kv.bul.request import (
    MAX_BATCH,
    MAX_PROBLEMS,
    FieldProblem,
    QueryRequest,
    RequestRejected,
    parse_request,
)
from blatam_kv.config import did_you_mean
from blatam_kv.errors import MissingExtra

MAX_BYTES = 4 << 20
# Of a workbook, which is a ZIP: what it may come to when it is unpacked, and of how many parts.
MAX_UNPACKED, MAX_PARTS = 16 << 20, 256
# Empty rows count here: a workbook can claim a million of them in a few bytes.
_MAX_ROWS = 5 * MAX_BATCH
COLUMNS = tuple(name for name in QueryRequest.model_fields if name != "cache")
_Row = tuple[int, Sequence[str]]


def read_csv(content: bytes, *, priority: int) -> list[QueryRequest]:
    """The requests in CSV, with commas, semicolons or tabs between the cells. Raises
    RequestRejected."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _rejected("", f"is not UTF-8 (byte {error.start:,}); save it as CSV UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)

    def rows() -> Iterator[_Row]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        number = 1
        try:
            for number, cells in enumerate(reader, 1):
                yield number, cells
        except csv.Error as error:
            raise _rejected(f"row {number + 1}", f"cannot be read: {error}") from None

    return _requests(rows(), priority=priority, padded=False)


def read_xlsx(content: bytes, *, priority: int) -> list[QueryRequest]:
    """The requests in the first sheet of a workbook. Raises RequestRejected, MissingExtra."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtra("openpyxl", extra="sheets") from error
    _check_parts(content)
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, keep_links=False)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # what it says of its size need not be so
            rows: list[_Row] = []
            for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
                if number > _MAX_ROWS:
                    raise _rejected("", f"has more than {_MAX_ROWS:,} rows")
                cells = [_text(value) for value in values[: len(COLUMNS) + 1]]
                if any(cells):
                    rows.append((number, cells))
                if len(rows) > MAX_BATCH + 1:
                    break  # one too many is enough to refuse
        finally:
            book.close()
    except RequestRejected:
        raise
    except Exception as error:  # the library raises whatever a broken workbook leads it to
        raise _rejected(
            "", f"cannot be read as an XLSX workbook ({type(error).__name__})"
        ) from None
    return _requests(rows, priority=priority, padded=True)


def _check_parts(content: bytes) -> None:
    """Refuse what unpacks to too much or brings entities, before anything else reads it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            parts = book.infolist()
            if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > MAX_UNPACKED:
                raise _rejected("", f"unpacks to more than {MAX_UNPACKED >> 20} MiB")
            for part in parts:
                text = book.read(part)  # at most what it says of itself, which was added up
                if (
                    b"<!DOCTYPE" in text
                    or b"<!ENTITY" in text
                    or text[:2] in (b"\xff\xfe", b"\xfe\xff")
                ):
                    raise _rejected("", "has a part that no spreadsheet program writes")
    except RequestRejected:
        raise
    except Exception as error:  # as many kinds as there are ways to damage a ZIP
        raise _rejected("", f"is not an XLSX workbook ({type(error).__name__})") from None


def _text(value: Any) -> str:
    """A cell as it would be typed; the values are of many types."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(getattr(value, "text", value))


def _requests(rows: Iterable[_Row], *, priority: int, padded: bool) -> list[QueryRequest]:
    numbered = iter(rows)
    header = _header(next(numbered, (1, ()))[1])
    problems: list[FieldProblem] = []
    requests: list[QueryRequest] = []
    for number, cells in numbered:
        if not any(cell.strip() for cell in cells):
            continue
        if len(requests) == MAX_BATCH:
            raise _rejected("", f"has more than {MAX_BATCH:,} documents")
        more = [cell for cell in cells[len(header) :] if cell.strip()]
        if more or (not padded and len(cells) != len(header)):
            count = len(header) + len(more) if padded else len(cells)
            text = f"has {count} cells, the header has {len(header)}"
            problems.append(FieldProblem(f"row {number}", text))
        else:
            named = zip(header, cells, strict=False)
            fields: dict[str, object] = {name: text for name, text in named if text.strip()}
            try:
                request = parse_request({"priority": priority} | fields, typed=False)
                requests.append(request)
            except RequestRejected as error:
                problems += [
                    FieldProblem(f"row {number}, {each.field}", each.detail)
                    for each in error.problems
                ]
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise RequestRejected(problems[:MAX_PROBLEMS])
    if not requests:
        raise _rejected("", "has no documents below its header")
    return requests


def _header(cells: Sequence[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    while header and not header[-1]:
        header.pop()
    problems = []
    for name in header:
        if name not in COLUMNS:
            known = did_you_mean(name[:100], COLUMNS) or f"; columns are {', '.join(COLUMNS)}"
            problems.append(FieldProblem(f"row 1, {name[:100]}", f"is not a known field{known}"))
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        problems.append(FieldProblem("row 1", f"has {', '.join(twice)[:200]} twice"))
    if "query" not in header:
        text = "must name the columns, one of which is query"
        problems.append(FieldProblem("row 1", text))
    if problems:
        raise RequestRejected(problems[:MAX_PROBLEMS])
    return header


def _rejected(field: str, detail: str) -> RequestRejected:
    return RequestRejected([FieldProblem(field or "the list", detail)])
