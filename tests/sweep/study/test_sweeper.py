"""Searches as a user runs them (`hydra/sweeper=optuna_frontier`): real processes and training, a real study on disk."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import optuna
import pytest

from analysis.read.load import read_records
from sweep import status
from sweep.private_names import storage_of
from sweep.store.records import iterate_records
from sweep.study import storage as keeping
from sweep.study.config import search_config
from sweep.study.storage import StorageError, open_storage
from tests.sweep.synthetic.test_runs import SMALL as SYNTHETIC
from tests.sweep.test_inference import call
from tests.sweep.world import ROOT, World

SPACE = ["d=interval(2,20)", "train.lr=tag(log,interval(1e-4,1e-2))"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


def ask(storage, n_trials, *arguments):
    """Return the command line of a search."""
    study = [f"hydra.sweeper.storage={storage}", f"hydra.sweeper.n_trials={n_trials}"]
    return ["-m", "hydra/sweeper=optuna_frontier", *study, *arguments]


def completed(storage):
    """Return (params, values) of every complete trial."""
    study = optuna.load_study(study_name="frontier", storage=open_storage(str(storage)))
    return [(t.params, t.values) for t in study.get_trials() if t.state.name == "COMPLETE"]


def test_a_search_is_resumed_to_its_target_and_leaves_its_pareto_set(world):
    storage = f"sqlite:///{world.folder}/study.db"
    code, out, err = world.sweep(*ask(storage, 3, *SPACE))
    assert code == 0, err
    assert "3 of 3 trials complete" in out and "Traceback" not in err and "arning" not in err
    code, out, err = world.sweep(*ask(storage, 4, *SPACE))
    assert code == 0 and "4 of 4 trials complete" in out and "[4/4]" in err
    records = {record["run_id"]: record for record in world.records()}
    assert len(records) == 4
    folder = world.runs / "studies" / "frontier"
    for row in csv.DictReader((folder / "pareto.csv").read_text().splitlines()):
        record = records[row["run_id"]]
        assert int(row["stored_bytes"]) == record["storage"]["artifact_bytes"]
        assert float(row["ce_recovered"]) == record["metrics"]["ce_recovered"]
        assert float(row["train.lr"]) == record["spec"]["train"]["lr"]
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    code, out, err = world.sweep(*ask(storage, 9, *SPACE, "plan=true"))
    assert code == 0 and "9 trials asked for, 4 complete, 0 running, 5 to do" in out and len(world.records()) == 4
    assert_dashboard_opens(storage, 4)


def test_interrupted_killed_and_asked_again_it_ends_as_if_undisturbed(world, tmp_path):
    storage, long = f"{world.folder}/study.journal", ["train.steps=800"]
    out, err = disturb(world, 1, signal.SIGINT, *ask(storage, 4, *SPACE, *long))
    assert "interrupted: what is finished stays" in err and "Traceback" not in err and "of 4 trials complete" in out
    assert (world.runs / "studies" / "frontier" / "pareto.csv").exists()
    disturb(world, 2, signal.SIGKILL, *ask(storage, 4, *SPACE, *long))
    code, out, err = world.sweep(*ask(storage, 4, *SPACE, *long))
    assert code == 0 and "4 of 4 trials complete" in out, err
    undisturbed = World(tmp_path / "other", None, None)
    undisturbed.common = [a.replace(str(world.runs), str(undisturbed.runs)) for a in world.common]
    code, _, err = undisturbed.sweep(*ask(f"{tmp_path}/other.journal", 4, *SPACE, *long))
    assert code == 0, err
    assert completed(storage) == completed(f"{tmp_path}/other.journal")
    assert_dashboard_opens(storage, 4)


def test_a_dropped_run_is_told_as_such_and_trained_to_its_end_by_who_asks_for_it(world, tmp_path, capsys):
    """A learning rate of 1e-6 trains next to nothing, which is seen after a quarter of the training."""
    storage, long = f"{world.folder}/study.journal", ["train.steps=3000", "train.lr_final=0", "d=5"]
    pruner = ["hydra.sweeper.sampler=grid", "hydra.sweeper.pruner=frontier", "hydra.sweeper.batch=1"]
    code, out, err = world.sweep(*ask(storage, "null", "train.lr=3e-3,1e-6", *long, *pruner))
    assert code == 0 and "2 trials complete, 1 of them dropped" in out and "Traceback" not in err, err
    complete, dropped = sorted(world.records(), key=lambda record: record["status"])
    assert [complete["status"], dropped["status"]] == ["complete", "dropped"] and dropped["metrics"] == {}
    assert 750 <= dropped["dropped"]["step"] < 3000 and "of the front's 1 SAEs" in dropped["dropped"]["why"]
    assert f"dropped at step {dropped['dropped']['step']}: FVU" in err
    status.main(["--runs", str(world.runs)])
    assert "2 runs: 1 complete, 1 dropped" in capsys.readouterr().out
    assert [record["run_id"] for record in read_records(world.runs)] == [complete["run_id"]]
    assert "1 dropped run(s) left out" in capsys.readouterr().err

    code, _, err = world.sweep("train.lr=1e-6", *long)
    assert code == 0, err
    (resumed,) = (record for record in world.records() if record["run_id"] == dropped["run_id"])
    other = World(tmp_path / "other", None, None)
    other.common = [a.replace(str(world.runs), str(other.runs)) for a in world.common]
    assert other.sweep("train.lr=1e-6", *long)[0] == 0
    (undisturbed,) = other.records()
    assert resumed["status"] == "complete" and resumed["weights_sha256"] == undisturbed["weights_sha256"]
    assert resumed["curves"] == undisturbed["curves"]


def test_a_pruned_search_that_is_killed_is_finished_by_the_same_command(world):
    storage, long = f"{world.folder}/study.journal", ["train.steps=3000", "train.lr_final=0", "d=5"]
    pruner = ["hydra.sweeper.sampler=grid", "hydra.sweeper.pruner=frontier", "hydra.sweeper.batch=1"]
    command = ask(storage, "null", "train.lr=3e-3,1e-6,2e-6,3.1e-3", *long, *pruner)
    disturb(world, 2, signal.SIGKILL, *command)
    code, out, err = world.sweep(*command)
    assert code == 0 and "4 trials complete, 2 of them dropped" in out, err
    states = {record["spec"]["train"]["lr"]: record["status"] for record in world.records()}
    assert states == {3e-3: "complete", 1e-6: "dropped", 2e-6: "dropped", 3.1e-3: "complete"}


def test_arms_and_encoders_are_searched_by_their_meaning_too(world):
    """A combination that no run can have, such as a trained encoder and a pursuit, is left out with the reason."""
    storage = f"{world.folder}/study.journal"
    space = ["sae=expander,dense_tied,dense_randinit", "sae.encoder=topk,mp_refit", "d=5"]
    aims = "hydra.sweeper.objectives=[stored_bytes,ce_recovered,probing/code/encoder/best_2]"
    settings = ["eval.probing=[code]", "hydra.sweeper.sampler=grid", aims]
    code, out, err = world.sweep(*ask(storage, "null", *space, *settings))
    assert code == 0, err
    rows = list(csv.DictReader((world.runs / "studies" / "frontier" / "trials.csv").read_text().splitlines()))
    meaning = {row["arm"]: float(row["probing/code/encoder/best_2"]) for row in rows if row["state"] == "complete"}
    assert {"expander", "expander+mp_refit", "dense_tied", "dense_tied+mp_refit", "dense_randinit"} <= meaning.keys()
    assert all(0.3 < value <= 1 for value in meaning.values())
    study = optuna.load_study(study_name="frontier", storage=open_storage(str(storage)))
    front = {trial.user_attrs["run_id"] for trial in study.best_trials}
    kept = csv.DictReader((world.runs / "studies" / "frontier" / "pareto.csv").read_text().splitlines())
    assert {row["run_id"] for row in kept} == front
    assert "left out: sae.encoder=mp_refit must be topk or batch_topk" in out


def test_the_known_features_of_a_synthetic_model_are_an_objective(tmp_path):
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    small = [argument for argument in SYNTHETIC if not argument.startswith("d=")]
    command = ["-m", "hydra/sweeper=optuna_frontier", "hydra.sweeper.n_trials=2", "d=interval(3,9)", *small, *places]
    refused = call("sweep", *command, code=1)
    assert "model=synthetic has no LM, and so no ce_recovered to search" in refused.stderr
    done = call("sweep", *command, "hydra.sweeper.objectives=[stored_bytes,fvu,feature_f1]")
    assert "2 of 2 trials complete" in done.stdout
    rows = list(csv.DictReader((tmp_path / "runs" / "studies" / "frontier" / "trials.csv").read_text().splitlines()))
    records = {record["run_id"]: record["metrics"] for _, record in iterate_records(tmp_path / "runs")}
    assert {row["run_id"]: float(row["feature_f1"]) for row in rows} == {
        run_id: metrics["feature_f1"] for run_id, metrics in records.items()
    }


def disturb(world, records, signal_, *arguments):
    """Start a search, and send it and its workers a signal when so many runs are recorded and the next one trains."""
    process = world.start(*arguments)
    while len(world.records()) < records or not list(world.runs.glob("*/progress.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.1)
    os.killpg(process.pid, signal_)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if signal_ == signal.SIGINT else -signal_)
    return out, err


def test_two_controllers_do_the_trials_asked_for_together(world):
    storage = f"sqlite:///{world.folder}/study.db"
    processes = [world.start(*ask(storage, 6, *SPACE, "hydra.sweeper.sampler=random")) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(completed(storage)) == 6 == len(world.records())
    assert all("6 of 6 trials complete" in out for out, _ in outputs)


BAD_INPUT = [
    (["d=3"], "nothing to search"),
    (["d=3,4", "tree=1"], "unknown key tree"),
    (["d=3,4", "hydra.sweeper.storage=study"], "hydra.sweeper.storage=study is no storage"),
]


@pytest.mark.parametrize("arguments, message", BAD_INPUT)
def test_bad_input_is_one_line_at_once(world, arguments, message):
    code, out, err = world.sweep("-m", "hydra/sweeper=optuna_frontier", *arguments)
    assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert world.records() == []


BOTH = ["stored_bytes", "ce_recovered"]
BAD_SETTINGS = [
    ({"n_trials": 0}, "hydra.sweeper.n_trials=0 must be at least 1"),
    ({"n_trials": 2.5}, "hydra.sweeper.n_trials=2.5 must be a whole number"),
    ({"n_trials": None}, "for hydra.sweeper.sampler=grid"),
    ({"sampler": "best"}, "hydra.sweeper.sampler=best is unknown: choose from tpe, nsga2, gp, random, grid"),
    ({"pruner": "median"}, "needs one objective"),
    ({"pruner": "axe", "budget_bytes": 1}, "choose from frontier, median, percentile, hyperband, successive_halving"),
    ({"pruner": "frontier", "objectives": ["stored_bytes", "probing/code/encoder/best_5"]}, "foretells no other"),
    ({"pruner": "frontier", "budget_bytes": 1000}, "needs stored_bytes as a second objective beside ce_recovered"),
    ({"pruner": "frontier", "objectives": [*BOTH, "probing/code/encoder/best_5"]}, "foretells no other"),
    (
        {"pruner": "median", "objectives": ["probing/code/encoder/best_5"]},
        "needs one objective, a measure of what is pre",
    ),
    ({"objectives": []}, r"hydra.sweeper.objectives=\[\] must name at least one"),
    ({"objectives": ["beauty"]}, "hydra.sweeper.objectives: beauty is unknown: choose from stored_bytes"),
    ({"objectives": ["probing/code/encoder/best_3"]}, "probes are of 1, 2, 5 latents"),
    ({"objectives": ["probing/code/guess/best_5"]}, "guess is no inference"),
    ({"prune_share": 1.1}, "hydra.sweeper.prune_share=1.1 must be in 0..1"),
    ({"prune_margin": -0.1}, "hydra.sweeper.prune_margin=-0.1 must be in 0..1"),
    ({"prune_after": 0.2}, "hydra.sweeper.prune_after=0.2 must be in 0.25..1"),
    ({"study_name": "a/b"}, "hydra.sweeper.study_name=a/b"),
    ({"study_name": ""}, "hydra.sweeper.study_name="),
    ({"inference": "guess"}, "guess is no inference"),
    ({"batch": 0}, "hydra.sweeper.batch=0"),
    ({"budget_bytes": 0}, "budget_bytes=0"),
    ({"seed": -1}, "hydra.sweeper.seed=-1"),
]


@pytest.mark.parametrize("settings, message", BAD_SETTINGS)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        search_config(settings)
    assert "\n" not in str(caught.value)


def test_a_budget_may_be_written_with_an_exponent():
    assert search_config({"budget_bytes": 1e6}).budget_bytes == 1_000_000


BAD_STORAGES = [
    ("study", "is no storage"),
    ("study.db", "is no storage"),
    ("nosuch:///x.db", "is no storage"),
    ("sqlite:////dev/null/x.db", "/dev/null"),
    ("/dev/null/x.journal", "/dev/null"),
    ("postgresql+psycopg://me:secret@127.0.0.1:1/db", r"me:\*\*\*@127.0.0.1:1/db: connection failed"),
]


@pytest.mark.parametrize("url, message", BAD_STORAGES)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(url, message, monkeypatch):
    monkeypatch.setattr(keeping, "RETRY_SECONDS", 0.3)
    with pytest.raises(StorageError, match=message) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_storage_in_trouble_is_tried_again_for_a_while(tmp_path):
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/study.db"))
    moved = tmp_path / "moved"

    def back():
        (tmp_path / "study.db").rmdir()
        os.rename(moved, tmp_path / "study.db")

    os.rename(tmp_path / "study.db", moved)
    (tmp_path / "study.db").mkdir()  # a folder, which cannot be opened as a database
    database = storage_of(study)._storage._backend  # within our Patient and Optuna's cache
    database.engine.dispose()
    threading.Timer(0.7, back).start()
    study.ask()
    assert len(study.get_trials()) == 1


def test_an_append_cut_short_does_not_spoil_a_journal(tmp_path):
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(str(path)), study_name="s")
    study.tell(study.ask(), 1.0)
    with open(path, "a") as stream:
        stream.write('{"op_code": 4, "worker')
    study = optuna.load_study(storage=open_storage(str(path)), study_name="s")
    study.tell(study.ask(), 2.0)
    again = optuna.load_study(storage=open_storage(str(path)), study_name="s")
    assert [trial.value for trial in again.trials] == [1, 2]


def test_a_damaged_journal_is_one_line(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("no json\n\n{}\n")
    with pytest.raises(StorageError, match="damaged"):
        optuna.create_study(storage=open_storage(str(path)), study_name="s")


def test_optuna_is_not_loaded_without_a_search():
    modules = "hydra_plugins.sae_sweeper.optuna_frontier, hydra_plugins.sae_sweeper.grid, sweep.launch"
    code = f"import sys, {modules}; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def assert_dashboard_opens(storage, trials):
    """Check that optuna-dashboard serves the study and its trials."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(storage), "--port", str(port), "--quiet"]
    dashboard = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        studies = _get(f"http://127.0.0.1:{port}/api/studies", dashboard)["study_summaries"]
        (study,) = [study for study in studies if study["study_name"] == "frontier"]
        found = _get(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}", dashboard)["trials"]
        done = [trial for trial in found if trial["state"] == "Complete"]
        assert len(done) == trials and all("run_id" in {mark["key"] for mark in trial["user_attrs"]} for trial in done)
    finally:
        dashboard.terminate()
        dashboard.wait()


def _get(url, process, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, "optuna-dashboard ended"
        try:
            return json.load(urllib.request.urlopen(url, timeout=20))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
