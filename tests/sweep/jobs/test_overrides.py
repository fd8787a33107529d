"""Texts in overrides: any text comes back as it is, and what a user is told to type is read as meant."""

from __future__ import annotations

import random
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from sweep.jobs.choices import unknown_choice
from sweep.jobs.overrides import as_one_text, literal, quoted, unreadable
from sweep.launch import explain

UNREADABLE = [
    *("a=b", "(a", "a)b", "a(b)", "[a", "a]b", "it's", 'a"b', "a;b", "a&b", "a{b}", "~/a", "ü", "a#b", "a!b", "a<b>"),
    "/x/${a",
]
TORN = "\\\\\\\"'${}a=,()[];&~ %#:ü\n\t"  # characters that mean something to Hydra or OmegaConf


def read(argument):
    """Return the value that a config has after an override, as OmegaConf resolves it, alone and as part of a text."""
    (override,) = OverridesParser.create().parse_overrides([argument])
    cfg = OmegaConf.create({"key": override.value(), "part": "${key}/x"})
    assert cfg.part == f"{cfg.key}/x"
    return cfg.key


def test_any_text_comes_back_quoted():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(TORN) for _ in range(rng.randint(1, 7)))
        assert read(f"key={quoted(text)}") == text


@pytest.mark.parametrize("text", UNREADABLE)
def test_the_line_about_an_unreadable_override_says_what_to_type(text):
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides([f"runs_dir={text}"])
    line = explain(caught.value, [f"runs_dir={text}"])
    assert line.startswith(f"runs_dir={text} cannot be read") and "\n" not in line
    (typed,) = shlex.split(line.split("quote it: ")[1])
    assert typed.startswith("runs_dir=") and read(typed) == text


@pytest.mark.parametrize(
    "error, arguments, typed",
    [
        ("corpus.path=/a matches no file", ["d=3", "corpus.path=/a,b"], 'corpus.path="/a,b"'),
        ("runs_dir=['a'] must be text", ["runs_dir=[a]"], 'runs_dir="[a]"'),
        ("Interpolation key 'b' not found full_key: hydra.run.dir", ["d=3", "+x=/a${b}"], r'+x="/a\${b}"'),
        ("Interpolation key 'b' not found full_key: hydra.run.dir", ['x="/a${b}"'], r'x="/a\${b}"'),
    ],
)
def test_other_errors_say_what_to_type_where_a_text_was_taken_apart(error, arguments, typed):
    assert explain(ValueError(error), arguments).endswith(f"quote it: {shlex.quote(typed)}")


def test_errors_about_values_that_were_read_as_meant_say_nothing_of_quotes():
    for error, argument in (("d=0 must be at least 1", "d=3,0"), ("runs_dir=/a: no", "runs_dir=/a"), ("d=0", "d=0")):
        assert explain(ValueError(error), [argument]) == error
    assert "KEY=VALUE" in explain(OverrideParseException("banana", "missing EQUAL"))


def test_quotes_that_the_shell_took_are_given_back():
    assert as_one_text("model.path='/a=b'") == "'model.path=\"/a=b\"'"


def test_resolved_settings_resolve_to_themselves():
    settings = {"a": {"b": "/x/${y}\\${z}", "c": [1, None, "$", "${"]}, "d": "\\"}
    assert OmegaConf.to_container(OmegaConf.create(literal(settings)), resolve=True) == settings


def test_an_unknown_choice_names_all_choices_and_the_one_that_was_perhaps_meant():
    said = unknown_choice("experiment", "frontie")
    assert "did you mean frontier?" in said and "controls/bits" in said
    assert "did you mean controls/masks?" in unknown_choice("experiment", "maks")
    assert unknown_choice("model", "zzz", ["mine"]).startswith("there is no model=zzz. There are embedded, ")
    assert "mine" in unknown_choice("model", "zzz", ["mine"])


def test_the_line_about_a_word_in_brackets_says_how_it_is_written():
    assert "'zip(d=3,7 n=16m,8m)', with the quotes" in unreadable("zip(d=3,7")
    assert "with the quotes" in unreadable("zip (d=3,7 n=16m,8m)") and "with the quotes" in unreadable("zip[d=3,7]")
    assert unreadable("gird(d=3)").startswith("there is no gird(...)")
    assert unreadable("runs").startswith("runs is not of the form KEY=VALUE")
