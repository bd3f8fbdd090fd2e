"""Documents in every format: right, repeatable, and harmless whatever the Markdown holds."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blatam_kv.documents.document import Document, Section, title_of
from blatam_kv.documents.names import filename
from blatam_kv.documents.rendering import FORMATS, render
from blatam_kv.errors import InvalidRequest

TEXTS = ("markdown", "html", "txt", "json")

PLAN = """\
Antes de empezar.

# Plan de **negocio**

Vender [pan](https://pan.es) a *bares*.

## Pasos

1. Alquilar
   - local
   - horno
2. Abrir

| Mes | Euros |
|-----|------:|
| Uno | 100 |

> Nota

```
a = 1

b = 2
```"""


def document(markdown: str) -> Document:
    return Document(
        title=title_of(markdown) or "Untitled",
        markdown=markdown,
        language="es",
        document_type="business_plan",
        business_area="strategy",
    )


def text(markdown: str, format: str) -> str:
    return render(document(markdown), format).content.decode()


def test_markdown_is_what_the_model_wrote() -> None:
    assert text(PLAN, "markdown") == PLAN + "\n"


def test_plain_text_reads_without_markup() -> None:
    assert (
        text(PLAN, "txt")
        == """\
Plan de negocio
===============

Antes de empezar.

Vender pan (https://pan.es) a bares.

Pasos
-----

1. Alquilar
   - local
   - horno
2. Abrir

Mes  Euros
---  -----
Uno    100

> Nota

    a = 1

    b = 2
"""
    )


def test_long_lines_of_plain_text_are_wrapped_under_their_mark() -> None:
    lines = text("- " + "palabra " * 40, "txt").splitlines()[3:]
    assert len(lines) > 3
    assert all(len(line) <= 78 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_json_holds_the_sections_in_order() -> None:
    got = json.loads(text("x\n\n# A *b*\n\none\n\n### C\n", "json"))
    assert got["title"] == "A b"
    assert got["language"] == "es"
    assert got["document_type"] == "business_plan"
    assert got["business_area"] == "strategy"
    assert got["sections"] == [
        {"heading": "", "level": 0, "content": "x", "blocks": [one("x")]},
        {"heading": "A b", "level": 1, "content": "one", "blocks": [one("one")]},
        {"heading": "C", "level": 3, "content": "", "blocks": []},
    ]


def one(words: str) -> dict[str, str]:
    return {"type": "paragraph", "text": words}


def test_headings_inside_quotes_and_code_do_not_cut_sections() -> None:
    markdown = "# A\n\n> # quoted\n\n```\n# code\n```"
    assert document(markdown).sections == (Section("A", 1, "> # quoted\n\n```\n# code\n```"),)


def test_sections_keep_every_line_of_the_markdown() -> None:
    kept = "\n".join(section.content for section in document(PLAN).sections)
    for line in PLAN.splitlines():
        assert line in kept or line.startswith("#")


def test_a_heading_without_end_gives_a_title_of_bearable_length() -> None:
    assert title_of("# " + "ho " * 1000) == ("ho " * 40)[:119] + "…"
    assert title_of("# " + "x" * 120) == "x" * 120


def test_html_is_a_whole_page_in_the_documents_language() -> None:
    page = text(PLAN, "html")
    assert page.startswith('<!DOCTYPE html>\n<html lang="es">')
    assert "<title>Plan de negocio</title>" in page
    assert "<h1>Plan de <strong>negocio</strong></h1>" in page
    assert '<th scope="col">Mes</th>' in page
    assert '<td class="right">100</td>' in page
    assert '<a href="https://pan.es" rel="noopener noreferrer">pan</a>' in page


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


HOSTILE = [
    "<script>alert(1)</script>",
    "# <img src=x onerror=alert(1)>\n\n<iframe src=//evil></iframe>",
    "[x](javascript:alert(1)) [y](data:text/html,x) [z](vbscript:x) <javascript:alert(1)>",
    "![tracker](https://evil.example/pixel.png)",
    "</main></body></html><script>1</script>",
    '# </title><script>alert("1")</script>',
    "a\n\n<!-- -->\n\n<svg/onload=alert(1)>",
    "| <script> | `</style>` |\n|---|---|\n| <b onclick=x>b</b> | x |",
    "[a]: javascript:alert(1)\n\n[a]",
    "``` <script>\nx\n```",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_markdown_comes_out_as_text(hostile: str) -> None:
    tags = Tags()
    tags.feed(text(hostile, "html"))
    names = {name for name, _ in tags.found}
    assert names <= {
        *("html", "head", "meta", "title", "style", "body", "main", "header"),
        *("h1", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"),
    }
    for name, attributes in tags.found:
        if name == "a":
            assert str(attributes["href"]).startswith(("http://", "https://", "mailto:"))
        elif name not in ("html", "meta"):
            assert set(attributes) <= {"class", "scope"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_words_are_still_there_to_read(hostile: str) -> None:
    if "script>" in hostile and "```" not in hostile:
        assert "script>" in text(hostile, "txt")


@pytest.mark.parametrize("format", TEXTS)
def test_an_image_is_named_but_not_fetched(format: str) -> None:
    written = text("![our shop](https://evil.example/pixel.png)", format)
    assert "our shop" in written
    assert "<img" not in written


@given(st.text())
@example("#\n\n#")
@example("> " * 50 + "x")
@example("* " * 200 + "x")
@example("|a|\n|-|\n|b|c|d|")
@example("\x00\x1b[31m\u202e")
@example("[" * 300)
def test_any_text_renders_in_every_format_of_text_and_always_the_same(markdown: str) -> None:
    for format in TEXTS:
        first = render(document(markdown), format)
        assert render(document(markdown), format) == first
        assert first.content.decode().endswith("\n")
    assert json.loads(text(markdown, "json"))["language"] == "es"


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=f"'odt' is not one of {', '.join(FORMATS)}"):
        render(document("x"), "odt")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Plan de negocio: año 1", "Plan de negocio año 1.md"),
        ("../../etc/passwd", "etc passwd.md"),
        ("..\\..\\boot.ini", "boot.ini.md"),
        ("", "document.md"),
        (" . . ", "document.md"),
        ("CON", "document.md"),
        ("lpt1.txt", "document.md"),
        ("a\x00b\u202egpj.exe\n", "abgpj.exe.md"),
        ("．．／x", "x.md"),
        ('a"b<c>|d?*', "a b c d.md"),
    ],
)
def test_file_names_are_harmless(title: str, name: str) -> None:
    assert filename(title, "md") == name


@given(st.text())
def test_any_title_gives_a_short_name_without_a_path(title: str) -> None:
    name = filename(title, "json")
    assert 1 < len(name.encode()) <= 200
    assert not set(name) & set('/\\:*?"<>|\x00\n')
    assert name.endswith(".json")
    assert not name.startswith(".")
