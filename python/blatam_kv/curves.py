"""Curves: hit ratio over capacity, one line a policy, drawn to a file. Needs the extra ``plots``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blatam_kv.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by readers who do not see all colours alike (Okabe and Ito 2008), and by their marks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5AA2", "#8C6D31")
_MARKS = "osD^vPX*"
_INK, _QUIET = "#222222", "#8A8A8A"


def check(path: str | os.PathLike[str]) -> Path:
    """The path, if a picture can be drawn there.

    Raises MissingExtra without matplotlib, InvalidRequest for a format it does not know or a folder
    that is not there.
    """
    from pathlib import Path

    known = _figure().canvas.get_supported_filetypes()
    target = Path(path)
    if target.suffix[1:].lower() not in known:
        raise InvalidRequest(
            f"cannot draw {target}: the name must end in one of .{', .'.join(sorted(known))}",
            field="plot",
        )
    if not target.parent.is_dir():
        raise InvalidRequest(f"cannot draw {target}: no folder {target.parent}", field="plot")
    return target


def draw(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    title: str,
    subtitle: str,
    capacity: str,
    optimum: str,
) -> None:
    """Draw curves of (capacity, hit ratio), points in any order.

    capacity: what the x axis counts. optimum: the name of the curve that bounds the others.
    """
    target = check(path)
    figure = _figure()
    axes = figure.add_axes((0.085, 0.12, 0.75, 0.72))
    axes.set_xscale("log")
    for index, name in enumerate(name for name in curves if name != optimum):
        turn, place = divmod(index, len(_COLOURS))
        look = {"color": _COLOURS[place], "marker": _MARKS[(place + turn) % len(_MARKS)]}
        _line(axes, name, curves[name], **look)
    if optimum in curves:
        mark = "." if len(curves[optimum]) == 1 else ""
        _line(axes, optimum, curves[optimum], color=_QUIET, marker=mark, linestyle=(0, (5, 2)))
    _frame(axes, capacity)
    # The best on the whole first: at the right, where lines could bear their names, all meet.
    order = sorted(axes.lines, key=lambda line: -sum(r for _, r in curves[str(line.get_label())]))
    axes.legend(
        handles=order, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False,
        labelcolor=_INK, handlelength=2.4, labelspacing=0.7,
    )  # fmt: skip
    figure.text(0.085, 0.945, title, fontsize=13, fontweight="bold", color=_INK, va="center")
    figure.text(0.085, 0.895, subtitle, fontsize=9.5, color=_QUIET, va="center")
    try:
        figure.savefig(target, dpi=160)
    except OSError as error:
        message = f"cannot write {target}: {error.strerror or error}"
        raise InvalidRequest(message, field="plot") from error


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="plots") from error
    return Figure(figsize=(8.6, 5.0))


# Any: matplotlib's words for looks.
def _line(axes: Axes, name: str, points: Sequence[tuple[int, float]], **look: Any) -> None:
    capacities, ratios = zip(*sorted(points), strict=True)
    axes.plot(
        capacities, [100 * ratio for ratio in ratios], label=name, linewidth=1.8, markersize=5.5,
        **look, solid_capstyle="round", markeredgecolor="white", markeredgewidth=0.6,
    )  # fmt: skip


def _frame(axes: Axes, capacity: str) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter

    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"capacity, {capacity}", color=_INK)
    axes.set_ylabel("hit ratio", color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=_INK, length=3)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_QUIET)
