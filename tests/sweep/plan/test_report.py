"""The printed plan: a row for every run, its state, and totals that add up."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from rich.console import Console

from sweep.jobs.build import build
from sweep.machine.workers import Workers
from sweep.plan.plan import make_plan
from sweep.plan.report import print_plan
from sweep.plan.totals import duration, shared_out
from sweep.run.once import carry_out
from sweep.store.human_size import human_size
from sweep.store.records import SCHEMA, read_record, write_record
from sweep.workers.worker import _config
from tests.sweep.store.test_lock_holders import HOLD
from tests.sweep.world import World, composed


@pytest.fixture(scope="module")
def world(tmp_path_factory, model_folders, text_file):
    """Return (folder, a function that plans cells, settings that fail); a complete and a failed run are there."""
    folder = tmp_path_factory.mktemp("plan")
    common = [*World(folder, model_folders["gpt_neox"], text_file).common, "tracker.mode=disabled"]

    def plan(*cells):
        configs = [(list(cell), composed(*common, *cell)) for cell in cells]
        for _, cfg in configs:
            OmegaConf.set_struct(cfg, False)
        return make_plan(configs, "test")

    fails = ["train.lr=1e30", "train.grad_clip=1e30", "train.lr_final=0"]
    before = torch.get_num_threads()
    for run in plan(["train.steps=20"], ["train.steps=20", *fails]).runs:
        carry_out(run.job)
    torch.set_num_threads(before)
    return folder, plan, fails


TWO = Workers(2, 1)


def printed(plan, team=TWO, width=200, terminal=False, budget=0.0):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False)
    print_plan(plan, team, console, budget)
    return out.getvalue()


def row(text, run):
    """Return the one line of `text` that is about `run`."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(run.job.spec.run_id)]
    return line.strip()


def test_every_state_of_a_run_is_printed(world):
    folder, plan, fails = world
    small = ["train.steps=20"]
    others = [[*small, f"seed={seed}"] for seed in (1, 2, 3, 4)]
    found = plan(small, [*small, *fails], *others, [*small, "d=3"])
    assert len(found.runs) == 6  # a cell that asks for the same again is no run of its own
    complete, failed, waiting, stopped, held, dropped = found.runs
    for run in (stopped, held, dropped):
        (folder / "runs" / run.job.spec.run_id).mkdir(parents=True)
    for run in (stopped, dropped):
        (folder / "runs" / run.job.spec.run_id / "checkpoint.pt").touch()
    about = {"schema": SCHEMA, "run_id": dropped.job.spec.run_id, "status": "dropped"}
    write_record(folder / "runs", {**about, "dropped": {"step": 10, "why": "it was bad"}})
    (folder / "runs" / held.job.spec.run_id / "progress.json").write_text(
        json.dumps({"stage": "training", "pid": 12, "host": "here", "since": "now"})
    )
    lock = folder / "runs" / held.job.spec.run_id / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        text = printed(found)
        holder.kill()
    assert row(text, complete).endswith("complete") and row(text, waiting).endswith("to do")
    assert "failed last time" in row(text, failed) and row(text, stopped).endswith("has a checkpoint")
    assert row(text, dropped).endswith("dropped before, has a checkpoint")
    assert "running now (on here, pid 12)" in row(text, held)
    reason = read_record(folder / "runs", failed.job.spec.run_id)["error"]
    assert f"failed last time: {failed.job.spec.run_id} {failed.job.title}: {reason}" in text
    assert "6 runs: 1 complete, 5 to do" in text
    storage = read_record(folder / "runs", complete.job.spec.run_id)["storage"]
    for part in (f"{storage['learned_decoder_values']:,}", f"{storage['learned_parameters']:,}"):
        assert part in row(text, complete)


def test_a_reading_that_a_complete_run_lacks_is_printed(world):
    _, plan, _ = world
    text = printed(plan(["train.steps=20", "eval.inference=[omp,refit]"]))
    assert "complete, lacks omp, refit" in text and "1 run: 0 complete, 1 to do" in text
    assert "none to do, all activations are in the cache" in text


def test_runs_that_others_need_are_shown_before_them_once(world):
    _, plan, _ = world
    found = plan(["sae=pruned_retuned", "d=3"], ["sae=pruned_retuned", "d=4"], ["sae=pruned_retuned_quantised", "d=4"])
    text = printed(found)
    titles = [line.split()[1] for line in text.splitlines() if line[1:17].isalnum() and "KiB" in line]
    assert titles == ["dense_tied", "pruned_retuned", "pruned_retuned", "pruned_retuned-8bit"]
    assert f"to do first, for {found.runs[0].job.spec.run_id}" in text
    assert "3 runs: 0 complete, 3 to do, and 1 more that they need first" in text
    compared = printed(plan(["eval.novelty=true", "d=3"]))
    assert "dense_tied" in compared and "and 1 more" in compared


def test_cells_of_one_run_are_one_job_with_all_their_measurements(world):
    folder, plan, _ = world
    wishes = ["eval.inference=[omp]"], ["eval.contexts=5"], ["eval.novelty=true", "save_artifact=true"], []
    planned = plan(*(["d=4", *wish] for wish in wishes), ["d=4"], ["d=5"])
    run, other = planned.runs
    asked = run.job.spec.eval
    assert (asked.inference, asked.novelty, asked.contexts) == (("encoder", "omp"), True, 5) and run.job.save_artifact
    assert other.job.spec.eval.inference == ("encoder",) and not other.job.save_artifact
    again = build(_config(run.job.settings), "test")  # as a worker gets it
    assert again.spec == run.job.spec and again.save_artifact
    text = printed(planned)
    assert f"note: 3 cell(s) ask for more of another cell's run, which gets all of it: {run.job.title} with " in text
    assert "eval.inference=[encoder,omp] eval.novelty=true eval.contexts=5 save_artifact=true" in text
    assert "note: 1 cell(s) ask for the same as another cell" in text and "note:" not in printed(plan(["d=4"]))


def test_a_done_run_that_one_of_two_cells_wants_more_of_is_to_do(world):
    folder, plan, _ = world
    done, lacking = ["train.steps=20"], ["train.steps=20", "eval.inference=[omp]"]
    for cells in ((done, lacking), (lacking, done)):
        (run,) = plan(*cells).runs
        assert run.trained and not run.done and run.job.lacking(read_record(run.job.runs_dir, run.job.spec.run_id))
    assert plan(done, done).runs[0].done


@pytest.mark.parametrize(
    "one, other",
    [
        ("backend=reference", "backend=torch_gather"),
        ("runs_dir=a", "runs_dir=b"),
        ("threads=1", "threads=2"),
        ("tracker.mode=offline", "tracker.mode=disabled"),
        ("launch.workers=1", "launch.workers=2"),
        ("train.checkpoint_every=5", "train.checkpoint_every=6"),
        ("model.batch_size=5", "model.batch_size=6"),
    ],
)
def test_cells_that_want_one_run_made_in_two_ways_are_refused(world, one, other):
    folder, plan, _ = world
    with pytest.raises(ValueError, match=f"^{one} and {other} ask for the same run"):
        plan([one], [other])


def test_cells_left_out_have_their_reason_once(world):
    _, plan, _ = world
    text = printed(plan(["n=8", "seed=0"], ["n=8", "seed=1"], ["seed=4"]))
    assert text.count("left out: 2 cells, the first n=8 seed=0: n=8 <= 2k=8") == 1


def test_lm_passes_and_a_cache_that_will_not_fit(world):
    _, plan, _ = world
    text = printed(plan(["layer=0", "seed=4"], ["layer=2", "seed=4"], ["layer=1", "seed=4"]))
    assert "LM pass: layers 0, 2 of" in text and "800 tokens" in text  # layer 1 is in the cache
    assert f"activation cache: {human_size(2 * 800 * 32 * 2)} more" in text and "WARNING" not in text
    text = printed(plan([f"corpus.train_tokens={10**13}", "seed=4"]))
    assert "WARNING: it will not fit, point cache_dir at another disk" in text


def test_nothing_is_written_and_nothing_left_to_do_is_said(world):
    folder, plan, _ = world
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    text = printed(plan(["train.steps=20"]), budget=1.0)
    assert "1 run: 1 complete, 0 to do" in text and "work" not in text
    printed(plan(["seed=7"], ["sae=dense_warmtied"]), budget=1.0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("width", [110, 120, 170, 180, 190, 200])
def test_no_line_of_long_labels_is_cut_on_a_terminal_or_in_a_pipe(world, width):
    _, plan, _ = world
    few = ["sae=dense_matched_few_bits", "sae.rounded_in=fourier", "sae.rounded_from=0.25", "n=2000", "d=16"]
    found = plan([*few, "sae.of.encoder=mp_refit", "sae.of.basis=reflections8"])
    for terminal in (True, False):
        text = printed(found, width=width, terminal=terminal)
        table = text[: text.index("1 run: ")]
        assert "…" not in table and found.runs[0].job.spec.run_id in table
        assert found.runs[0].job.labels["arm"] in table
        assert not terminal or max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_of_the_table_is_cut_or_wider_than_the_terminal(world, width):
    _, plan, _ = world
    found = plan(
        ["sae=pruned_retuned_quantised", "n=2000", "seed=4"], ["sae=expander", "sae.encoder=mp_refit", "n=2000"]
    )
    lines = printed(found, width=width, terminal=True).splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("2 runs"))]
    assert max(map(len, table)) <= width and not any("…" in line for line in table)
    for run in found.runs:
        assert sum(run.job.spec.run_id in line for line in table) >= 1
        assert any(run.job.labels["arm"] in line for line in table)


def test_a_pipe_gets_a_row_a_run_however_narrow(world):
    _, plan, _ = world
    found = plan(["seed=4"], ["seed=5"])
    assert all("expander" in row(printed(found, width=80), run) for run in found.runs)


def test_synthetic_recovery_has_rows_without_storage(world):
    _, plan, _ = world
    found = plan(["recovery=planted", "n=64", "k=3", "seed=1"], ["recovery=planted", "n=64", "k=3", "seed=2"])
    text = printed(found)
    assert all("expander" in row(text, run) and "KiB" not in row(text, run) for run in found.runs)
    assert "2 runs: 0 complete, 2 to do" in text and "LM pass:" not in text and "in the cache" not in text


def test_more_workers_take_less_time():
    assert shared_out([3.0, 1.0, 1.0, 1.0], 1) == 6.0 and shared_out([3.0, 1.0, 1.0, 1.0], 2) == 3.0


def test_the_workers_of_the_launch_are_printed(world):
    _, plan, _ = world
    found = plan(["seed=4"], ["seed=5"])
    assert "with 1 worker of 1 thread" in printed(found, Workers(1, 1))
    assert "with 3 workers of 2 threads" in printed(found, Workers(3, 2))
    assert "with 2 workers of" in printed(found, Workers(2, None))


def test_times_are_printed_in_the_unit_that_suits_them():
    found = [duration(seconds) for seconds in (0.04, 4.26, 45.4, 100, 750, 4 * 3600, 90 * 3600)]
    assert found == ["0.0 s", "4.3 s", "45 s", "1.7 min", "12 min", "4.0 h", "90 h"]


def test_a_lock_that_this_process_holds_counts_too(world, tmp_path):
    from sweep.store.lock_holders import find_holder

    with FileLock(tmp_path / "lock"):
        assert find_holder(tmp_path) is not None
    assert find_holder(tmp_path) is None
