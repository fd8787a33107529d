"""Searches from the first trial to the files that they leave; training is a formula (`tests.sweep.study.searching`)."""

from __future__ import annotations

import csv

import pytest
from optuna.trial import TrialState

from sweep.store.records import read_record
from sweep.study import search as searching
from sweep.study.cells import check_base
from sweep.study.config import SearchConfig
from sweep.study.front import pareto_set
from sweep.study.opening import StudyError
from sweep.study.report import PARETO, TRIALS, write_results
from sweep.study.samplers import PATIENCE, SAMPLERS
from sweep.study.search import LEAST_FAILURES, SearchError
from sweep.study.space import SpaceError, cell_of, space_from
from tests.sweep.study.searching import SPACE, _composer, completed, settle, with_another_store


@pytest.mark.parametrize(
    "sampler, first, target", [("tpe", 12, 13), ("nsga2", 21, 23), ("gp", 10, 11), ("random", 2, 3)]
)
def test_a_target_reached_in_two_launches_is_the_one_of_a_single_launch(bench, sampler, first, target, tmp_path):
    """The second launch, with nothing but the storage to go by, takes each sampler past its random start."""
    settings = {"sampler": sampler, "seed": 3}
    straight = with_another_store(bench, "straight").done(*SPACE, n_trials=target, **settings)
    kept = {"storage": f"{tmp_path}/study.journal", **settings}
    assert len(completed(bench.done(*SPACE, n_trials=first, **kept))) == first
    resumed = bench.done(*SPACE, n_trials=target, **kept)
    assert len(resumed) == target and completed(resumed) == completed(straight)
    at_random = with_another_store(bench, "chance").done(*SPACE, n_trials=target, seed=3, sampler="random")
    assert (completed(at_random)[-1] == completed(straight)[-1]) == (sampler == "random")
    assert len(bench.done(*SPACE, n_trials=target, **kept)) == target


def test_there_is_a_test_for_every_sampler():
    assert set(SAMPLERS) == {"tpe", "nsga2", "gp", "random"}


def test_a_search_begins_with_the_cells_that_are_given_and_goes_on_with_the_samplers(bench):
    given = ("d=19 train.lr=0.001", "d=3")
    trials = bench.done(*SPACE, n_trials=4, first=given, seed=3)
    assert trials[0].params == {"d": 19, "train.lr": 0.001} and trials[1].params["d"] == 3
    drawn = completed(bench.done(*SPACE, n_trials=4, seed=3, study_name="drawn"))
    assert [trial.params for trial in trials[2:]] == [params for params, _ in drawn[2:]]
    again = bench.done(*SPACE, n_trials=1, first=("d=7",), sampler="random", study_name="one")
    assert again[0].params["d"] == 7


@pytest.mark.parametrize(
    "space, cell, said",
    [
        (["d=3,7"], "k=4", "k=4 is of no key that is searched: d"),
        (["d=3,7"], "d=4", "d=4 is not among 3,7"),
        (["d=interval(2,30)"], "d=31", r"d=31 is not among interval\(2,30\)"),
        (["d=interval(2,30)"], "d=x", "d=x is not among"),
        (["d=range(3,61,step=3)"], "d=4", r"d=4 is not among 3,6,\.\.\.,60"),
        (["train.lr=tag(log,interval(1e-4,1e-2))"], "train.lr=1", "train.lr=1 is not among"),
    ],
)
def test_a_given_cell_must_be_one_that_is_searched(space, cell, said):
    with pytest.raises(SpaceError, match=said):
        cell_of(space_from({}, space), cell)


def test_a_given_cell_is_read_as_the_space_has_it():
    space = space_from({}, ["sae=expander,dynamic", "n=8m,64", "d=range(3,61,step=2)", "train.lr=1e-3,2e-3"])
    assert cell_of(space, "sae=dynamic n=64 d=7 train.lr=0.002") == {
        "sae": "dynamic",
        "n": 64,
        "d": 7,
        "train.lr": 0.002,
    }


def test_another_seed_draws_other_values(bench):
    one = completed(bench.done(*SPACE, n_trials=3, seed=0))
    assert completed(bench.done(*SPACE, n_trials=3, seed=0)) == one
    assert completed(bench.done(*SPACE, n_trials=3, seed=1)) != one


def test_a_trial_names_its_run_and_the_sizes_and_scores_of_it(bench):
    (trial,) = bench.done("d=3,7", n_trials=1)
    marks, record = trial.user_attrs, read_record(bench.runs, trial.user_attrs["run_id"])
    assert record is not None and trial.values == [marks["stored_bytes"], marks["ce_recovered"]]
    assert marks["d"] == trial.params["d"] == record["axes"]["d"]
    assert {"arm": "expander", "k": 4, "n": 64, "layer": 1, "seed": 0, "draw": 0}.items() <= marks.items()
    assert marks["learned_decoder_values"] == 64 * marks["d"] and marks["seconds"] == 0.1


def test_a_run_that_the_run_store_has_is_not_trained_again(bench):
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
def test_a_sampler_that_repeats_impossible_values_gives_way_to_chance(bench, sampler, n_trials):
    """A Gaussian process would propose such values for ever, because it learns nothing from failed trials."""
    trials = bench.done("d=interval(2,33)", "k=4,40", n_trials=n_trials, sampler=sampler, budget_bytes=4000)
    assert len(completed(trials)) == n_trials
    longest = max(len(run) for run in "".join("x" if "reason" in t.user_attrs else " " for t in trials).split(" "))
    assert longest < 20 * PATIENCE


def test_no_sae_over_the_byte_budget_is_trained(bench):
    trials = bench.done("d=interval(2,30)", n_trials=4, budget_bytes=3000)
    assert all(len(trial.values) == 1 for trial in trials if trial.values)
    assert "larger than budget_bytes=3,000" in next(t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs)
    assert all(t.params["d"] < 10 for t in trials if t.state == TrialState.COMPLETE)


def test_a_space_in_which_all_values_are_impossible_ends_the_search(bench, monkeypatch):
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


def test_trials_that_differ_only_in_what_is_measured_are_one_run_with_all_of_it(bench):
    asked = []

    def train(runs, shown, total):
        asked.extend(run.job.spec.eval.inference for run in runs)
        return bench.train(runs, shown, total)

    wishes = {"n_trials": None, "sampler": "grid", "batch": 9, "train": train}
    trials = bench.done("eval.inference=[omp],[topk]", "d=2,3,4,5", **wishes)
    assert len(completed(trials)) == 8 and len(bench.launched) == 4
    assert [sorted(names) for names in asked] == [["encoder", "omp", "topk"]] * 4


@pytest.mark.parametrize("searched", ["backend=reference,torch_gather", "runs_dir=a,b", "launch.workers=1,2"])
def test_a_setting_that_changes_no_result_is_not_searched(bench, searched):
    loader, compose = _composer()
    space = space_from({}, [*bench.fixed, "d=2,3", searched], loader)
    with pytest.raises(SpaceError, match=f"^{searched} cannot be searched"):
        check_base(SearchConfig(), space, compose(space.fixed))


def test_a_grid_may_stop_at_a_number(bench):
    assert len(bench.done("d=2,3,4,5", n_trials=3, sampler="grid")) == 3


OTHER_SEARCHES = [
    (("d=3,7",), {}, "d was searched in 3,7,15 and now in 3,7"),
    (("d=3,7,15", "k=4,5"), {}, "k is searched now and was not"),
    (("d=3,7,15",), {"budget_bytes": 5000}, "objectives was stored_bytes,ce_recovered and is ce_recovered .and 1 more"),
    (("d=3,7,15", "train.steps=200"), {}, "train.steps was 100 and is 200"),
    (("d=3,7,15",), {"inference": "topk"}, "inference was encoder and is topk"),
]


@pytest.mark.parametrize("arguments, settings, message", OTHER_SEARCHES)
def test_another_search_by_a_studys_name_is_refused(bench, tmp_path, arguments, settings, message):
    kept = {"storage": f"{tmp_path}/study.journal", "n_trials": 1}
    bench.done("d=3,7,15", **kept)
    with pytest.raises(StudyError, match=message):
        bench.done(*arguments, **kept, **settings)


def test_a_study_goes_on_with_wider_bounds_and_other_settings_that_change_no_result(bench, tmp_path):
    kept = {"storage": f"{tmp_path}/study.journal"}
    bench.done("d=interval(2,5)", n_trials=2, **kept)
    trials = bench.done("d=interval(2,9)", "eval.inference=[topk]", "device=cpu", n_trials=12, **kept)
    assert len(completed(trials)) == 12 and max(trial.params["d"] for trial in trials) > 5


# The files and the table that a search leaves.


def test_the_pareto_set_has_each_run_once_that_no_other_betters(bench):
    with bench.search("d=2,5,9,9", "k=4,8", n_trials=14, sampler="random") as to_do:
        searching.search(to_do)
        trials = to_do.asking.study.get_trials()
        best = pareto_set(trials, to_do.asking.config)
        runs = {t.user_attrs["run_id"]: t for t in trials}.values()
        for trial in best:
            assert not any(betters(other.values, trial.values) for other in runs)
        assert [t.user_attrs["d"] for t in best] == sorted({t.user_attrs["d"] for t in trials})
        assert {t.user_attrs["k"] for t in best} == {4}
        write_results(to_do.folder, trials, list(to_do.asking.space.distributions), to_do.asking.config)
        rows, every = (
            list(csv.DictReader((to_do.folder / name).read_text().splitlines())) for name in (PARETO, TRIALS)
        )
    sizes, scores = ["stored_bytes", "learned_decoder_values"], ["ce_recovered", "delta_ce"]
    assert list(rows[0]) == ["run_id", "trial", "arm", "d", "k", "n", "layer", "seed", *sizes, *scores]
    assert len(every) == len(trials) and {row["run_id"] for row in rows} <= {row["run_id"] for row in every}


def betters(one, other):
    """Tell whether (bytes, CE recovered) `one` is no worse than `other` in both, and better in one."""
    return one[0] <= other[0] and one[1] > other[1] or one[0] < other[0] and one[1] >= other[1]


def test_optunas_own_pareto_front_is_ours(bench):
    with bench.search(*SPACE, n_trials=20, sampler="random") as to_do:
        searching.search(to_do)
        front = {trial.number for trial in to_do.asking.study.best_trials}
        trials = to_do.asking.study.get_trials()
        assert {trial.number for trial in pareto_set(trials, to_do.asking.config)} == front
