"""A document as one self-contained HTML page that reads well on screen and on paper."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cache
from html import escape

from blatam_kv.documents import languages
from blatam_kv.documents.document import Document
from blatam_kv.documents.form import (
    Align,
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
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.stylesheet import stylesheet
from blatam_kv.errors import MissingExtra

_BLOCKS = "h1 h2 h3 h4 h5 h6 p ul ol li pre blockquote hr table thead tbody tr th td aside nav"
_INLINE = "strong em code br a"
_SIDES: dict[Align, str] = {"left": "", "center": ' class="center"', "right": ' class="right"'}


def webpage(document: Document) -> str:
    """The whole page. What was written passes through nh3, whatever the writer here let through."""
    clean = _cleaner()
    writer = _Writer(document.language)
    written = writer.blocks(document.body)
    contents = writer.contents() if document.shows_contents else ""
    title = writer.spans(document.heading)
    direction = ' dir="rtl"' if languages.is_right_to_left(document.language) else ""
    facts = escape("  ·  ".join(document.facts))
    kind = escape(" · ".join(document.kind))
    author = document.author or document.company
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="{escape(document.language)}"{direction}>\n'
        "<head>\n"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + (f'<meta name="author" content="{escape(author)}">\n' if author else "")
        + f"<title>{escape(document.title)}</title>\n"
        f"<style>\n{stylesheet(document.style)}</style>\n"
        "</head>\n"
        "<body>\n"
        f"{_letterhead(document)}"
        "<main>\n"
        "<header>\n"
        + (f'<p class="kind">{kind}</p>\n' if kind else "")
        + f"<h1>{clean(title)}</h1>\n"
        + (f'<p class="facts">{facts}</p>\n' if facts else "")
        + "</header>\n"
        + f"{clean(contents)}{clean(written).strip()}\n</main>\n</body>\n"
        "</html>\n"
    )


@cache
def _cleaner() -> Callable[[str], str]:
    try:
        import nh3
    except ImportError as error:
        raise MissingExtra("nh3", extra="documents") from error
    cleaner = nh3.Cleaner(
        tags={*_BLOCKS.split(), *_INLINE.split()},
        attributes={
            "a": {"href"},
            "aside": {"aria-label", "class"},
            "nav": {"aria-label"},
            **{f"h{level}": {"id"} for level in range(2, 7)},
            "li": {"class"},
            "ol": {"start"},
            "table": {"class"},
            "td": {"class"},
            "th": {"class", "scope"},
        },
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    clean: Callable[[str], str] = cleaner.clean
    return clean


def _letterhead(document: Document) -> str:
    head = document.letterhead
    if head is None:
        return ""
    lines = "<br>".join(escape(line) for line in head.lines)
    return (
        f'<header class="letterhead">{_logo(head, document.language)}'
        f"<p><strong>{escape(head.company)}</strong>{'<br>' if lines else ''}{lines}</p></header>\n"
    )


def _logo(head: Letterhead, language: str) -> str:
    """Inside the page: opening it calls nobody."""
    if head.logo is None:
        return ""
    kind = "png" if head.logo.format == "png" else "jpeg"
    data = base64.b64encode(head.logo.content).decode()
    alt = escape(languages.words(language).logo.format(company=head.company))
    return f'<img src="data:image/{kind};base64,{data}" alt="{alt}">'


class _Writer:
    """Blocks as HTML. Headings get ids, so that the contents can lead to them."""

    def __init__(self, language: str) -> None:
        self._words = languages.words(language)
        self._headings: list[tuple[int, Spans]] = []

    def blocks(self, blocks: Sequence[Block]) -> str:
        return "\n".join([self._block(block) for block in blocks])

    def contents(self) -> str:
        """A list of the headings of two levels."""
        items = [
            f'<li class="level{level}"><a href="#s{number}">{self.spans(_unlinked(spans))}</a></li>'
            for number, (level, spans) in enumerate(self._headings, start=1)
            if level <= 2
        ]
        name = escape(self._words.contents)
        listed = "\n".join(items)
        return f'<nav aria-label="{name}">\n<ul>\n{listed}\n</ul>\n</nav>\n'

    def spans(self, spans: Spans) -> str:
        return "".join([_span(span) for span in spans])

    def _block(self, block: Block) -> str:
        match block:
            case Heading(level, spans):
                return self._heading(level, spans)
            case Paragraph(spans):
                return f"<p>{self.spans(spans)}</p>"
            case Items(items, start):
                tag = "ul" if start is None else "ol"
                first = f' start="{start}"' if start not in (None, 1) else ""
                inner = "\n".join([f"<li>{self._item(item)}</li>" for item in items])
                return f"<{tag}{first}>\n{inner}\n</{tag}>"
            case Table():
                return self._table(block)
            case Callout(kind, inner_blocks):
                name = escape(self._words.callouts[kind])
                body = self.blocks(inner_blocks)
                head = f"<p><strong>{name}</strong></p>"
                return f'<aside class="{kind}" aria-label="{name}">\n{head}\n{body}\n</aside>'
            case Quote(inner_blocks):
                return f"<blockquote>\n{self.blocks(inner_blocks)}\n</blockquote>"
            case Code(text):
                return f"<pre><code>{escape(text)}\n</code></pre>"
        return "<hr>"

    def _heading(self, level: int, spans: Spans) -> str:
        self._headings.append((level, spans))
        tag = f"h{min(level + 1, 6)}"
        return f'<{tag} id="s{len(self._headings)}">{self.spans(spans)}</{tag}>'

    def _item(self, item: Sequence[Block]) -> str:
        if item and isinstance(item[0], Paragraph):
            rest = self.blocks(item[1:])
            return self.spans(item[0].spans) + (f"\n{rest}\n" if rest else "")
        return self.blocks(item)

    def _table(self, table: Table) -> str:
        sides = [_SIDES[align] for align in table.align]
        wide = ' class="wide"' if len(sides) > 6 else ""

        def row(cells: Sequence[Spans], tag: str) -> str:
            name = "th" if tag.startswith("th") else "td"
            return "".join(
                [
                    f"<{tag}{side}>{self.spans(cell)}</{name}>"
                    for cell, side in zip(cells, sides, strict=True)
                ]
            )

        head = row(table.head, 'th scope="col"')
        body = "\n".join([f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows])
        return (
            f"<table{wide}>\n<thead>\n<tr>{head}</tr>\n</thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>"
        )


def _span(span: Span) -> str:
    text = escape(span.text, quote=False).replace("\n", "<br>\n")
    if span.code:
        text = f"<code>{text}</code>"
    if span.bold:
        text = f"<strong>{text}</strong>"
    if span.italic:
        text = f"<em>{text}</em>"
    if span.href:
        text = f'<a href="{escape(span.href)}">{text}</a>'
    return text


def _unlinked(spans: Spans) -> Spans:
    return tuple(Span(span.text, code=span.code) for span in spans)
