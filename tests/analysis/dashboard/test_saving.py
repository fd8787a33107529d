"""`python -m analysis.dashboard --save` over HTTP, to a server that the tests start on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.analysis.dashboard.boards import LATER, all_runsets, make_dashboard, panel_grids, read_files, two_launches
from tests.sweep.tracking.views_server import views_server
from tests.sweep.world import ROOT


@pytest.fixture
def runs(tmp_path):
    return two_launches(tmp_path)


@pytest.fixture
def server():
    with views_server() as views:
        yield views


def call(runs, *arguments, url="http://127.0.0.1:9", key="0123456789" * 4, program=("-m", "analysis.dashboard")):
    """Call the command as a user with an own home folder; return (exit code, stdout, stderr)."""
    home = runs.parent / "home"
    home.mkdir(exist_ok=True)
    folders = {name: str(home / name) for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "NETRC")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**kept, **folders, "HOME": str(home), "WANDB_BASE_URL": url}
    if key:
        environment["WANDB_API_KEY"] = key
    command = [sys.executable, *program, "--runs", str(runs), "--out", str(runs.parent / "out"), *arguments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


def without_project_and_link(report):
    """Return the report without what only a saved one has: run sets' projects, and the link to the workspace."""
    blocks = [block for block in report["spec"]["blocks"] if "same runs as a" not in json.dumps(block)]
    for grid in panel_grids(report):
        for runset in grid["runSets"]:
            runset.pop("project", None)
    return {**report, "spec": {**report["spec"], "blocks": blocks}}


def test_the_server_gets_what_the_files_hold_and_saving_again_replaces_it(runs, server):
    offline = make_dashboard(runs, "--entity", "researcher")
    for time in (1, 2):
        code, out, err = call(runs, "--save", url=server.url)
        assert (code, err) == (0, "") and server.seen.count("UpsertView2") == server.seen.count("upsertView") == time
        assert len(server.saved) == 2
        for written, given in zip(read_files(runs), server.saved.values(), strict=True):
            assert written == {**{key: given[key] for key in written}, "spec": json.loads(given["spec"])}
            assert (given["entityName"], given["projectName"]) == ("researcher", "expander-sae")
    workspace, report = read_files(runs)
    urls = out.split()[2:]
    assert len(urls) == 2 and all(url.startswith(f"{server.url}/researcher/expander-sae") for url in urls)
    assert urls[0] in json.dumps(report)  # the report links to the workspace
    assert {runset["project"]["id"] for runset in all_runsets(workspace, report)[1:]} == {"7"}
    assert workspace == offline[0] and without_project_and_link(report) == without_project_and_link(offline[1])
    assert call(runs, "all", "--save", url=server.url)[0] == 0 and len(server.saved) == 4


FAILURES = {
    "no project": "researcher has no project expander-sae; python -m sweep.sync",
    "refused": "this server knows no UpsertView2",
    "no login": "wandb login",
    "no server": "connection refused",
}


@pytest.mark.parametrize("cause, message", FAILURES.items())
def test_a_failure_to_save_is_one_line_and_the_files_are_written_before(runs, server, cause, message):
    if cause == "no project":
        server.projects.clear()
    if cause == "refused":
        del server.operations["UpsertView2"]
    place = {} if cause == "no server" else {"url": server.url}
    code, out, err = call(runs, "--save", **place, **({"key": ""} if cause == "no login" else {}))
    assert code == 1 and err.startswith("error: not saved: ") and err.count("\n") == 1 and message in err, err
    assert [path.rsplit("/")[-1] for path in out.split()] == ["workspace.json", "report.json"]
    assert json.loads((runs.parent / "out" / "report.json").read_text())["displayName"].startswith(f"Sweep {LATER}")


def test_without_the_library_a_line_says_how_to_get_it(runs):
    blocked = "import sys; sys.modules['wandb_workspaces'] = None; from analysis.dashboard.__main__ import main; "
    code, out, err = call(runs, program=("-c", blocked + "sys.exit(main(sys.argv[1:]))"))
    assert (code, out, err) == (1, "", "error: wandb_workspaces is missing: pip install -e '.[dashboards]'\n")
