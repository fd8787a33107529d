"""Runs that a search ends early. Training is a formula (`tests.sweep.study.searching`) that reports a curve."""

from __future__ import annotations

import csv
import json
import math
import time

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from sweep.store.records import COMPLETE, CURVE, read_record, run_folder, stop_asked, stop_file
from sweep.study import curves, pruning
from sweep.study import search as searching
from sweep.study import trials as asking
from sweep.study.front import pareto_set
from sweep.study.report import TRIALS, print_results, write_results
from tests.sweep.study.searching import completed, settle, with_another_store

STEPS = range(10, 101, 10)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(pruning, "_INTERVAL", 0.02)


class Training:
    """Trains by a formula, reports a curve, and stops where it is asked to, as a worker does.

    Args:
        fvu: job, step -> FVU.
        pause: the step at which the controller is given time to look.
    """

    def __init__(self, fvu, pause=50):
        self.fvu, self.pause, self.stopped = fvu, pause, []

    def __call__(self, runs, shown, total):
        for run in runs:
            job = run.job
            folder = run_folder(job.runs_dir, job.spec.run_id)
            folder.mkdir(parents=True, exist_ok=True)
            curve = [(step, self.fvu(job, step)) for step in STEPS]
            for step, fvu in curve:
                with open(folder / CURVE, "a") as stream:
                    stream.write(json.dumps({"step": step, "fvu": fvu}) + "\n")
                if step == self.pause:
                    time.sleep(8 * pruning._INTERVAL)
                if (why := stop_asked(folder, "here")) is not None:
                    self.stopped.append(job.axes["d"])
                    settle(run, "here", stopped={"step": step, "why": why})
                    break
            else:
                settle(run, "here", curve=curve)
        return {}


def better_with_d(job, step):
    """A curve by which runs with small d have the larger FVU at each step."""
    return 0.9 - 0.02 * job.axes["d"] - step / 1000


# Curves.


def test_rungs_are_the_first_reports_at_or_after_each_tenth():
    curve = [(step, 1 / step) for step in range(50, 1001, 50)]
    assert list(curves.rungs(curve, 1000)) == [(p, 1 / (10 * p)) for p in range(10, 101, 10)]
    assert [p for p, _ in curves.rungs(curve, 1000, 20)] == list(range(5, 101, 5))
    # 120 steps report at 50, 100 and 120: tenths between two reports are one rung, the last of them.
    assert [percent for percent, _ in curves.rungs([(50, 0.5), (100, 0.4), (120, 0.3)], 120)] == [40, 80, 100]
    resumed = [(50, 0.5), (100, 0.4), (50, 0.5), (100, 0.4), (120, 0.3)]
    assert [percent for percent, _ in curves.rungs(resumed, 120)] == [40, 80, 100]


def test_a_curve_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    (tmp_path / CURVE).write_text('{"step": 50, "fvu": 0.5}\n{"step": 100, "fv')
    assert curves.curve_of(tmp_path) == [(50, 0.5)] and curves.curve_of(tmp_path / "no") == []


def test_a_request_to_stop_counts_once_its_reason_is_there(tmp_path):
    assert stop_asked(tmp_path, "here") is None
    stop_file(tmp_path, "here").touch()
    assert stop_asked(tmp_path, "here") is None
    stop_file(tmp_path, "here").write_text("why")
    assert stop_asked(tmp_path, "here") == "why" and stop_asked(tmp_path, "there") is None


def planned(bench, *arguments):
    with bench.search("d=2,3", *arguments) as to_do:
        return to_do.cells.planned({"d": 3}).job


ALIKE = [
    (["k=5"], True),
    (["n=32"], True),
    (["train.lr=1e-4"], True),
    (["seed=1"], True),
    (["sae=dense_tied"], True),
    (["train.steps=200"], False),
    (["train.batch_size=128"], False),
    (["layer=0"], False),
    (["sae=pruned_retuned"], False),  # it starts from a trained SAE
    (["sae=expander_few_bits"], False),
]


@pytest.mark.parametrize("change, same", ALIKE)
def test_curves_are_compared_after_as_many_tokens_of_the_same_activations(bench, change, same):
    assert (curves.alike(planned(bench)) == curves.alike(planned(bench, *change))) == same


def test_values_of_few_bits_are_compared_with_others_of_as_many(bench):
    two, four, later = (
        curves.alike(planned(bench, "sae=expander_few_bits", *more))
        for more in (["sae.bits=2"], ["sae.bits=4"], ["sae.bits=2", "sae.rounded_from=0.7"])
    )
    assert len({two, four, later}) == 3


# Optuna's pruners, for one objective.


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband", "successive_halving"])
def test_a_bad_run_is_asked_to_stop_and_dropped(bench, pruner):
    """Runs with small d are the bad ones, and they alone are stopped."""
    train = Training(better_with_d)
    settings = {"n_trials": 11, "budget_bytes": 100_000, "pruner": pruner, "sampler": "grid"}
    trials = bench.done("d=14,13,12,11,10,9,3,2,15,16,17", train=train, **settings)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert train.stopped and sorted(train.stopped) == sorted(trial.params["d"] for trial in pruned)
    assert {2, 3} & set(train.stopped) and not {14, 15, 16, 17} & set(train.stopped)
    assert all(trial.value == trial.intermediate_values[trial.last_step] < 1 for trial in pruned)
    assert all(f"by the pruner {pruner}" in trial.user_attrs["dropped"] for trial in pruned)
    assert all(len(trial.intermediate_values) == 10 for trial in trials if trial.state == TrialState.COMPLETE)
    assert not list(bench.runs.glob("*/stop.*"))


# The frontier's pruner, for two objectives.

GOOD, BAD = 1e-3, 1e-2  # learning rates: by the formula of the bench, CE recovered falls away from 1e-3
FRONTIER = {"pruner": "frontier", "sampler": "grid", "n_trials": None}
SPACE = ("d=2,6,20", f"train.lr={GOOD},{BAD}")


def worse_at_a_high_rate(job, step):
    """A curve by which larger d is a little better, and a learning rate of ten times the good one twice as bad."""
    return (0.9 - 0.005 * job.axes["d"] - step / 1000) * (4 + math.log10(job.spec.train.lr))


def test_runs_behind_the_front_at_their_size_are_dropped_and_small_ones_are_not(bench):
    """Each second run has the bad rate; that of the smallest size comes first and has nothing to be compared with."""
    train = Training(worse_at_a_high_rate)
    trials = bench.done("d=2,6,20", f"train.lr={BAD},{GOOD}", train=train, **FRONTIER)
    ended = [(t.params["d"], t.params["train.lr"], t.state) for t in trials]
    done, dropped = TrialState.COMPLETE, TrialState.PRUNED
    assert ended == [
        *((2, BAD, done), (2, GOOD, done)),
        *((6, BAD, dropped), (6, GOOD, done)),
        *((20, BAD, dropped), (20, GOOD, done)),
    ]
    for trial in trials:
        record = read_record(bench.runs, trial.user_attrs["run_id"])
        assert record is not None and (record["status"] == COMPLETE) == (trial.state == done)
        if trial.state == dropped:
            assert trial.values is None and trial.user_attrs["dropped"] == record["dropped"]["why"]
            assert trial.user_attrs["dropped_at"] == record["dropped"]["step"] >= 30
            assert "of the front's" in record["dropped"]["why"]
    assert not list(bench.runs.glob("*/stop.*"))


def test_the_front_is_that_of_the_search_without_a_pruner(bench):
    whole = with_another_store(bench, "whole")
    straight = whole.done(*SPACE, sampler="grid", n_trials=None)
    with bench.search(*SPACE, train=Training(worse_at_a_high_rate), **FRONTIER) as to_do:
        searching.search(to_do)
        pruned, config = to_do.asking.study.get_trials(), to_do.asking.config
    assert [t.params for t in pareto_set(pruned, config)] == [t.params for t in pareto_set(straight, config)]
    assert sum(t.state == TrialState.PRUNED for t in pruned) == 3


@pytest.mark.parametrize("setting", [{"prune_margin": 1}, {"prune_after": 0.6}])
def test_the_settings_reach_the_rule(bench, setting):
    """The bad rate's FVU is twice as large, and the controller looks at half of the training at the latest."""
    train = Training(worse_at_a_high_rate)
    bench.done(*SPACE, train=train, **FRONTIER, **setting)
    assert train.stopped == []


def test_without_a_pruner_nothing_is_dropped(bench):
    train = Training(worse_at_a_high_rate)
    trials = bench.done(*SPACE, train=train, sampler="grid", n_trials=None)
    assert train.stopped == [] and len(completed(trials)) == 6


def test_runs_of_one_batch_are_each_dropped_on_their_own(bench):
    bench.done("d=2,6,20", "train.lr=1e-3", train=Training(worse_at_a_high_rate), sampler="grid", n_trials=None)
    train = Training(worse_at_a_high_rate)
    trials = bench.done(*SPACE, train=train, batch=6, **FRONTIER)
    assert sorted(train.stopped) == [2, 6, 20]  # the good runs were in the run store, and are compared with
    assert sum(t.user_attrs.get("from_store", False) for t in trials) == 3


def test_runs_are_compared_with_those_of_another_run_store(bench, storage):
    settings = {**FRONTIER, "storage": storage}
    far = with_another_store(bench, "far")
    ended = far.done(*SPACE, train=Training(worse_at_a_high_rate), **{**settings, "n_trials": 3})
    assert [t.state.name for t in ended] == ["COMPLETE", "PRUNED", "COMPLETE"]
    train = Training(worse_at_a_high_rate)
    trials = bench.done(*SPACE, train=train, **settings)[3:]
    assert [(t.params["d"], t.params["train.lr"]) for t in trials] == [(6, BAD), (20, GOOD), (20, BAD)]
    assert train.stopped == [6, 20] and not list(bench.runs.glob(f"{ended[0].user_attrs['run_id']}/record.json"))


def test_a_run_that_another_of_the_batch_starts_from_is_not_dropped(bench):
    bench.done("d=2,6,20", "train.lr=1e-3", train=Training(worse_at_a_high_rate), sampler="grid", n_trials=None)
    train = Training(worse_at_a_high_rate)
    trials = bench.done(
        "sae=expander,dense_tied,pruned_retuned", "d=6", f"train.lr={GOOD},{BAD}", train=train, batch=6, **FRONTIER
    )
    ended = {(t.user_attrs["arm"], t.params["train.lr"]): t.state.name for t in trials}
    assert ended[("dense_tied", BAD)] == "COMPLETE" and ended[("expander", BAD)] == "PRUNED"


def test_a_dropped_run_that_is_drawn_again_is_not_trained_again(bench, storage):
    train = Training(worse_at_a_high_rate)
    settings = {"pruner": "frontier", "sampler": "random", "n_trials": 25, "storage": storage}
    trials = bench.done("d=6,20", f"train.lr={GOOD},2e-3,5e-3,{BAD}", train=train, **settings)
    dropped = [t for t in trials if t.state == TrialState.PRUNED]
    again = [t for t in dropped if t.user_attrs.get("from_store")]
    assert len(train.stopped) == len({t.user_attrs["run_id"] for t in dropped}) < len(dropped)
    assert len(dropped) == len(train.stopped) + len(again)
    del settings["pruner"]
    train = Training(worse_at_a_high_rate)
    trials = bench.done("d=6,20", f"train.lr={GOOD},2e-3,5e-3,{BAD}", train=train, **{**settings, "n_trials": 60})
    assert train.stopped == []
    assert {t.user_attrs["run_id"] for t in dropped} <= {t.user_attrs["run_id"] for t in trials[25:] if t.values}


def test_a_dead_controllers_dropped_run_is_its_trials_end(bench, storage):
    settings = {"n_trials": 1, "storage": storage, "pruner": "frontier"}
    with bench.search("d=2,3", **settings) as to_do:
        batch = []
        searching._fill(to_do, batch)
        settle(batch[0].run, "here", stopped={"step": 50, "why": "it was bad"})
    (trial,) = bench.done("d=2,3", **settings)
    assert trial.state == TrialState.PRUNED and trial.user_attrs["dropped"] == "it was bad" and bench.launched == []


def test_a_run_that_an_earlier_launch_dropped_is_no_end_of_a_dead_controllers_trial(bench, storage):
    settings = {"n_trials": 1, "storage": storage}
    with bench.search("d=2,3", **settings) as to_do:
        batch = []
        searching._fill(to_do, batch)
        settle(batch[0].run, "another launch", stopped={"step": 50, "why": "it was bad"})
    trials = bench.done("d=2,3", **settings)
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_every_sampler_goes_on_with_dropped_trials_in_its_study(bench, sampler):
    n_trials = 24 if sampler == "nsga2" else 14
    settings = {"pruner": "frontier", "sampler": sampler, "n_trials": n_trials, "train": Training(worse_at_a_high_rate)}
    trials = bench.done("d=interval(2,30)", f"train.lr=tag(log,interval({GOOD},0.1))", **settings)
    states = [trial.state for trial in trials]
    assert len(trials) == n_trials and TrialState.PRUNED in states and TrialState.COMPLETE in states


def test_values_that_are_drawn_again_and_again_after_their_run_was_dropped_give_way_to_chance(bench, monkeypatch):
    """A Gaussian process learns nothing from dropped trials, and could propose the same for ever."""
    asked = []
    monkeypatch.setattr(
        asking, "sampler_for", lambda name, seed, draw, in_vain: asked.append(in_vain) or RandomSampler(seed=0)
    )
    with bench.search("d=2,3", n_trials=9) as to_do:
        study = to_do.asking.study

        def ends(state, **marks):
            study.add_trial(create_trial(state=state, user_attrs=marks))

        ends(TrialState.PRUNED, dropped="bad", from_store=True)
        ends(TrialState.PRUNED, dropped="bad", from_store=True)
        ends(TrialState.PRUNED, dropped="bad")  # this one was trained
        asking.next_trial(to_do.asking)
        for marks in ({"dropped": "bad", "from_store": True}, {"dropped": "bad", "from_store": True}):
            ends(TrialState.PRUNED, **marks)
        ends(TrialState.FAIL, reason="d is too large")
        ends(TrialState.FAIL, freed="its controller died")
        asking.next_trial(to_do.asking)
    assert asked == [0, 3]


def test_dropped_trials_are_told_as_such_and_are_never_in_the_front(bench, capsys):
    with bench.search(*SPACE, train=Training(worse_at_a_high_rate), **FRONTIER) as to_do:
        searching.search(to_do)
        trials, config = to_do.asking.study.get_trials(), to_do.asking.config
        print_results(to_do)
        write_results(to_do.folder, trials, list(to_do.asking.space.distributions), config)
    assert "6 trials complete, 3 of them dropped" in capsys.readouterr().out
    rows = list(csv.DictReader((to_do.folder / TRIALS).read_text().splitlines()))
    told = {row["run_id"]: row for row in rows if row["state"] == "pruned"}
    assert len(told) == 3 and all("of the front's" in row["dropped"] and row["dropped_at"] for row in told.values())
    assert all(row["ce_recovered"] == "" for row in told.values())
    assert not told.keys() & {trial.user_attrs["run_id"] for trial in pareto_set(trials, config)}
