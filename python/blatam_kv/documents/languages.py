"""The words a document has of its own, and how dates and numbers are written, by language.

Spanish and English are written here; a document in another language gets English words. Babel knows
every language in 30 MB, of which this would use two tables of twelve months.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from blatam_kv.documents.form import CalloutKind

# Scripts that are written from right to left, by the languages that use them.
_RIGHT_TO_LEFT = frozenset("ar arc ckb dv fa he ks ps sd syr ug ur yi".split())
_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}")


@dataclass(frozen=True, slots=True)
class Words:
    """One language. page: with ``{n}`` and ``{total}``. date: with ``{day} {month} {year}``."""

    contents: str
    page: str
    prepared_for: str
    date: str
    months: tuple[str, ...]
    callouts: dict[CalloutKind, str]
    thousands: str
    decimal: str
    logo: str


_SPANISH = Words(
    contents="Contenido",
    page="Página {n} de {total}",
    prepared_for="Para",
    date="{day} de {month} de {year}",
    months=(
        *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
        *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
    ),
    callouts={
        "note": "Nota",
        "tip": "Consejo",
        "important": "Importante",
        "warning": "Advertencia",
        "caution": "Precaución",
    },
    thousands=".",
    decimal=",",
    logo="Logotipo de {company}",
)
_ENGLISH = Words(
    contents="Contents",
    page="Page {n} of {total}",
    prepared_for="For",
    date="{month} {day}, {year}",
    months=(
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    callouts={
        "note": "Note",
        "tip": "Tip",
        "important": "Important",
        "warning": "Warning",
        "caution": "Caution",
    },
    thousands=",",
    decimal=".",
    logo="Logo of {company}",
)


def words(language: str) -> Words:
    """The words for a language tag."""
    return _SPANISH if primary(language) == "es" else _ENGLISH


def is_tag(language: str) -> bool:
    """Whether it has the form of a language tag (BCP 47)."""
    return _TAG.fullmatch(language) is not None


def primary(language: str) -> str:
    """The language of a tag without region and script."""
    return language.partition("-")[0].lower()


def is_right_to_left(language: str) -> bool:
    """Whether its text runs from right to left."""
    return primary(language) in _RIGHT_TO_LEFT


def written_date(moment: date, language: str) -> str:
    """A day in words: ``7 de marzo de 2026``, ``March 7, 2026``."""
    found = words(language)
    month = found.months[moment.month - 1]
    return found.date.format(day=moment.day, month=month, year=moment.year)


def written_number(value: float, language: str, *, places: int = 0) -> str:
    """A number with its marks: ``12.500,50``, ``12,500.50``.

    Spanish puts none into four digits (RAE), English does.
    """
    found = words(language)
    text = f"{value:,.{places}f}"
    whole, _, rest = text.partition(".")
    if found is _SPANISH and len(whole.lstrip("-")) == 5:
        whole = whole.replace(",", "")
    whole = whole.replace(",", found.thousands)
    return f"{whole}{found.decimal}{rest}" if rest else whole
