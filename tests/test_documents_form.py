"""The form: read from Markdown, written back, and made ready for every writer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Rule,
    Span,
    Spans,
    Table,
    leveled,
    plain,
    table,
    walk,
)
from blatam_kv.documents.languages import written_date, written_number
from blatam_kv.documents.markdown import read
from blatam_kv.documents.source import to_markdown
from blatam_kv.errors import InvalidRequest


def words(text: str, **looks: Any) -> Spans:
    return (Span(text, **looks),)


def test_markdown_is_read_as_the_form() -> None:
    found = read(
        "# A *b*\n\nx [y](https://z) `c`  \nd\n\n3. one\n   - two\n\n"
        "|h|i|\n|:-:|--:|\n|1|2|\n\n> [!TIP]\n> e\n\n> q\n\n```\nf\n```\n\n---\n"
    )
    assert found == (
        Heading(1, (Span("A "), Span("b", italic=True))),
        Paragraph(
            (Span("x "), Span("y", href="https://z"), Span(" "), Span("c", code=True), Span("\nd"))
        ),
        Items(((Paragraph(words("one")), Items(((Paragraph(words("two")),),))),), 3),
        table([words("h"), words("i")], [[words("1"), words("2")]], ["center", "right"]),
        Callout("tip", (Paragraph(words("e")),)),
        Quote((Paragraph(words("q")),)),
        Code("f"),
        Rule(),
    )


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("> [!NOTE] x", Quote((Paragraph(words("[!NOTE] x")),))),
        ("> [!note]\n> x", Callout("note", (Paragraph(words("x")),))),
        ("> [!WARNING]", Callout("warning", ())),
        ("> [!NEWS]\n> x", Quote((Paragraph(words("[!NEWS] x")),))),
    ],
)
def test_only_a_line_with_its_mark_makes_a_callout(markdown: str, expected: Block) -> None:
    assert read(markdown) == (expected,)


# A model: any form of visible words, written as Markdown and read again, is the same form.

_WORD = st.text("abcñé*_`#>|[]!&<\\~+-=1.)", min_size=1, max_size=6)
_LINE = st.lists(_WORD, min_size=1, max_size=4).map(" ".join)
_TEXT = _LINE.map(lambda text: (Span(text),))
_LOOKED = st.builds(
    lambda a, b, bold, italic: (Span(f"{a} "), Span(b, bold=bold, italic=italic or not bold)),
    st.text("ab", min_size=1),
    st.text("ab", min_size=1),
    st.booleans(),
    st.booleans(),
)
_SIMPLE = st.one_of(
    st.builds(Heading, st.integers(1, 6), _TEXT),
    st.builds(Paragraph, st.one_of(_TEXT, _LOOKED)),
    st.builds(Code, st.text("ab`~ \n", max_size=12).map(lambda text: f"x{text}x")),
    st.just(Rule()),
    st.builds(
        lambda head, rows: table(head, [row[: len(head)] for row in rows]),
        st.lists(_TEXT, min_size=1, max_size=3),
        st.lists(st.lists(_TEXT, min_size=1, max_size=3), max_size=3),
    ),
)


@given(_SIMPLE)
def test_a_block_written_as_markdown_reads_back_the_same(block: Block) -> None:
    assert read(to_markdown([block])) == (block,)


_ANY = st.lists(
    st.recursive(
        _SIMPLE,
        lambda inner: st.one_of(
            st.builds(Quote, st.lists(inner, min_size=1, max_size=2).map(tuple)),
            st.builds(
                lambda items, start: Items(tuple(items), start),
                st.lists(
                    st.lists(inner, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2
                ),
                st.one_of(st.none(), st.integers(0, 99)),
            ),
        ),
        max_leaves=5,
    ),
    min_size=1,
    max_size=3,
)


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
            yield words(text, code=True)


@given(_ANY)
def test_no_word_is_lost_between_a_form_and_its_markdown(blocks: list[Block]) -> None:
    def said(found: Any) -> list[str]:
        return [plain(spans) for block in walk(found) for spans in spans_of(block) if plain(spans)]

    assert sorted(said(read(to_markdown(blocks)))) == sorted(said(blocks))


# Made ready.


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([2, 3, 3, 2], [1, 2, 2, 1]),
        ([1, 1], [1, 1]),
        ([3, 6, 4, 3], [1, 2, 2, 1]),
        ([6, 1, 4], [1, 1, 2]),
        ([], []),
    ],
)
def test_levels_begin_at_one_and_skip_none(levels: list[int], expected: list[int]) -> None:
    found = leveled([Heading(level, words("x")) for level in levels])
    assert [block.level for block in found if isinstance(block, Heading)] == expected


@given(st.lists(st.integers(1, 6)))
def test_no_level_is_ever_skipped(levels: list[int]) -> None:
    found = [
        block.level
        for block in leveled([Heading(n, ()) for n in levels])
        if isinstance(block, Heading)
    ]
    assert all(after <= before + 1 for before, after in zip([0, *found], found, strict=False))


def test_a_heading_inside_a_block_is_a_bold_line() -> None:
    inner = (Heading(5, words("x")),)
    bold = (Paragraph(words("x", bold=True)),)
    blocks: list[Block] = [Quote(inner), Callout("note", inner), Items((inner,))]
    assert leveled(blocks) == [Quote(bold), Callout("note", bold), Items((bold,))]


@pytest.mark.parametrize(
    ("cells", "side"),
    [
        (["11.500 €", "1.500 €"], "right"),
        (["$1,200.50", "-3%", "", "–"], "right"),
        (["250 m", "1,5 km"], "right"),
        (["2026"], "right"),
        (["12 weeks", "3"], "left"),
        (["Q1", "Q2"], "left"),
        (["", ""], "left"),
    ],
)
def test_figures_stand_on_the_right(cells: list[str], side: str) -> None:
    rows = [[words(cell) if cell else ()] for cell in cells]
    (found,) = leveled([table([words("h")], rows)])
    (kept,) = leveled([table([words("h")], rows, ["center"])])
    assert isinstance(found, Table)
    assert isinstance(kept, Table)
    assert (found.align, kept.align) == ((side,), ("center",))


def test_ragged_rows_are_filled_up_and_lose_nothing() -> None:
    found = table([words("a")], [[], [words("b"), words("c"), words("d")]], ["right"])
    assert found.align == ("right", "left", "left")
    assert [len(row) for row in (found.head, *found.rows)] == [3, 3, 3]
    assert found.rows[1] == (words("b"), words("c"), words("d"))


def test_a_column_is_as_wide_as_its_words_want_within_reason() -> None:
    found = table([words("a"), words("b")], [[words("x" * 500), words("y")]])
    wide, narrow = weights(found)
    assert narrow < wide <= 48


@pytest.mark.parametrize(
    ("value", "language", "text"),
    [
        (12500, "es", "12.500"),
        (1234, "es", "1234"),
        (-1234567.5, "es", "-1.234.567,50"),
        (1234, "en", "1,234"),
        (-1234567.5, "en", "-1,234,567.50"),
        (0, "es", "0"),
        (7, "fr", "7"),
    ],
)
def test_numbers_are_written_as_their_language_does(value: float, language: str, text: str) -> None:
    places = 0 if isinstance(value, int) else 2
    assert written_number(value, language, places=places) == text


def test_dates_are_written_as_their_language_does() -> None:
    assert written_date(date(2026, 11, 5), "es-MX") == "5 de noviembre de 2026"
    assert written_date(date(2026, 11, 5), "en") == "November 5, 2026"


@pytest.mark.parametrize("language", ["", "e", "español", "es_ES", "../x", "es-" + "a" * 20, 'es"'])
def test_what_is_no_language_tag_is_refused(language: str) -> None:
    with pytest.raises(InvalidRequest, match="no tag of a language"):
        Document(title="x", markdown="x", language=language)


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is not one of professional"):
        Document(title="x", markdown="x", language="es", style="plain")
