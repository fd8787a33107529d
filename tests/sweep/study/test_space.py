"""The search space: Hydra's grammar read as Optuna's distributions, and written back as overrides."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweep.study.space import SpaceError, described, differences, space_from, values_of, written

READS = [
    ("d=3,7,15", CategoricalDistribution([3, 7, 15])),
    ("d=choice(3,7,7)", CategoricalDistribution([3, 7])),
    ("sae=expander,dynamic", CategoricalDistribution(["expander", "dynamic"])),
    ("train.lr=1e-3,2e-3", CategoricalDistribution([1e-3, 2e-3])),
    ("eval.novelty=true,false", CategoricalDistribution([True, False])),
    ("n=8m,64", CategoricalDistribution(["8m", 64])),
    ("d=range(3,61,step=3)", IntDistribution(3, 60, step=3)),
    ("d=range(3,7)", IntDistribution(3, 6)),
    ("d=range(9,2,-3)", IntDistribution(3, 9, step=3)),
    ("train.lr=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
    ("d=interval(3,60)", IntDistribution(3, 60)),
    ("d=int(interval(3.0,60.0))", IntDistribution(3, 60)),
    ("d=tag(log,interval(3,60))", IntDistribution(3, 60, log=True)),
    ("train.lr=interval(1,2.5)", FloatDistribution(1.0, 2.5)),
    ("train.lr=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
    ("d=float(interval(3,60))", FloatDistribution(3.0, 60.0)),
]


@pytest.mark.parametrize("argument, expected", READS)
def test_hydras_grammar_is_read_as_it_is(argument, expected):
    name = argument.split("=")[0]
    space = space_from({}, [argument, "k=32"])
    assert space.distributions == {name: expected} and space.fixed == ["k=32"]


def test_hydra_itself_agrees_on_where_a_range_ends():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for text in ("d=range(3,61,step=3)", "d=range(3,60,step=3)", "d=range(0.1,0.5,0.1)"):
        (override,) = OverridesParser.create().parse_overrides([text])
        space = space_from({}, [text])
        assert values_of(space, "d") == pytest.approx([float(v) for v in override.sweep_string_iterator()])


def test_a_trial_is_written_as_overrides_that_hydra_reads_back():
    lists = ["sae=expander,dynamic", "x=null,true,'a b'", "+y=1,2"]
    arguments = ["d=interval(3,60)", "train.lr=interval(0.0,1.0)", *lists]
    space = space_from({}, [*arguments, "k=32"])
    params = {"d": 5, "train.lr": 1.2345678901234567e-05, "sae": "dynamic", "x": "'a b'", "y": 2}
    drawn = ["d=5", "sae=dynamic", "train.lr=1.2345678901234568e-05", "x='a b'", "+y=2"]
    assert space.overrides(params) == ["k=32", *drawn]
    assert space.overrides({**params, "x": None})[4] == "x=null"
    assert space.overrides({**params, "x": True})[4] == "x=true"


def test_the_command_line_wins_over_params_and_order_does_not_matter():
    params = {"d": "3,7", "k": "interval(4,8)", "n": 64}
    space = space_from(params, ["k=16", "sae=expander,dynamic"])
    assert list(space.distributions) == ["d", "sae"] and space.fixed == ["n=64", "k=16"]
    assert list(space_from({}, ["sae=a,b", "d=3,7"]).distributions) == ["d", "sae"]


REFUSED = [
    ("d=3", "nothing to search"),
    ("d=range(5,5)", "is empty"),
    ("d=interval(5,5)", "must rise"),
    ("d=interval(9,5)", "must rise"),
    ("lr=tag(log,interval(0,1))", "from above 0"),
    ("d=tag(ln,interval(1,2))", r"d=tag\(ln,...\) is unknown: the one tag is log"),
    ("d=tag(log,choice(3,4))", "log is for interval"),
    ("d=tag(log,range(1,9))", "log is for interval"),
]


@pytest.mark.parametrize("argument, message", REFUSED)
def test_values_that_cannot_be_searched_are_refused_with_the_reason(argument, message):
    with pytest.raises((SpaceError, HydraException), match=message):
        space_from({}, [argument])


def test_a_grid_has_no_intervals():
    space = space_from({}, ["d=interval(3,5)", "k=range(3,6)"])
    assert values_of(space, "k") == [3, 4, 5]
    with pytest.raises(SpaceError, match=r"d=interval\(3,5\): sampler=grid needs a list"):
        values_of(space, "d")


def test_bounds_may_move_but_choices_scale_and_names_may_not():
    def between(before, now):
        return differences(written(space_from({}, before)), written(space_from({}, now)))

    assert between(["d=interval(3,60)"], ["d=interval(2,90)"]) == []
    assert between(["d=3,7"], ["d=3,7,15"]) == ["d was searched in 3,7 and now in 3,7,15"]
    assert between(["d=3,7"], ["d=interval(3,7)"]) == ["d was searched in 3,7 and now in interval(3,7)"]
    scale, step = "interval(3,7) and now in tag(log,interval(3,7))", "3,5,...,7 and now in 3,6,...,6"
    assert between(["d=interval(3,7)"], ["d=tag(log,interval(3,7))"]) == [f"d was searched in {scale}"]
    assert between(["d=range(3,9,2)"], ["d=range(3,9,3)"]) == [f"d was searched in {step}"]
    assert between(["d=3,7"], ["d=3,7", "k=1,2"]) == ["k is searched now and was not"]
    assert between(["d=3,7", "k=1,2"], ["d=3,7"]) == ["k was searched and is not now"]
    assert described(IntDistribution(3, 60, step=3)) == "3,6,...,60"
