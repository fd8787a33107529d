"""The panels of the workspace and of the report: what is drawn against what, one point or one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard.shown import Shown
from sweep.store.metric_names import (
    AXES,
    CE_RECOVERED,
    COMPRESSION,
    DEAD_CURVE,
    DEAD_FRACTION,
    DELTA_CE,
    FVU,
    FVU_CURVE,
    LOSS_CURVE,
    STEP,
    STORED_BYTES,
)

Panel = wr.ScatterPlot | wr.LinePlot | wr.ParallelCoordinatesPlot
LINES = 100  # that a panel of curves draws at most; W&B's own default is 10
_COORDINATES = [axis for axis in AXES if axis != "seed"]
_LINEAR = {"layer"}  # of the coordinates; the others span powers of two

_AGAINST = {COMPRESSION: "compression (m/d)", STORED_BYTES: "stored bytes"}


def frontier() -> list[Panel]:
    return [_against(storage, CE_RECOVERED, "CE recovered") for storage in (COMPRESSION, STORED_BYTES)]


def delta() -> list[Panel]:
    return [_against(storage, DELTA_CE, "Delta CE (nats per token)") for storage in (COMPRESSION, STORED_BYTES)]


def dead() -> list[Panel]:
    return [
        _against(STORED_BYTES, DEAD_FRACTION, "Dead latents on held-out text (fraction)"),
        _curve(DEAD_CURVE, "Dead latents in training (fraction)"),
    ]


def training() -> list[Panel]:
    return [_curve(FVU_CURVE, "FVU in training"), _curve(LOSS_CURVE, "Loss in training")]


def axes() -> list[Panel]:
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(axis), axis, log=axis not in _LINEAR or None)
        for axis in _COORDINATES
    ]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(CE_RECOVERED), "CE recovered"))
    return [wr.ParallelCoordinatesPlot(title="CE recovered over " + ", ".join(_COORDINATES), columns=columns)]


def error() -> list[Panel]:
    return [_against(STORED_BYTES, FVU, "FVU on held-out text")]


def _against(storage: str, measure: str, what: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=f"{what} against {_AGAINST[storage]}",
        x=wr.SummaryMetric(storage),
        y=wr.SummaryMetric(measure),
        log_x=True,
    )


def _curve(name: str, title: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title, x=wr.Metric(STEP), y=[wr.Metric(name)], title_x="tokens", smoothing_type="none",
        max_runs_to_show=LINES,
    )  # fmt: skip


def identified(panels: Sequence[Panel], where: str) -> list[Panel]:
    """The panels, each named by where it stands and its title: with random ids no two files would be the same."""
    for panel in panels:
        panel._id = identity(where, panel.title or "")
    return list(panels)


def identity(*parts: str) -> str:
    return sha256("/".join(parts).encode()).hexdigest()[:12]


def filters(shown: Shown) -> str | expr.And:
    """Those runs alone. By W&B's group, not the config's `sweep`: in a filter the library calls that `sweep`, the app
    `sweep.value`."""
    if not shown.groups:
        return ""
    asked = [expr.Metric("Group").isin(list(shown.groups))]
    if shown.only:
        asked.append(expr.Metric("ID").isin(list(shown.only)))
    return expr.And(*asked)
