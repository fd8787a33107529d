"""The workspace: the project's runs as the frontier shows them, open to every filter of the app."""

from __future__ import annotations

from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws

from analysis.dashboard import panels
from analysis.dashboard.content import Content
from sweep.store.metric_names import CE_RECOVERED, COMPRESSION, STATUS, STEP, STORED_BYTES

_COLUMNS = (
    *(f"config:{name}.value" for name in ("arm", "d", "k")),
    *(f"summary:{name}" for name in (CE_RECOVERED, COMPRESSION, STORED_BYTES, STATUS)),
)


def build_workspace(content: Content, entity: str) -> ws.Workspace:
    """Return the workspace, as the library saves it.

    One point is one run, in its arm's colour. Runs are not grouped by arm: each arm would then be one point.
    """
    shown = content.shown
    return ws.Workspace(
        entity=entity,
        project=content.project,
        name=shown.title,
        sections=[
            _section("Frontier", panels.frontier()),
            _section("Delta CE", panels.delta()),
            *([_section("Meaning", panels.meaning(content.meaning))] if content.meaning else []),
            _section("Dead latents", panels.dead()),
            _section("Training", panels.training()),
            _section("Axes", panels.axes() + panels.error()),
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=panels.LINES),
        runset_settings=ws.RunsetSettings(
            filters=panels.filters(shown),
            order=[expr.Ordering(expr.Summary(CE_RECOVERED), ascending=False)],
            run_settings={run_id: ws.RunSettings(color=colour) for run_id, colour in content.run_colours.items()},
            pinned_columns=list(_COLUMNS),
        ),
    )


def _section(name: str, found: list[panels.Panel]) -> ws.Section:
    return ws.Section(
        name=name,
        panels=[*panels.identified(found, f"workspace/{name}")],
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=2, rows=1),
        panel_settings=ws.SectionPanelSettings(x_axis=STEP),
    )
