"""Searches whose training is a formula (`tests.sweep.study.searching`): what is asked, told, counted, freed, left behind."""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
from optuna.trial import TrialState

from sweep.store.records import CURVE, read_record, run_folder, stop_file
from sweep.study import pruning
from sweep.study import search as searching
from sweep.study import storage as keeping
from sweep.study.controller import Owner, controller
from sweep.study.opening import StudyError
from sweep.study.report import PARETO, TRIALS, pareto_set, print_results, write_results
from sweep.study.samplers import PATIENCE, SAMPLERS
from sweep.study.search import LEAST_FAILURES, SearchError
from tests.sweep.study.searching import Bench, completed, settle, slowly

SPACE = ("d=interval(2,30)", "train.lr=tag(log,interval(1e-4,1e-2))")
fork = multiprocessing.get_context("fork")


@pytest.fixture
def bench(tmp_path, model_folders, text_file):
    return Bench(tmp_path, model_folders["gpt_neox"], text_file)


def other(bench, name):
    """A bench of the same settings and another run store."""
    model, text = (next(a.split("=")[1] for a in bench.fixed if a.startswith(k)) for k in ("model.path", "corpus.path"))
    return Bench(bench.folder / name, model, text)


@pytest.fixture
def storage(tmp_path):
    return f"{tmp_path}/study.journal"


@pytest.fixture(params=["journal", "sqlite"])
def each_storage(request, tmp_path):
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"{tmp_path}/study.journal"


@pytest.mark.parametrize(
    "sampler, first, target", [("tpe", 12, 13), ("nsga2", 21, 23), ("gp", 10, 11), ("random", 2, 3)]
)
def test_a_target_reached_in_two_launches_is_the_one_of_a_single_launch(bench, sampler, first, target, tmp_path):
    """Each sampler past its random start, the second time with nothing but the storage to go by."""
    settings = {"sampler": sampler, "seed": 3}
    straight = other(bench, "straight").done(*SPACE, n_trials=target, **settings)
    kept = {"storage": f"{tmp_path}/study.journal", **settings}
    assert len(completed(bench.done(*SPACE, n_trials=first, **kept))) == first
    resumed = bench.done(*SPACE, n_trials=target, **kept)
    assert len(resumed) == target and completed(resumed) == completed(straight)
    at_random = other(bench, "chance").done(*SPACE, n_trials=target, seed=3, sampler="random")
    assert (completed(at_random)[-1] == completed(straight)[-1]) == (sampler == "random")
    assert len(bench.done(*SPACE, n_trials=target, **kept)) == target


def test_there_is_a_test_for_every_sampler():
    assert set(SAMPLERS) == {"tpe", "nsga2", "gp", "random"}


def test_another_seed_draws_others(bench):
    one = completed(bench.done(*SPACE, n_trials=3, seed=0))
    assert completed(bench.done(*SPACE, n_trials=3, seed=0)) == one
    assert completed(bench.done(*SPACE, n_trials=3, seed=1)) != one


def test_trials_carry_their_run_and_what_it_stores_and_keeps(bench):
    (trial,) = bench.done("d=3,7", n_trials=1)
    marks, record = trial.user_attrs, read_record(bench.runs, trial.user_attrs["run_id"])
    assert record is not None and trial.values == [marks["stored_bytes"], marks["ce_recovered"]]
    assert marks["d"] == trial.params["d"] == record["axes"]["d"]
    assert {"arm": "expander", "k": 4, "n": 64, "layer": 1, "seed": 0, "draw": 0}.items() <= marks.items()
    assert marks["learned_decoder_values"] == 64 * marks["d"] and marks["seconds"] == 0.1


def test_what_the_run_store_has_is_not_trained_again(bench):
    first = bench.done(*SPACE, n_trials=5)
    assert len(bench.launched) == 5
    second = bench.done(*SPACE, n_trials=5)
    assert len(bench.launched) == 5 and completed(first) == completed(second)
    assert all(trial.user_attrs["from_store"] for trial in second)


def test_a_failed_run_is_a_failed_trial_and_the_study_goes_on(bench):
    def train(runs, shown, total):
        for run in runs:
            settle(run, "here", "no luck" if len(bench.launched) == 1 else None)
            bench.launched.append(run.job.spec.run_id)
        return {}

    trials = bench.done(*SPACE, n_trials=4, train=train)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["error"] == "no luck"


def test_a_run_that_left_no_record_says_why_though_an_older_record_is_there(bench):
    def train(runs, shown, total):
        settle(runs[0], "before", "long ago")
        return {runs[0].job.spec.run_id: "its worker was lost"}

    with pytest.raises(
        SearchError, match=f"{LEAST_FAILURES} runs failed in this launch, the last: its worker was lost"
    ):
        bench.done(*SPACE, n_trials=4, train=train)


def test_impossible_values_are_left_out_and_do_not_count(bench):
    trials = bench.done("d=interval(2,60)", "k=4,40", n_trials=6)
    assert len(completed(trials)) == len(bench.launched) == 6
    reasons = {trial.user_attrs["reason"].split("=")[0] for trial in trials if trial.state == TrialState.FAIL}
    assert reasons == {"d", "n"}  # d > m, and n <= 2k
    assert all(t.params["d"] <= 32 and t.params["k"] == 4 for t in trials if t.state == TrialState.COMPLETE)


@pytest.mark.parametrize("sampler, n_trials", [("gp", 11), ("tpe", 12)])
def test_a_sampler_that_insists_on_impossible_values_is_helped_out(bench, sampler, n_trials):
    """A Gaussian process would propose one of them for ever: what failed tells it nothing."""
    trials = bench.done("d=interval(2,33)", "k=4,40", n_trials=n_trials, sampler=sampler, budget_bytes=4000)
    assert len(completed(trials)) == n_trials
    longest = max(len(run) for run in "".join("x" if "reason" in t.user_attrs else " " for t in trials).split(" "))
    assert longest < 20 * PATIENCE


def test_over_a_byte_budget_nothing_is_trained(bench):
    trials = bench.done("d=interval(2,30)", n_trials=4, budget_bytes=3000)
    assert all(len(trial.values) == 1 for trial in trials if trial.values)
    assert "larger than budget_bytes=3,000" in next(t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs)
    assert all(t.params["d"] < 10 for t in trials if t.state == TrialState.COMPLETE)


def test_a_space_with_nothing_possible_ends_in_one_line(bench, monkeypatch):
    monkeypatch.setattr(searching, "IMPOSSIBLE_IN_A_ROW", 7)
    with pytest.raises(SearchError, match=r"7 trials in a row were impossible, the last: d=\d+ must be in 1..32"):
        bench.done("d=interval(40,60)", n_trials=2)
    assert bench.launched == []


def test_a_wrong_setting_ends_the_search_and_is_no_trial(bench, tmp_path):
    kept = {"storage": f"{tmp_path}/study.journal"}
    with pytest.raises(ValueError, match="model.path=/nowhere"):
        bench.done("d=2,3", "model.path=/nowhere", n_trials=2, **kept)


def test_a_grid_is_every_combination_once_and_failed_ones_again_in_the_next_launch(bench, tmp_path):
    kept = {"storage": f"{tmp_path}/study.journal", "sampler": "grid"}

    def train(runs, shown, total):
        for run in runs:
            settle(run, "here", "no luck" if run.job.axes["d"] == 3 else None)
        return {}

    trials = bench.done("d=2,3,40", "seed=range(0,2)", n_trials=None, train=train, **kept)
    assert [(t.params["d"], t.params["seed"]) for t in trials] == [(d, s) for d in (2, 3, 40) for s in (0, 1)]
    assert [t.state.name for t in trials] == ["COMPLETE"] * 2 + ["FAIL"] * 4
    again = bench.done("d=2,3,40", "seed=range(0,2)", n_trials=None, **kept)[6:]
    assert [(t.params["d"], t.state.name) for t in again] == [(3, "COMPLETE")] * 2
    assert len(bench.done("d=2,3,40", "seed=range(0,2)", n_trials=None, **kept)) == 8


def test_a_grid_trains_combinations_that_are_one_run_once(bench):
    trials = bench.done("sae=expander,dense_tied", "d=2,3,4", n_trials=None, sampler="grid", batch=6)
    assert len(completed(trials)) == 6 and len(bench.launched) == 4


def test_a_grid_may_stop_at_a_number(bench):
    assert len(bench.done("d=2,3,4,5", n_trials=3, sampler="grid")) == 3


@pytest.mark.parametrize("arguments, settings, message", [
    (("d=3,7",), {}, "d was searched in 3,7,15 and now in 3,7"),
    (("d=3,7,15", "k=4,5"), {}, "k is searched now and was not"),
    (("d=3,7,15",), {"budget_bytes": 5000}, "objectives was stored_bytes,ce_recovered and is ce_recovered .and 1 more"),
    (("d=3,7,15", "train.steps=200"), {}, "train.steps was 100 and is 200"),
    (("d=3,7,15",), {"inference": "topk"}, "inference was encoder and is topk"),
])  # fmt: skip
def test_another_search_by_a_studys_name_is_refused(bench, tmp_path, arguments, settings, message):
    kept = {"storage": f"{tmp_path}/study.journal", "n_trials": 1}
    bench.done("d=3,7,15", **kept)
    with pytest.raises(StudyError, match=message):
        bench.done(*arguments, **kept, **settings)


def test_bounds_may_grow_and_what_changes_no_result_may_change(bench, tmp_path):
    kept = {"storage": f"{tmp_path}/study.journal"}
    bench.done("d=interval(2,5)", n_trials=2, **kept)
    trials = bench.done("d=interval(2,9)", "eval.inference=[topk]", "device=cpu", n_trials=12, **kept)
    assert len(completed(trials)) == 12 and max(trial.params["d"] for trial in trials) > 5


# Controllers that die, live, or are not ours.


def killed(bench, call, *arguments, **settings):
    """Search in a process of its own that ends by SIGKILL at its so many-th call of the storage, before or after it."""

    def search_until_killed():
        calls, patiently = itertools.count(), keeping._patiently

        def counting(url, action):
            number = next(calls)
            if number != call:
                return patiently(url, action)
            if call % 2:
                patiently(url, action)
            os.kill(os.getpid(), signal.SIGKILL)

        keeping._patiently = counting
        bench.done(*arguments, **settings)

    process = fork.Process(target=search_until_killed)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _search_and_exit(bench, arguments, settings):
    try:
        bench.done(*arguments, train=slowly(bench, 0.01), **settings)
    finally:
        os._exit(0)


def test_killed_anywhere_again_and_again_it_ends_as_if_undisturbed(bench, each_storage):
    target, kills = (6, 3) if "sqlite" in each_storage else (12, 6)  # past TPE's random start
    settings = {"n_trials": target, "seed": 1}
    undisturbed = other(bench, "straight").done(*SPACE, **settings)
    settings["storage"], rng = each_storage, random.Random(0)
    assert sum(killed(bench, rng.randint(10, 120), *SPACE, **settings) for _ in range(kills)) >= kills / 2
    trials = bench.done(*SPACE, **settings)
    assert completed(trials) == completed(undisturbed)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert any("retry_of" in trial.user_attrs for trial in trials)


@pytest.mark.parametrize("after", ["enqueue", "ask", "mark", "train"])
def test_killed_at_each_point_of_asking_no_draw_is_lost(bench, storage, after, monkeypatch):
    """As above, at the points between which a trial changes hands."""
    undisturbed = other(bench, "straight").done(*SPACE, n_trials=3)
    bench.done(*SPACE, n_trials=1, storage=storage)
    with pytest.raises(KeyboardInterrupt), bench.search(*SPACE, n_trials=3, storage=storage) as to_do:
        study = to_do.asking.study

        def dies(*args, **kwargs):
            raise KeyboardInterrupt

        # A dead process releases nothing.
        monkeypatch.setattr(searching, "release", lambda *args: True)
        if after == "enqueue":
            monkeypatch.setattr(study, "ask", dies)
        elif after == "ask":
            monkeypatch.setattr(to_do.cells.__class__, "planned", dies)
        elif after == "mark":
            monkeypatch.setattr(searching, "preflight", dies)
        else:
            object.__setattr__(to_do, "launch", lambda *args: [bench.train(*args), dies()])
        searching.search(to_do)
    monkeypatch.undo()
    assert completed(bench.done(*SPACE, n_trials=3, storage=storage)) == completed(undisturbed)


def test_a_trial_half_drawn_is_drawn_again_whole(bench, storage, monkeypatch):
    undisturbed = other(bench, "straight").done(*SPACE, n_trials=2)
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        monkeypatch.setattr(searching, "release", lambda *args: True)  # a dead process releases nothing
        half = dict(list(to_do.asking.space.distributions.items())[:1])
        with pytest.raises(KeyError):  # `ask` gets one of two parameters, and planning wants both
            asking = to_do.asking._replace(space=to_do.asking.space._replace(distributions=half))
            searching.search(searching.Search(asking, to_do.cells, bench.train, 1))
    monkeypatch.undo()
    trials = bench.done(*SPACE, n_trials=2, storage=storage)
    assert completed(trials) == completed(undisturbed) and len(trials) == 3


def test_a_dead_controllers_finished_run_is_its_trials_result(bench, storage):
    with bench.search(*SPACE, n_trials=1, storage=storage) as to_do:
        batch = []
        searching._fill(to_do, batch)
        bench.train([asked.run for asked in batch], 0, None)
    (trial,) = bench.done(*SPACE, n_trials=1, storage=storage)
    assert trial.state == TrialState.COMPLETE and len(bench.launched) == 1


def test_a_dead_controllers_trial_is_freed_and_its_values_tried_again(bench, storage):
    with bench.search(*SPACE, n_trials=1, storage=storage) as to_do:
        searching._fill(to_do, [])
    dead, retry = bench.done(*SPACE, n_trials=1, storage=storage)
    assert dead.state == TrialState.FAIL and str(os.getpid()) in dead.user_attrs["freed"]
    assert retry.state == TrialState.COMPLETE and retry.params == dead.params
    assert retry.user_attrs["retry_of"] == 0 and retry.user_attrs["draw"] == dead.user_attrs["draw"]


def test_a_live_controllers_trial_is_left_alone_and_waited_for(bench, storage):
    with bench.search(*SPACE, n_trials=2, storage=storage) as theirs:
        batch = []
        searching._fill(theirs, batch)
        process = fork.Process(target=_search_and_exit, args=(bench, SPACE, {"n_trials": 2, "storage": storage}))
        process.start()
        process.join(2.5)
        trials = theirs.asking.study.get_trials()
        assert process.is_alive() and [t.state.name for t in trials] == ["RUNNING", "COMPLETE"]
    process.join(20)  # this controller is gone: the other takes its trial over
    trials = bench.done(*SPACE, n_trials=2, storage=storage)
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[0].params


def test_a_trial_of_another_run_store_is_left_alone_and_counted(bench, storage, capsys):
    far = other(bench, "far")
    with far.search(*SPACE, n_trials=2, storage=storage) as theirs:
        searching._fill(theirs, [])
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        searching.search(to_do)
        trials = to_do.asking.study.get_trials()
        assert [t.state.name for t in trials] == ["RUNNING", "COMPLETE"]
        assert to_do.asking.controller.owner(trials[0].user_attrs) == Owner.UNKNOWN
        print_results(to_do)
    assert "1 trial(s) of another run store count as running, the first 0 of" in capsys.readouterr().out


def test_of_two_stores_that_ask_at_once_the_later_trial_is_given_back(bench, storage):
    """Between run stores there is no lock: both count, then both ask."""
    far = other(bench, "far")
    with (
        far.search(*SPACE, n_trials=1, storage=storage) as theirs,
        bench.search(*SPACE, n_trials=1, storage=storage) as us,
    ):
        first = searching.next_trial(theirs.asking)
        second = searching.next_trial(us.asking)
        assert not searching.one_too_many(theirs.asking, first) and searching.one_too_many(us.asking, second)


def test_a_trial_drawn_twice_is_given_back(bench, storage):
    with bench.search("d=2,3", n_trials=9, storage=storage, batch=2) as theirs:
        batch = []
        searching._fill(theirs, batch)
        assert len(batch) == 2
        with controller(bench.runs) as own, bench.search("d=2,3", n_trials=9, storage=storage, as_=own) as us:
            mine = []
            searching._fill(us, mine)
            assert mine == []
            assert "is training it" in us.asking.study.get_trials()[-1].user_attrs["given_back"]


def test_two_controllers_do_the_trials_asked_for_together(bench, each_storage):
    settings = {"n_trials": 12, "storage": each_storage, "sampler": "random"}
    processes = [fork.Process(target=_search_and_exit, args=(bench, SPACE, settings)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    trials = bench.done(*SPACE, **settings)
    assert bench.launched == []  # all was done
    assert len(completed(trials)) == 12 and len(trials) == 12
    assert len({trial.user_attrs["owner"] for trial in trials}) == 2
    assert len({trial.user_attrs["draw"] for trial in trials}) == 12


def test_interrupted_trials_wait_for_the_next_controller(bench, storage):
    def train(runs, shown, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.done(*SPACE, n_trials=2, storage=storage, train=train, batch=2)
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        assert [t.state.name for t in to_do.asking.study.get_trials()] == ["FAIL", "FAIL", "WAITING", "WAITING"]
        assert len(list((bench.runs / "controllers").glob("*.lock"))) == 1  # our own
    assert len(completed(bench.done(*SPACE, n_trials=2, storage=storage))) == 2


def test_a_killed_holder_is_dead_and_a_living_one_is_not(tmp_path):
    with controller(tmp_path) as own:
        ready, done = fork.Event(), fork.Event()
        pipe, end = fork.Pipe()

        def hold():
            with controller(tmp_path) as theirs:
                end.send(theirs.marks)
                ready.set()
                done.wait(30)

        process = fork.Process(target=hold)
        process.start()
        ready.wait(10)
        marks = pipe.recv()
        assert own.owner(marks) == Owner.LIVE and own.owner(own.marks) == Owner.US
        assert own.owner({**marks, "store": "elsewhere"}) == own.owner({}) == Owner.UNKNOWN
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert own.owner(marks) == Owner.DEAD


# What is left behind.


def test_the_pareto_set_is_what_none_betters_each_run_once(bench):
    with bench.search("d=2,5,9,9", "k=4,8", n_trials=14, sampler="random") as to_do:
        searching.search(to_do)
        trials = to_do.asking.study.get_trials()
        best = pareto_set(trials)
        runs = {t.user_attrs["run_id"]: t for t in trials}.values()
        for trial in best:
            bytes_, ce = trial.values
            assert not any(o.values[0] <= bytes_ and o.values[1] > ce or o.values[0] < bytes_ and o.values[1] >= ce
                           for o in runs)  # fmt: skip
        assert [t.user_attrs["d"] for t in best] == sorted({t.user_attrs["d"] for t in trials})
        assert {t.user_attrs["k"] for t in best} == {4}
        write_results(to_do.folder, trials, list(to_do.asking.space.distributions), to_do.asking.config)
        rows, every = (
            list(csv.DictReader((to_do.folder / name).read_text().splitlines())) for name in (PARETO, TRIALS)
        )
    assert list(rows[0]) == ["run_id", "trial", "arm", "d", "k", "n", "layer", "seed", "stored_bytes",
                             "learned_decoder_values", "ce_recovered", "delta_ce"]  # fmt: skip
    assert len(every) == len(trials) and {row["run_id"] for row in rows} <= {row["run_id"] for row in every}


def test_optunas_own_pareto_front_is_ours(bench):
    with bench.search(*SPACE, n_trials=20, sampler="random") as to_do:
        searching.search(to_do)
        front = {trial.number for trial in to_do.asking.study.best_trials}
        assert {trial.number for trial in pareto_set(to_do.asking.study.get_trials())} == front


# Pruning.


def test_rungs_are_the_first_reports_at_or_after_each_tenth():
    curve = [(step, 1 / step) for step in range(50, 1001, 50)]
    assert list(pruning.rungs(curve, 1000)) == [(p, 1 / (10 * p)) for p in range(10, 101, 10)]
    # 120 steps report at 50, 100 and 120: tenths between two reports are one rung, the last of them.
    assert [percent for percent, _ in pruning.rungs([(50, 0.5), (100, 0.4), (120, 0.3)], 120)] == [40, 80, 100]
    resumed = [(50, 0.5), (100, 0.4), (50, 0.5), (100, 0.4), (120, 0.3)]
    assert [percent for percent, _ in pruning.rungs(resumed, 120)] == [40, 80, 100]


def test_a_curve_that_is_being_written_is_read_so_far(tmp_path):
    (tmp_path / CURVE).write_text('{"step": 50, "fvu": 0.5}\n{"step": 100, "fv')
    assert pruning.curve_of(tmp_path) == [(50, 0.5)] and pruning.curve_of(tmp_path / "no") == []


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband", "successive_halving"])
def test_a_bad_run_is_asked_to_stop_and_pruned(bench, pruner, monkeypatch):
    """FVU falls, and the study maximises: runs with small d are the bad ones, and they alone are stopped."""
    monkeypatch.setattr(pruning, "_INTERVAL", 0.03)
    stopped = []

    def train(runs, shown, total):
        for run in runs:
            job = run.job
            folder = run_folder(job.runs_dir, job.spec.run_id)
            folder.mkdir(parents=True, exist_ok=True)
            for step in range(10, 101, 10):
                with open(folder / CURVE, "a") as stream:
                    stream.write(json.dumps({"step": step, "fvu": 0.9 - 0.02 * job.axes["d"] - step / 1000}) + "\n")
                if step == 50:
                    time.sleep(8 * pruning._INTERVAL)
                if stop_file(folder, "here").exists():
                    stopped.append(job.axes["d"])
                    break
            else:
                settle(run, "here")
        return {}

    settings = {"n_trials": 11, "budget_bytes": 100_000, "pruner": pruner, "sampler": "grid"}
    trials = bench.done("d=14,13,12,11,10,9,3,2,15,16,17", train=train, **settings)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert stopped and sorted(stopped) == sorted(trial.params["d"] for trial in pruned)
    assert {2, 3} & set(stopped) and not {14, 15, 16, 17} & set(stopped)
    assert all(trial.value == trial.intermediate_values[trial.last_step] < 1 for trial in pruned)
    assert all(len(trial.intermediate_values) == 10 for trial in trials if trial.state == TrialState.COMPLETE)
    assert not list(bench.runs.glob("*/stop.*"))
