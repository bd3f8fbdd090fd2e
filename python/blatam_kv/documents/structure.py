"""The form as JSON: what ``format=json`` gives, and what the export service takes.

docs/DOCUMENTS.md describes it. A section has ``content``, its text as Markdown, and ``blocks``, the same
as structure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from blatam_kv.documents.document import Document
from blatam_kv.documents.form import (
    Block,
    Callout,
    Code,
    Heading,
    Items,
    Paragraph,
    Quote,
    Span,
    Spans,
    Table,
)
from blatam_kv.documents.markdown import read


def as_json(document: Document) -> str:
    """The document, its empty facts left out."""
    facts = {
        "title": document.title,
        "language": document.language,
        "document_type": document.document_type,
        "business_area": document.business_area,
        "company": document.company,
        "audience": document.audience,
        "author": document.author,
        "date": None if document.date is None else document.date.isoformat(),
        "style": document.style,
    }
    sections = [
        {
            "heading": section.heading,
            "level": section.level,
            "content": section.content,
            "blocks": as_data(read(section.content)),
        }
        for section in document.sections
    ]
    kept = {name: value for name, value in facts.items() if value}
    return json.dumps(kept | {"sections": sections}, ensure_ascii=False, indent=1) + "\n"


def as_data(blocks: Sequence[Block]) -> list[dict[str, object]]:
    """Blocks as values that JSON has."""
    return [_block(block) for block in blocks]


def _block(block: Block) -> dict[str, object]:
    match block:
        case Heading(level, spans):
            return {"type": "heading", "level": level, "text": _spans(spans)}
        case Paragraph(spans):
            return {"type": "paragraph", "text": _spans(spans)}
        case Items(items, start):
            order = {} if start is None else {"start": start}
            return {"type": "list", **order, "items": [_item(item) for item in items]}
        case Table(head, rows, align):
            return {
                "type": "table",
                "align": list(align),
                "head": [_spans(cell) for cell in head],
                "rows": [[_spans(cell) for cell in row] for row in rows],
            }
        case Callout(kind, inner):
            return {"type": "callout", "kind": kind, "blocks": as_data(inner)}
        case Quote(inner):
            return {"type": "quote", "blocks": as_data(inner)}
        case Code(text):
            return {"type": "code", "text": text}
    return {"type": "rule"}


def _item(item: Sequence[Block]) -> object:
    """An item that is one line of text is that text."""
    if len(item) == 1 and isinstance(item[0], Paragraph):
        return _spans(item[0].spans)
    return as_data(item)


def _spans(spans: Spans) -> object:
    """Plain text as a string, other text as a list of runs."""
    if not spans:
        return ""
    if len(spans) == 1 and spans[0] == Span(spans[0].text):
        return spans[0].text
    return [_span(span) for span in spans]


def _span(span: Span) -> object:
    looks = {"bold": span.bold, "italic": span.italic, "code": span.code, "href": span.href}
    said = {name: value for name, value in looks.items() if value}
    return {"text": span.text, **said} if said else span.text
