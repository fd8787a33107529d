"""`python -m analysis.dashboard`: its panels name what a run logs, and show the launch that was asked for."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys

import pytest
from wandb.proto import wandb_internal_pb2 as protocol
from wandb_workspaces.expr import FE_METRIC_NAME_MAP
from wandb_workspaces.reports.v2 import interface as wr
from wandb_workspaces.reports.v2.internal import ReportViewspec
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from analysis.arms import colour
from analysis.dashboard.__main__ import main
from analysis.dashboard.dominance import dominance
from analysis.dashboard.markdown import dominance_markdown
from analysis.tables.dominance import ABOVE, NO_FLOOR
from sweep.store import metric_names as names
from sweep.store.records import write_record
from tests.analysis.dashboard.boards import (
    EARLIER,
    LATER,
    all_panels,
    all_runsets,
    make_dashboard,
    names_in,
    panel_grids,
    shipped_records,
    two_launches,
    write_launch,
)
from tests.analysis.synthetic import probed, sampled
from tests.analysis.synthetic import record as made_record
from tests.sweep.world import ROOT, World

MEASURES = {names.CE_RECOVERED, names.COMPRESSION, names.STORED_BYTES, names.DELTA_CE, names.DEAD_FRACTION}
CURVES = {names.STEP, names.FVU_CURVE, names.DEAD_CURVE, names.LOSS_CURVE}
DRAWN = {*MEASURES, *CURVES, "layer", "d", "k", "n"}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The workspace and the report of the later launch."""
    return make_dashboard(two_launches(tmp_path_factory.mktemp("store")))


@pytest.fixture
def runs(tmp_path):
    return two_launches(tmp_path)


# Names that are logged


def records_of(path):
    """Yield the records that a run of W&B has written: LevelDB's log format after a header of 7 bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768  # bytes in this block
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = protocol.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_log(path):
    """Return the (section, name) of all that a run logged, its W&B group and its job type."""
    found, run = set(), None
    for record in records_of(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {("config", f"{item.key}.value") for item in run.config.update}
        elif kind == "summary":
            found |= {("summary", item.key) for item in record.summary.update if item.key}
        elif kind == "history":
            found |= {("history", "/".join(item.nested_key) or item.key) for item in record.history.item}
    return found, run.run_group, run.job_type


def test_every_name_in_a_dashboard_is_one_that_a_run_logs(tmp_path, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    code, _, err = world.sweep("-m", "d=3", "sae=expander", disabled=False)
    assert code == 0, err
    (file,) = world.runs.glob("*/wandb/offline-run-*/*.wandb")
    known, group, arm = read_log(file)
    workspace, report = make_dashboard(world.runs)
    named = {*names_in(workspace), *names_in(report)}
    assert {name.removesuffix(".value") for _, name in named} >= DRAWN
    own_of_wandb = {("run", name) for name in FE_METRIC_NAME_MAP.values()}
    assert named <= known | own_of_wandb, named - known - own_of_wandb
    for runset in all_runsets(workspace, report):
        assert [item["value"] for item in runset["filters"]["filters"]] == [[group]]
    assert arm == "expander" and workspace["displayName"] == f"Sweep {group}"


def test_meaning_is_shown_under_the_names_that_it_is_logged_under(tmp_path):
    runs = tmp_path / "runs"
    made = [probed(made_record("expander", 8, 16, 0, 0.7), 0.7), sampled("expander", 8, 0, 0.3)]
    for one in made:
        write_record(runs, one)
    write_launch(runs, LATER, [(one["run_id"], "expander") for one in made])
    boards = make_dashboard(runs)
    logged = {names.COVERAGE, names.FEATURE_F1, "probing/code/encoder/best_5"}
    assert set(names.probing_means(made[0]["probing"])) >= {"probing/code/encoder/best_5"}
    for board in boards:
        assert {name for _, name in names_in(board)} >= logged
    sections = boards[0]["spec"]["section"]["panelBankConfig"]["sections"]
    assert "Meaning" in {section["name"] for section in sections}


# Runs and panels that are shown


def test_runs_are_filtered_by_group_and_also_by_id_where_a_group_holds_other_runs(both, runs):
    ids = sorted([record["run_id"] for record in shipped_records()[1:]] + ["f" * 16])
    group, run_id = ({"section": "run", "name": name} for name in ("group", "name"))
    for runset in all_runsets(*both):
        first, second = runset["filters"]["filters"]
        assert (first["key"], first["op"], first["value"]) == (group, "IN", [EARLIER, LATER])
        assert (second["key"], second["op"], second["value"], second["connector"]) == (run_id, "IN", ids, "AND")
    for runset in all_runsets(*make_dashboard(runs, EARLIER)):
        (only,) = runset["filters"]["filters"]
        assert (only["key"], only["value"]) == (group, [EARLIER])
    for runset in all_runsets(*make_dashboard(runs, "all")):
        assert runset["filters"]["filters"] == []


def test_every_point_is_a_run_in_the_colour_of_its_arm(runs):
    workspace, report = make_dashboard(runs, EARLIER)
    expected = {record["run_id"]: colour(record["labels"]["arm"]) for record in shipped_records()}
    assert workspace["spec"]["section"]["customRunColors"] == expected
    assert all(grid["customRunColors"] == expected for grid in panel_grids(report))
    assert all(runset["grouping"] == [] for runset in all_runsets(workspace, report))
    assert colour("expander") in json.dumps(report["spec"]["blocks"][3])  # the legend


def test_panels_have_titles_and_places_of_their_own(both):
    workspace, report = both
    panels = list(all_panels(workspace, report))
    assert all(panel["config"]["chartTitle"] for panel in panels)
    assert len({panel["__id__"] for panel in panels}) == len(panels)
    for grid in panel_grids(report):
        places = [tuple(panel["layout"].values()) for panel in grid["panelBankSectionConfig"]["panels"]]
        assert sum(w * h for _, _, w, h in places) in (24 * 8, 24 * 12) and len(
            {(x, y) for x, y, _, _ in places}
        ) == len(places)
    kinds = {panel["viewType"] for panel in panels}
    assert kinds == {"Scatter Plot", "Run History Line Plot", "Parallel Coordinates Plot"}


def test_the_same_runs_give_the_same_files(both, runs):
    assert make_dashboard(runs) == both


def test_the_library_reads_both_files_back_unchanged(both):
    workspace, report = both
    view = View(entity="e", project="p", display_name="w", name="", id="", spec=workspace["spec"])
    again = Workspace._from_model(view)._to_model()
    assert json.loads(again.spec.model_dump_json(by_alias=True, exclude_none=True)) == workspace["spec"]
    project = {"name": "p", "entityName": "e"}
    parsed = wr.Report._from_model(
        ReportViewspec.model_validate({**report, "project": project, "spec": json.dumps(report["spec"])})
    )
    kinds = (wr.ScatterPlot, wr.LinePlot, wr.ParallelCoordinatesPlot)
    found = [panel for block in parsed.blocks if isinstance(block, wr.PanelGrid) for panel in block.panels]
    assert len(found) == 12 and all(isinstance(panel, kinds) for panel in found)
    assert found[1].x == wr.SummaryMetric(names.STORED_BYTES) and found[1].log_x is True


# The dominance table


def row(level, budget, winner, runner_up=None, **more):
    return {
        "level": level,
        "budget": budget,
        "winner": winner,
        "winner_d": math.nan,
        "winner_inference": "encoder",
        "winner_mean": 0.9,
        "winner_half_interval": math.nan,
        "winner_seeds": 1,
        "runner_up": runner_up,
        "runner_up_d": 7.0,
        "runner_up_inference": "omp",
        "runner_up_difference": 0.012345,
        "runner_up_difference_half_interval": 0.001,
        "floor": math.nan,
        "verdict": NO_FLOOR,
        **more,
    }


def test_lines_of_the_table_that_repeat_are_merged():
    no = "no floor measured"
    rows = [row(2**18, budget, "a") for budget in ("one-shot expander", "one-shot dense", "unlimited")]
    rows += [row(2**19, budget, "a") for budget in ("one-shot expander", "one-shot dense", "unlimited")]
    rows += [row(2**20, "one-shot expander", "a"), row(2**20, "one-shot dense", "b", "a", winner_d=3.0)]
    rows += [row(2**20, "unlimited", "b", "a", winner_d=3.0, winner_half_interval=0.002, winner_seeds=3)]
    rows += [row(2**21, "unlimited", "b", floor=0.8765, verdict=ABOVE)]
    lines = dominance_markdown(rows).splitlines()
    assert lines[2:] == [
        f"| 256 KiB to 512 KiB | any | a, encoder | 0.9000 (1 seed) | none |  | {no} |",
        f"| 1 MiB | one-shot expander | a, encoder | 0.9000 (1 seed) | none |  | {no} |",
        f"| 1 MiB | one-shot dense | b d=3, encoder | 0.9000 (1 seed) | a d=7, omp | 0.0123 ± 0.0010 | {no} |",
        f"| 1 MiB | unlimited | b d=3, encoder | 0.9000 ± 0.0020 (3 seeds) | a d=7, omp | 0.0123 ± 0.0010 | {no} |",
        "| 2 MiB | unlimited | b, encoder | 0.9000 (1 seed) | none |  | 0.8765, above the floor |",
    ]


def test_the_report_has_the_dominance_table_of_the_analysis(both, runs):
    _, report = both
    (table,) = (block["content"] for block in report["spec"]["blocks"] if block["type"] == "markdown-block")
    assert table == dominance_markdown(dominance(runs, [record["run_id"] for record in shipped_records()[1:]]).rows)
    assert re.search(r"\| expander d=\d+, encoder \| 0\.\d{4} ± 0\.\d{4} \(\d seeds\) \|", table)
    note = f"Left out: 1 of {len(shipped_records())} run(s) of the sweep not complete."
    assert note in json.dumps(report["spec"]["blocks"])


def test_without_records_the_report_says_why_there_is_no_table(tmp_path):
    write_launch(tmp_path / "runs", LATER, [("f" * 16, "expander")])
    _, report = make_dashboard(tmp_path / "runs")
    texts = [block["children"][0]["text"] for block in report["spec"]["blocks"] if block["type"] == "paragraph"]
    assert "No dominance table: no complete run in it; python -m sweep makes some." in texts
    assert str(tmp_path) not in json.dumps(report)  # others read it
    assert "markdown-block" not in {block["type"] for block in report["spec"]["blocks"]}


# The command


def test_bad_input_ends_with_one_line(runs, tmp_path, capsys):
    (tmp_path / "file").touch()
    for arguments, message in (
        (["1999", "--runs", str(runs)], "LAUNCH 1999: no launch"),
        (["--runs", str(tmp_path / "nowhere")], "no launch in it"),
        (["--runs", str(runs), "--out", str(tmp_path / "file" / "in")], "cannot be written"),
    ):
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_the_command_line_loads_without_wandb():
    code = "import sys, analysis.dashboard.__main__; sys.exit(any(name.startswith('wandb') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
