"""The report of a sweep: what was launched, its frontier and curves as live panels, and the dominance table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard import panels
from analysis.dashboard.content import Content
from analysis.dashboard.dominance import Dominance
from analysis.dashboard.markdown import dominance_markdown
from analysis.dashboard.private_names import set_runset_id
from analysis.tables.pairs import CELL
from sweep.store.metric_names import CE_RECOVERED

_WIDTH, _HEIGHT = 12, 8  # a panel's; a grid has 24 columns
_DOMINANCE = """Of all that fit a level of stored bytes and a budget of multiply-adds a token, the arm and way of
reading codes that recovers the most cross-entropy, and the best of another arm. The floor is the best random dictionary
that fits: a winner is above it if its lead is larger than these seeds can resolve. Intervals are 95 %, over seeds."""


def build_report(content: Content, entity: str = "", workspace: str = "") -> wr.Report:
    """Return the report, as the library saves it.

    Args:
        entity: the user or team that owns the project, for a report that is saved on a server: its run sets look the
            project up there. Without it, they mean the project that the report is in.
        workspace: the URL of the workspace beside it.
    """
    shown = content.shown
    sections = {
        "Delta CE": panels.delta(),
        **({"Meaning": panels.meaning(content.meaning)} if content.meaning else {}),
        "Dead latents": panels.dead(),
        "Training": panels.training(),
        "Axes": panels.axes(),
    }
    blocks: list[wr.BlockTypes] = [
        wr.P([wr.InlineCode(shown.command), f" {shown.about}"] if shown.command else shown.about),
        *([wr.P(["The same runs as a ", wr.Link("workspace", workspace), "."])] if workspace else []),
        wr.H1("Frontier"),
        wr.P(_legend(content.colours)),
        _grid("Frontier", panels.frontier(), content, entity),
        wr.H1("Dominance"),
        *_dominance(content.table),
    ]
    for name, found in sections.items():
        blocks += [wr.H1(name), _grid(name, found, content, entity)]
    return wr.Report(
        project=content.project,
        entity=entity,
        title=f"{shown.title} frontier and dominance",
        description=f"{shown.command} {shown.about}".strip(),
        blocks=blocks,
        width="fluid",
    )


def _grid(name: str, found: Sequence[panels.Panel], content: Content, entity: str) -> wr.PanelGrid:
    """Return a grid of the panels, two in a row; a panel that is alone has the whole row."""
    for i, panel in enumerate(found):
        width = _WIDTH if len(found) > 1 else 2 * _WIDTH
        panel.layout = wr.Layout(x=_WIDTH * (i % 2), y=_HEIGHT * (i // 2), w=width, h=_HEIGHT)
    return wr.PanelGrid(
        runsets=[_runset(name, content, entity)],
        panels=[*panels.identified(found, f"report/{name}")],
        custom_run_colors={**content.run_colours},
    )


def _runset(name: str, content: Content, entity: str) -> wr.Runset:
    runset = wr.Runset(
        entity=entity,
        project=content.project if entity else "",
        name=content.shown.title,
        filters=panels.filters(content.shown),
        order=[wr.OrderBy(wr.SummaryMetric(CE_RECOVERED))],
    )
    set_runset_id(runset, panels.identity("report", name, "runs"))
    return runset


def _legend(colours: Mapping[str, str]) -> list[Any]:
    """Return the text of the legend: each arm's name behind a dot of its colour."""
    parts: list[Any] = ["One point a run, coloured by arm: "]
    for arm, colour in colours.items():
        parts += [wr.InlineLatex(rf"\textcolor{{{colour}}}{{\bullet}}"), f" {arm}   "]
    return parts


def _dominance(table: Dominance) -> Iterator[wr.BlockTypes]:
    if not table.rows:
        yield wr.P(f"No dominance table: {'; '.join(table.notes)}.")
        return
    yield wr.P(" ".join(_DOMINANCE.split()))
    for values, rows in groupby(table.rows, key=lambda row: tuple(row[name] for name in CELL)):
        yield wr.H3(", ".join(f"{name} {value}" for name, value in zip(CELL, values, strict=True)))
        yield wr.MarkdownBlock(dominance_markdown(list(rows)))
    if table.notes:
        yield wr.P(f"Left out: {'; '.join(table.notes)}.")
