"""What a document costs in each format: thread CPU time, medians, beside what stands below it.

The document is 11 KB of Spanish: 12 sections, 12 tables, lists and callouts. Each round draws new
figures, so nothing that a renderer keeps of one document helps it with the next; the formats and
their peers take turns. html stands beside markdown-it's own rendering of the same text, docx beside
the same document built with python-docx call by call, pdf beside an empty page: typst's fixed cost.
Every file is read back before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date

import docx
from markdown_it import MarkdownIt

from blatam_kv.documents.document import Document
from blatam_kv.documents.form import Heading, Items, Paragraph, Table, plain, walk
from blatam_kv.documents.rendering import FORMATS, render
from blatam_kv.documents.styles import STYLES

TARGETS = {"html": 6.0, "docx": 60.0, "pdf": 50.0}  # milliseconds of CPU
TOPICS = """resumen mercado clientes oferta canales operaciones personal inversión ingresos riesgos
calendario conclusiones""".split()
SENTENCES = (
    "Este apartado recoge lo que se decidió en {year} y con qué medios se hará.",
    "La previsión se revisará cada {n} semanas con los datos de la **tienda principal**.",
    "Los {n} proveedores habituales cubren el {p} % de la demanda en *temporada alta*.",
    "Queda pendiente la licencia de obra, que el ayuntamiento resuelve en {n} días.",
)


def markdown(seed: int) -> str:
    """The text; its length hardly depends on the seed, its figures do."""
    chance = random.Random(seed)

    def sentence() -> str:
        return chance.choice(SENTENCES).format(
            year=chance.randint(2020, 2030), n=chance.randint(2, 90), p=chance.randint(5, 95)
        )

    parts = [f"# Plan número {seed}"]
    for topic in TOPICS:
        parts.append(f"## {topic.capitalize()}")
        parts.append(" ".join(sentence() for _ in range(7)))
        parts.append("\n".join(f"- {sentence()}" for _ in range(2)))
        rows = "\n".join(
            f"| Partida {n} | {chance.randint(1000, 90_000)} € | {chance.randint(1, 99)} % |"
            for n in range(1, 5)
        )
        parts.append(f"| Concepto | Importe | Cambio |\n|---|--:|--:|\n{rows}")
        if topic in ("riesgos", "inversión"):
            parts.append(f"> [!WARNING]\n> {sentence()}")
    return "\n\n".join(parts)


def sample(seed: int, style: str) -> Document:
    """The document of a round."""
    return Document(
        title=f"Plan número {seed}",
        markdown=markdown(seed),
        language="es",
        document_type="business_plan",
        business_area="strategy",
        company="La Espiga",
        date=date(2026, 3, 7),
        style=style,
    )


def by_calls(document: Document) -> bytes:
    """The same document as a user of python-docx writes it."""
    package = docx.Document()
    package.add_heading(document.title, 0)
    for block in document.body:
        match block:
            case Heading(level, spans):
                package.add_heading(plain(spans), level)
            case Paragraph(spans):
                package.add_paragraph(plain(spans))
            case Items(items):
                for item in items:
                    for inner in walk(item):
                        if isinstance(inner, Paragraph):
                            package.add_paragraph(plain(inner.spans), style="List Bullet")
            case Table(head, rows):
                table = package.add_table(rows=0, cols=len(head))
                for row in (head, *rows):
                    for cell, spans in zip(table.add_row().cells, row, strict=True):
                        cell.text = plain(spans)
    buffer = io.BytesIO()
    package.save(buffer)
    return buffer.getvalue()


def peers(style: str) -> Mapping[str, Callable[[int], object]]:
    """What each format stands beside, by the format's name."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def empty(seed: int) -> object:
        page = Document(title=f"{seed}", markdown="", language="es", style=style)
        return render(page, "pdf")

    return {
        "html": lambda seed: parser.render(markdown(seed)),
        "docx": lambda seed: by_calls(sample(seed, style)),
        "pdf": empty,
    }


def cpu_ms(work: Callable[[int], object], seed: int) -> float:
    gc.collect()  # what others left is not this one's
    start = time.thread_time()
    work(seed)
    return 1000 * (time.thread_time() - start)


def check(style: str) -> None:
    """Each format holds the last table's last figure. Raises AssertionError."""
    document = sample(0, style)
    last = document.markdown.rsplit("|", 2)[1].strip()
    for format in ("html", "txt", "json", "markdown"):
        assert last in render(document, format).content.decode(), format
    tables = docx.Document(io.BytesIO(render(document, "docx").content)).tables
    assert len(tables) == len(TOPICS)
    assert tables[-1].rows[-1].cells[-1].text == last
    assert render(document, "pdf").content.startswith(b"%PDF-1.7")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--style", choices=STYLES, default="professional")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    check(args.style)
    size = len(markdown(0).encode())
    took: dict[str, list[float]] = {name: [] for name in FORMATS}
    beside: dict[str, list[float]] = {name: [] for name in TARGETS}
    for seed in range(1, args.rounds + 1):
        for format in FORMATS:
            took[format].append(cpu_ms(lambda n, f=format: render(sample(n, args.style), f), seed))  # type: ignore[misc]
        for name, work in peers(args.style).items():
            beside[name].append(cpu_ms(work, seed))
    rows = []
    for format in FORMATS:
        middle = statistics.median(took[format])
        low, _, high = statistics.quantiles(took[format], n=4)
        peer = statistics.median(beside[format]) if format in beside else None
        rows.append(
            {
                "format": format,
                "ms": round(middle, 2),
                "spread": round((high - low) / 2, 2),
                "target_ms": TARGETS.get(format),
                "peer_ms": None if peer is None else round(peer, 2),
                "ratio": None if peer is None else round(middle / peer, 2),
            }
        )
    load = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"bytes": size, "style": args.style, "load": load, "rows": rows}))
    else:
        print(f"{size:,} bytes, style {args.style}, {args.rounds} rounds, load {load:.1f}\n")
        print(f"{'format':<9} {'CPU ms':>8} {'±':>6} {'target':>7} {'beside':>8} {'ratio':>6}")
        for row in rows:
            cells = [row["target_ms"] or "", row["peer_ms"] or "", row["ratio"] or ""]
            print(
                f"{row['format']:<9} {row['ms']:>8} {row['spread']:>6} {cells[0]:>7} {cells[1]:>8} "
                f"{cells[2]:>6}"
            )
    missed = [row["format"] for row in rows if row["target_ms"] and row["ms"] > row["target_ms"]]  # type: ignore[operator]
    if missed:
        print(f"beyond its target: {', '.join(map(str, missed))}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
