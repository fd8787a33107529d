"""`python -m sweep.completion` makes bash complete the keys and values of `python -m sweep`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from sweep.completion import SCRIPT

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


def test_other_uses_of_python_are_left_to_the_shell():
    assert completed("python -m pytest tests/a") == completed("python") == completed("python script.py sae=e") == []


def test_the_command_prints_what_bash_understands():
    printed = subprocess.run([sys.executable, "-m", "sweep.completion"], capture_output=True, text=True, check=True)
    subprocess.run(["bash", "-n"], input=printed.stdout, text=True, check=True)
    assert "complete -o nospace" in printed.stdout
