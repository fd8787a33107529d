"""Objectives by name: their directions, their values in records, and the front of two and of three of them."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import create_trial

from sweep.study.config import SearchConfig
from sweep.study.front import pareto_set
from sweep.study.objectives import UndefinedError, check_measured, direction, is_foretold, value_in

PROBED = "probing/code/encoder/best_5"
RECORD = {
    "storage": {"artifact_bytes": 1000, "learned_decoder_values": 200},
    "metrics": {"ce_recovered": 0.9, "ce_recovered_mean": None, "delta_ce": 0.2, "fvu": 0.3, "kl": math.nan},
    "inference": {"omp": {"metrics": {"ce_recovered": 0.95}}, "refit": {"error": "a singular matrix"}},
    "probing": {
        "code": {"readings": {"encoder": {"comment": {"5": [0.7, 0.9]}, "string": {"5": [0.6]}}}, "raw": {}},
        "texts": {"error": "no sets"},
    },
}
RECORD["metrics"] |= {"ce_clean": 2.0, "ce_zero": 9.0, "ce_mean": 2.01}


@pytest.mark.parametrize(
    "name, inference, value",
    [
        ("stored_bytes", "encoder", 1000),
        ("learned_decoder_values", "omp", 200),
        ("ce_recovered", "encoder", 0.9),
        ("ce_recovered", "omp", 0.95),
        ("fvu", "encoder", 0.3),
        (PROBED, "omp", 0.7),  # the mean over sets of the means over draws; its name says how codes are read
    ],
)
def test_a_value_is_the_records(name, inference, value):
    assert value_in(RECORD, name, inference) == pytest.approx(value)


@pytest.mark.parametrize(
    "name, inference, message",
    [
        ("ce_recovered_mean", "encoder", r"against mean ablation is undefined, .* .from 2.0000 to 2.0100 nats"),
        ("kl", "encoder", "no kl by encoder: not measured"),
        ("ce_recovered", "refit", "no CE recovered by refit: a singular matrix"),
        ("ce_recovered", "gomp4", "not measured"),
        ("probing/texts/encoder/best_5", "encoder", "no probing/texts/encoder/best_5: no sets"),
        ("probing/code/omp/best_5", "encoder", "not measured"),
    ],
)
def test_a_missing_value_is_said_with_its_reason(name, inference, message):
    with pytest.raises(UndefinedError, match=message):
        value_in(RECORD, name, inference)


def test_directions():
    less = ["stored_bytes", "learned_decoder_values", "delta_ce", "kl", "fvu"]
    more = ["ce_recovered", "ce_recovered_mean", "coverage", "feature_f1", PROBED]
    assert {direction(name) for name in less} == {"minimize"} and {direction(name) for name in more} == {"maximize"}
    foretold = {name for name in [*less, *more] if is_foretold(name)}
    assert foretold == {"delta_ce", "kl", "fvu", "ce_recovered", "ce_recovered_mean"}


NOT_MEASURED = [
    (PROBED, [], r"add eval.probing=\[code\]"),
    ("probing/code/omp/best_5", ["eval.probing=[code]"], r"add eval.inference=\[omp\]"),
    ("coverage", [], "needs known features: model=synthetic"),
]


@pytest.mark.parametrize("name, arguments, message", NOT_MEASURED)
def test_what_runs_do_not_measure_is_refused_before_any_is_trained(bench, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        bench.done("d=2,3", *arguments, n_trials=2, objectives=["stored_bytes", name])
    assert bench.launched == []


def test_what_runs_measure_is_accepted(bench):
    more = ["eval.probing=[code]", "eval.inference=[omp]"]
    with bench.search("d=2,3", *more, n_trials=2, objectives=["stored_bytes", "probing/code/omp/best_5"]) as to_do:
        job = to_do.cells.planned({"d": 2}).job
    check_measured("probing/code/omp/best_5", job)
    check_measured("ce_recovered", job)


def test_another_list_of_objectives_is_another_search(bench, storage):
    bench.done("d=2,3", n_trials=1, storage=storage)
    with pytest.raises(ValueError, match="objectives was stored_bytes,ce_recovered and is stored_bytes,fvu"):
        bench.done("d=2,3", n_trials=1, storage=storage, objectives=["stored_bytes", "fvu"])


def test_trials_are_told_the_objectives_in_their_order(bench):
    (trial,) = bench.done("d=3", "k=4,5", n_trials=1, objectives=["fvu", "learned_decoder_values", "ce_recovered"])
    assert trial.values == [0.5, trial.user_attrs["learned_decoder_values"], trial.user_attrs["ce_recovered"]]
    assert trial.user_attrs["fvu"] == 0.5


THREE = ["stored_bytes", "ce_recovered", PROBED]


def trials_of(rows):
    """Return complete trials whose marks are those of `rows` (bytes, CE recovered, probing)."""
    marks = [{"run_id": str(index), **dict(zip(THREE, row, strict=True))} for index, row in enumerate(rows)]
    return [create_trial(values=list(row), user_attrs=mark) for row, mark in zip(rows, marks, strict=True)]


def test_a_run_that_only_its_meaning_sets_apart_is_in_the_front_of_three_and_not_of_two():
    trials = trials_of([(10, 0.5, 0.6), (20, 0.9, 0.6), (30, 0.8, 0.9), (40, 0.7, 0.9)])
    for trial, number in zip(trials, range(4), strict=True):
        trial.number = number
    two, three = SearchConfig(), SearchConfig(objectives=THREE)
    assert [t.number for t in pareto_set(trials, two)] == [0, 1]
    assert [t.number for t in pareto_set(trials, three)] == [0, 1, 2]
    assert [t.number for t in pareto_set(trials, SearchConfig(objectives=THREE, budget_bytes=20))] == [0, 1]


def test_the_front_of_three_is_optunas():
    study = optuna.create_study(directions=["minimize", "maximize", "maximize"])
    rows = [(float(a), float((a * 7) % 11), float((a * 5) % 13)) for a in range(1, 60)]
    study.add_trials(trials_of(rows))
    ours = pareto_set(study.get_trials(), SearchConfig(objectives=THREE))
    assert {t.number for t in ours} == {t.number for t in study.best_trials} and 3 < len(ours) < 59
