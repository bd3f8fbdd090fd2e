"""The corpus of ``mini``: briefs and the documents that answer them, written by a grammar.

Example ``index`` of stream ``seed`` is always the same, so the corpus needs no storage: training
reads stream 1, held-out figures come from stream 2. Names and subjects are drawn from spaces so
wide that streams share next to none of them (``names.py``). Every template lives here and in the
language files beside it; none of them ships in the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import names
from english_text import ENGLISH
from grammar import Language
from spanish_text import SPANISH

from blatam_kv.truthgpt.brief import AREAS, DOCUMENT_TYPES, Brief
from blatam_kv.truthgpt.protocol import Message

VERSION = 2
TRAIN, HELD_OUT = 1, 2
LANGUAGES = {"es": SPANISH, "en": ENGLISH}

# The area a document of this type usually belongs to.
USUAL_AREA = {
    "business_plan": "strategy",
    "marketing_strategy": "marketing",
    "sales_proposal": "sales",
    "operational_manual": "operations",
    "hr_policy": "hr",
    "financial_report": "finance",
    "legal_contract": "legal",
    "technical_specification": "technical",
    "content_strategy": "content",
    "strategic_plan": "strategy",
    "customer_service_guide": "customer_service",
}
SLOT_OF = {"industry": "i", "reader": "u", "size": "z"}
SIZES = {
    "es": ("pequeña", "mediana", "grande", "autónomo", "microempresa", "startup", "pyme"),
    "en": ("small", "medium", "large", "freelance", "micro business", "startup", "enterprise"),
}
READERS = {
    "es": """directores de compras|familias con hijos|jóvenes profesionales|clientes actuales|
    inversores|personal nuevo|miembros del consejo|hosteleros|autónomos|turistas|
    estudiantes universitarios|personas mayores|distribuidores|ayuntamientos|pymes locales""",
    "en": """purchasing managers|families with children|young professionals|current customers|
    investors|new staff|board members|restaurant owners|freelancers|tourists|
    university students|older people|distributors|town councils|local businesses""",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation and the answer to learn; the other fields say what was asked."""

    messages: list[Message]
    document: str
    language: str
    company: str
    subject: str


class Slots(dict[str, str]):
    """Values for ``format_map``: fixed ones, and others drawn when first asked for."""

    def __init__(self, fixed: dict[str, str], draw: Callable[[str], str]) -> None:
        super().__init__(fixed)
        self._draw = draw

    def __missing__(self, key: str) -> str:
        return self._draw(key[0])


class Writer:
    """Writes one document. Phrases of the area are dealt like cards, so none repeats early."""

    def __init__(
        self, rng: Random, language: Language, area: str, company: str, subject: str
    ) -> None:
        self.rng = rng
        self.language = language
        self.area = language.areas[area]
        self.subject = subject
        low, high = (company, company) if company else language.words["company"][:2]
        self.fixed = {"c": low, "C": high, "s": subject}
        self._decks: dict[str, list[str]] = {}
        self._mentions = 0

    def deal(self, name: str, cards: tuple[str, ...]) -> str:
        """Next card of a shuffled deck; the deck starts again when it is used up."""
        if not self._decks.get(name):
            self._decks[name] = self.rng.sample(cards, len(cards))
        return self._decks[name].pop()

    def money(self) -> str:
        value = self.rng.choice((self.rng.randint(2, 19) * 500, self.rng.randint(1, 90) * 1000))
        return f"{value:,}".replace(",", "." if self.language.code == "es" else ",")

    def amount(self, value: str) -> str:
        return f"{value} €" if self.language.code == "es" else f"${value}"

    def draw(self, letter: str) -> str:
        area, rng = self.area, self.rng
        match letter:
            case "g":
                return self.deal("goals", area.goals)
            case "a":
                return self.deal("actions", area.actions)
            case "k":
                return self.deal("kpis", area.kpis).split(" | ")[0]
            case "t":
                return self.deal("teams", area.teams)
            case "r":
                return self.deal("resources", area.resources)
            case "w":
                return self.deal("risks", area.risks).split(" => ")[0]
            case "p":
                return str(rng.choice((rng.randint(2, 9), rng.randint(1, 8) * 5)))
            case "n":
                return str(rng.randint(2, 12))
            case "m":
                return self.money()
            case "q":
                return self.deal("when", self.language.words["when"])
        raise KeyError(letter)

    def fill(self, sentence: str) -> str:
        """The sentence with its slots filled and contractions made."""
        fixed = self.fixed
        # A long subject is said in full where it matters and referred to afterwards.
        often = 0.3 if len(self.subject.split()) < 7 else 0.6
        if self._mentions > 2 and self.rng.random() < often:
            fixed = {**fixed, "s": self.language.words["this"][0]}
        self._mentions += "{s}" in sentence
        text = sentence.format_map(Slots(fixed, self.draw))
        if self.language.code == "es":
            text = re.sub(r"\bde el (?=[a-z])", "del ", text)
            text = re.sub(r"\ba el (?=[a-z])", "al ", text)
        return text

    def sentences(self, name: str, count: int) -> list[str]:
        """``count`` sentences; the first does not begin with a slot, so no paragraph does."""
        pool = list(self.language.sentences[name])
        self.rng.shuffle(pool)
        first = next(i for i, text in enumerate(pool) if not text.startswith("{") and "{s}" in text)
        chosen = [pool.pop(first), *pool[: count - 1]]
        return [self.fill(text) for text in chosen]

    def bullets(self, items: list[str], *, numbered: bool = False) -> str:
        marks = (f"{i}." if numbered else "-" for i in range(1, len(items) + 1))
        return "\n".join(f"{m} {capital(item)}" for m, item in zip(marks, items, strict=True))

    def table(self, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
        lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join(lines)

    def measure(self, unit: str, value: int) -> str:
        _, days, minutes, milliseconds = self.language.words["units"]
        match unit:
            case "%":
                return f"{value} %" if self.language.code == "es" else f"{value}%"
            case "€" | "$":
                return self.amount(str(value))
            case "d":
                return f"{value} {days}"
            case "min":
                return f"{value} {minutes}"
            case "ms":
                return f"{value}0 {milliseconds}"
        return str(value)

    def kpis(self) -> str:
        rows = []
        for _ in range(self.rng.randint(3, 4)):
            name, unit = self.deal("kpi rows", self.area.kpis).split(" | ")
            rows.append(
                (
                    capital(name.split(" ", 1)[1]),
                    self.measure(unit, self.rng.randint(5, 49)),
                    self.measure(unit, self.rng.randint(5, 95)),
                )
            )
        return self.table(self.language.words["kpi_header"], rows)

    def costs(self) -> str:
        concepts = [self.deal("costs", self.language.items["costs"]) for _ in range(3)]
        values = [self.rng.randint(1, 40) * 500 for _ in concepts]
        comma = "." if self.language.code == "es" else ","
        amounts = [self.amount(f"{v:,}".replace(",", comma)) for v in values]
        return self.table(
            self.language.words["cost_header"], list(zip(concepts, amounts, strict=True))
        )

    def phases(self) -> str:
        first, second = self.language.words["phase"], self.language.words["span"]
        label = self.rng.choice(first + second)
        step = 2 if label in second else 1
        items = []
        for i in range(self.rng.randint(3, 4)):
            start = 1 + i * step
            items.append(f"{label.format(start, start + 1)}: {self.draw('a')}.")
        return self.bullets(items)

    def block(self, name: str) -> str:
        """The list or table that follows the lead of a section, or nothing."""
        rng, language = self.rng, self.language
        count = rng.randint(3, 4)
        match name:
            case "goals":
                return self.bullets([self.draw("g") + "." for _ in range(count)])
            case "actions":
                actions = [self.draw("a") + "." for _ in range(count + 1)]
                return self.bullets(actions, numbered=rng.random() < 0.5)
            case "kpis":
                return self.kpis()
            case "budget":
                return self.costs()
            case "timeline":
                return self.phases()
            case "risks":
                pairs = [self.deal("risks", self.area.risks).split(" => ") for _ in range(3)]
                return self.bullets([f"{risk}: {answer}." for risk, answer in pairs])
            case "roles":
                return self.bullets([f"{team}: {self.draw('a')}." for team in self.area.teams])
            case "swot":
                pools = ("strengths", "weaknesses", "opportunities", "threats")
                items = []
                for label, items_of in zip(language.words["swot"], pools, strict=True):
                    two = [self.fill(text) for text in rng.sample(language.items[items_of], 2)]
                    items.append(f"{label}: {two[0]}, {two[1]}.")
                return self.bullets(items)
            case "procedure" | "protocol":
                pool = language.items[name]
                kept = sorted(rng.sample(range(len(pool)), 5))
                return self.bullets([self.fill(pool[i]) + "." for i in kept], numbered=True)
            case _ if name in language.items:
                chosen = rng.sample(language.items[name], count)
                return self.bullets([self.fill(text) + "." for text in chosen])
        return ""

    def section(self, name: str, extra: list[str]) -> str:
        """Lead, block and sometimes an end; ``extra`` sentences join the first paragraph."""
        block = self.block(name)
        if not block:
            said = self.sentences(name, self.rng.randint(2, 3))
            return " ".join([*said, *extra])
        parts = [*self.sentences(name, 1), block]
        ending = self.language.sentences.get(f"{name}_end")
        if ending and self.rng.random() < 0.6:
            parts.append(self.fill(self.rng.choice([t for t in ending if t[0] != "{"])))
        if extra:
            parts.append(" ".join(extra))
        return "\n\n".join(parts)

    def document(self, kind_name: str, extra: dict[str, str]) -> str:
        """Title, sections and nothing else."""
        rng, language = self.rng, self.language
        kind = language.kinds[kind_name]
        name = rng.choice(kind.names)
        company = self.fixed["c"] if self.fixed["c"] == self.fixed["C"] else ""
        titles = [t for t in language.titles if company or "{c}" not in t]
        title = rng.choice(titles).format(K=capital(name), k=name, s=self.subject, c=company)
        parts = [f"# {title}"]
        sections = list(kind.sections)
        wanted = rng.choice((4, 4, 5, 5, 6))
        while len(sections) > wanted:
            sections.pop(rng.randrange(1, len(sections)))
        asides = []
        for slot, value in extra.items():
            pool = language.sentences[slot]
            usable = [t for t in pool if t[0] != "{"]
            self.fixed[SLOT_OF[slot]] = value
            asides.append(self.fill(rng.choice(usable)))
        for i, (builder, headings) in enumerate(sections):
            parts.append(f"## {rng.choice(headings)}")
            parts.append(self.section(builder, asides if i == 0 else []))
        return "\n\n".join(parts).replace("..", ".") + "\n"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def with_article(code: str, name: str) -> str:
    """The name of a document type with its indefinite article."""
    if code == "es":
        masculine = ("plan", "contrato", "acuerdo", "manual", "informe", "análisis", "protocolo")
        return f"{'un' if name.startswith(masculine) else 'una'} {name}"
    return f"{'an' if name.startswith(('o', 'e', 'HR')) else 'a'} {name}"


def query(
    rng: Random, language: Language, kind_name: str, company: str, subject: str
) -> tuple[str, str]:
    """A way to ask for the document, and the subject as it stands in it."""
    kind = language.kinds[kind_name]
    name = rng.choice(kind.names)
    group = "named" if company else rng.choice(("plain", "plain", "asked"))
    frame = rng.choice(language.queries[group])
    look = rng.random()
    if look < 0.06:
        subject = " ".join(capital(word) for word in subject.split())
    elif look < 0.08:
        subject = subject.upper()
    elif look < 0.14:
        left, right = rng.choice(('""', "''", "«»", "“”"))
        subject = f"{left}{subject}{right}"
    upper = rng.random() < 0.6
    if upper and frame.startswith("{s}"):
        subject = capital(subject)
    words = {"k": with_article(language.code, name), "b": name, "c": company, "s": subject}
    text = frame.format(d=rng.choice(language.queries["documents"]), **words)
    if upper and not frame.startswith("{c}"):
        text = text[0] + capital(text[1:]) if text[0] in "¿¡" else capital(text)
    if rng.random() < 0.3 and text[-1] not in "?.":
        text += "."
    if rng.random() < 0.1:
        text += ("" if text[-1] in "?." else ".") + " " + rng.choice(language.queries["tails"])
    return text, subject


def example(seed: int, index: int) -> Example:
    """Conversation ``index`` of stream ``seed``."""
    rng = Random(f"{VERSION}/{seed}/{index}")
    code = rng.choice(("es", "en"))
    chat = rng.random() < 0.14
    asked = code if chat or rng.random() < 0.88 else ("en" if code == "es" else "es")
    kind_name = rng.choice(DOCUMENT_TYPES)
    area = USUAL_AREA[kind_name] if chat or rng.random() < 0.5 else rng.choice(AREAS)
    company = names.company(rng) if rng.random() < 0.85 else ""
    where = rng.random()
    in_query = company if chat or where < 0.45 else ""
    text, subject = query(rng, LANGUAGES[asked], kind_name, in_query, names.subject(rng, asked))
    extra: dict[str, str] = {}
    if chat:
        messages = [Message("user", text)]
        if rng.random() < 0.3:
            messages.insert(0, Message("system", "You are a helpful assistant."))
    else:
        if rng.random() < 0.4:
            extra["industry"] = names.industry(rng, code)
        if rng.random() < 0.25:
            readers = [r.strip() for r in READERS[code].split("|")]
            buyers = "compradores de" if code == "es" else "buyers of"
            someone = f"{buyers} {names.subject(rng, code)}"
            extra["reader"] = rng.choice((rng.choice(readers), someone))
        if rng.random() < 0.2:
            extra["size"] = rng.choice((rng.choice(SIZES[code]), str(rng.randint(1, 900))))
        brief = Brief(
            query=text,
            language=code,
            document_type=kind_name,
            business_area=area,
            company_name=company if not in_query or where < 0.2 else "",
            industry=extra.get("industry", ""),
            company_size=extra.get("size", ""),
            target_audience=extra.get("reader", ""),
        )
        messages = brief.messages()
    writer = Writer(rng, LANGUAGES[code], area, company, subject)
    return Example(messages, writer.document(kind_name, extra), code, company, subject)


def renamed(example: Example, company: str, subject: str) -> Example:
    """The same conversation about another company and another subject."""

    def put(text: str) -> str:
        for old, new in ((example.subject, subject), (example.company, company)):
            if old:
                text = text.replace(old, new).replace(capital(old), capital(new))
        return text

    return Example(
        [Message(message.role, put(message.content)) for message in example.messages],
        put(example.document),
        example.language,
        put(example.company),
        put(example.subject),
    )


def with_briefing(seed: int, index: int, sections: int) -> Example:
    """The same conversation behind a long briefing: other documents of the same company."""
    base = example(seed, index)
    rng = Random(f"{VERSION}/briefing/{seed}/{index}")
    parts = []
    for _ in range(sections):
        area, kind_name = rng.choice(AREAS), rng.choice(DOCUMENT_TYPES)
        code = base.language if rng.random() < 0.8 else rng.choice(("es", "en"))
        about = names.subject(rng, code)
        writer = Writer(rng, LANGUAGES[code], area, base.company, about)
        parts.append(writer.document(kind_name, {}).strip())
    text = "\n\n".join(parts)
    if rng.random() < 0.5:
        messages = [Message("system", text), *base.messages]
    else:
        last = base.messages[-1]
        messages = [*base.messages[:-1], Message("user", f"{text}\n\n {last.content}")]
    return Example(messages, base.document, base.language, base.company, base.subject)
