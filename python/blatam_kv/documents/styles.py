"""The five styles as data: what is drawn is in each writer, with which colours and letters is here.

The letters of ``pdf`` are in the wheel: Inter and Bricolage Grotesque in ``fonts/``, Libertinus Serif in
typst. Word and browsers have others, so they get families that are everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TitleLook = Literal["rule", "band", "plain", "cover", "stripe"]
TableLook = Literal["lines", "filled", "hairlines", "grid", "rows"]
CalloutLook = Literal["bar", "box", "hairline", "frame", "tint"]

_SERIF = ("Libertinus Serif", "Cambria", 'Cambria, Georgia, "Times New Roman", serif')
_SANS = ("Inter", "Calibri", 'Inter, "Segoe UI", Calibri, system-ui, sans-serif')
_DISPLAY = ("Bricolage Grotesque", "Trebuchet MS", '"Trebuchet MS", "Segoe UI", sans-serif')


@dataclass(frozen=True, slots=True)
class Style:
    """One look. Fonts are (pdf, Word, CSS) families; colours are ``#rrggbb``; sizes are points.

    ink: text. soft: what is less than text. accent: headings. tint: areas behind text. line: rules.
    """

    title: TitleLook
    table: TableLook
    callout: CalloutLook
    body: tuple[str, str, str]
    display: tuple[str, str, str]
    size: float
    leading: float
    title_size: float
    ink: str
    soft: str
    accent: str
    tint: str
    line: str
    margins: tuple[float, float, float, float]  # top, right, bottom, left; centimetres
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """How somebody wants a document to look. contents: None leaves it to the document's length."""

    style: str = "professional"
    contents: bool | None = None
    letterhead: bool = True


USUAL = Look()

STYLES: Mapping[str, Style] = {
    "professional": Style(
        title="rule",
        table="lines",
        callout="bar",
        body=_SERIF,
        display=_SANS,
        size=11,
        leading=0.72,
        title_size=23,
        ink="#1d232b",
        soft="#5b6673",
        accent="#1f3f66",
        tint="#eef3f8",
        line="#b8c4d2",
        margins=(2.6, 2.6, 2.4, 2.6),
    ),
    "modern": Style(
        title="band",
        table="filled",
        callout="box",
        body=_SANS,
        display=_SANS,
        size=9.8,
        leading=0.82,
        title_size=25,
        ink="#18212b",
        soft="#5a6875",
        accent="#0b6e66",
        tint="#e8f4f2",
        line="#c5dcd9",
        margins=(2.4, 2.3, 2.3, 2.3),
    ),
    "minimal": Style(
        title="plain",
        table="hairlines",
        callout="hairline",
        body=_SANS,
        display=_SANS,
        size=9.4,
        leading=0.95,
        title_size=20,
        ink="#222222",
        soft="#666666",
        accent="#111111",
        tint="#f6f6f6",
        line="#cfcfcf",
        margins=(3.4, 3.8, 3.0, 3.8),
    ),
    "corporate": Style(
        title="cover",
        table="grid",
        callout="frame",
        body=_SERIF,
        display=_SERIF,
        size=11.2,
        leading=0.74,
        title_size=30,
        ink="#1b1f27",
        soft="#59606c",
        accent="#7a1f2b",
        tint="#f5efe9",
        line="#b9b1a8",
        margins=(2.9, 2.5, 2.6, 2.5),
        numbered=True,
    ),
    "creative": Style(
        title="stripe",
        table="rows",
        callout="tint",
        body=_SANS,
        display=_DISPLAY,
        size=9.8,
        leading=0.84,
        title_size=32,
        ink="#241f3a",
        soft="#675f80",
        accent="#4a2fbd",
        tint="#fdeee6",
        line="#f0b79c",
        margins=(2.4, 2.2, 2.3, 3.2),
    ),
}
