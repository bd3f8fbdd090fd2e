"""The parts a language brings to the corpus: areas, document types, sentences and queries.

Slots in a sentence, filled by ``corpus.py``: {c} company, {s} subject, {g} goal, {a} action, {k}
indicator, {t} team, {r} resource, {w} risk, {p} percentage, {n} small number, {m} amount of money,
{q} quarter or month. A digit after the letter ({g1}, {g2}) asks for another one. {A} and {G} begin
with a capital.
"""

from __future__ import annotations

from dataclasses import dataclass


def lines(text: str) -> tuple[str, ...]:
    """The lines of a block, without indentation and blank ones."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@dataclass(frozen=True, slots=True)
class Area:
    """Vocabulary of one business area. A risk line is ``risk => what is done about it``."""

    goals: tuple[str, ...]
    actions: tuple[str, ...]
    kpis: tuple[str, ...]
    risks: tuple[str, ...]
    teams: tuple[str, ...]
    resources: tuple[str, ...]


def area(*blocks: str) -> Area:
    """goals, actions, kpis, risks, teams, resources: one phrase a line."""
    return Area(*(lines(block) for block in blocks))


@dataclass(frozen=True, slots=True)
class Kind:
    """One document type: how users call it, and its sections as (builder, possible headings)."""

    names: tuple[str, ...]
    sections: tuple[tuple[str, tuple[str, ...]], ...]


def kind(names: str, sections: str) -> Kind:
    """sections: one a line, ``builder: heading | heading``."""
    rows = (line.split(": ", 1) for line in lines(sections))
    parsed = tuple((builder, tuple(heads.split(" | "))) for builder, heads in rows)
    return Kind(tuple(names.split(" | ")), parsed)


@dataclass(frozen=True, slots=True)
class Language:
    """Everything ``corpus.py`` needs to write in one language."""

    code: str
    areas: dict[str, Area]
    kinds: dict[str, Kind]
    sentences: dict[str, tuple[str, ...]]
    items: dict[str, tuple[str, ...]]
    words: dict[str, tuple[str, ...]]
    titles: tuple[str, ...]
    queries: dict[str, tuple[str, ...]]
