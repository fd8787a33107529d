"""`python -m sweep.completion` makes bash complete the keys and values of `python -m sweep`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import sweep.launch  # noqa: F401, the resolvers that configs use
from sweep.completion import SCRIPT, VALUES, as_shell_word, completions
from sweep.jobs.build import build
from sweep.jobs.choices import choices
from tests.sweep.world import composed

NOT_HERE = {("device", "cuda"), ("backend", "gpu")}  # values that need a GPU

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def completed(line, more=""):
    """Return what bash offers at the end of `line`."""
    words = f'COMP_LINE="{line}"; COMP_POINT={len(line)}; {more}'
    ask = f'{SCRIPT}\n{words}\n_sweep_completion\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return done.stdout.split()


def test_keys_and_values_are_completed():
    assert completed(f"{sys.executable} -m sweep train.ste") == ["train.steps="]
    assert {"expander", "expander_balanced"} <= set(completed(f"{sys.executable} -m sweep -m d=3,7 sae=exp"))
    whole = completed(f"{sys.executable} -m sweep sae=dense_tie", "COMP_WORDBREAKS=' '")
    assert "sae=dense_tied" in whole


@pytest.mark.parametrize(
    "line, expected",
    [
        (" sae=expander,kr", ["sae=expander,kron"]),
        (" experiment=controls/ma", ["experiment=controls/masks", "experiment=controls/matched"]),
        (" experiment=iso", ["experiment=controls/iso_storage"]),
        (" experiment=frontier+controls/bi", ["experiment=frontier+controls/bits"]),
        (" -m 'zip(d=3,7 sae=expander,kr", ["sae=expander,kron"]),
        (" -m 'zip(sae=kr", ["zip(sae=kron"]),
        (" eval.inference=[encoder,om", ["eval.inference=[encoder,omp"]),
        (" sae.encoder=mp", ["sae.encoder=mp_refit"]),
        (" +train.ste", ["+train.steps="]),
        (" d=3 hydra/sweeper=opt", ["hydra/sweeper=optuna_frontier"]),
        (" sae=nothing,x", []),
        (" model.path=./conf/exper", ["model.path=./conf/experiment"]),
    ],
)
def test_the_last_value_of_a_list_is_completed_wherever_it_stands(line, expected):
    assert completions(line) == expected


def test_every_choice_of_a_group_is_offered():
    assert completions(" experiment=") == [f"experiment={name}" for name in choices("experiment")]
    assert {"frontier", "controls/bits", "scale/million"} < set(choices("experiment")) and choices("d") == []


@pytest.mark.parametrize("key, value", [(key, value) for key, values in VALUES.items() for value in values])
def test_a_value_that_is_offered_can_be_given(key, value):
    value = f"[{value}]" if key.startswith("eval.") and key != "eval.tokens" else value
    try:
        build(composed(f"{key}={value}"), "launch")
    except ValueError as error:
        assert (key, value) in NOT_HERE and "cuda" in str(error).lower()


def test_the_shell_gets_what_replaces_the_word_that_it_sees():
    assert as_shell_word(" sae=exp", "sae=expander", "=:(") == "expander"
    assert as_shell_word(" sae=exp", "sae=expander", "") == "sae=expander"
    assert as_shell_word(" -m 'zip(d=3,7 sae=kr", "sae=kron", "=:('") == "zip(d=3,7 sae=kron"
    assert as_shell_word(" -m 'zip(d=3,7 n=1,2)' sae=kr", "sae=kron", "=:('") == "kron"


def test_other_uses_of_python_are_left_to_the_shell():
    assert completed("python -m pytest tests/a") == completed("python") == completed("python script.py sae=e") == []


def test_the_command_prints_what_bash_understands():
    printed = subprocess.run([sys.executable, "-m", "sweep.completion"], capture_output=True, text=True, check=True)
    subprocess.run(["bash", "-n"], input=printed.stdout, text=True, check=True)
    assert "complete -o default -F _sweep_completion python" in printed.stdout


@pytest.mark.parametrize(
    "line, expected",
    [
        (" -m sae=expander,dense_tied d=3,7 k=16 train.st", ["train.steps="]),
        (" sae=nothing train.st", ["train.steps="]),
        (" 'zip(d=3,7 n=16m,8m)' k=16,32 train.st", ["train.steps="]),
        (' model.path="/data/my mod', []),  # the shell completes files
        (" note=\"it's sae=ex", []),
    ],
)
def test_keys_are_completed_after_lists_and_within_quotes(line, expected):
    assert completions(line) == expected
