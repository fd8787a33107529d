"""What is said where SAELens is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_one_line_says_that_the_class_needs_it():
    code = "import sys; sys.modules['sae_lens'] = None; import sae_core.formats.saelens"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: sae_core.formats.saelens needs SAELens (pip install 'sae-lens>=6.54')")
