"""What the tests of the dashboard share: a run store of real records, its dashboards, and walks through those."""

from __future__ import annotations

import gzip
import json
from functools import cache

from analysis.dashboard.__main__ import main
from sweep.store.records import write_record
from tests.sweep.world import ROOT

EARLIER = "2026-11-23_15-30-06-598097"  # the launch of the records that ship
LATER = "2026-12-01_10-00-00-000000"  # a launch that asks for runs of the earlier one


def write_launch(runs, name, run_ids_and_arms):
    folder = runs / "launches" / name
    folder.mkdir(parents=True)
    listed = [{"run_id": run_id, "title": run_id, "axes": {}, "arm": arm} for run_id, arm in run_ids_and_arms]
    about = {"started": "2026-12-01T10:00:00+00:00", "host": "a", "pid": 1, "command": "-m d=3,15", "runs": listed}
    (folder / "launch.json").write_text(json.dumps(about))


@cache
def shipped_records():
    """Return real records of one layer and k, of two arms."""
    with gzip.open(ROOT / "analysis/data/embedded.jsonl.gz", "rt") as stream:
        records = [record for line in stream if is_wanted(record := json.loads(line))]
    assert {record["labels"]["arm"] for record in records} == {"expander", "dense_tied"}
    return records


def is_wanted(record):
    labels, axes = record["labels"], record["axes"]
    complete = record["status"] == "complete" and labels["sweep"] == EARLIER
    return complete and labels["arm"] in ("expander", "dense_tied") and (axes["layer"], axes["k"]) == (1, 32)


def two_launches(folder):
    """Make a run store where the later launch asked for runs of the earlier one and for one that has not begun."""
    runs = folder / "runs"
    for record in shipped_records():
        write_record(runs, record)
    asked = [(record["run_id"], record["labels"]["arm"]) for record in shipped_records()]
    write_launch(runs, EARLIER, asked)
    write_launch(runs, LATER, [*asked[1:], ("f" * 16, "banded")])
    return runs


def make_dashboard(runs, *arguments):
    """Call the command; return the workspace and the report that it writes."""
    assert main([*arguments, "--runs", str(runs), "--out", str(runs.parent / "out")]) == 0
    return read_files(runs)


def read_files(runs):
    """Return the workspace and the report that the command wrote."""
    return [json.loads((runs.parent / "out" / f"{name}.json").read_text()) for name in ("workspace", "report")]


def panel_grids(report):
    return [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]


def all_panels(workspace, report):
    for section in workspace["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]
    for grid in panel_grids(report):
        yield from grid["panelBankSectionConfig"]["panels"]


def all_runsets(workspace, report):
    return [*workspace["spec"]["section"]["runSets"], *(one for grid in panel_grids(report) for one in grid["runSets"])]


def names_in(node, key=None):
    """Yield (section, name) of everything that a specification names; a bare name is of the section history."""
    if isinstance(node, dict):
        if node.keys() >= {"section", "name"} and isinstance(node["section"], str):
            yield node["section"], node["name"]
        for inner, value in node.items():
            yield from names_in(value, inner)
            if inner in ("columnVisible", "columnPinned"):
                yield from (tuple(column.split(":", 1)) for column in value)
    elif isinstance(node, list):
        for value in node:
            yield from names_in(value, key)
    elif isinstance(node, str) and key in ("xAxis", "yAxis", "zAxis", "metrics", "accessor", "columnOrder", "groupBy"):
        yield tuple(node.split(":", 1)) if ":" in node else ("history", node)
