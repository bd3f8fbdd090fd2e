"""The blocks of a document as WordprocessingML.

Written as text and parsed once: building the same tree node by node takes ten times as long. Every
string of the document passes through ``_text``, and no string is ever a field code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

from blatam_kv.documents import languages
from blatam_kv.documents.columns import weights
from blatam_kv.documents.form import (
    Align,
    Block,
    Callout,
    CalloutKind,
    Code,
    Heading,
    Items,
    Paragraph,
    Quote,
    Span,
    Spans,
    Table,
)
from blatam_kv.documents.styles import CalloutLook, Style

# What XML cannot hold.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Twentieths of a point.
_INDENT = 400
_CALLOUT_COLOURS: dict[CalloutKind, tuple[str, str]] = {
    "tip": ("2F7D4F", "EDF5F0"),
    "warning": ("A96A00", "FAF3E8"),
    "caution": ("B3261E", "FBEBEA"),
}

# The order in which the schema wants properties; Word refuses a file that has another.
_PARAGRAPH = tuple("pStyle keepNext numPr pBdr shd bidi spacing ind jc".split())
_RUN = tuple("rStyle b i color spacing sz rtl".split())
# Properties by the name of their element; later ones replace earlier ones.
Properties = Mapping[str, str]
NONE: Properties = {}


class Body:
    """Turns blocks into XML. One document's, for one thread.

    width: of the text, in twentieths of a point. link: gives an address the name that the package
    knows it by. numbers: makes a numbering that begins at a number and gives its id, None for
    bullets.
    """

    def __init__(
        self,
        style: Style,
        language: str,
        *,
        width: int,
        link: Callable[[str], str],
        numbers: Callable[[int | None], int],
    ) -> None:
        self._style = style
        self._language = language
        self._rtl = languages.is_right_to_left(language)
        self._width = width
        self._link = link
        self._numbers = numbers
        self._headings = 0
        self.anchors: list[tuple[int, Spans, str]] = []  # level, words and bookmark of headings

    def write(self, blocks: Sequence[Block]) -> str:
        """The XML of top blocks; ``anchors`` then names the headings."""
        return self._blocks(blocks, NONE, 0)

    def paragraph(
        self,
        spans: Spans,
        style: str,
        properties: Properties = NONE,
        *,
        look: Properties = NONE,
        before: str = "",
        after: str = "",
    ) -> str:
        """One paragraph in a named style. look: of its runs; before, after: XML around these."""
        found = {"pStyle": f'<w:pStyle w:val="{style}"/>', **properties}
        if self._rtl:
            found["bidi"] = "<w:bidi/>"
        named = "".join([found[name] for name in _PARAGRAPH if name in found])
        runs = "".join([self._run(span, look) for span in spans])
        return f"<w:p><w:pPr>{named}</w:pPr>{before}{runs}{after}</w:p>"

    def contents(self) -> str:
        """The headings as a table of contents, each leading to its place."""
        shown = [each for each in self.anchors if each[0] <= 2]
        begin = _field("begin") + _instruction(r'TOC \o "1-2" \h \z \u') + _field("separate")
        written = []
        for at, (level, spans, anchor) in enumerate(shown):
            before = begin if at == 0 else ""
            after = _field("end") if at == len(shown) - 1 else ""
            link = f'{before}<w:hyperlink w:anchor="{anchor}">'
            written.append(
                self.paragraph(
                    _unlinked(spans), f"TOC{level}", before=link, after=f"</w:hyperlink>{after}"
                )
            )
        return "".join(written)

    # Blocks. frame: what the paragraphs inside share; depth: of lists.

    def _blocks(self, blocks: Sequence[Block], frame: Properties, depth: int) -> str:
        return "".join([self._block(block, frame, depth) for block in blocks])

    def _block(self, block: Block, frame: Properties, depth: int) -> str:
        match block:
            case Heading(level, spans):
                return self._heading(level, spans)
            case Paragraph(spans):
                indent = {"ind": f'<w:ind w:left="{_INDENT * depth}"/>'} if depth else NONE
                return self.paragraph(spans, "BodyText", {**indent, **frame})
            case Items():
                return self._list(block, frame, depth)
            case Table():
                return self._table(block)
            case Callout():
                return self._callout(block, depth)
            case Quote(inner):
                return self._blocks(inner, {"pStyle": '<w:pStyle w:val="Quote"/>'}, depth)
            case Code(text):
                return self.paragraph((Span(text),), "Code")
        line = f'<w:bottom w:val="single" w:sz="5" w:space="1" w:color="{_hex(self._style.line)}"/>'
        return self.paragraph((), "BodyText", {"pBdr": f"<w:pBdr>{line}</w:pBdr>"})

    def _heading(self, level: int, spans: Spans) -> str:
        self._headings += 1
        anchor = f"_Toc{self._headings:06}"
        self.anchors.append((level, spans, anchor))
        return self.paragraph(
            spans,
            f"Heading{level}",
            before=f'<w:bookmarkStart w:id="{self._headings}" w:name="{anchor}"/>',
            after=f'<w:bookmarkEnd w:id="{self._headings}"/>',
        )

    def _list(self, block: Items, frame: Properties, depth: int) -> str:
        number = self._numbers(block.start)
        level = f'<w:ilvl w:val="{min(depth, 8)}"/><w:numId w:val="{number}"/>'
        mark = {**frame, "numPr": f"<w:numPr>{level}</w:numPr>"}
        mark.pop("ind", None)
        written = []
        for item in block.items:
            lead = item[0] if item and isinstance(item[0], Paragraph) else None
            written.append(self.paragraph(lead.spans if lead else (), "ListParagraph", mark))
            written.append(self._blocks(item[1:] if lead else item, frame, depth + 1))
        return "".join(written)

    def _callout(self, block: Callout, depth: int) -> str:
        style = self._style
        colour, tint = _CALLOUT_COLOURS.get(block.kind, (_hex(style.accent), _hex(style.tint)))
        frame = _frame(style.callout, colour, tint, _hex(style.ink))
        name = languages.words(self._language).callouts[block.kind].upper()
        head = self.paragraph(
            (Span(name),),
            "BodyText",
            {
                **frame,
                "keepNext": "<w:keepNext/>",
                "spacing": '<w:spacing w:before="120" w:after="40"/>',
            },
            look={
                "b": "<w:b/>",
                "color": f'<w:color w:val="{colour}"/>',
                "spacing": '<w:spacing w:val="14"/>',
                "sz": '<w:sz w:val="16"/>',
            },
        )
        return head + self._blocks(block.blocks, frame, depth) + self.paragraph((), "Gap")

    def _table(self, table: Table) -> str:
        shares = weights(table)
        if not shares:
            return ""
        unit = self._width / sum(shares)
        widths = [int(share * unit) for share in shares]
        grid = "".join(f'<w:gridCol w:w="{width}"/>' for width in widths)
        rows = [self._row(table.head, table.align, widths, 0, len(table.rows))]
        rows += [
            self._row(row, table.align, widths, number, len(table.rows))
            for number, row in enumerate(table.rows, start=1)
        ]
        bidi = "<w:bidiVisual/>" if self._rtl else ""
        return (
            f'<w:tbl><w:tblPr>{bidi}<w:tblW w:w="{self._width}" w:type="dxa"/>'
            '<w:tblInd w:w="110" w:type="dxa"/>'
            f"{self._borders()}"
            '<w:tblLayout w:type="fixed"/><w:tblCellMar><w:top w:w="60" w:type="dxa"/>'
            '<w:left w:w="110" w:type="dxa"/><w:bottom w:w="60" w:type="dxa"/>'
            '<w:right w:w="110" w:type="dxa"/></w:tblCellMar>'
            '<w:tblLook w:val="0020" w:firstRow="1" w:lastRow="0" w:firstColumn="0" '
            'w:lastColumn="0" w:noHBand="1" w:noVBand="1"/></w:tblPr>'
            f"<w:tblGrid>{grid}</w:tblGrid>{''.join(rows)}</w:tbl>{self.paragraph((), 'Gap')}"
        )

    def _row(
        self,
        cells: Sequence[Spans],
        align: Sequence[Align],
        widths: Sequence[int],
        number: int,
        last: int,
    ) -> str:
        head = number == 0
        fill = self._fill(number)
        shading = f'<w:shd w:val="clear" w:color="auto" w:fill="{fill}"/>' if fill else ""
        look = {"b": "<w:b/>"} if head else {}
        if head and self._style.table in ("filled", "grid"):
            look["color"] = '<w:color w:val="FFFFFF"/>'
        # A short table stays on one page.
        keep = {"keepNext": "<w:keepNext/>"} if number < last <= 8 else NONE
        written = []
        for spans, side, width in zip(cells, align, widths, strict=True):
            properties = {**keep, "jc": f'<w:jc w:val="{side}"/>'}
            written.append(
                f'<w:tc><w:tcPr><w:tcW w:w="{width}" w:type="dxa"/>{shading}'
                '<w:vAlign w:val="center"/></w:tcPr>'
                f"{self.paragraph(spans, 'TableText', properties, look=look)}</w:tc>"
            )
        header = "<w:tblHeader/>" if head else ""
        return f"<w:tr><w:trPr><w:cantSplit/>{header}</w:trPr>{''.join(written)}</w:tr>"

    def _fill(self, number: int) -> str:
        style = self._style
        match style.table:
            case "filled":
                if number == 0:
                    return _hex(style.accent)
                return _hex(style.tint) if number % 2 == 0 else ""
            case "grid":
                return _hex(style.accent) if number == 0 else ""
            case "lines":
                return _hex(style.tint) if number == 0 else ""
            case "rows":
                return "E4E0F7" if number == 0 else _hex(style.tint)
        return ""

    def _borders(self) -> str:
        style = self._style
        accent, line = _hex(style.accent), _hex(style.line)
        sides: dict[str, tuple[int, str]]
        match style.table:
            case "lines":
                sides = {"top": (9, accent), "bottom": (9, accent), "insideH": (3, line)}
            case "filled":
                sides = {"bottom": (4, line), "insideH": (4, line)}
            case "hairlines":
                sides = {"top": (0, line), "bottom": (3, line), "insideH": (3, line)}
            case "grid":
                names = ("top", "left", "bottom", "right", "insideH", "insideV")
                sides = {name: (4, line) for name in names}
            case "rows":
                sides = {"insideH": (18, "FFFFFF")}
        written = "".join(
            f'<w:{name} w:val="single" w:sz="{size}" w:space="0" w:color="{colour}"/>'
            for name, (size, colour) in sides.items()
            if size
        )
        return f"<w:tblBorders>{written}</w:tblBorders>"

    # Runs.

    def _run(self, span: Span, look: Properties) -> str:
        found = dict(look)
        if span.code:
            found["rStyle"] = '<w:rStyle w:val="CodeText"/>'
        elif span.href:
            found["rStyle"] = '<w:rStyle w:val="Hyperlink"/>'
        if span.bold:
            found["b"] = "<w:b/>"
        if span.italic:
            found["i"] = "<w:i/>"
        if self._rtl:
            found["rtl"] = "<w:rtl/>"
        named = "".join([found[name] for name in _RUN if name in found])
        properties = f"<w:rPr>{named}</w:rPr>" if named else ""
        run = f"<w:r>{properties}{_lines(span.text)}</w:r>"
        if span.href:
            return f'<w:hyperlink r:id="{self._link(span.href)}">{run}</w:hyperlink>'
        return run


def _frame(look: CalloutLook, colour: str, tint: str, ink: str) -> Properties:
    """What draws the box of a callout."""

    def border(*sides: tuple[str, int, str]) -> str:
        drawn = "".join(
            f'<w:{name} w:val="single" w:sz="{size}" w:space="6" w:color="{line}"/>'
            for name, size, line in sides
        )
        return f"<w:pBdr>{drawn}</w:pBdr>"

    def around(size: int, line: str) -> str:
        return border(*((name, size, line) for name in ("top", "left", "bottom", "right")))

    shading = f'<w:shd w:val="clear" w:color="auto" w:fill="{tint}"/>'
    indent = '<w:ind w:left="180" w:right="180"/>'
    if look == "bar":
        sides = (("top", 4, tint), ("left", 24, colour), ("bottom", 4, tint))
        return {"pBdr": border(*sides), "shd": shading, "ind": indent}
    if look == "hairline":
        return {"pBdr": border(("top", 4, ink), ("bottom", 4, ink))}
    if look == "frame":
        return {"pBdr": around(6, colour), "ind": indent}
    return {"pBdr": around(4, tint), "shd": shading, "ind": indent}


def _lines(text: str) -> str:
    return "<w:br/>".join(
        f'<w:t xml:space="preserve">{xml_text(line)}</w:t>' for line in text.split("\n")
    )


def xml_text(text: str) -> str:
    """A string as XML text."""
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _hex(colour: str) -> str:
    return colour.lstrip("#").upper()


def _field(kind: str) -> str:
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def _instruction(code: str) -> str:
    return f'<w:r><w:instrText xml:space="preserve"> {code} </w:instrText></w:r>'


def page_field(code: str) -> str:
    """A field that Word fills in: ``PAGE`` or ``NUMPAGES``."""
    one = "<w:r><w:t>1</w:t></w:r>"
    return _field("begin") + _instruction(code) + _field("separate") + one + _field("end")


def _unlinked(spans: Spans) -> Spans:
    """The words alone: a link inside a link is none."""
    return tuple(Span(span.text, code=span.code) for span in spans)
