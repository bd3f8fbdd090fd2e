"""What a document is, whatever it will look like: a title, facts about it, and blocks of text.

Every format is written from this form and from nothing else, so what one shows the others show. All
of it is immutable and all of it is text: nothing in a span or a cell is ever read as markup, a
command or a formula.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "center", "right"]
CalloutKind = Literal["note", "tip", "important", "warning", "caution"]
CALLOUTS: tuple[CalloutKind, ...] = ("note", "tip", "important", "warning", "caution")


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text that looks alike. A line feed in it is a line break. href: where it leads."""

    text: str
    bold: bool = False
    italic: bool = False
    code: bool = False
    href: str = ""


Spans = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """level: 1 to 6, as written."""

    level: int
    spans: Spans


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    spans: Spans


@dataclass(frozen=True, slots=True)
class Items:
    """A list. start: the first number of an ordered one, None for bullets."""

    items: tuple[tuple[Block, ...], ...]
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head, all as long as ``align``."""

    head: tuple[Spans, ...]
    rows: tuple[tuple[Spans, ...], ...]
    align: tuple[Align, ...]


@dataclass(frozen=True, slots=True)
class Callout:
    """A box that asks for attention."""

    kind: CalloutKind
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """Somebody else's words."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text whose spaces and line ends count."""

    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across."""


Block = Heading | Paragraph | Items | Table | Callout | Quote | Code | Rule


def plain(spans: Iterable[Span]) -> str:
    """The words on one line."""
    return " ".join("".join(span.text for span in spans).split())


def table(
    head: Sequence[Spans], rows: Sequence[Sequence[Spans]], align: Sequence[Align] = ()
) -> Table:
    """A table of rows that may be ragged: each is filled up to the longest, so nothing is lost."""
    width = max(map(len, (head, align, *rows)), default=0)

    def full(cells: Sequence[Spans]) -> tuple[Spans, ...]:
        return (*cells, *((),) * (width - len(cells)))

    left: tuple[Align, ...] = ("left",)
    return Table(full(head), tuple(map(full, rows)), (*align, *left * (width - len(align))))


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """Every block, those inside others too, in reading order."""
    for block in blocks:
        yield block
        match block:
            case Items(items):
                for item in items:
                    yield from walk(item)
            case Callout(blocks=inner) | Quote(inner):
                yield from walk(inner)


# A number with its sign and one unit, or a dash where there is none.
_FIGURE = re.compile(r"[-+−±~]?[€$£]? ?[-+−]?\d[\d.,  ]*( ?[%‰€$£]| ?[a-zA-Zµ²³]{1,3})?|[–—-]")


def leveled(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with their top headings at levels 1, 2, 3 …: none is skipped, as readers of the
    outline (and PDF/UA) expect, whichever levels the author chose. Columns of figures are set right. A
    heading inside another block
    is no part of the outline: it becomes a bold line."""
    base = min((block.level for block in blocks if isinstance(block, Heading)), default=1)
    found: list[Block] = []
    deepest = 0
    for block in blocks:
        if isinstance(block, Heading):
            deepest = min(block.level - base, deepest) + 1
            found.append(Heading(deepest, block.spans))
        else:
            found.append(_ready(block))
    return found


def _ready(block: Block) -> Block:
    match block:
        case Heading(spans=spans):
            bold = (Span(each.text, True, each.italic, each.code, each.href) for each in spans)
            return Paragraph(tuple(bold))
        case Items(items, start):
            return Items(tuple(tuple(map(_ready, item)) for item in items), start)
        case Callout(kind, inner):
            return Callout(kind, tuple(map(_ready, inner)))
        case Quote(inner):
            return Quote(tuple(map(_ready, inner)))
        case Table(align=()):
            return Paragraph(())  # a table of nothing
        case Table(head, rows, align):
            sides = (_side(*each) for each in zip(align, zip(*rows, strict=True), strict=True))
            return Table(head, rows, tuple(sides)) if rows else block
    return block


def _side(align: Align, column: Sequence[Spans]) -> Align:
    """Figures stand under one another: on the right, unless the author put them elsewhere."""
    if align != "left":
        return align
    texts = [text for cell in column if (text := plain(cell))]
    return "right" if texts and all(map(_FIGURE.fullmatch, texts)) else "left"
