"""To a file what would be sent, and to the server what is in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import wandb
from pydantic import BaseModel
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard.content import Content
from analysis.dashboard.report import build_report
from analysis.dashboard.workspace import build_workspace
from sweep.store.files import write_json

# Left to itself the client goes on trying for minutes where nobody answers, and names no reason.
_PATIENCE = {"x_graphql_retry_max": 3, "x_graphql_retry_wait_max_seconds": 2.0, "x_graphql_timeout_seconds": 20.0}
WORKSPACE, REPORT, SAVED = "workspace.json", "report.json", "saved.json"


class SavingError(ValueError):
    """The server did not take them."""


def write(content: Content, entity: str, out: Path) -> list[Path]:
    """Both as they would be sent, and the files' paths."""
    return [_write_workspace(build_workspace(content, entity), out), _write_report(build_report(content), entity, out)]


def save(content: Content, entity: str | None, out: Path) -> list[str]:
    """Both to the server, over those that `out` says were saved for the same runs before; their URLs.

    The files are then what was sent.

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
    workspace._internal_id, workspace._internal_name = before.get("workspace", ("", ""))
    _write_workspace(workspace, out)
    workspace.save()
    _remember(out, key, "workspace", [workspace._internal_id, workspace._internal_name])
    report = build_report(content, entity, workspace.url)
    report.id = before.get("report", "")
    _write_report(report, entity, out)
    report.save()
    _remember(out, key, "report", report.id)
    return [workspace.url, report.url]


def _all_saved(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / SAVED).read_text())
    except FileNotFoundError:
        return {}


def _saved(out: Path, key: str) -> dict[str, Any]:
    """What names the workspace and the report on the server, where they are there."""
    return _all_saved(out).get(key, {})


def _remember(out: Path, key: str, which: str, named: Any) -> None:
    write_json(out / SAVED, {**_all_saved(out), key: {**_saved(out, key), which: named}})


def _write_workspace(workspace: ws.Workspace, out: Path) -> Path:
    view = workspace._to_model()
    return _write(out / WORKSPACE, "project-view", view.entity, view.project, view.display_name, "", view.spec)


def _write_report(report: wr.Report, entity: str, out: Path) -> Path:
    view = report._to_model()
    return _write(out / REPORT, "runs", entity, report.project, view.display_name, view.description, view.spec)


def _write(path: Path, kind: str, entity: str, project: str, title: str, description: str, spec: BaseModel) -> Path:
    """The variables of the mutation that saves it, the specification as the object that W&B keeps as text."""
    written = json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
    sent = {"type": kind, "entityName": entity, "projectName": project, "displayName": title,
            "description": description, "spec": written}  # fmt: skip
    write_json(path, sent)
    return path
