"""Error against bits, a point a codec, drawn to a file. Needs the extra ``plots``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blatam_kv.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by readers who do not see all colours alike (Okabe and Ito 2008), and by their marks.
_LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"))
_NEAR_BITS = 3.2  # labels closer than this beside one another must not lie on one line
_LINE = 1.17  # from one line to the next, on the logarithmic axis


def check(path: Path) -> None:
    """Raise MissingExtra without matplotlib, InvalidRequest where no picture can be written."""
    known = _figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InvalidRequest(
            f"cannot draw {path}: the name must end in one of .{', .'.join(sorted(known))}",
            field="plot",
        )
    if not path.parent.is_dir():
        raise InvalidRequest(f"cannot draw {path}: no folder {path.parent}", field="plot")


def draw(path: Path, points: Sequence[tuple[str, str, float, float]]) -> None:
    """points: sample, codec, bits a value, error of attention's output; without error, not drawn."""
    figure = _figure()
    figure.text(
        0.06, 0.95, "What each codec costs and keeps: lower left is better", fontsize=12,
        fontweight="bold",
    )  # fmt: skip
    samples = list(dict.fromkeys(sample for sample, *_ in points))
    panels = figure.subplots(1, len(samples), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.08, right=0.98, top=0.87, bottom=0.11, wspace=0.06)
    for index, (sample, axes) in enumerate(zip(samples, panels, strict=True)):
        colour, mark = _LOOKS[index % len(_LOOKS)]
        mine = sorted(
            (error, bits, codec) for s, codec, bits, error in points if s == sample and error > 0
        )
        axes.set_yscale("log")
        axes.scatter(
            [bits for _, bits, _ in mine], [error for error, *_ in mine], c=colour, marker=mark,
            s=34, edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip
        for bits, error, place, codec in _labels(mine):
            axes.annotate(
                codec, (bits, error), (bits + 0.25, place), fontsize=7.5, va="center",
                arrowprops={"arrowstyle": "-", "color": "#BBBBBB", "linewidth": 0.6,
                            "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip
        axes.set_title(sample, loc="left", fontsize=10, color=colour)
        axes.set_xlim(2.5, 11)
        axes.set_xlabel("bits a value, scales and minima counted")
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("relative error of attention's output")
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write {path}: {error.strerror or error}", field="plot"
        ) from error


def _labels(
    points: Sequence[tuple[float, float, str]],
) -> list[tuple[float, float, float, str]]:
    """Bits, error, where the name goes, and the name: from the lowest up, each clear of the last."""
    placed: list[tuple[float, float, float, str]] = []
    for error, bits, codec in points:
        taken = [place for x, _, place, _ in placed if abs(x - bits) < _NEAR_BITS]
        placed.append((bits, error, max(error, *(_LINE * place for place in taken), 0.0), codec))
    return placed


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="plots") from error
    return Figure(figsize=(10.4, 5.4))
