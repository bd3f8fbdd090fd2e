"""Markdown out: a form written so that it reads back as the same form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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

# What would be read as markup wherever it stands, and what only at the beginning of a line.
_ANYWHERE = re.compile(r"[\\`*_\[\]<>&|~]")
_AT_START = re.compile(r"^([ \t]*)([#+=-])", re.MULTILINE)
_NUMBER = re.compile(r"^([ \t]*\d{1,9})([.)])", re.MULTILINE)
_CLOSING = re.compile(r"#(?=#*$)")
_ALIGN = {"left": "---", "center": ":-:", "right": "--:"}


def to_markdown(blocks: Sequence[Block]) -> str:
    """The text of a form, without a line end after its last line."""
    return "\n\n".join(_block(block) for block in _apart(blocks))


def _apart(blocks: Sequence[Block]) -> Iterable[Block]:
    nothing = (Paragraph(()), Table((), (), ()))
    return (block for block in blocks if block not in nothing)


def _block(block: Block) -> str:
    match block:
        case Heading(level, spans):
            # At its end a heading may have more of its marks, which are not read as text.
            text = _CLOSING.sub(r"\\#", _inline(spans, one_line=True))
            return f"{'#' * level} {text}".rstrip()
        case Paragraph(spans):
            return _inline(spans)
        case Items(items, start):
            return "\n".join(
                _indented(item, "- " if start is None else f"{start + at}. ")
                for at, item in enumerate(items)
            )
        case Table():
            return _table(block)
        case Callout(kind, inner):
            return _quoted(f"[!{kind.upper()}]\n{to_markdown(inner)}")
        case Quote(inner):
            return _quoted(to_markdown(inner))
        case Code(text):
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}\n{text}\n{fence}"
    return "***"  # dashes after the dash of a list would be one longer line


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _indented(item: Sequence[Block], mark: str) -> str:
    lines = to_markdown(item).split("\n")
    rest = [f"{' ' * len(mark)}{line}".rstrip() for line in lines[1:]]
    return "\n".join([(mark + lines[0]).rstrip(), *rest])


def _table(table: Table) -> str:
    rows = [table.head, *table.rows]
    lines = ["| " + " | ".join(_inline(cell, one_line=True) for cell in row) + " |" for row in rows]
    rule = "|" + "|".join(f" {_ALIGN[align]} " for align in table.align) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _inline(spans: Spans, *, one_line: bool = False) -> str:
    text = "".join(map(_span, spans)).strip()
    if one_line:
        return " ".join(text.replace("\\\n", " ").split())
    text = _AT_START.sub(r"\1\\\2", text)
    return _NUMBER.sub(r"\1\\\2", text)


def _span(span: Span) -> str:
    text = span.text
    if span.code:
        return _code(" ".join(text.split("\n")), span)
    words = text.strip()
    if not words:
        return " " if text else ""
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    written = _ANYWHERE.sub(r"\\\g<0>", words).replace("\n", "\\\n")
    return f"{_space(before)}{_marked(written, span)}{_space(after)}"


def _space(text: str) -> str:
    return "\\\n" if "\n" in text else " " if text else ""


def _code(text: str, span: Span) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text[:1] in "` " or text[-1:] in "` " else ""
    return _marked(f"{fence}{pad}{text}{pad}{fence}", span)


def _marked(written: str, span: Span) -> str:
    if span.bold or span.italic:
        mark = "*" * (2 * span.bold + span.italic)
        written = f"{mark}{written}{mark}"
    if span.href:
        address = span.href.replace("<", "%3C").replace(">", "%3E").replace("\\", "%5C")
        written = f"[{written}](<{address}>)"
    return written
