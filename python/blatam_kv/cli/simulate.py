"""``simulate``: replay a trace against policies; a row for each of them, a column a capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from blatam_kv import curves
from blatam_kv.cli.report import show
from blatam_kv.simulation import DEFAULT_CAPACITY, Simulation, SimulationResult
from blatam_kv.simulation import simulate as replay

# Where nobody says which capacities and wants a picture: enough of them for a curve.
CURVE = "0.1% 0.2% 0.5% 1% 2% 5% 10% 20% 35% 50% 70% 100%".split()


def simulate(
    trace: str,
    *,
    policies: Sequence[str],
    capacities: Sequence[str] | None,
    sizes: str | None,
    column: str | None,
    size_column: str | None,
    as_json: bool,
    plot: Path | None,
    quiet: bool,
) -> int:
    """Print the ratios, and draw them where ``plot`` says. Raises what ``simulate`` does."""
    if plot is not None:
        curves.check(plot)  # before the work, not after
    wanted = capacities or (CURVE if plot else [str(DEFAULT_CAPACITY)])
    found = replay(
        trace,
        policies,
        wanted,
        sizes=sizes,
        column=column,
        size_column=size_column,
        progress=False if quiet else None,
    )
    if plot is not None:
        found.plot(plot)
    if as_json:
        show(_report(found), as_json=True)
    else:
        print(_page(found, wanted))
    return 0


def _report(found: Simulation) -> dict[str, object]:
    """What is known; nothing is None."""
    results = [_known(asdict(result)) for result in found.results]
    return _known({**asdict(found), "results": results})


def _known(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _page(found: Simulation, wanted: Sequence[str]) -> str:
    lines = [found.trace, found.summary]
    lines += ["", *_table("hit ratio, %", found.results, wanted, "hit_ratio")]
    if found.unique_bytes is not None:
        lines += ["", *_table("byte hit ratio, %", found.results, wanted, "byte_hit_ratio")]
    return "\n".join(lines)


def _table(
    title: str, results: Sequence[SimulationResult], wanted: Sequence[str], ratio: str
) -> list[str]:
    columns = len(wanted)
    sizes = [f"{result.capacity:,}" for result in results[:columns]]
    shares = [text.replace(" ", "") if "%" in text else "" for text in wanted]
    widths = [max(7, len(size), len(share)) for size, share in zip(sizes, shares, strict=True)]
    rows = [(title, shares), ("capacity", sizes)] if any(shares) else [(title, sizes)]
    for at in range(0, len(results), columns):
        row = results[at : at + columns]
        rows.append((row[0].policy, [f"{100 * getattr(each, ratio):.2f}" for each in row]))
    left = max(len(name) for name, _ in rows)
    return [
        "  ".join(
            [
                f"{name:<{left}}",
                *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)),
            ]
        ).rstrip()
        for name, cells in rows
    ]
