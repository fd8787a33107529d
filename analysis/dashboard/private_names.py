"""The private names of the library wandb_workspaces that the dashboard needs, a small function for each use.

The library has no public way to do these things. A new version may move a private name without notice, so each function
looks first whether the name is there: setting an attribute that the library no longer reads would succeed in silence.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import LinePlot, ParallelCoordinatesPlot, Report, Runset, ScatterPlot
    from wandb_workspaces.reports.v2.internal import ReportViewspec
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View

LIBRARY = "wandb-workspaces"
KNOWN_VERSION = "0.4.13"  # has every name below


class PrivateNameError(RuntimeError):
    """The installed version of the library lacks a private name that the dashboard needs."""


def set_panel_id(panel: ScatterPlot | LinePlot | ParallelCoordinatesPlot, identity: str) -> None:
    """Give a panel an id of our own: the library draws a random one, and its constructors take none.

    Without `_id`, no two files made of the same runs would be the same.
    """
    _set(panel, "_id", identity)


def set_runset_id(runset: Runset, identity: str) -> None:
    """Give a run set of a report an id of our own: the library draws a random one, and its constructor takes none.

    Without `_id`, no two files made of the same runs would be the same.
    """
    _set(runset, "_id", identity)


def set_names_on_server(workspace: Workspace, view_id: str, view_name: str) -> None:
    """Tell `save` which workspace on the server to replace: only a workspace loaded by its URL has these names.

    Without `_internal_id` and `_internal_name`, each save would make one more workspace.
    """
    _set(workspace, "_internal_id", view_id)
    _set(workspace, "_internal_name", view_name)


def names_on_server(workspace: Workspace) -> tuple[str, str]:
    """Return the id and the name under which the server keeps a saved workspace; no public attribute has them.

    Without `_internal_id` and `_internal_name`, nothing could be kept for `set_names_on_server`.
    """
    return _get(workspace, "_internal_id"), _get(workspace, "_internal_name")


def workspace_view(workspace: Workspace) -> View:
    """Return the workspace as the library sends it: its only public way to show that is to save it on a server.

    Without `_to_model`, no file could be written.
    """
    return _get(workspace, "_to_model")()


def report_view(report: Report) -> ReportViewspec:
    """Return the report as the library sends it: its only public way to show that is to save it on a server.

    Without `_to_model`, no file could be written.
    """
    return _get(report, "_to_model")()


def _get(owner: Any, name: str) -> Any:
    if not hasattr(owner, name):
        raise PrivateNameError(
            f"{LIBRARY} {version(LIBRARY)} has no {type(owner).__name__}.{name}, which the dashboard needs "
            f"(analysis/dashboard/private_names.py); pip install {LIBRARY}=={KNOWN_VERSION} brings it back"
        )
    return getattr(owner, name)


def _set(owner: Any, name: str, value: object) -> None:
    _get(owner, name)
    setattr(owner, name, value)
