"""The process says how much memory it has used at most, counted anew when it is asked to forget."""

from __future__ import annotations

import sys

import pytest

from sweep.machine.process import forget_peak_memory, peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what a process had in memory")
def test_peak_memory_begins_anew_when_it_is_forgotten():
    size = 1 << 28
    forget_peak_memory()
    before = peak_memory()
    block = b"1" * size
    del block
    most = peak_memory()
    forget_peak_memory()
    assert before + size // 2 < most and peak_memory() < most - size // 2
