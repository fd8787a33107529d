"""What the tests of the dashboard share: a run store of real records, its dashboards, a walk through what they name."""

from __future__ import annotations

import gzip
import json
from functools import cache

from analysis.dashboard.__main__ import main
from sweep.store.records import write_record
from tests.sweep.world import ROOT

BEFORE, NAME = (
    "2026-11-23_15-30-06-598097",
    "2026-12-01_10-00-00-000000",
)  # of the records that ship, and a later launch


def launched(runs, name, run_ids_and_arms):
    folder = runs / "launches" / name
    folder.mkdir(parents=True)
    listed = [{"run_id": run_id, "title": run_id, "axes": {}, "arm": arm} for run_id, arm in run_ids_and_arms]
    about = {"started": "2026-12-01T10:00:00+00:00", "host": "a", "pid": 1, "command": "-m d=3,15", "runs": listed}
    (folder / "launch.json").write_text(json.dumps(about))


@cache
def shipped():
    """Real records of one layer and k, of two arms."""
    with gzip.open(ROOT / "analysis/data/embedded.jsonl.gz", "rt") as stream:
        records = [json.loads(line) for line in stream]
    chosen = [record for record in records if record["labels"]["arm"] in ("expander", "dense_tied")
              and (record["axes"]["layer"], record["axes"]["k"]) == (1, 32) and record["status"] == "complete"
              and record["labels"]["sweep"] == BEFORE]  # fmt: skip
    assert {record["labels"]["arm"] for record in chosen} == {"expander", "dense_tied"}
    return chosen


def stored(folder):
    """A store where the later launch asked for runs of before and for one more, which has not begun."""
    runs = folder / "runs"
    for record in shipped():
        write_record(runs, record)
    asked = [(record["run_id"], record["labels"]["arm"]) for record in shipped()]
    launched(runs, BEFORE, asked)
    launched(runs, NAME, [*asked[1:], ("f" * 16, "banded")])
    return runs


def made(runs, *arguments):
    """Make the two files."""
    assert main([*arguments, "--runs", str(runs), "--out", str(runs.parent / "out")]) == 0
    return files(runs)


def files(runs):
    """The workspace's and the report's."""
    return [json.loads((runs.parent / "out" / f"{name}.json").read_text()) for name in ("workspace", "report")]


def panel_grids(report):
    return [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]


def drawn(workspace, report):
    """Every panel of both."""
    for section in workspace["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]
    for grid in panel_grids(report):
        yield from grid["panelBankSectionConfig"]["panels"]


def runsets(workspace, report):
    return [*workspace["spec"]["section"]["runSets"], *(one for grid in panel_grids(report) for one in grid["runSets"])]


def named(node, key=None):
    """(section, name) of everything that a specification names; section history where a bare name stands."""
    if isinstance(node, dict):
        if node.keys() >= {"section", "name"} and isinstance(node["section"], str):
            yield node["section"], node["name"]
        for inner, value in node.items():
            yield from named(value, inner)
            if inner in ("columnVisible", "columnPinned"):
                yield from (tuple(column.split(":", 1)) for column in value)
    elif isinstance(node, list):
        for value in node:
            yield from named(value, key)
    elif isinstance(node, str) and key in ("xAxis", "yAxis", "zAxis", "metrics", "accessor", "columnOrder", "groupBy"):
        yield tuple(node.split(":", 1)) if ":" in node else ("history", node)
