"""The panels of the workspace and of the report: one measure against another, a point or a line a run."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard.private_names import set_panel_id
from analysis.dashboard.shown import Shown
from sweep.store.metric_names import (
    AXES,
    CE_RECOVERED,
    COMPRESSION,
    COVERAGE,
    DEAD_CURVE,
    DEAD_FRACTION,
    DELTA_CE,
    FEATURE_F1,
    FVU,
    FVU_CURVE,
    LOSS_CURVE,
    STEP,
    STORED_BYTES,
)

Panel = wr.ScatterPlot | wr.LinePlot | wr.ParallelCoordinatesPlot
LINES = 100  # a panel of curves draws at most so many; W&B's own default is 10
_COORDINATES = [axis for axis in AXES if axis != "seed"]
_LINEAR = {"layer"}  # the other coordinates span powers of two

_MEANING_NAMES = {COVERAGE: "Known features found (share)", FEATURE_F1: "F1 of a known feature's best latent"}
_STORAGE_NAMES = {COMPRESSION: "compression (m/d)", STORED_BYTES: "stored bytes"}


def frontier() -> list[Panel]:
    """Return the panels of CE recovered against storage."""
    return [_against(storage, CE_RECOVERED, "CE recovered") for storage in (COMPRESSION, STORED_BYTES)]


def delta() -> list[Panel]:
    """Return the panels of the added cross-entropy against storage."""
    return [_against(storage, DELTA_CE, "Delta CE (nats per token)") for storage in (COMPRESSION, STORED_BYTES)]


def dead() -> list[Panel]:
    """Return the panels of dead latents, at the end and in training."""
    return [
        _against(STORED_BYTES, DEAD_FRACTION, "Dead latents on held-out text (fraction)"),
        _curve(DEAD_CURVE, "Dead latents in training (fraction)"),
    ]


def training() -> list[Panel]:
    """Return the panels of training curves."""
    return [_curve(FVU_CURVE, "FVU in training"), _curve(LOSS_CURVE, "Loss in training")]


def axes() -> list[Panel]:
    """Return the panel of CE recovered over all axes of the sweep but the seed, as parallel coordinates."""
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(axis), axis, log=axis not in _LINEAR or None)
        for axis in _COORDINATES
    ]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(CE_RECOVERED), "CE recovered"))
    return [wr.ParallelCoordinatesPlot(title="CE recovered over " + ", ".join(_COORDINATES), columns=columns)]


def error() -> list[Panel]:
    """Return the panel of the reconstruction error against storage."""
    return [_against(STORED_BYTES, FVU, "FVU on held-out text")]


def meaning(measures: Sequence[str]) -> list[Panel]:
    """Return the panels of what latents mean against storage, a panel for each of `measures`, names of the summary."""
    return [_against(STORED_BYTES, name, _MEANING_NAMES.get(name, name)) for name in measures]


def _against(storage: str, measure: str, measure_name: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=f"{measure_name} against {_STORAGE_NAMES[storage]}",
        x=wr.SummaryMetric(storage),
        y=wr.SummaryMetric(measure),
        log_x=True,
    )


def _curve(name: str, title: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title,
        x=wr.Metric(STEP),
        y=[wr.Metric(name)],
        title_x="tokens",
        smoothing_type="none",
        max_runs_to_show=LINES,
    )


def identified(panels: Sequence[Panel], place: str) -> list[Panel]:
    """Return the panels with ids made of their place and title; with random ids no two files would be the same."""
    for panel in panels:
        set_panel_id(panel, identity(place, panel.title or ""))
    return list(panels)


def identity(*parts: str) -> str:
    """Return an id that is the same whenever the parts are."""
    return sha256("/".join(parts).encode()).hexdigest()[:12]


def filters(shown: Shown) -> str | expr.And:
    """Return the filter that leaves only the runs `shown`; empty where every run of the project is meant.

    It filters by W&B's group and not by the config's `sweep`: in a filter the library calls that key `sweep`, and the
    app calls it `sweep.value`.
    """
    if not shown.groups:
        return ""
    conditions = [expr.Metric("Group").isin(list(shown.groups))]
    if shown.only:
        conditions.append(expr.Metric("ID").isin(list(shown.only)))
    return expr.And(*conditions)
