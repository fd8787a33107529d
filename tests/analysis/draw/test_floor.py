"""The floor in figures: whose it is, and how it is drawn."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.draw.floor import OTHER_BASIS, draw_floors, floor_handles

LEARNED = "dynamic@reflections64+mp_refit"


def rows(*of_arms):
    """Return a row for each (arm, d, floor), read by mp_refit."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "d": float(d),
                "floor": floor,
                "floor_d": float(d),
                "floor_half_interval": 0.01,
                "reading": "mp_refit",
            }
            for arm, d, floor in of_arms
        ]
    )


def drawn(table, marker="x"):
    """Return the ways of reading that were drawn, and each line of the floor as (linestyle, marker, points)."""
    axis = Figure().subplots()
    readings = draw_floors(axis, table, "d", "ce_recovered", marker)
    return readings, [(line.get_linestyle(), line.get_marker(), line.get_xydata().tolist()) for line in axis.lines]


def test_a_floor_in_another_basis_is_a_mark_beside_its_point():
    table = rows(("expander+mp_refit", 3, 0.8), ("expander+mp_refit", 7, 0.83), (LEARNED, 7, 0.89))
    readings, lines = drawn(table)
    assert readings == {"mp_refit", OTHER_BASIS}
    assert lines == [("--", "x", [[3, 0.8], [7, 0.83]]), ("None", "+", [[7, 0.89]])]
    labels = [handle.get_label() for handle in floor_handles(readings)]
    assert labels == ["floor of the point at this place:\na random dictionary in its basis", labels[1]]
    assert "read by mp_refit" in labels[1]


def test_alone_it_does_not_pass_for_that_of_the_neurons_basis():
    assert drawn(rows((LEARNED, 7, 0.89))) == ({OTHER_BASIS}, [("None", "+", [[7, 0.89]])])


def test_a_random_dictionary_has_no_mark_beside_itself():
    assert drawn(rows(("frozen_random@reflections64+mp_refit", 7, 0.89))) == (set(), [])


def test_without_markers_it_is_a_line_for_each_arm():
    both = rows(("dynamic@reflections64+mp_refit", 3, 0.88), ("expander@reflections32+mp_refit", 3, 0.87))
    assert [line[:2] for line in drawn(both, marker="")[1]] == [("-.", "")] * 2
