"""The dashboards as code: `python deploy/grafana/boards.py` writes dashboards/*.json beside it.

What a board shows is data (`boards_data.py` and its neighbours); this file turns it into what Grafana reads, through
Grafana's own typed library, so that a misspelt field cannot be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import boards_data
from boards_devices import DEVICES
from boards_gateway import GATEWAY
from boards_parts import Board, Panel
from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableHide,
    VariableRefresh,
)

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = (*boards_data.BOARDS, GATEWAY, DEVICES)
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Width, of the 24 of a board, and height. Of numbers six stand in a row, of curves two.
_NUMBER, _CURVES = (4, 4), (12, 8)


def write() -> None:
    """Write every board to its file."""
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(rendered(board), encoding="utf-8")


def rendered(board: Board) -> str:
    """A board as Grafana reads it."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["blatam-kv"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(
            dashboard.QueryVariable("instance")
            .label("Node")
            .query(f'label_values(up{{job="{board.job}"}}, instance)')
            .datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .hide(VariableHide.DONT_HIDE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for title, panels in board.rows.items():
        builder = builder.with_row(dashboard.Row(title))
        for panel in panels:
            builder = builder.with_panel(_number(panel) if panel.single else _curves(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _number(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .span(_NUMBER[0])
        .height(_NUMBER[1])
        .reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for target in _targets(panel):
        built = built.with_target(target)
    return built


def _curves(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .span(_CURVES[0])
        .height(_CURVES[1])
        .fill_opacity(10)
        .legend(
            parts.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.RIGHT)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
        .tooltip(parts.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if not panel.signed:
        built = built.min(0)
    for target in _targets(panel):
        built = built.with_target(target)
    return built


def _targets(panel: Panel) -> Sequence[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + at))
        for at, (legend, expression) in enumerate(panel.curves.items())
    ]


if __name__ == "__main__":
    write()
