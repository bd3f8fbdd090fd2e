"""A finished document from outside, checked, to be rendered and nothing else.

The form is the one that ``format=json`` gives (docs/DOCUMENTS.md). The frame is read by pydantic; blocks,
which hold one another, are read here, so that a mistake is named by its place in the document.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from blatam_kv.bul.letterheads import LetterheadRequest, to_letterhead
from blatam_kv.bul.request import (
    FieldProblem,
    Format,
    Line,
    RequestRejected,
    Style,
    canonical_format,
    explain,
    one_of,
)
from blatam_kv.bul.sanitise import visible
from blatam_kv.config import did_you_mean
from blatam_kv.documents.document import Document, title_of
from blatam_kv.documents.form import (
    CALLOUTS,
    Align,
    Block,
    Callout,
    Code,
    Heading,
    Items,
    Paragraph,
    Quote,
    Rule,
    Span,
    Spans,
    plain,
    table,
)
from blatam_kv.documents.languages import written_number
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.markdown import SCHEMES, read

MAX_SECTIONS = 500
# Blocks in blocks: beyond it no page has room.
MAX_DEPTH = 8
_MAX_NUMBER = 1e15


class SectionRequest(BaseModel):
    """A heading and what stands under it: Markdown, or blocks, which go first if both are there."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    heading: Line = ""
    level: Annotated[int, Field(ge=0, le=6)] = 2
    content: str = ""
    # Any: read by _blocks, which names what is wrong by its place.
    blocks: list[dict[str, Any]] | None = None


class ExportRequest(BaseModel):
    """A document to render: ``markdown``, or ``sections``. date: ``YYYY-MM-DD``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Annotated[Format, BeforeValidator(canonical_format)] = "pdf"
    style: Style = "professional"
    table_of_contents: bool | None = None
    title: Line = ""
    language: str = "es"
    document_type: Line = ""
    business_area: Line = ""
    company: Line = ""
    audience: Line = ""
    author: Line = ""
    date: str | None = None
    markdown: str | None = None
    sections: Annotated[list[SectionRequest], Field(max_length=MAX_SECTIONS)] | None = None
    letterhead: LetterheadRequest | bool = True


class Export:
    """A checked request. document: without a letterhead that is kept elsewhere; wants_letterhead:
    whether that one is to stand on it."""

    __slots__ = ("document", "format", "wants_letterhead")

    def __init__(self, document: Document, format: str, *, wants_letterhead: bool) -> None:
        self.document = document
        self.format = format
        self.wants_letterhead = wants_letterhead


def parse_export(payload: object) -> Export:
    """The export in a decoded JSON value. Raises InvalidRequest, RequestRejected if the form is
    wrong."""
    if not isinstance(payload, dict):
        raise _wrong("", 'must be an object such as {"markdown": "# Title", "format": "pdf"}')
    try:
        request = ExportRequest.model_validate(payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestRejected([explain(each, ExportRequest) for each in found]) from None
    if (request.markdown is None) == (request.sections is None):
        raise _wrong("markdown", "send either markdown or sections")
    head: Letterhead | None = None
    if isinstance(request.letterhead, LetterheadRequest):
        head = to_letterhead(request.letterhead)
    facts: dict[str, Any] = {  # Any: of as many types as a document has facts
        "language": request.language,
        "document_type": request.document_type,
        "business_area": request.business_area,
        "company": request.company,
        "audience": request.audience,
        "author": request.author,
        "date": _date(request.date),
        "style": request.style,
        "contents": request.table_of_contents,
        "letterhead": head,
    }
    if request.markdown is not None:
        text = visible(request.markdown).strip()
        title = request.title or title_of(text) or "-"
        document = Document(title=title, markdown=text, **facts)
    else:
        blocks = _sections(request)
        title = request.title or _first_heading(blocks) or "-"
        document = Document.of_blocks(blocks, title=title, **facts)
    return Export(document, request.format, wants_letterhead=request.letterhead is True)


def _wrong(field: str, detail: str) -> RequestRejected:
    return RequestRejected([FieldProblem(field, detail)])


def _date(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong("date", f"{text[:40]!r} is no date; write 2026-03-07") from None


def _first_heading(blocks: list[Block]) -> str:
    return next((plain(each.spans) for each in blocks if isinstance(each, Heading)), "")[:120]


def _sections(request: ExportRequest) -> list[Block]:
    found: list[Block] = []
    for at, section in enumerate(request.sections or ()):
        if section.heading:
            found.append(Heading(max(1, section.level), (Span(section.heading),)))
        if section.blocks is not None:
            place = f"sections.{at}.blocks"
            found.extend(_Reader(request.language).blocks(section.blocks, place, 1))
        else:
            found.extend(read(visible(section.content)))
    return found


class _Reader:
    """Blocks from values that JSON has. language: in which numbers are written."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._readers: dict[str, Callable[[dict[str, Any], str, int], Block]] = {
            "heading": self._heading,
            "paragraph": lambda value, place, depth: Paragraph(self._text(value, place)),
            "list": self._list,
            "table": self._table,
            "callout": self._callout,
            "quote": lambda value, place, depth: Quote(self._inner(value, place, depth)),
            "code": self._code,
            "rule": lambda value, place, depth: Rule(),
        }
        self._fields = {
            "heading": ("level", "text"),
            "paragraph": ("text",),
            "list": ("start", "items"),
            "table": ("align", "head", "rows"),
            "callout": ("kind", "blocks"),
            "quote": ("blocks",),
            "code": ("text",),
            "rule": (),
        }

    def blocks(self, value: object, place: str, depth: int) -> tuple[Block, ...]:
        """The blocks of a list."""
        if not isinstance(value, list):
            raise _wrong(place, "must be a list of blocks")
        if depth > MAX_DEPTH:
            raise _wrong(place, f"is nested more than {MAX_DEPTH} deep")
        return tuple(self._block(each, f"{place}.{at}", depth) for at, each in enumerate(value))

    def _block(self, value: object, place: str, depth: int) -> Block:
        if not isinstance(value, dict):
            raise _wrong(place, 'must be a block such as {"type": "paragraph", "text": "…"}')
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in self._readers:
            raise _wrong(f"{place}.type", one_of(kind, tuple(self._readers)))
        known = ("type", *self._fields[kind])
        for name in value:
            if name not in known:
                hint = did_you_mean(name[:100], known)
                raise _wrong(f"{place}.{name[:100]}", f"is not a known field{hint}")
        return self._readers[kind](value, place, depth)

    def _inner(self, value: dict[str, Any], place: str, depth: int) -> tuple[Block, ...]:
        return self.blocks(value.get("blocks"), f"{place}.blocks", depth + 1)

    def _heading(self, value: dict[str, Any], place: str, depth: int) -> Block:
        level = value.get("level", 2)
        if type(level) is not int or not 1 <= level <= 6:
            raise _wrong(f"{place}.level", "must be a whole number from 1 to 6")
        return Heading(level, self._text(value, place))

    def _list(self, value: dict[str, Any], place: str, depth: int) -> Block:
        start, items = value.get("start"), value.get("items")
        if start is not None and (type(start) is not int or not 0 <= start < 10**9):
            raise _wrong(f"{place}.start", "must be a whole number below a billion")
        if not isinstance(items, list):
            raise _wrong(f"{place}.items", "must be a list")
        read_items = []
        for at, item in enumerate(items):
            where = f"{place}.items.{at}"
            if isinstance(item, list) and any(isinstance(e, dict) and "type" in e for e in item):
                read_items.append(self.blocks(item, where, depth + 1))
            else:
                read_items.append((Paragraph(self._spans(item, where)),))
        return Items(tuple(read_items), start)

    def _table(self, value: dict[str, Any], place: str, depth: int) -> Block:
        head, rows, align = value.get("head"), value.get("rows", []), value.get("align", [])
        for name, found in (("head", head), ("rows", rows), ("align", align)):
            if not isinstance(found, list):
                raise _wrong(f"{place}.{name}", "must be a list")
        assert isinstance(head, list)
        sides: list[Align] = []
        for at, side in enumerate(align):
            if side not in get_args(Align):
                raise _wrong(f"{place}.align.{at}", one_of(side, get_args(Align)))
            sides.append(side)
        cells = []
        for at, row in enumerate(rows):
            if not isinstance(row, list):
                raise _wrong(f"{place}.rows.{at}", "must be a list of cells")
            cells.append(self._row(row, f"{place}.rows.{at}"))
        return table(self._row(head, f"{place}.head"), cells, sides)

    def _row(self, row: list[object], place: str) -> list[Spans]:
        return [self._spans(cell, f"{place}.{at}") for at, cell in enumerate(row)]

    def _callout(self, value: dict[str, Any], place: str, depth: int) -> Block:
        kind = value.get("kind", "note")
        if kind not in CALLOUTS:
            raise _wrong(f"{place}.kind", one_of(kind, CALLOUTS))
        return Callout(kind, self._inner(value, place, depth))

    def _code(self, value: dict[str, Any], place: str, depth: int) -> Block:
        text = value.get("text")
        if not isinstance(text, str):
            raise _wrong(f"{place}.text", "must be a text")
        return Code(visible(text))

    def _text(self, value: dict[str, Any], place: str) -> Spans:
        if "text" not in value:
            raise _wrong(f"{place}.text", "is required")
        return self._spans(value["text"], f"{place}.text")

    def _spans(self, value: object, place: str) -> Spans:
        """A text, a number, or a list of runs."""
        if isinstance(value, list):
            return tuple(self._span(each, f"{place}.{at}") for at, each in enumerate(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) > _MAX_NUMBER:
                raise _wrong(place, "is a number that no table has room for; write it as text")
            places = 0 if isinstance(value, int) else 2
            return (Span(written_number(value, self._language, places=places)),)
        return (self._span(value, place),) if value != "" else ()

    def _span(self, value: object, place: str) -> Span:
        if isinstance(value, str):
            return Span(visible(value))
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise _wrong(place, 'must be a text or a run such as {"text": "…", "bold": true}')
        looks = ("bold", "italic", "code")
        for name, said in value.items():
            if name not in ("text", "href", *looks):
                hint = did_you_mean(name[:100], ("text", "href", *looks))
                raise _wrong(f"{place}.{name[:100]}", f"is not a known field{hint}")
            if name in looks and not isinstance(said, bool):
                raise _wrong(f"{place}.{name}", "must be true or false")
        href = value.get("href", "")
        if not isinstance(href, str) or (href and not href.lower().startswith(SCHEMES)):
            raise _wrong(f"{place}.href", f"must begin with {', '.join(SCHEMES)}")
        bold, italic, code = (value.get(name, False) for name in looks)
        return Span(visible(value["text"]), bold, italic, code, href)
