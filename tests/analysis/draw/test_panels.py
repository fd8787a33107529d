"""The choice of panels that a figure has, and their places."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.lines import Line2D

from analysis.draw.floor import only_with_floor
from analysis.draw.panels import MANY, MOST, fullest, panel_grid, readable, subplots
from analysis.draw.shared import arm_handles, legend, save_figure


def table(points_of):
    """Return a row per point; `points_of` has the number of points of each k."""
    rows = [
        {"model": "tiny", "layer": 1, "n": 512, "k": k, "arm": "expander", "d": d}
        for k, points in points_of.items()
        for d in range(points)
    ]
    return pd.DataFrame(rows)


def test_few_panels_are_all_drawn(capsys):
    few = table(dict.fromkeys(range(MANY), 1))
    assert readable("frontier", few) is few and capsys.readouterr().err == ""


def test_a_panel_of_a_single_point_is_left_out_where_another_has_more(capsys):
    shown = readable("frontier", table({8: 3, 16: 1, 32: 2}))
    assert set(shown["k"]) == {8, 32} and "1 of 3 panels are in the CSV only" in capsys.readouterr().err
    full = table({8: 3, 16: 2})
    assert readable("frontier", full) is full and capsys.readouterr().err == ""


def test_of_many_panels_only_those_with_two_points_or_more_are_drawn(capsys):
    shown = readable("frontier", table({k: 1 + (k < 3) for k in range(MANY + 1)}))
    assert set(shown["k"]) == {0, 1, 2}
    assert f"{MANY - 2} of {MANY + 1} panels" in capsys.readouterr().err
    assert readable("frontier", table(dict.fromkeys(range(MANY + 1), 1)), notes=False).empty
    assert capsys.readouterr().err == ""


def test_pca_does_not_count_as_a_point_of_a_panel():
    many = table(dict.fromkeys(range(MANY + 1), 1))
    pca = many.assign(arm="pca", d=float("nan"))
    assert readable("frontier", pd.concat([many, pca])).empty


def test_a_grid_of_some_dozens_is_drawn_whole_but_never_hundreds_of_panels(capsys):
    whole = table(dict.fromkeys(range(MOST), 3))
    assert len(readable("frontier", whole)) == len(whole) and capsys.readouterr().err == ""
    shown = readable("frontier", table({k: 2 + (k > 150) for k in range(200)}))
    assert shown["k"].nunique() == MOST and set(range(151, 200)) <= set(shown["k"])
    assert "--layer and --k choose" in capsys.readouterr().err


def test_panels_stand_as_a_table_or_one_after_the_other_where_that_would_be_mostly_empty():
    full = panel_grid([("a", 8), ("a", 16), ("b", 16)])
    assert full.leading == {("a", 8), ("b", 16)} and len(full.figure.axes) == 4
    assert full.axes["a", 8].get_shared_y_axes().joined(full.axes["a", 8], full.axes["a", 16])
    assert full.axes["b", 16].yaxis.get_tick_params()["labelleft"]
    sparse = panel_grid([(row, row) for row in range(20)])
    assert len(sparse.figure.axes) == 20 and sparse.leading == set(sparse.axes)
    assert max(sparse.figure.get_size_inches()) < 40


def read(readings):
    """Return a row per arm and way of reading, from {reading: (arms, floor)}."""
    rows = [
        {"k": 32, "reading": reading, "arm": f"arm{number}", "floor": floor}
        for reading, (arms, floor) in readings.items()
        for number in range(arms)
    ]
    return pd.DataFrame(rows)


def test_panels_without_a_floor_are_left_out_where_others_have_one(capsys):
    nothing = float("nan")
    shown = only_with_floor("meaning", read({"topk": (3, 0.5), "omp": (5, nothing)}), "floor", ["k", "reading"])
    assert set(shown["reading"]) == {"topk"} and len(shown) == 3
    assert "meaning: 1 of 2 panels are in the CSV only" in capsys.readouterr().err
    for table_ in (read({"topk": (3, nothing), "omp": (2, nothing)}), read({"topk": (3, 0.5), "omp": (2, 0.1)})):
        assert only_with_floor("meaning", table_, "floor", ["k", "reading"]) is table_
    assert capsys.readouterr().err == ""


def test_of_panels_beside_each_other_those_of_few_arms_are_left_out(capsys):
    shown = fullest("probing", read({"topk": (6, 0.5), "omp": (3, 0.5), "mp": (2, 0.5)}), ["k"], ["reading"])
    assert set(shown["reading"]) == {"topk", "omp"}
    assert "probing: 1 of 3 panels are in the CSV only, those of few arms" in capsys.readouterr().err
    alike = read({"topk": (4, 0.5), "omp": (2, 0.5)})
    assert fullest("probing", alike, ["k"], ["reading"]) is alike and capsys.readouterr().err == ""


@pytest.mark.parametrize("count, columns", [(4, 1), (30, 3), (60, 6)])
def test_a_legend_of_any_length_lies_within_the_figure(tmp_path, count, columns):
    figure, _ = subplots(1, 1, (6, 4))
    legend(figure, [Line2D([], [], label=f"arm {i} of a name that takes more than one line") for i in range(count)])
    save_figure(figure, tmp_path, "drawn")
    (drawn,) = figure.legends
    assert drawn._ncols == columns
    box, (width, height) = drawn.get_window_extent(), figure.canvas.get_width_height()
    assert box.x0 > 0 and box.y0 > 0 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_a_legend_gets_as_many_columns_as_its_tallest_one_needs():
    figure, _ = subplots(1, 1, (5, 2))
    names = [f"an arm with a name so long that it takes several lines, number {i}" for i in range(12)]
    legend(figure, [Line2D([], [], label=name) for name in [*["short"] * 12, *names]])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.height <= figure.bbox.height and box.y0 >= 0


def test_a_legend_names_each_look_once_and_of_very_many_only_the_base_arms():
    few = ["expander", "expander-4bit", "expander-2bit_trained", "expander+mp_refit", "dense_tied"]
    names = [handle.get_label() for handle in arm_handles(few)]
    assert names == ["expander (32, 4, 2 bits)", "expander, trained by mp_refit", "dense, tied"]
    assert [handle.get_label() for handle in arm_handles(["expander-1bit"])] == ["expander (1 bit)"]
    many = [f"{arm}@reflections{number}+mp_refit" for arm in ("expander", "dynamic") for number in range(1, 9)]
    names = [handle.get_label() for handle in arm_handles(many)]
    assert names[:3] == ["expander", "dynamic support", "hollow: trained by a pursuit"] and len(names) == 4
