"""A document as PDF, typeset by typst: the template is fixed, the content goes in as data.

Nothing of a document is ever part of a program. The compiler reads two files that exist in memory
only, sees no folder and no font but those here, and gets the time from the document.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blatam_kv.documents import languages
from blatam_kv.documents.columns import weights
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
from blatam_kv.documents.styles import STYLES
from blatam_kv.errors import Error, MissingExtra

if TYPE_CHECKING:
    import typst

log = logging.getLogger("blatam_kv.documents")

HERE = Path(__file__).parent
FONTS = HERE / "fonts"
TEMPLATE = HERE / "paper.typ"
# Without spaces a line cannot be broken; a longer word is given places where it may be.
_LONG_WORD = 36
_STEP = 24
_ZERO_WIDTH_SPACE = "\u200b"


class NotDrawn(Error, RuntimeError):
    """The document could not be laid out; that should not happen, whatever it holds."""


def pdf(document: Document) -> bytes:
    """The whole file: tagged, with bookmarks, as PDF/UA-1 wants it. The same document, the same
    bytes.

    A character that no font here has comes out as a box, and then the file does not say that it is
    PDF/UA-1.
    """
    files = {"main.typ": _template(), "document.json": json.dumps(_data(document)).encode()}
    moment = 0 if document.date is None else _seconds(document)
    with _compiler() as compiler:
        return _compiled(compiler, files, moment)


def _compiled(compiler: typst.Compiler, files: Mapping[str, bytes], moment: int) -> bytes:
    import typst

    def compiled(standards: Sequence[str]) -> bytes:
        # Any: typst's stub names neither files in memory nor that bytes come back.
        options: Any = {"input": dict(files), "pdf_standards": list(standards)}
        made: Any = compiler.compile(format="pdf", timestamp=moment, **options)
        return bytes(made)

    try:
        return compiled(["ua-1"])
    except typst.TypstError as error:
        log.info("not PDF/UA-1: %s", error)
        try:
            return compiled([])
        except typst.TypstError as error:
            raise NotDrawn(f"the document could not be laid out: {error}") from error


def pages(document: Document, *, dots_per_inch: float = 72.0) -> list[bytes]:
    """The pages as PNG pictures."""
    files = {"main.typ": _template(), "document.json": json.dumps(_data(document)).encode()}
    with _compiler() as compiler:
        options: Any = {"input": dict(files), "ppi": dots_per_inch}
        made: Any = compiler.compile(format="png", **options)
    return [made] if isinstance(made, bytes) else list(made)


def _seconds(document: Document) -> int:
    assert document.date is not None
    return (document.date.toordinal() - 719_163) * 86_400


# ---- compilers ----------------------------------------------------------------------------------

# Each serves one thread at a time, and keeps what it has laid out before; so they are kept.
_idle: list[typst.Compiler] = []
_lock = threading.Lock()
_MOST_IDLE = 4


@cache
def _template() -> bytes:
    return TEMPLATE.read_bytes()


@cache
def _fonts() -> typst.Fonts:
    import typst

    return typst.Fonts(
        include_system_fonts=False, include_embedded_fonts=True, font_paths=[str(FONTS)]
    )


@contextmanager
def _compiler() -> Iterator[typst.Compiler]:
    try:
        import typst
    except ImportError as error:
        raise MissingExtra("typst", extra="documents") from error
    with _lock:
        compiler = _idle.pop() if _idle else None
    if compiler is None:
        nowhere = str(HERE / "nowhere")  # no package is looked for, in no folder and on no network
        options: Any = {"input": {"main.typ": b""}, "font_paths": _fonts()}
        compiler = typst.Compiler(package_path=nowhere, package_cache_path=nowhere, **options)
    try:
        yield compiler
    finally:
        with _lock:
            if len(_idle) < _MOST_IDLE:
                _idle.append(compiler)


# ---- the data -----------------------------------------------------------------------------------


def _data(document: Document) -> dict[str, object]:
    """What the template reads."""
    look = asdict(STYLES[document.style])
    look["body"], look["display"] = look["body"][0], look["display"][0]
    found = languages.words(document.language)
    before, _, rest = found.page.partition("{n}")
    between, _, after = rest.partition("{total}")
    day = document.date
    head = document.letterhead
    return {
        "look": look,
        "title": _spans(document.heading),
        "plain": document.title,
        "short": _short(document.title),
        "lang": languages.primary(document.language),
        "rtl": languages.is_right_to_left(document.language),
        "authors": [document.author or document.company]
        if document.author or document.company
        else [],
        "keywords": [*document.kind],
        "day": None if day is None else [day.year, day.month, day.day],
        "date": "" if day is None else languages.written_date(day, document.language),
        "company": document.company,
        "kind": list(document.kind),
        "facts": list(document.facts),
        "words": {"contents": found.contents, "page": [before, between, after]},
        "contents": document.shows_contents,
        "has-numbers": document.has_numbers,
        "letterhead": None
        if head is None
        else {
            "company": head.company,
            "lines": list(head.lines),
            "alt": found.logo.format(company=head.company),
            "logo": None if head.logo is None else list(head.logo.content),
            "format": None if head.logo is None else head.logo.format,
            "ratio": 1 if head.logo is None else head.logo.width / head.logo.height,
        },
        "body": _blocks(document.body, document.language),
    }


def _short(title: str) -> str:
    return title if len(title) <= 70 else title[:69] + "…"


def _blocks(blocks: Sequence[Block], language: str) -> list[list[object]]:
    return [_block(block, language) for block in blocks]


def _block(block: Block, language: str) -> list[object]:
    match block:
        case Heading(level, spans):
            return ["h", level, _spans(spans)]
        case Paragraph(spans):
            return ["p", _spans(spans)]
        case Items(items, start):
            return ["l", start, [_blocks(item, language) for item in items]]
        case Table(head, rows, align):
            cells = [[_spans(cell) for cell in row] for row in (head, *rows)]
            return ["t", weights(block), list(align), cells[0], cells[1:]]
        case Callout(kind, inner):
            name = languages.words(language).callouts[kind]
            return ["c", kind, name, _blocks(inner, language)]
        case Quote(inner):
            return ["q", _blocks(inner, language)]
        case Code(text):
            return ["k", _breakable(text)]
    return ["r"]


def _spans(spans: Spans) -> list[object]:
    return [_span(span) for span in spans]


def _span(span: Span) -> object:
    marks = "b" * span.bold + "i" * span.italic + "c" * span.code
    text = _breakable(span.text)
    return [text, marks, span.href] if marks or span.href else text


def _breakable(text: str) -> str:
    if len(text) <= _LONG_WORD:
        return text
    return "".join(
        _ZERO_WIDTH_SPACE.join(word[at : at + _STEP] for at in range(0, len(word), _STEP))
        if len(word) > _LONG_WORD
        else word
        for word in _words(text)
    )


def _words(text: str) -> Iterator[str]:
    """Words and what stands between them, in turn."""
    start, in_word = 0, False
    for at, char in enumerate(text):
        if char.isspace() == in_word:
            yield text[start:at]
            start, in_word = at, not in_word
    yield text[start:]
