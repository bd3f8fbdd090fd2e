"""The named styles and numberings of a Word file, in one of the five looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blatam_kv.documents.styles import Style

if TYPE_CHECKING:
    from docx.document import Document as WordDocument

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_LEVELS = 9
# What has no style of its own has these.
_FIRST = ("Normal", "DefaultParagraphFont", "TableNormal", "NoList")
_BULLETS = "•–▪"


def set_styles(package: WordDocument, style: Style, language: str, *, numbered: bool) -> None:
    """Give every style that the body names its look. numbered: whether headings are."""
    from docx.oxml import parse_xml

    styles = package.styles.element
    styles.append(parse_xml(_defaults(style, language)))
    for name, (kind, content) in _styles(style, numbered=numbered).items():
        named = f'<w:style xmlns:w="{_W}" w:type="{kind}" w:styleId="{name}"'
        first = ' w:default="1"' if name in _FIRST else ""
        styles.append(parse_xml(f"{named}{first}>{content}</w:style>"))


def set_numbering(package: WordDocument, style: Style) -> Callable[[int | None], int]:
    """Define bullets and numbers; the function gives each list its own numbering."""
    from docx.oxml import parse_xml

    numbering: Any = package.part.numbering_part.element  # Any: lxml's, which has no types here
    for element in list(numbering):
        numbering.remove(element)
    accent = style.accent.lstrip("#").upper()
    for number, kind in enumerate(("bullet", "decimal", "outline"), start=1):
        levels = "".join(_level(kind, level, accent) for level in range(_LEVELS))
        multi = "multilevel" if kind == "outline" else "hybridMultilevel"
        numbering.append(
            parse_xml(
                f'<w:abstractNum xmlns:w="{_W}" w:abstractNumId="{number}">'
                f'<w:multiLevelType w:val="{multi}"/>{levels}</w:abstractNum>'
            )
        )
    for number in (1, 3):
        numbering.append(parse_xml(_num(number, number)))
    given = 3

    def numbers(start: int | None) -> int:
        nonlocal given
        if start is None:
            return 1
        given += 1
        restart = "".join(
            f'<w:lvlOverride w:ilvl="{level}"><w:startOverride w:val="{start}"/></w:lvlOverride>'
            for level in range(_LEVELS)
        )
        numbering.append(parse_xml(_num(given, 2, restart)))
        return given

    return numbers


def _num(number: int, abstract: int, more: str = "") -> str:
    return (
        f'<w:num xmlns:w="{_W}" w:numId="{number}"><w:abstractNumId w:val="{abstract}"/>{more}'
        "</w:num>"
    )


def _level(kind: str, level: int, accent: str) -> str:
    indent, hanging = 400 * (level + 1), 300
    look = f'<w:rPr><w:color w:val="{accent}"/></w:rPr>'
    named = ""
    if kind == "bullet":
        number, text = "bullet", _BULLETS[min(level, 2)]
    elif kind == "decimal":
        number, text = "decimal", f"%{level + 1}."
    else:
        number, text = "decimal", ".".join(f"%{each + 1}" for each in range(level + 1))
        indent = hanging = (560, 700)[min(level, 1)]
        named = f'<w:pStyle w:val="Heading{level + 1}"/>' if level < 2 else ""
    return (
        f'<w:lvl w:ilvl="{level}"><w:start w:val="1"/><w:numFmt w:val="{number}"/>{named}'
        f'<w:lvlText w:val="{text}"/><w:lvlJc w:val="left"/>'
        f'<w:pPr><w:ind w:left="{indent}" w:hanging="{hanging}"/></w:pPr>{look}</w:lvl>'
    )


def _defaults(style: Style, language: str) -> str:
    tag = language if "-" in language else {"es": "es-ES", "en": "en-US"}.get(language, language)
    return (
        f'<w:docDefaults xmlns:w="{_W}"><w:rPrDefault><w:rPr>{_fonts(style.body[1])}'
        f'<w:color w:val="{_hex(style.ink)}"/><w:sz w:val="{round(2 * style.size)}"/>'
        f'<w:szCs w:val="{round(2 * style.size)}"/>'
        f'<w:lang w:val="{tag}" w:bidi="{tag}"/></w:rPr></w:rPrDefault>'
        "<w:pPrDefault/></w:docDefaults>"
    )


def _fonts(family: str) -> str:
    return (
        f'<w:rFonts w:ascii="{family}" w:hAnsi="{family}" w:cs="{family}" w:eastAsia="{family}"/>'
    )


def _hex(colour: str) -> str:
    return colour.lstrip("#").upper()


def _styles(style: Style, *, numbered: bool) -> dict[str, tuple[str, str]]:
    """Type and content of each style by its id."""
    ink, soft, accent, tint = map(_hex, (style.ink, style.soft, style.accent, style.tint))
    display = _fonts(style.display[1])
    line = round(240 * (1.0 + style.leading * 0.32))
    after = round(style.size * 11)
    found: dict[str, tuple[str, str]] = {}

    def paragraph(
        name: str,
        shown: str,
        look: str = "",
        words: str = "",
        based: str = "Normal",
        then: str = "",
    ) -> None:
        on = f'<w:basedOn w:val="{based}"/>' if name != based else ""
        following = f'<w:next w:val="{then}"/>' if then else ""
        found[name] = (
            "paragraph",
            f'<w:name w:val="{shown}"/>{on}{following}<w:qFormat/>'
            f"<w:pPr>{look}</w:pPr><w:rPr>{words}</w:rPr>",
        )

    def size(points: float) -> str:
        return f'<w:sz w:val="{round(2 * points)}"/><w:szCs w:val="{round(2 * points)}"/>'

    def colour(value: str) -> str:
        return f'<w:color w:val="{value}"/>'

    def space(before: int, behind: int, height: int = 240) -> str:
        return (
            f'<w:spacing w:before="{before}" w:after="{behind}" w:line="{height}" '
            'w:lineRule="auto"/>'
        )

    paragraph("Normal", "Normal", space(0, 0, line))
    paragraph("BodyText", "Body Text", space(0, after, line))
    paragraph("ListParagraph", "List Paragraph", space(0, after // 3, line))
    paragraph("TableText", "Table Text", space(0, 0), size(style.size * 0.92))
    paragraph("Gap", "Gap", space(0, 0, 180), size(style.size * 0.5))
    quote = f'<w:pBdr><w:left w:val="single" w:sz="12" w:space="10" w:color="{_hex(style.line)}"/></w:pBdr>'
    paragraph(
        "Quote",
        "Quote",
        f'{quote}{space(0, after, line)}<w:ind w:left="280"/>',
        f"<w:i/>{colour(soft)}",
    )
    shade = f'<w:shd w:val="clear" w:color="auto" w:fill="{tint}"/>'
    paragraph(
        "Code",
        "Code",
        f"{shade}{space(60, after)}",
        f"{_fonts('Consolas')}{size(style.size * 0.88)}",
    )
    levels = (1.42, 1.16, 1.03, 1.0, 1.0, 1.0)
    for level, factor in enumerate(levels, start=1):
        first = level == 1
        border = ""
        if first and style.title in ("cover", "stripe", "band"):
            hue = {"cover": _hex(style.line), "stripe": "E8623F", "band": accent}[style.title]
            border = (
                f'<w:pBdr><w:bottom w:val="single" w:sz="{4 if style.title == "cover" else 12}" '
                f'w:space="3" w:color="{hue}"/></w:pBdr>'
            )
        number = (
            f'<w:numPr><w:ilvl w:val="{level - 1}"/><w:numId w:val="3"/></w:numPr>'
            if numbered and level < 3
            else ""
        )
        hue = {"plain": ink, "band": ink}.get(style.title, accent) if first else ink
        hue = soft if level > 2 else hue
        paragraph(
            f"Heading{level}",
            f"heading {level}",
            f"<w:keepNext/><w:keepLines/>{number}{border}"
            f"{space(round(style.size * (34 if first else 26)), round(style.size * 11))}"
            f'<w:outlineLvl w:val="{level - 1}"/>',
            f"{display}<w:b/>{colour(hue)}{size(style.size * factor)}",
            then="BodyText",
        )
    _title_styles(style, paragraph, size, colour, space, display)
    right = 11_906 - round((style.margins[1] + style.margins[3]) * 567)
    tabs = f'<w:tabs><w:tab w:val="right" w:pos="{right}"/></w:tabs>'
    small = f"{_fonts(style.body[1])}{colour(soft)}{size(8)}"
    paragraph("Header", "header", f'{space(0, 0)}<w:jc w:val="right"/>', small)
    paragraph("Footer", "footer", f"{tabs}{space(0, 0)}", small)
    paragraph("Letterhead", "Letterhead", f'{space(0, 240)}<w:jc w:val="right"/>', small)
    paragraph(
        "ContentsTitle",
        "Contents Title",
        space(360, 160),
        f"{display}<w:b/>{colour(accent)}{size(style.size * 1.42)}",
        then="BodyText",
    )
    paragraph("TOC1", "toc 1", space(60, 40), "<w:b/>", then="Normal")
    paragraph("TOC2", "toc 2", f'{space(0, 20)}<w:ind w:left="280"/>', then="Normal")
    found["DefaultParagraphFont"] = ("character", '<w:name w:val="Default Paragraph Font"/>')
    found["TableNormal"] = ("table", '<w:name w:val="Normal Table"/>')
    found["NoList"] = ("numbering", '<w:name w:val="No List"/>')
    found["CodeText"] = (
        "character",
        f'<w:name w:val="Code Text"/><w:rPr>{_fonts("Consolas")}{shade}</w:rPr>',
    )
    found["Hyperlink"] = (
        "character",
        f'<w:name w:val="Hyperlink"/><w:rPr>{colour(accent)}<w:u w:val="single"/></w:rPr>',
    )
    return found


def _title_styles(
    style: Style,
    paragraph: Callable[..., None],
    size: Callable[[float], str],
    colour: Callable[[str], str],
    space: Callable[..., str],
    display: str,
) -> None:
    """What stands at the head of page one."""
    accent, soft = _hex(style.accent), _hex(style.soft)
    fill, title, kind, facts = "", accent, accent, soft
    tops = (0, 60, 140)
    if style.title == "band":
        # Lines of the same colour as the area, for the distance that they keep.
        sides = "".join(
            f'<w:{side} w:val="single" w:sz="4" w:space="{distance}" w:color="{accent}"/>'
            for side, distance in (("top", 8), ("left", 10), ("bottom", 8), ("right", 10))
        )
        fill = f'<w:pBdr>{sides}</w:pBdr><w:shd w:val="clear" w:color="auto" w:fill="{accent}"/>'
        title = kind = facts = "FFFFFF"
    elif style.title == "plain":
        title, kind = _hex(style.ink), soft
    elif style.title == "cover":
        title, tops = _hex(style.ink), (4200, 200, 300)
    bar = ""
    if style.title == "cover":
        bar = f'<w:pBdr><w:left w:val="single" w:sz="24" w:space="14" w:color="{accent}"/></w:pBdr>'
    under = ""
    if style.title in ("rule", "plain"):
        width, hue = (18, accent) if style.title == "rule" else (4, _hex(style.ink))
        under = (
            f'<w:pBdr><w:bottom w:val="single" w:sz="{width}" w:space="6" '
            f'w:color="{hue}"/></w:pBdr>'
        )
    words = f'<w:b/>{colour(kind)}<w:spacing w:val="16"/>{size(8.5)}'
    paragraph("DocumentKind", "Document Kind", f"{bar}{fill}{space(tops[0], tops[1])}", words)
    paragraph(
        "Title",
        "Title",
        f"{bar or under}{fill}{space(0, tops[2])}",
        f"{display}<w:b/>{colour(title)}{size(style.title_size)}",
        then="BodyText",
    )
    paragraph(
        "DocumentFacts", "Document Facts", f"{fill}{space(60, 480)}", f"{colour(facts)}{size(9.2)}"
    )
