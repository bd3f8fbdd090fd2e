"""Markdown in: CommonMark, tables and callouts become the form; nothing raw, nothing fetched.

A callout is written as GitHub does, a quote whose first line is ``[!NOTE]``, ``[!TIP]``,
``[!IMPORTANT]``, ``[!WARNING]`` or ``[!CAUTION]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from blatam_kv.documents.form import (
    CALLOUTS,
    Align,
    Block,
    Callout,
    CalloutKind,
    Code,
    Heading,
    Items,
    Paragraph,
    Quote,
    Rule,
    Span,
    Spans,
    table,
)
from blatam_kv.errors import MissingExtra

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_CALLOUT = re.compile(rf"\[!({'|'.join(CALLOUTS)})\][ \t]*(?:\n|$)", re.IGNORECASE)
_ALIGN: dict[str, Align] = {
    "text-align:left": "left",
    "text-align:center": "center",
    "text-align:right": "right",
}
# What a reader may be led to by a link; anything else stays as text.
SCHEMES = ("http://", "https://", "mailto:")


@cache
def _parser() -> MarkdownIt:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise MissingExtra("markdown-it-py", extra="documents") from error
    # Raw HTML stays text. Images too: opening a document must not call a stranger's server.
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def parse(markdown: str) -> list[Token]:
    """The block tokens; an inline token follows the opening of each block that has text."""
    return _parser().parse(markdown)


def read(markdown: str) -> tuple[Block, ...]:
    """The blocks of a text. Nesting is bounded by the parser, and so is the recursion here."""
    return _blocks(parse(markdown))


def _blocks(tokens: Sequence[Token]) -> tuple[Block, ...]:
    found: list[Block] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _end(tokens, at)
        inside = tokens[at + 1 : end]
        match token.type:
            case "heading_open":
                found.append(Heading(int(token.tag[1:]), _spans(inside[0])))
            case "paragraph_open":
                if spans := _spans(inside[0]):
                    found.append(Paragraph(spans))
            case "bullet_list_open":
                found.append(Items(_items(inside)))
            case "ordered_list_open":
                found.append(Items(_items(inside), start=int(token.attrs.get("start", 1))))
            case "blockquote_open":
                found.append(_quote(inside))
            case "table_open":
                found.append(_table(inside))
            case "fence" | "code_block":
                found.append(Code(token.content.removesuffix("\n")))
            case "hr":
                found.append(Rule())
        at = end + 1
    return tuple(found)


def _end(tokens: Sequence[Token], at: int) -> int:
    """The token that closes the one there, which may be the same."""
    depth = 0
    while True:
        depth += tokens[at].nesting
        if depth == 0:
            return at
        at += 1


def _items(tokens: Sequence[Token]) -> tuple[tuple[Block, ...], ...]:
    items = []
    at = 0
    while at < len(tokens):
        end = _end(tokens, at)
        items.append(_blocks(tokens[at + 1 : end]))
        at = end + 1
    return tuple(items)


def _quote(tokens: Sequence[Token]) -> Block:
    if len(tokens) >= 3 and tokens[0].type == "paragraph_open":
        found = _CALLOUT.match(tokens[1].content)
        if found:
            kind = found[1].lower()
            blocks = _blocks(tokens)
            first = blocks[0]
            # Unless a reference made a link of the mark.
            if isinstance(first, Paragraph) and first.spans[0].text.startswith("[!"):
                rest = _after_line(first.spans)
                kept = (Paragraph(rest), *blocks[1:]) if rest else blocks[1:]
                return Callout(_kind(kind), kept)
    return Quote(_blocks(tokens))


def _kind(name: str) -> CalloutKind:
    return next(kind for kind in CALLOUTS if kind == name)


def _after_line(spans: Spans) -> Spans:
    """The spans without their first line, the mark of a callout, which is plain text."""
    marked = spans[0].text
    rest = marked[marked.index("]") + 1 :].lstrip(" \n")
    return (Span(rest), *spans[1:]) if rest else spans[1:]


def _table(tokens: Sequence[Token]) -> Block:
    rows: list[list[Spans]] = []
    align: list[Align] = []
    for at, token in enumerate(tokens):
        match token.type:
            case "tr_open":
                rows.append([])
            case "th_open" | "td_open":
                rows[-1].append(_spans(tokens[at + 1]))
                if token.type == "th_open":
                    align.append(_ALIGN.get(str(token.attrs.get("style", "")), "left"))
    return table(rows[0], rows[1:], align)


def _spans(inline: Token) -> Spans:
    """The runs of an inline token; neighbours that look alike are one."""
    found: list[Span] = []
    bold = italic = 0
    href = ""
    for token in inline.children or ():
        text, code = token.content, False
        match token.type:
            case "strong_open" | "strong_close":
                bold += token.nesting
            case "em_open" | "em_close":
                italic += token.nesting
            case "link_open":
                href = str(token.attrs.get("href", ""))
                href = href if href.lower().startswith(SCHEMES) else ""
            case "link_close":
                href = ""
            case "softbreak":
                text = " "
            case "hardbreak":
                text = "\n"
            case "code_inline":
                code = True
        if not text:
            continue
        span = Span(text, bold > 0, italic > 0, code, href)
        last = found[-1] if found else None
        if last is not None and (last.bold, last.italic, last.code, last.href) == (
            span.bold,
            span.italic,
            span.code,
            span.href,
        ):
            found[-1] = Span(last.text + text, *(last.bold, last.italic, last.code, last.href))
        else:
            found.append(span)
    return tuple(found)


def plain_text(inline: Token) -> str:
    """The words of an inline token on one line, markup removed."""
    breaks = ("softbreak", "hardbreak")
    parts = [" " if child.type in breaks else child.content for child in inline.children or []]
    return " ".join("".join(parts).split())
