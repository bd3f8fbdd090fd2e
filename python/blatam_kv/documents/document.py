"""A finished document: its text, what is known of it, and how it is to look.

Rendering is a pure function of the document, so the same document has the same bytes for ever. The
text is untrusted: whatever it holds comes out as text, never as markup, script, field or formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from itertools import pairwise

from blatam_kv.documents import languages
from blatam_kv.documents.form import Block, Heading, Span, Spans, leveled, plain
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.markdown import parse, plain_text, read
from blatam_kv.documents.source import to_markdown
from blatam_kv.documents.styles import STYLES
from blatam_kv.documents.templates import kind_words
from blatam_kv.errors import InvalidRequest

# A model that has lost its way may never end a heading.
_TITLE_CHARS = 120
# A document with as many top headings as this is looked through before it is read.
_CONTENTS_HEADINGS = 6
# With more, the contents would be a document of their own.
_MOST_CONTENTS = 400


@dataclass(frozen=True, slots=True)
class Section:
    """A heading (level 1 to 6) and the Markdown below it; level 0 is text before any heading."""

    heading: str
    level: int
    content: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document before it is rendered. markdown: what was written. Or ``blocks``, the same as a
    form, and then ``markdown`` follows from them.

    language: a tag such as ``es``. date: shown, and the moment that files say they were made.
    style: one of ``styles.STYLES``. contents: whether there is a table of contents; None where the
    document is long enough for one.
    """

    title: str
    markdown: str
    language: str
    document_type: str = ""
    business_area: str = ""
    company: str = ""
    audience: str = ""
    author: str = ""
    date: date | None = None
    style: str = "professional"
    contents: bool | None = None
    letterhead: Letterhead | None = None
    given: tuple[Block, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise InvalidRequest(f"{self.style!r} is not one of {', '.join(STYLES)}", field="style")
        if not languages.is_tag(self.language):
            raise InvalidRequest(
                f"{self.language!r} is no tag of a language; write es or pt-BR", field="language"
            )

    @classmethod
    def of_blocks(cls, blocks: Sequence[Block], **facts: object) -> Document:
        """The document of a form."""
        return cls(markdown=to_markdown(blocks), given=tuple(blocks), **facts)  # type: ignore[arg-type]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All that was written, in order."""
        return read(self.markdown) if self.given is None else self.given

    @cached_property
    def _title_at(self) -> int | None:
        for at, block in enumerate(self.blocks):
            if isinstance(block, Heading) and (words := plain(block.spans)):
                return at if block.level == 1 and _shortened(words) == self.title else None
        return None

    @property
    def heading(self) -> Spans:
        """The title as it was written; the plain one where no heading has it."""
        if self._title_at is not None:
            block = self.blocks[self._title_at]
            assert isinstance(block, Heading)
            return block.spans
        return (Span(self.title),)

    @cached_property
    def body(self) -> tuple[Block, ...]:
        """What stands below the title, its headings at levels 1, 2, 3 …"""
        at = self._title_at
        rest = self.blocks if at is None else (*self.blocks[:at], *self.blocks[at + 1 :])
        return tuple(leveled(rest))

    @property
    def kind(self) -> tuple[str, ...]:
        """What type of document it is and of which area, in its language."""
        return kind_words(self.document_type, self.business_area, self.language)

    @property
    def facts(self) -> tuple[str, ...]:
        """What stands under the title: company, audience, date."""
        found = [self.company if self.letterhead is None else "", self.author]
        if self.audience:
            found.append(f"{languages.words(self.language).prepared_for}: {self.audience}")
        if self.date is not None:
            found.append(languages.written_date(self.date, self.language))
        return tuple(fact for fact in found if fact)

    @property
    def has_numbers(self) -> bool:
        """Whether its headings are numbered already."""
        return any(isinstance(b, Heading) and plain(b.spans)[:1].isdigit() for b in self.body)

    @property
    def shows_contents(self) -> bool:
        """Whether there is a table of contents."""
        headings = [b for b in self.body if isinstance(b, Heading) and b.level == 1]
        if len(headings) > _MOST_CONTENTS:
            return False
        if self.contents is None:
            return len(headings) >= _CONTENTS_HEADINGS
        return self.contents and bool(headings)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The Markdown cut at its top-level headings, in order."""
        lines = self.markdown.split("\n")
        # Where each heading begins, where it ends, its level and its text.
        marks: list[tuple[int, int, int, str]] = []
        tokens = parse(self.markdown)
        for token, inline in pairwise(tokens):
            if token.type == "heading_open" and token.level == 0 and token.map:
                first, end = token.map
                marks.append((first, end, int(token.tag[1:]), plain_text(inline)))
        starts = [mark[0] for mark in marks] + [len(lines)]
        preamble = "\n".join(lines[: starts[0]]).strip()
        found = [Section("", 0, preamble)] if preamble else []
        for (_, end, level, heading), following in zip(marks, starts[1:], strict=True):
            found.append(Section(heading, level, "\n".join(lines[end:following]).strip()))
        return tuple(found)


def title_of(markdown: str) -> str:
    """The words of the first heading that has any, at most 120 characters; empty without one."""
    tokens = parse(markdown)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and (title := plain_text(inline)):
            return _shortened(title)
    return ""


def _shortened(title: str) -> str:
    return title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1] + "…"
