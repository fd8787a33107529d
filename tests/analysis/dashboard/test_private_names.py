"""The private names of wandb_workspaces: a new version of the library that moves one must fail in these tests."""

from __future__ import annotations

import ast
import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr

from analysis.dashboard import private_names
from analysis.dashboard.__main__ import main
from analysis.dashboard.private_names import KNOWN_VERSION, LIBRARY, PrivateNameError
from tests.analysis.dashboard.boards import two_launches
from tests.sweep.world import ROOT

INSTALLED = f"{LIBRARY} {version(LIBRARY)}"
USES = {  # how each function is called with an object of the library, and the private name that it needs first
    "set_panel_id": (lambda owner: private_names.set_panel_id(owner, "an-id"), "_id"),
    "set_runset_id": (lambda owner: private_names.set_runset_id(owner, "an-id"), "_id"),
    "set_names_on_server": (lambda owner: private_names.set_names_on_server(owner, "an-id", "a-name"), "_internal_id"),
    "names_on_server": (private_names.names_on_server, "_internal_id"),
    "workspace_view": (private_names.workspace_view, "_to_model"),
    "report_view": (private_names.report_view, "_to_model"),
}


def as_json(view):
    return json.loads(view.spec.model_dump_json(by_alias=True))


def check(holds, name):
    assert holds, (
        f"{INSTALLED} no longer reads {name}: adapt analysis/dashboard/private_names.py (it knows {KNOWN_VERSION})"
    )


@pytest.mark.parametrize("kind", [wr.ScatterPlot, wr.LinePlot, wr.ParallelCoordinatesPlot])
def test_the_id_given_to_a_panel_is_the_one_that_is_sent(kind):
    panel = kind()
    private_names.set_panel_id(panel, "an-id")
    report = wr.Report(entity="e", project="p", blocks=[wr.PanelGrid(runsets=[wr.Runset()], panels=[panel])])
    (grid,) = (block for block in as_json(private_names.report_view(report))["blocks"] if block["type"] == "panel-grid")
    (sent,) = grid["metadata"]["panelBankSectionConfig"]["panels"]
    check(sent["__id__"] == "an-id", f"{kind.__name__}._id")


def test_the_id_given_to_a_run_set_is_the_one_that_is_sent():
    runset = wr.Runset()
    private_names.set_runset_id(runset, "an-id")
    report = wr.Report(entity="e", project="p", blocks=[wr.PanelGrid(runsets=[runset])])
    (grid,) = (block for block in as_json(private_names.report_view(report))["blocks"] if block["type"] == "panel-grid")
    check([sent["id"] for sent in grid["metadata"]["runSets"]] == ["an-id"], "Runset._id")


def test_a_workspace_is_saved_over_the_one_whose_names_it_was_given():
    workspace = ws.Workspace(entity="e", project="p")
    private_names.set_names_on_server(workspace, "an-id", "a-name")
    view = private_names.workspace_view(workspace)
    check((view.id, view.name) == ("an-id", "a-name"), "Workspace._internal_id and ._internal_name")
    assert private_names.names_on_server(workspace) == ("an-id", "a-name")


@pytest.mark.parametrize("use", USES)
def test_a_name_that_moved_is_an_error_that_names_library_version_and_attribute(use):
    call, name = USES[use]
    without_the_name = SimpleNamespace()
    with pytest.raises(PrivateNameError, match=f"^{INSTALLED} has no SimpleNamespace.{name}, .*{LIBRARY}=="):
        call(without_the_name)
    assert vars(without_the_name) == {}  # nothing was set that the library does not read


def test_the_command_says_in_one_line_that_a_name_moved(tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(wr.Report, "_to_model")
    assert main(["--runs", str(two_launches(tmp_path)), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {INSTALLED} has no Report._to_model, ") and err.count("\n") == 1


def test_the_known_version_is_the_one_that_the_project_pins():
    assert f"{LIBRARY}=={KNOWN_VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_no_other_file_of_the_dashboard_uses_a_private_name_of_an_object():
    for file in (ROOT / "analysis/dashboard").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private, f"{file.name}, line {node.lineno}: {node.attr} belongs into private_names.py"


def test_every_function_of_the_module_is_tested_here():
    functions = {name for name, value in vars(private_names).items() if callable(value) and name[0].islower()}
    assert {name for name in functions if not name.startswith("_")} - {"version"} == set(USES)
