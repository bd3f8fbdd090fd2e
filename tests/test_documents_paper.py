"""PDF and Word: what was written is there, in order, as text; and the file is one that readers of
every kind can use."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from datetime import date
from typing import Any
from xml.etree import ElementTree

import docx
import pypdf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import png

from blatam_kv.documents.document import Document, title_of
from blatam_kv.documents.letterhead import Letterhead, read_logo
from blatam_kv.documents.rendering import render
from blatam_kv.documents.styles import STYLES

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
REPORT = """\
# Informe de **ventas**

Texto con *énfasis*, `código` y [un enlace](https://ejemplo.es/a?b=1&c=2).

## Resultados

| Mes | Euros |
|-----|------:|
| Uno | 1.200 |
| Dos | 900 |

> [!WARNING]
> Faltan datos.

### Detalle

3. tercero
4. cuarto
   - dentro

## Anexo

> Una cita

```
a  = 1
```
"""


def report(markdown: str = REPORT, **facts: object) -> Document:
    usual: dict[str, object] = {
        "language": "es",
        "document_type": "financial_report",
        "business_area": "finance",
        "company": "Horno La Espiga",
        "date": date(2026, 3, 7),
    }
    title = title_of(markdown) or "Sin título"
    return Document(title=title, markdown=markdown, **(usual | facts))  # type: ignore[arg-type]


def read_pdf(document: Document) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(render(document, "pdf").content))


def pdf_root(document: Document) -> Any:  # Any: what pypdf finds there, of any type
    root: Any = read_pdf(document).trailer["/Root"]
    return root.get_object()


def pdf_text(document: Document) -> str:
    pages = [page.extract_text() for page in read_pdf(document).pages]
    return " ".join("\n".join(pages).replace("\u200b", "").split())


def word_part(document: Document, name: str = "word/document.xml") -> ElementTree.Element:
    content = render(document, "docx").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return ElementTree.fromstring(archive.read(name))


def word_text(document: Document) -> str:
    lines = []
    for paragraph in word_part(document).iter(f"{W}p"):
        parts = (
            "\n" if node.tag == f"{W}br" else node.text or ""
            for node in paragraph.iter()
            if node.tag in (f"{W}t", f"{W}br")
        )
        lines.append("".join(parts))
    return "\n".join(lines)


WRITTEN = (
    "Informe de ventas",
    "Resultados",
    "1.200",
    "Faltan datos.",
    "Detalle",
    "cuarto",
    "dentro",
)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_pdf_says_everything_in_order(style: str) -> None:
    text = pdf_text(report(style=style))
    places = [text.index(words) for words in WRITTEN]
    assert places == sorted(places)
    assert "7 de marzo de 2026" in text
    assert "Una cita" in text


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_word_says_everything_in_order(style: str) -> None:
    text = word_text(report(style=style))
    places = [text.index(words) for words in WRITTEN]
    assert places == sorted(places)
    assert "7 de marzo de 2026" in text
    assert "a  = 1" in text


@pytest.mark.parametrize("format", ["pdf", "docx"])
def test_the_five_styles_look_different(format: str) -> None:
    files = {render(report(style=style), format).content for style in STYLES}
    assert len(files) == len(STYLES)


@pytest.mark.parametrize("format", ["pdf", "docx"])
def test_the_same_document_has_the_same_bytes(format: str) -> None:
    first = render(report(), format).content
    render(report("# Another\n\nin between"), format)
    assert render(report(), format).content == first


# ---- what a reader of the file finds ------------------------------------------------------------


def test_a_pdf_says_what_it_is_and_in_which_language() -> None:
    reader = read_pdf(report())
    root = pdf_root(report())
    assert root["/Lang"] == "es"
    assert bool(root["/MarkInfo"]["/Marked"])
    assert bool(root["/ViewerPreferences"]["/DisplayDocTitle"])
    assert reader.metadata is not None
    assert reader.metadata.title == "Informe de ventas"
    assert reader.metadata.author == "Horno La Espiga"
    metadata = root["/Metadata"].get_object().get_data()
    assert b"<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert b"2026-03-07" in metadata


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_pdf_ua_with_all_that_a_document_may_hold(style: str) -> None:
    head = Letterhead("Espiga", ("Calle Mayor 1",), read_logo(png()))
    markdown = REPORT + "\n\n---\n\n![x](y)\n\n- [a](https://x.es)\n\n" + "###### Deep\n\nx\n\n" * 3
    document = report(markdown, style=style, contents=True, letterhead=head)
    metadata = pdf_root(document)["/Metadata"].get_object().get_data()
    assert b"<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert {"/TOC", "/TOCI", "/Figure"} <= set(_tags(pdf_root(document)))


def test_a_pdf_has_its_headings_as_bookmarks() -> None:
    outline: Any = read_pdf(report()).outline
    first, under, second = outline
    assert (first.title, second.title) == ("Resultados", "Anexo")
    assert [child.title for child in under] == ["Detalle"]


def test_a_pdf_tags_headings_table_heads_and_lists() -> None:
    found = _tags(pdf_root(report()))
    assert {"/Title", "/H1", "/H2", "/Table", "/TH", "/TD", "/L", "/LI", "/Link"} <= set(found)
    assert found["/TH"] == 2
    assert found["/TD"] == 4


def _tags(root: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    waiting = [root["/StructTreeRoot"]]
    while waiting:
        node = waiting.pop().get_object()
        if not isinstance(node, dict):
            waiting.extend(node if isinstance(node, list) else [])
            continue
        if "/S" in node:
            found[str(node["/S"])] = found.get(str(node["/S"]), 0) + 1
        if "/K" in node and not isinstance(node["/K"], int):
            kids = node["/K"]
            waiting.extend(kids if isinstance(kids, list) else [kids])
    return found


@pytest.mark.parametrize(
    ("language", "page", "day"),
    [("es", "Página 1 de", "7 de marzo de 2026"), ("en", "Page 1 of", "March 7, 2026")],
)
def test_pages_and_dates_speak_the_documents_language(language: str, page: str, day: str) -> None:
    text = pdf_text(report(language=language))
    assert page in text
    assert day in text


def test_a_word_file_has_named_styles_and_an_outline() -> None:
    package = docx.Document(io.BytesIO(render(report(), "docx").content))
    styles = [(p.style.name, p.text) for p in package.paragraphs if p.style is not None]
    assert ("Title", "Informe de ventas") in styles
    assert ("Heading 1", "Resultados") in styles
    assert ("Heading 2", "Detalle") in styles
    assert package.core_properties.title == "Informe de ventas"
    assert package.core_properties.author == "Horno La Espiga"
    assert package.core_properties.created.date() == date(2026, 3, 7)


def test_a_word_table_has_a_head_that_is_repeated() -> None:
    rows = list(word_part(report()).iter(f"{W}tr"))
    heads = [row.find(f"{W}trPr/{W}tblHeader") is not None for row in rows]
    assert heads == [True, False, False]


def test_a_word_list_begins_where_it_was_begun() -> None:
    numbering = word_part(report(), "word/numbering.xml")
    starts = [node.get(f"{W}val") for node in numbering.iter(f"{W}startOverride")]
    assert set(starts) == {"3"}


def test_a_word_file_says_its_language() -> None:
    languages = [
        node.get(f"{W}val") for node in word_part(report(), "word/styles.xml").iter(f"{W}lang")
    ]
    assert languages == ["es-ES"]


def test_word_counts_pages_by_fields_of_ours_only() -> None:
    hostile = report('# T\n\n{ DDEAUTO c:\\\\cmd.exe }\n\nINCLUDETEXT "http://x"\n')
    with zipfile.ZipFile(io.BytesIO(render(hostile, "docx").content)) as archive:
        parts = {
            name: archive.read(name).decode() for name in archive.namelist() if name.endswith("xml")
        }
    codes = {
        code.strip()
        for xml in parts.values()
        for code in re.findall(r"<w:instrText[^>]*>([^<]*)", xml)
    }
    assert codes <= {"PAGE", "NUMPAGES", r'TOC \o "1-2" \h \z \u'}
    assert "DDEAUTO" in word_text(hostile)


def test_a_word_archive_has_no_clock() -> None:
    with zipfile.ZipFile(io.BytesIO(render(report(), "docx").content)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("format", ["pdf", "docx"])
def test_contents_come_with_many_headings_or_when_asked_for(format: str) -> None:
    many = "# T\n\n" + "".join(f"## Parte {n}\n\ntexto\n\n" for n in range(6))
    text = pdf_text if format == "pdf" else word_text
    assert "Contenido" in text(report(many))
    assert "Contenido" not in text(report(many, contents=False))
    assert "Contenido" not in text(report())
    assert "Contenido" in text(report(contents=True))


# ---- hostile content ----------------------------------------------------------------------------

HOSTILE = [
    '#read("/etc/passwd")',
    "#panic(1)",
    '#eval("1")',
    '$ x^2 $ @ref <label> #import "@preview/x:1.0.0"',
    "<script>alert(1)</script>",
    "</w:t></w:r><w:r><w:t>inserted",
    "]]> <!-- x --> &amp; &#60;",
    "// comment /* block */ \\\\ ~ -- ---",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markup_of_any_kind_comes_out_as_text(hostile: str) -> None:
    shown = "a " + hostile + " z"
    markdown = "# T\n\n" + re.sub(r"([\\\[\]<>*_`&#~|$@-])", r"\\\1", shown)
    assert " ".join(shown.split()) in " ".join(word_text(report(markdown)).split())
    got = pdf_text(report(markdown)).replace(" ", "")
    assert shown.replace(" ", "") in got


def test_a_link_goes_where_it_says_or_nowhere() -> None:
    document = report("# T\n\n[a](https://x.es) [b](javascript:alert(1)) [c](file:///etc/passwd)")
    package = docx.Document(io.BytesIO(render(document, "docx").content))
    targets = [rel.target_ref for rel in package.part.rels.values() if rel.is_external]
    assert targets == ["https://x.es"]
    pdf = read_pdf(document)
    uris = [note.get_object()["/A"]["/URI"] for note in pdf.pages[0].get("/Annots", [])]
    assert uris == ["https://x.es"]


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=200))
@example("> " * 50 + "x")
@example("* " * 200 + "x")
@example("|a|\n|-|\n|b|c|d|")
@example("\x00\x1b[31m\u202e\ufffe")
@example("x" * 5000)
@example("#\n\n######\n\n#")
@example("[!NOTE]: http://x\n\n> [!NOTE]\n> y")
def test_any_text_becomes_a_whole_file(markdown: str) -> None:
    document = report(markdown)
    assert read_pdf(document).pages
    word_part(document)
    docx.Document(io.BytesIO(render(document, "docx").content))


def test_other_scripts_and_emoji_are_shown() -> None:
    text = pdf_text(report("# T\n\nΕλληνικά Русский עברית 🙂 €"))
    for words in ("Ελληνικά", "Русский", "🙂", "€"):
        assert words in text


def test_what_no_font_has_makes_a_file_all_the_same() -> None:
    document = report("# T\n\n漢字 stays")
    assert "stays" in pdf_text(document)
    metadata = pdf_root(document)["/Metadata"].get_object().get_data()
    assert b"pdfuaid" not in metadata
    assert "漢字" in word_text(document)


def test_text_from_right_to_left_says_so() -> None:
    document = report("# تقرير\n\nمرحبا بالعالم", language="ar")
    assert next(word_part(document).iter(f"{W}bidi"), None) is not None
    assert 'lang="ar" dir="rtl"' in render(document, "html").content.decode()


def test_a_letterhead_stands_on_the_first_page() -> None:
    head = Letterhead("Espiga, S. L.", ("Calle Mayor 1", "28013 Madrid"))
    document = replace(report(), letterhead=head)
    assert "Calle Mayor 1" in pdf_text(document)
    parts = zipfile.ZipFile(io.BytesIO(render(document, "docx").content))
    headers = [parts.read(n).decode() for n in parts.namelist() if "header" in n]
    assert sum("28013 Madrid" in header for header in headers) == 1
    assert "Calle Mayor 1" in render(document, "html").content.decode()
