"""What a document is, whatever it will look like: a title, facts about it, and blocks of text.

Every format is written from this form and from nothing else, so what one shows the others show. All
of it is immutable and all of it is text: nothing in a span or a cell is ever read as markup, a
command or a formula.
"""

from __future__ import annotations

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


def spans_of(block: Block) -> Iterator[Spans]:
    """The runs of text right in a block, not those of blocks inside it."""
    match block:
        case Heading(spans=spans) | Paragraph(spans):
            yield spans
        case Table(head, rows):
            yield from head
            for row in rows:
                yield from row
        case Code(text):
            yield (Span(text, code=True),)


def leveled(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with their top headings at levels 1, 2, 3 …: none is skipped, as readers of the
    outline (and PDF/UA) expect, whichever levels the author chose."""
    base = min((block.level for block in blocks if isinstance(block, Heading)), default=1)
    found: list[Block] = []
    deepest = 0
    for block in blocks:
        if isinstance(block, Heading):
            deepest = min(block.level - base, deepest) + 1
            block = Heading(deepest, block.spans)
        found.append(block)
    return found
