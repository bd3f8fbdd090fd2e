"""A document as a Word file: named styles, a real outline, headers and footers, nothing by hand.

python-docx makes the package; the body is written at once (``word_body``). The archive is packed anew
with fixed times, so that the same document has the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime, time
from functools import cache
from typing import TYPE_CHECKING, Any

from blatam_kv.documents import languages
from blatam_kv.documents.document import Document
from blatam_kv.documents.form import Span
from blatam_kv.documents.styles import STYLES, Style
from blatam_kv.documents.word_body import Body, page_field, xml_text
from blatam_kv.documents.word_styles import set_numbering, set_styles
from blatam_kv.errors import MissingExtra

if TYPE_CHECKING:
    from docx.document import Document as WordDocument

_NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
# Parts of the template that say nothing about a document of ours.
_UNWANTED = ("/thumbnail", "/stylesWithEffects", "/customXml", "/webSettings")
_MAIN = "word/document.xml"
# The earliest that a ZIP can say.
_EPOCH = (1980, 1, 1, 0, 0, 0)
# A4, in twentieths of a point.
_PAGE_WIDTH, _PAGE_HEIGHT, _CENTIMETRE = 11_906, 16_838, 567


def word(document: Document) -> bytes:
    """The whole file."""
    style = STYLES[document.style]
    package = _package()
    set_styles(
        package, style, document.language, numbered=style.numbered and not document.has_numbers
    )
    _set_page(package, style)
    _, right, _, left = style.margins
    numbering = set_numbering(package, style)
    body = Body(
        style,
        document.language,
        width=round(_PAGE_WIDTH - (left + right) * _CENTIMETRE),
        link=_links(package),
        numbers=numbering,
    )
    text = body.write(document.body)
    contents = ""
    if document.shows_contents:
        name = languages.words(document.language).contents
        contents = body.paragraph((Span(name),), "ContentsTitle") + body.contents()
        contents += body.paragraph((), "Gap")
    _set_running(package, document, body)
    _set_properties(package, document)
    return _packed(package, _main(package, _title(document, style, body) + contents + text))


# ---- the package --------------------------------------------------------------------------------


@cache
def _empty() -> bytes:
    """python-docx's own template, without its 0.8 MB of styles and its picture of a first page."""
    import docx

    document = docx.Document()
    for relations in (document.part.package.rels, document.part.rels):
        for name in [n for n, each in relations.items() if each.reltype.endswith(_UNWANTED)]:
            del relations[name]
    styles = document.styles.element
    for element in list(styles):
        styles.remove(element)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def _package() -> WordDocument:
    try:
        import docx
    except ImportError as error:
        raise MissingExtra("python-docx", extra="documents") from error
    return docx.Document(io.BytesIO(_empty()))


def _links(package: WordDocument) -> Any:
    from docx.opc.constants import RELATIONSHIP_TYPE

    def link(address: str) -> str:
        return package.part.relate_to(address, RELATIONSHIP_TYPE.HYPERLINK, is_external=True)

    return link


def _main(package: WordDocument, xml: str) -> bytes:
    """The main part around a body. Handing it to the package as a tree would cost a move of every
    node, and that grows with the square of a table's rows."""
    section = package.element.body.sectPr.xml
    text = f"<w:document {_NAMESPACES}><w:body>{xml}{section}</w:body></w:document>"
    return f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{text}'.encode()


def _set_page(package: WordDocument, style: Style) -> None:
    from docx.shared import Cm, Twips

    section = package.sections[0]
    section.page_width, section.page_height = Twips(_PAGE_WIDTH), Twips(_PAGE_HEIGHT)
    top, right, bottom, left = style.margins
    section.top_margin, section.bottom_margin = Cm(top), Cm(bottom)
    section.left_margin, section.right_margin = Cm(left), Cm(right)
    section.header_distance, section.footer_distance = Cm(1.2), Cm(1.1)
    section.different_first_page_header_footer = True


# ---- title, header, footer ----------------------------------------------------------------------


def _title(document: Document, style: Style, body: Body) -> str:
    written = ""
    if document.kind:
        kind = " · ".join(document.kind)
        kind = kind if style.title == "plain" else kind.upper()
        written += body.paragraph((Span(kind),), "DocumentKind")
    # A long title is set smaller, so that it stays a title.
    length = len(document.title)
    factor = 0.72 if length > 90 else 0.86 if length > 50 else 1.0
    size = f'<w:sz w:val="{round(2 * style.title_size * factor)}"/>'
    written += body.paragraph(document.heading, "Title", look={"sz": size})
    if document.facts:
        written += body.paragraph((Span("  ·  ".join(document.facts)),), "DocumentFacts")
    if style.title == "cover":
        written += '<w:p><w:r><w:br w:type="page"/></w:r></w:p>'
    return written


def _set_running(package: WordDocument, document: Document, body: Body) -> None:
    """The letterhead on the first page, title and page numbers on every other."""
    section = package.sections[0]
    before, _, rest = languages.words(document.language).page.partition("{n}")
    between, _, after = rest.partition("{total}")
    number = "".join(
        (
            _run(before),
            page_field("PAGE"),
            _run(between),
            page_field("NUMPAGES"),
            _run(after),
        )
    )
    first = STYLES[document.style].title != "cover"
    for footer, numbered in ((section.first_page_footer, first), (section.footer, True)):
        company = f"{document.company}" if numbered else ""
        runs = _run(company) + ("<w:r><w:tab/></w:r>" + number if numbered else "")
        _replace(footer, body.paragraph((), "Footer", after=runs))
    _replace(section.header, body.paragraph((Span(document.title),), "Header"))
    head = document.letterhead
    if head is None:
        _replace(section.first_page_header, body.paragraph((), "Header"))
        return
    lines = "\n".join([head.company, *head.lines])
    _replace(section.first_page_header, body.paragraph((Span(lines),), "Letterhead"))
    if head.logo is not None:
        paragraph = section.first_page_header.paragraphs[0].insert_paragraph_before()
        _add_logo(paragraph, document)


def _add_logo(paragraph: Any, document: Document) -> None:  # Any: docx's paragraph has no stub here
    from docx.shared import Cm

    head = document.letterhead
    assert head is not None
    assert head.logo is not None
    height = min(1.35, 5.0 * head.logo.height / head.logo.width)
    picture = paragraph.add_run().add_picture(io.BytesIO(head.logo.content), height=Cm(height))
    named = picture._inline.docPr
    named.set("descr", languages.words(document.language).logo.format(company=head.company))
    named.set("name", "logo")


def _run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{xml_text(text)}</w:t></w:r>' if text else ""


def _replace(place: Any, xml: str) -> None:  # Any: a header or a footer
    from docx.oxml import parse_xml

    place.is_linked_to_previous = False
    element = place._element
    for child in list(element):
        element.remove(child)
    for child in list(parse_xml(f"<w:hdr {_NAMESPACES}>{xml}</w:hdr>")):
        element.append(child)


# ---- what is said of the file, and its bytes ----------------------------------------------------


def _set_properties(package: WordDocument, document: Document) -> None:
    said = package.core_properties
    day = document.date
    moment = datetime(2000, 1, 1) if day is None else datetime.combine(day, time())
    said.title = _short(document.title)
    said.author = said.last_modified_by = _short(document.author or document.company)
    said.subject = _short(" · ".join(document.kind))
    said.language = document.language
    said.comments = said.keywords = said.category = ""
    said.created = said.modified = moment.replace(tzinfo=UTC)
    said.revision = 1


def _short(text: str) -> str:
    """As long as python-docx takes a property, and of what XML can hold."""
    return "".join(char for char in text if char.isprintable())[:255]


def _packed(package: WordDocument, main: bytes) -> bytes:
    made, packed = io.BytesIO(), io.BytesIO()
    package.save(made)
    with (
        zipfile.ZipFile(made) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as target,
    ):
        for entry in source.infolist():
            info = zipfile.ZipInfo(entry.filename, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            content = main if entry.filename == _MAIN else source.read(entry)
            target.writestr(info, content)
    return packed.getvalue()
