"""The process says how much memory it has used at most, counted anew when it is asked to forget."""

from __future__ import annotations

import subprocess
import sys

import pytest

SIZE = 1 << 28
CODE = f"""
from sweep.machine.process import forget_peak_memory, peak_memory

forget_peak_memory()
before = peak_memory()
block = b"1" * {SIZE}
del block
most = peak_memory()
forget_peak_memory()
print(before, most, peak_memory())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what a process had in memory")
def test_peak_memory_begins_anew_when_it_is_forgotten():
    # In a process of its own: one that has trained keeps what it frees.
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, most, after = map(int, done.stdout.split())
    assert before + SIZE // 2 < most and after < most - SIZE // 2
