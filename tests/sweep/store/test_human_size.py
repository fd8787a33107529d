from __future__ import annotations

import pytest

from sweep.store.human_size import human_size


@pytest.mark.parametrize(
    "n_bytes, words",
    [
        (0, "0 bytes"),
        (12, "12 bytes"),
        (999, "999 bytes"),
        (1 << 10, "1 KiB"),
        (65536, "64 KiB"),
        (124_000, "121 KiB"),
        (1023 << 10, "1.0 MiB"),
        (2_106_368, "2.0 MiB"),
        (3 << 20, "3 MiB"),
        (5 << 30, "5 GiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_a_number_of_bytes_is_written_in_a_fitting_unit(n_bytes, words):
    assert human_size(n_bytes) == words
