"""A document as text to read in a terminal or an e-mail: no markup, lines of 78 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from blatam_kv.documents import languages
from blatam_kv.documents.document import Document
from blatam_kv.documents.form import (
    Block,
    Callout,
    Code,
    Heading,
    Items,
    Paragraph,
    Quote,
    Spans,
    Table,
)

WIDTH = 78


def plaintext(document: Document) -> str:
    """The whole text: title, facts and body."""
    writer = _Writer(document.language)
    title = writer.heading(document.heading, "=")
    head = [*title, "", *_wrap("  ·  ".join(document.facts), WIDTH)] if document.facts else title
    body = writer.blocks(document.body, WIDTH)
    return "\n".join([*head, *([""] if body else []), *body]) + "\n"


class _Writer:
    """Blocks as lines."""

    def __init__(self, language: str) -> None:
        self._callouts = languages.words(language).callouts

    def blocks(self, blocks: Iterable[Block], width: int, *, apart: bool = True) -> list[str]:
        """Lines of several blocks, with an empty line between two if they stand apart."""
        lines: list[str] = []
        for block in blocks:
            if lines and apart:
                lines.append("")
            lines.extend(self._block(block, width))
        return lines

    def heading(self, spans: Spans, underline: str, width: int = WIDTH) -> list[str]:
        """Words over a line as long as they are."""
        lines = _wrap(_inline(spans), width)
        return [*lines, underline * max(map(len, lines))] if underline and any(lines) else lines

    def _block(self, block: Block, width: int) -> list[str]:
        match block:
            case Heading(level, spans):
                return self.heading(spans, "-" if level == 1 else "", width)
            case Paragraph(spans):
                return _wrap(_inline(spans), width)
            case Items():
                return self._items(block, width)
            case Table():
                return _table(block, width)
            case Callout(kind, inner):
                name = f"{self._callouts[kind].upper()}:"
                return _quoted([name, *self.blocks(inner, max(width - 2, 20))])
            case Quote(inner):
                return _quoted(self.blocks(inner, max(width - 2, 20)))
            case Code(text):
                return [f"    {line}".rstrip() for line in text.split("\n")]
        return ["-" * width]

    def _items(self, block: Items, width: int) -> list[str]:
        lines: list[str] = []
        for at, item in enumerate(block.items):
            mark = "- " if block.start is None else f"{block.start + at}. "
            body = self.blocks(item, max(width - len(mark), 20), apart=False) or [""]
            lines.append((mark + body[0]).rstrip())
            lines.extend((" " * len(mark) + line).rstrip() for line in body[1:])
        return lines


def _quoted(lines: Sequence[str]) -> list[str]:
    return [f"> {line}".rstrip() for line in lines]


def _table(table: Table, width: int) -> list[str]:
    """Columns side by side; a table too wide for that as one record after the other."""
    rows = [[_inline(cell).replace("\n", " ") for cell in row] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) > width and len(rows) > 1:
        return _records(rows, width)
    text = [
        "  ".join(
            _set(cell, size, side)
            for cell, size, side in zip(row, widths, table.align, strict=True)
        ).rstrip()
        for row in rows
    ]
    return [text[0], "  ".join("-" * size for size in widths), *text[1:]]


def _set(cell: str, width: int, side: str) -> str:
    if side == "right":
        return cell.rjust(width)
    return cell.center(width) if side == "center" else cell.ljust(width)


def _records(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    lines: list[str] = []
    head, *records = rows
    for record in records:
        if lines:
            lines.append("")
        for name, value in zip(head, record, strict=True):
            if value:
                lines.extend(_wrap(f"{name}: {value}" if name else value, width))
    return lines


def _inline(spans: Spans) -> str:
    """The words of spans; a link shows its address unless that is already its text."""
    parts: list[str] = []
    for at, span in enumerate(spans):
        parts.append(span.text)
        following = spans[at + 1].href if at + 1 < len(spans) else ""
        if span.href and span.href != following:
            said = "".join(part.text for part in spans if part.href == span.href)
            if span.href not in (said, f"mailto:{said}"):
                parts.append(f" ({span.href})")
    return "".join(parts)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; a longer word stays whole, so an address can be used."""
    lines: list[str] = []
    for line in text.split("\n"):
        wrapped = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
        lines.extend(wrapped or [""])
    return lines
