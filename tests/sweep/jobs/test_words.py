"""Words of the command line that Hydra's grammar lacks."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sweep.jobs.grid import choices_of
from sweep.jobs.words import apart, hydra_words, split, zipped


def told(words):
    """Return {key: value} of the overrides that `hydra_words` adds, as Hydra reads them."""
    added = [word for word in hydra_words(words) if word.startswith("hydra.sweeper.")]
    return {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(added)}


def test_words_that_hydra_knows_stay_as_they_are():
    words = ["-m", "d=3,7", "eval.inference=[omp,mp]", "corpus.path='a b.txt'", "+model.trained_layers=[]"]
    assert hydra_words(words) == words


def test_zips_and_grids_are_told_to_the_sweeper_and_make_it_a_sweep():
    assert hydra_words(["zip(d=3,7 n=8m,4m)", "k=32"])[:2] == ["-m", "k=32"]
    assert hydra_words(["-m", "zip(d=3,7 n=8m,4m)"]).count("-m") == 1
    found = told(["zip(d=3,7 n=8m,4m)", "zip(k=1,2 seed=0,1)", "grid(sae=expander d=3,7)", "grid( sae=dense_tied )"])
    assert [str(text) for text in found["hydra.sweeper.zips"]] == ["d=3,7 n=8m,4m", "k=1,2 seed=0,1"]
    assert [str(text) for text in found["hydra.sweeper.sets"]] == ["sae=expander d=3,7", "sae=dense_tied"]


def test_joined_experiments_are_composed_by_the_first_one():
    words = hydra_words(["experiment=seeds+controls/masks", "model=embedded"])
    assert words == ["-m", "experiment=seeds", "model=embedded", 'hydra.sweeper.experiments=["seeds","controls/masks"]']
    assert hydra_words(["experiment=seeds"]) == ["experiment=seeds"]


@pytest.mark.parametrize(
    "word, said",
    [
        ("zip()", "holds nothing"),
        ("grid(  )", "holds nothing"),
        ("grid(d=3])", "a ] too many"),
        ("zip(d=[3 n=4)", "lacks a ]"),
        ("grid(corpus.path='a)", "lacks a '"),
        ("experiment=seeds+", "names no experiment"),
    ],
)
def test_what_cannot_be_read_is_one_line(word, said):
    with pytest.raises(ValueError, match=said):
        hydra_words(["-m", word])


def test_blanks_part_words_except_within_brackets_and_quotes():
    assert split("d=3,7  sae=[a, b] corpus.path='x y' zip(k=1,2 n=3,4)") == [
        "d=3,7",
        "sae=[a, b]",
        "corpus.path='x y'",
        "zip(k=1,2 n=3,4)",
    ]
    assert apart(["d=3", "zip(k=1,2 n=3,4)"]) == (["d=3"], ["k=1,2 n=3,4"])
    with pytest.raises(ValueError, match="inside of another"):
        apart(["grid(d=3)"])


def test_axes_that_move_together_have_one_step_for_each_value():
    assert zipped("d=3,7 n=8m,4m", choices_of) == [("d=3", "n=8m"), ("d=7", "n=4m")]
    assert zipped("d=3 n=8m", choices_of) == [("d=3", "n=8m")]
    with pytest.raises(ValueError, match="d has 2, n has 3"):
        zipped("d=3,7 n=8m,4m,2m", choices_of)
    with pytest.raises(ValueError, match="twice"):
        zipped("d=3,7 d=1,2", choices_of)
