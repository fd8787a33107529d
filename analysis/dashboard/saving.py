"""Workspace and report are written to files in the form in which a server takes them, and sent to a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import wandb
from pydantic import BaseModel
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard.content import Content
from analysis.dashboard.private_names import names_on_server, report_view, set_names_on_server, workspace_view
from analysis.dashboard.report import build_report
from analysis.dashboard.workspace import build_workspace
from sweep.store.files import write_json

# Without these settings the client goes on trying for minutes where no server answers, and then names no reason.
_PATIENCE = {"x_graphql_retry_max": 3, "x_graphql_retry_wait_max_seconds": 2.0, "x_graphql_timeout_seconds": 20.0}
WORKSPACE, REPORT, SAVED = "workspace.json", "report.json", "saved.json"


class SavingError(ValueError):
    """The server did not take the workspace or the report."""


def write(content: Content, entity: str, out: Path) -> list[Path]:
    """Write workspace and report into `out` as they would be sent; return the files' paths."""
    return [_write_workspace(build_workspace(content, entity), out), _write_report(build_report(content), entity, out)]


def save(content: Content, entity: str | None, out: Path) -> list[str]:
    """Save workspace and report on the server, and write into `out` what was sent; return their URLs.

    They replace those that were saved for the same runs before; `out` keeps the names of these on the server.

    Raises:
        SavingError: the server cannot be reached, knows no such user or project, or refuses.
    """
    try:
        return _save(content, entity, out)
    except Exception as error:  # the library raises bare Exceptions as well as its own and the transport's
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise SavingError(f"not saved: {said[0]}") from error


def _save(content: Content, entity: str | None, out: Path) -> list[str]:
    project = content.project
    wandb.setup(wandb.Settings(silent=True, **_PATIENCE))
    api = wandb.Api()
    entity = entity or api.default_entity
    if entity is None:
        raise SavingError("no default entity; say --entity")
    if project not in {known.name for known in api.projects(entity)}:
        raise SavingError(f"{entity} has no project {project}; python -m sweep.sync makes it")
    key = f"{api.settings['base_url']}/{entity}/{project}/{content.shown.name}"
    before = _saved(out, key)
    workspace = build_workspace(content, entity)
    set_names_on_server(workspace, *before.get("workspace", ("", "")))
    _write_workspace(workspace, out)
    workspace.save()
    _remember(out, key, "workspace", names_on_server(workspace))
    report = build_report(content, entity, workspace.url)
    report.id = before.get("report", "")
    _write_report(report, entity, out)
    report.save()
    _remember(out, key, "report", report.id)
    return [workspace.url, report.url]


def _all_saved(out: Path) -> dict[str, Any]:
    """Return what `out` remembers of every save, by server, project and launch."""
    try:
        return json.loads((out / SAVED).read_text())
    except FileNotFoundError:
        return {}


def _saved(out: Path, key: str) -> dict[str, Any]:
    """Return the names under which the server keeps the workspace and the report, as far as they were saved before."""
    return _all_saved(out).get(key, {})


def _remember(out: Path, key: str, which: str, names: Any) -> None:
    write_json(out / SAVED, {**_all_saved(out), key: {**_saved(out, key), which: names}})


def _write_workspace(workspace: ws.Workspace, out: Path) -> Path:
    view = workspace_view(workspace)
    project = {"type": "project-view", "entityName": view.entity, "projectName": view.project}
    return _write(out / WORKSPACE, {**project, "displayName": view.display_name, "description": ""}, view.spec)


def _write_report(report: wr.Report, entity: str, out: Path) -> Path:
    view = report_view(report)
    project = {"type": "runs", "entityName": entity, "projectName": report.project}
    texts = {"displayName": view.display_name, "description": view.description}
    return _write(out / REPORT, {**project, **texts}, view.spec)


def _write(path: Path, sent: dict[str, str], spec: BaseModel) -> Path:
    """Write the variables of the mutation that saves a workspace or a report.

    Only the specification differs from what is sent: W&B keeps it as text, and the file has it as an object.
    """
    write_json(path, {**sent, "spec": json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))})
    return path
