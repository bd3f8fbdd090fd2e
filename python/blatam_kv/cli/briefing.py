"""The demo's last part: documents that share a company's briefing skip what they share.

All prompts of one company begin alike, so the keys and values of that beginning are computed for
the first document only: the second finds them in memory, and one of a new process on disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blatam_kv.cli.started import DemoFailed, service
from blatam_kv.client import Client

DOCUMENT_SECONDS = 300.0
POLL_SECONDS = 0.01

COMPANY: dict[str, object] = {
    "company_name": "Horno La Espiga",
    "industry": "panadería artesanal con molino propio, tres tiendas y reparto a restaurantes, "
    "hoteles y escuelas de la región",
    "company_size": "48 empleados en el obrador, las tres tiendas y la oficina",
    "target_audience": "familias del barrio, restaurantes, hoteles y escuelas que quieren pan "
    "del día cada mañana",
    "language": "es",
    "max_length": 100,  # it is the beginning that counts here
}
BEFORE_RESTART = (
    "Plan de negocio para una cuarta tienda",
    "Estrategia de marketing de una tarjeta de cliente",
)
AFTER_RESTART = ("Guía de atención al cliente para encargos de tartas",)


@dataclass(frozen=True, slots=True)
class Begun:
    """How one document began. source: where its prefix was."""

    title: str
    source: str
    prompt_tokens: int
    cached_tokens: int
    first_text_ms: float


def show(config: Path | None, data_dir: Path) -> list[Begun]:
    """Ask for the company's documents, some of them of a service that was started anew.

    Raises DemoFailed if a prefix that is there is not used.
    """
    begun: list[Begun] = []
    for queries, source in ((BEFORE_RESTART, "memory"), (AFTER_RESTART, "disk")):
        # Without answers on disk: they would leave no prompt whose beginning could be reused.
        with service(config, data_dir=data_dir, answers=False) as client:
            # The first prompt of a process also warms up what the others then find warm.
            written(client, {"query": "Plan", "max_length": 1}, name="a first word")
            for query in queries:
                task = written(client, {"query": query, **COMPANY}, name=query)
                path = f"/task/{task['task_id']}/documents"
                (document,) = client.request("GET", path).json("documents")["documents"]
                usage = document["usage"]
                begun.append(
                    Begun(
                        title=document["title"],
                        source=source if begun else "computed",
                        prompt_tokens=usage["prompt_tokens"],
                        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
                        first_text_ms=1000 * document["seconds_to_first_text"],
                    )
                )
                if len(begun) > 1 and not begun[-1].cached_tokens:
                    raise DemoFailed(f"the prefix of {query!r} was computed before and not used")
    return begun


def written(client: Client, query: dict[str, object], *, name: str) -> dict[str, Any]:
    """The finished task of a query that no cache can answer. Raises DemoFailed."""
    start = time.perf_counter()
    task = client.request("POST", "/query", query).json("task_id", "status")
    if task["status"] == "completed":
        raise DemoFailed(f"{name} was in the cache of a service that just started")
    while task["status"] not in ("completed", "failed"):
        if time.perf_counter() - start > DOCUMENT_SECONDS:
            raise DemoFailed(f"{name} took more than {DOCUMENT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
        task = client.request("GET", f"/task/{task['task_id']}/status").json("status")
    if task["status"] == "failed":
        raise DemoFailed(f"{name} failed: {task['error']['detail']}")
    return task


def summary(begun: Sequence[Begun]) -> dict[str, object]:
    """For programs; empty where the model keeps no prefixes."""
    if not begun:
        return {}
    first, *others = begun
    return {
        "briefing": {
            "documents": len(begun),
            "prompt_tokens": sum(each.prompt_tokens for each in begun),
            "cached_tokens": sum(each.cached_tokens for each in begun),
            "first_text_ms": {each.source: round(each.first_text_ms, 3) for each in begun},
            "ms_saved": round(sum(first.first_text_ms - each.first_text_ms for each in others), 3),
        }
    }


def table(begun: Sequence[Begun]) -> str:
    """For people."""
    first = begun[0].first_text_ms
    lines = [
        "\nThe same company's briefing, other documents: what prompts share is read once",
        f"    {'document':<48}  {'prefix':<8}  {'tokens':>6}  {'reused':>6}  {'first text ms':>13}"
        f"  {'saved ms':>8}",
    ]
    lines += [
        f"    {each.title[:48]:<48}  {each.source:<8}  {each.prompt_tokens:>6}  "
        f"{each.cached_tokens:>6}  {each.first_text_ms:>13.0f}  {first - each.first_text_ms:>8.0f}"
        for each in begun
    ]
    return "\n".join(lines)
