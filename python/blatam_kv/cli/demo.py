"""``demo``: the real service on a free port, real queries twice, the documents on disk.

The service runs as its own process, as ``blatam-kv serve`` starts it, and is spoken to over HTTP.
The first round computes; the second must be answered from the cache, byte for byte the same. Then
documents with one company's briefing begin where the first one's prompt did: see briefing.py. And the
gateway passes a hit on, and questions to other systems: see passage.py.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blatam_kv.cli import briefing, passage
from blatam_kv.cli.report import show
from blatam_kv.cli.started import DemoFailed, service
from blatam_kv.client import Client, Refused

FORMATS = {
    "markdown": "md",
    "html": "html",
    "txt": "txt",
    "json": "json",
    "docx": "docx",
    "pdf": "pdf",
}

# What a small company asks for in a week, in each of the styles twice. What is not given, the service
# works out.
QUERIES: tuple[dict[str, object], ...] = (
    {
        "style": "professional",
        "query": "Plan de negocio para una panadería artesanal",
        "company_name": "Horno La Espiga",
        "company_size": "12 empleados",
    },
    {
        "style": "modern",
        "query": "Marketing strategy for a sign language app",
        "company_name": "Handspoken",
    },
    {
        "style": "corporate",
        "query": "Propuesta comercial de paneles solares para cooperativas",
        "company_name": "Sol del Sur",
        "document_type": "sales_proposal",
        "language": "es",
    },
    {
        "style": "minimal",
        "query": "Operations manual for the warehouse night shift",
        "company_name": "Northgate Logistics",
    },
    {
        "style": "creative",
        "query": "Política de recursos humanos sobre teletrabajo",
        "company_name": "Estudio Mirador",
        "company_size": "30 empleados",
    },
    {
        "style": "professional",
        "query": "Quarterly financial report on dental clinics",
        "company_name": "Brightline Dental",
        "target_audience": "board of directors",
    },
    {
        "style": "modern",
        "query": "Contrato de mantenimiento de ascensores",
        "company_name": "Elevadores Cantábrico",
        "business_area": "legal",
    },
    {
        "style": "corporate",
        "query": "Technical specification of bus arrival screens",
        "company_name": "Citylink Transit",
    },
    {
        "style": "minimal",
        "query": "Estrategia de contenido sobre libros infantiles",
        "company_name": "Cuentos del Faro",
        "language": "es",
    },
    {
        "style": "creative",
        "query": "Customer service guide for shoe returns",
        "company_name": "Strideway",
        "business_area": "customer_service",
        "document_type": "customer_service_guide",
        "language": "en",
    },
)


@dataclass(slots=True)
class Shown:
    """One query's way through both rounds; milliseconds."""

    number: int
    query: dict[str, object]
    title: str = ""
    language: str = ""
    name: str = ""
    miss_ms: float = 0.0
    hit_ms: float = 0.0
    cache_status: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


def demo(output: Path, *, config: Path | None, as_json: bool) -> int:
    """Run it. Raises DemoFailed with the reason; what was written so far stays whole."""
    make_writable(output)
    rows = [Shown(number, query) for number, query in enumerate(QUERIES, start=1)]
    # A folder of its own: what this user's service has cached would make the first round no first.
    with tempfile.TemporaryDirectory(prefix="blatam-kv-demo-") as data:
        with (
            service(config, data_dir=Path(data)) as client,
            progress(2 * len(rows)) as step,
        ):
            for row in rows:
                _first_round(client, row)
                for extension, content in row.files.items():
                    write_whole(output / f"{row.name}.{extension}", content)
                step(f"computed {row.miss_ms:7.0f} ms  {row.title}")
            for row in rows:
                _second_round(client, row)
                step(f"cached   {row.hit_ms:7.1f} ms  {row.title}")
            cache = client.request("GET", "/api/v1/kv-cache/stats").json("hit_rate", "blocks")
            passed = passage.show(client.url, rows[0].query, config, Path(data))
        shared = briefing.show(config, Path(data)) if cache["blocks"] is not None else []
    summary = _summary(rows, cache, output) | briefing.summary(shared) | passage.summary(passed)
    if as_json:
        show(summary, as_json=True)
    else:
        print(_table(rows))
        print(_closing(summary))
        if shared:
            print(briefing.table(shared))
        print(passage.table(passed))
    return 0


def make_writable(folder: Path) -> None:
    """Make the folder if need be and prove that a file can be written. Raises DemoFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DemoFailed(
            f"cannot write to {folder} ({error.strerror}); choose another with --output DIR"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there with all of its content or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DemoFailed(f"cannot write {path} ({error.strerror})") from error


def _first_round(client: Client, row: Shown) -> None:
    start = time.perf_counter()
    task = briefing.written(client, row.query, name=f"query {row.number}")
    row.miss_ms = 1000 * (time.perf_counter() - start)
    document = task["documents"][0]
    row.title, row.language = document["title"], document["language"]
    row.name = f"{row.number:02}_{row.language}_{document['document_type']}"
    row.files = _files(client, task["task_id"])


def _second_round(client: Client, row: Shown) -> None:
    start = time.perf_counter()
    reply = client.request("POST", "/query", row.query)
    row.hit_ms = 1000 * (time.perf_counter() - start)
    task = reply.json()
    row.cache_status = reply.headers["Cache-Status"]
    if "; hit" not in row.cache_status or task["status"] != "completed":
        raise DemoFailed(f"query {row.number} came no hit the second time: {row.cache_status}")
    again = _files(client, task["task_id"])
    for extension, content in row.files.items():
        if again[extension] != content:
            raise DemoFailed(f"the cached {row.name}.{extension} is not the same document")


def _files(client: Client, task_id: str) -> dict[str, bytes]:
    """A task's document in every format, by file extension."""
    files = {}
    for format, extension in FORMATS.items():
        path = f"/task/{task_id}/documents?format={format}&download=1"
        reply = client.request("GET", path)
        if reply.status != 200:
            raise Refused(f"GET {path} answered {reply.status}")
        files[extension] = reply.content
    return files


@contextmanager
def progress(steps: int) -> Iterator[Any]:
    """A function that counts a step: a bar on a terminal, a line each anywhere else."""
    if not sys.stderr.isatty():
        done = iter(range(1, steps + 1))
        yield lambda text: print(f"{next(done):2}/{steps}  {text}", file=sys.stderr, flush=True)
        return
    from tqdm import tqdm

    # Asked here because tqdm shows nothing on a terminal that does not tell its size.
    columns, lines = shutil.get_terminal_size()
    with tqdm(
        total=steps,
        unit="doc",
        file=sys.stderr,
        leave=False,
        ncols=columns,
        nrows=lines,
        mininterval=0,
    ) as bar:

        def step(text: str) -> None:
            bar.set_postfix_str(text[:40], refresh=False)
            bar.update()

        yield step


def _summary(rows: Sequence[Shown], cache: dict[str, Any], output: Path) -> dict[str, Any]:
    misses, hits = [row.miss_ms for row in rows], [row.hit_ms for row in rows]
    return {
        "output": str(output),
        "documents": len(rows),
        "files": sum(len(row.files) for row in rows),
        "miss_ms": {"median": statistics.median(misses), "max": max(misses), "sum": sum(misses)},
        "hit_ms": {"median": statistics.median(hits), "max": max(hits), "sum": sum(hits)},
        "hit_rate_second_round": sum("; hit" in row.cache_status for row in rows) / len(rows),
        "hit_rate": cache["hit_rate"],
        "seconds_saved": (sum(misses) - sum(hits)) / 1000,
    }


def _table(rows: Sequence[Shown]) -> str:
    lines = [
        f"{'#':>2}  {'document':<48}  {'lang':<4}  {'miss ms':>8}  {'hit ms':>7}  {'ratio':>7}"
    ]
    lines += [
        f"{row.number:>2}  {row.title[:48]:<48}  {row.language:<4}  {row.miss_ms:>8.0f}  "
        f"{row.hit_ms:>7.2f}  {row.miss_ms / row.hit_ms:>6.0f}x"
        for row in rows
    ]
    return "\n".join(lines)


def _closing(summary: dict[str, Any]) -> str:
    miss, hit = summary["miss_ms"], summary["hit_ms"]
    return (
        f"\nmiss: median {miss['median']:.0f} ms, longest {miss['max']:.0f} ms"
        f"\nhit:  median {hit['median']:.2f} ms, longest {hit['max']:.2f} ms"
        f"\nhit rate: {summary['hit_rate_second_round']:.0%} of the second round, "
        f"{summary['hit_rate']:.0%} of all requests"
        f"\ntime saved: {summary['seconds_saved']:.1f} s"
        f"\n\n{summary['files']} files of {summary['documents']} documents are in "
        f"{summary['output']}/"
    )
