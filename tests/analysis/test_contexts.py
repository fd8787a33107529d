from __future__ import annotations

import gzip
import json

import pytest

from analysis.__main__ import main
from analysis.contexts import escape, marked, plain_text


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs" / "abc123"
    folder.mkdir(parents=True)
    strong = {"tokens": ["def", " main", "(*", "args)", ":\n"], "codes": [0.0, 3.25, 0.0, 0.0, 1.0]}
    weak = {"tokens": ["a", "_b", " "], "codes": [0.0, 0.0, -0.5]}
    latents = [
        {"latent": 3, "firing_rate": 0.013, "contexts": [strong, weak]},
        {"latent": 17, "firing_rate": 0.5, "contexts": [{"tokens": ["x"], "codes": [1.0]}]},
    ]
    with gzip.open(folder / "contexts.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(latent) + "\n" for latent in latents)
    return tmp_path / "runs"


def run(*arguments):
    return main(["latents", *map(str, arguments)])


def test_firing_tokens_are_marked_and_the_rest_is_literal(runs, tmp_path, capsys):
    assert run("run=abc123", "--runs", runs, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "latents-abc123.md").read_text(encoding="utf-8")
    assert "## Latent 3" in text and "fires at 1.300% of tokens" in text and "## Latent 17" in text
    assert r"1. (3.25) def ⟦**main**⟧\(\*args\)⟦**:↵**⟧" in text
    assert r"2. (-0.5) a\_b⟦**␣**⟧" in text  # a latent may fire below 0, and on a space
    said = capsys.readouterr().out
    assert "def⟦ main⟧(*args)⟦:↵⟧" in said and said.rstrip().endswith("latents-abc123.md")


def test_latents_and_contexts_can_be_chosen(runs, tmp_path, capsys):
    assert run("run=abc123", "--runs", runs, "--out", tmp_path, "--latent", 3, "--top", 1) == 0
    text = (tmp_path / "latents-abc123.md").read_text(encoding="utf-8")
    assert "Latent 17" not in text and "\n2." not in text
    assert run("run=abc123", "--runs", runs, "--out", tmp_path, "--latent", 3, 99) == 1
    assert capsys.readouterr().err.startswith("error: --latent: run abc123 kept no contexts of 99 (it never fired")


@pytest.mark.parametrize(
    "name, message",
    [
        ("run=none", "python -m sweep.evaluate run=none eval.contexts=5 makes it"),
        ("abc123", "give the run as run=ID"),
        ("run=../abc123", "give the run as run=ID"),
    ],
)
def test_an_error_about_the_run_is_one_line(runs, tmp_path, name, message, capsys):
    assert run(name, "--runs", runs, "--out", tmp_path) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_an_error_about_a_damaged_file_is_one_line(runs, tmp_path, capsys):
    (runs / "abc123" / "contexts.jsonl.gz").write_bytes(b"no gzip")
    assert run("run=abc123", "--runs", runs, "--out", tmp_path) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_bold_never_opens_before_a_space_and_always_after_punctuation():
    assert marked([" a", " b ", "\n"], [1.0, 1.0, 0.0]) == "⟦**a**⟧ ⟦**b**⟧ ↵"
    assert plain_text(["<|endoftext|>", "*"], [0.0, 2.0]) == "<|endoftext|>⟦*⟧"
    assert escape("<b> [x](y) `c` # | 1.") == r"\<b\> \[x\]\(y\) \`c\` \# \| 1\."
