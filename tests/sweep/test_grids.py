"""Which cells an experiment's sets of lists make once the command line has spoken."""

from __future__ import annotations

import pytest

from hydra_plugins.sae_sweeper.grid import choices_of, selected, values_of

GRIDS = [
    {"model": "a", "layer": "3", "d": "7,50"},
    {"model": "b", "layer": "4,8", "d": "10,50"},
    {"model": "c", "k": "16"},
]


@pytest.mark.parametrize("given, left", [
    ({}, [0, 1, 2]), ({"model": {"b"}}, [1]), ({"model": {"local"}}, [0, 1, 2]), ({"d": {"50"}}, [0, 1, 2]),
    ({"d": {"7"}}, [0, 2]), ({"d": {"7", "10"}}, [0, 1, 2]), ({"layer": {"8"}, "model": {"a"}}, [0]),
    ({"seed": {"1"}}, [0, 1, 2]), ({"k": {"16"}}, [0, 1, 2]),
])  # fmt: skip
def test_a_key_given_selects_or_replaces(given, left):
    assert selected(GRIDS, given) == [GRIDS[i] for i in left]


def test_choices_of_an_argument():
    assert choices_of("d=3,7") == ["d=3", "d=7"] and choices_of("d=3") == ["d=3"]
    assert choices_of("eval.inference=[omp,refit]") == ["eval.inference=[omp,refit]"]
    assert values_of("d=3,7") == {"3", "7"} and values_of("model=b") == {"b"}
