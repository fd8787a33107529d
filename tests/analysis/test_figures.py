"""The figure of every command draws the numbers of the command's table, as matplotlib's artists hold them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from analysis.arms import display, in_order
from analysis.catalogue import CATALOGUE
from analysis.draw.floor import FLOOR_ID
from analysis.frames import among, dicts, groups, only, where
from analysis.output import Options
from analysis.tables.bits import best_of_bits
from analysis.tables.dominance import BUDGETS
from analysis.tables.iso_bytes import RULES, SIDES
from analysis.tables.latents import MEASURES
from analysis.tables.meaning import MEASURES as MEANS
from analysis.tables.pairs import MODEL_LAYER_N
from tests.analysis.artists import (
    bar_caps,
    bars,
    columns,
    data_lines,
    floors,
    own_lines,
    panel_of,
    points,
    same,
    visible,
)
from tests.analysis.synthetic import DENSE, N

# They need several n, or an SAE made smaller: tables/test_iso_storage.py, test_scale.py, test_compressed.py.
OF_ITS_OWN_STUDY = {"compressed", "iso_storage", "scale"}
TABLES = {"table1", "table2", "table3", "table7", "table10"}  # commands without a figure
FRONTIER = (
    "expander",
    "dense_matched",
    "expander+mp_refit",
    "dense_matched+mp_refit",
    "pca",
    "pruned_retuned",
)  # the frontier's arms beside the dense ones
LEVELS = ("dense_tied", "dense_warmtied")
LEARNED = (*FRONTIER, "dense_tied", "dense_warmtied")
TRAINED_BY_PURSUIT = tuple(f"{arm}+mp_refit" for arm in ("dense_tied", "dense_warmtied", "frozen_random"))
READ = (*(arm for arm in LEARNED if arm != "pca"), "frozen_random", *TRAINED_BY_PURSUIT)  # arms whose codes are read


class Bars(NamedTuple):
    """A figure with a point and an error bar for each row of its table."""

    x: str  # column
    x_label: str
    y_labels: dict[str, str]  # by measure `what`, a part of its panels' label
    line: tuple[str, ...] = ("arm",)  # the columns that make a line


BARS = {
    "masks": Bars(
        "d", "d: non-zero values", {"ce_recovered": "cross-entropy recovered", "dead_fraction": "dead latents"}
    ),
    "supports": Bars(
        "d", "d: non-zero values", {"ce_recovered": "cross-entropy recovered", "difference": "CE recovered, minus the"}
    ),
    "matched": Bars(
        "d",
        "d: non-zero values",
        {
            "difference by the trained encoder": "expander minus dense,\nby the trained encoder",
            "difference by OMP": "expander minus dense,\nby OMP",
            "difference, both trained by mp_refit": "expander minus dense,\nboth trained by mp_refit",
        },
    ),
    "bits": Bars(
        "artifact_bytes",
        "stored bytes",
        {"ce_recovered": "cross-entropy recovered", "rounding_below_90": "latents changed by rounding"},
        ("kind",),
    ),
    "data_efficiency": Bars(
        "pool_tokens", "tokens in the training pool", {"ce_recovered": "cross-entropy recovered"}, ("arm", "d")
    ),
}


def floor_points(axis):
    """Return (x, y) of every point of the floor."""
    return [tuple(point) for line in floors(axis) for point in line.get_xydata()]


def check_floor_of_bars(name, axis, rows):
    """The floor is a line over d, a point beside each over bytes; none stands beside the random dictionary itself."""
    if name == "masks":
        same(floor_points(axis), set(columns(rows, "d", "floor")))
    elif name == "bits":
        known = where(rows, rows["floor"].notna())  # shares of latents that rounding changes have none
        assert sorted(floor_points(axis)) == sorted(columns(known, "artifact_bytes", "floor"))
        assert len(known) == (rows["what"].iloc[0] == "ce_recovered") * len(rows)
    elif name == "matched":
        known = where(rows, rows["floor"].notna())
        assert len(known) == ("trained by mp_refit" not in rows["what"].iloc[0]) * len(rows)
        assert ("no random dictionary" in axis.get_xlabel()) == known.empty
        assert np.allclose(sorted(floor_points(axis)), sorted(columns(known, "d", "floor")))
    elif name == "supports":
        assert floors(axis) == []


def check_bars(name, output):
    """Every row of the table is a point with its interval, in the panel of its layer, k and measure."""
    bars_of, table = BARS[name], output.table
    if name == "bits":
        table = best_of_bits(table)
    axes, seen, label = visible(output.figure), {}, None
    for axis in axes:  # only the first panel of a row is labelled
        label = axis.get_ylabel() or label
        (what,) = (what for what, text in bars_of.y_labels.items() if text in label)
        rows = only(table, what=what, **panel_of(axis)._asdict())
        assert bars_of.x_label in axis.get_xlabel()
        same(bars(axis), columns(rows, bars_of.x, "mean", "half_interval"))
        assert len(axis.containers) == len(rows.groupby(list(bars_of.line), dropna=False))
        check_floor_of_bars(name, axis, rows)
        seen[what, panel_of(axis)] = axis
    assert len(seen) == len(axes) == len(table.groupby(["what", "layer", "k"]))


def check_frontier(output, records):
    """Arms of the default choice are points with error bars; dense arms, which have no d, are lines across a panel."""
    axes = visible(output.figure)
    assert {panel_of(axis) for axis in axes} == {(layer, k) for layer in (1, 2) for k in (8, 16)} and len(axes) == 4
    for axis in axes:
        rows = only(output.table, **panel_of(axis)._asdict())
        shown = among(rows, "arm", FRONTIER)
        same(bars(axis), columns(shown, "compression", "ce_recovered", "half_interval"))
        assert len(axis.containers) == len(FRONTIER)
        across = [line.get_ydata()[0] for line in own_lines(axis) if line.get_transform() is not axis.transData]
        same(floor_points(axis), columns(only(rows, arm="frozen_random"), "compression", "ce_recovered"))
        same([(y,) for y in across], columns(among(rows, "arm", LEVELS), "ce_recovered"))
        assert axis.get_xlabel().startswith("compression") and axis.get_xscale() == "log"
    assert {axis.get_ylabel().split(" (")[0] for axis in axes} == {"cross-entropy recovered", ""}


def check_layers(output, records):
    """The expander at each d and the dense arms are lines over the layers, a panel for each k."""
    axes = visible(output.figure)
    for axis in axes:
        rows = among(only(output.table, k=panel_of(axis, layer=False).k), "arm", ["expander", *DENSE])
        same(bars(axis), columns(rows, "layer", "mean", "half_interval"))
        assert len(axis.containers) == 2 + len(DENSE) and axis.get_xlabel().startswith("layer")
        random = only(output.table, k=panel_of(axis, layer=False).k, arm="frozen_random")
        same(floor_points(axis), columns(random, "layer", "mean"))
    assert [panel_of(axis, layer=False).k for axis in axes] == [8, 16]
    assert axes[0].get_ylabel() == "cross-entropy recovered"


def check_pareto(output, records):
    """Every run is a point; the Pareto set is ringed, and the staircase goes through its points."""
    (axis,), runs = visible(output.figure), output.table
    assert len(set(runs["layer"])) == 1
    best = where(runs, runs["pareto"] == "true")
    marks = [line for line in data_lines(axis) if line.get_linestyle() == "None"]
    (rings,) = (line for line in marks if line.get_markerfacecolor() == "none")
    (stairs,) = (line for line in data_lines(axis) if line.get_linestyle() != "None")
    marked = [tuple(point) for line in marks if line is not rings for point in line.get_xydata()]
    same(marked, columns(runs, "stored_bytes", "ce_recovered"))
    same([tuple(point) for point in rings.get_xydata()], columns(best, "stored_bytes", "ce_recovered"))
    assert set(best["ce_recovered"]) <= set(stairs.get_ydata()) and len(best) < len(runs)
    assert axis.get_xlabel().startswith("stored bytes") and axis.get_ylabel().startswith("cross-entropy recovered")
    names = [text.get_text() for text in output.figure.legends[0].get_texts()]  # of bases, as there are many arms
    assert "hollow: trained by a pursuit" in names and not any("mp_refit" in name for name in names)


def check_dominance(outputs, records):
    """Above, the winner of each level and budget; below, cells over all of its levels that say its CE recovered."""
    whole, *figures = outputs
    cells = list(itertools.product((1, 2), (8, 16)))
    assert [output.name for output in figures] == [f"dominance-tiny-L{layer}-n{N}-k{k}" for layer, k in cells]
    assert sum(len(output.table) for output in figures) == len(whole.table) and whole.latex
    for cell, output in zip(cells, figures, strict=True):
        (above, below), rows = visible(output.figure), output.table
        assert panel_of(above) == cell and above.get_ylabel() == "CE recovered"
        levels = sorted(rows["level"].unique())
        rows = rows.assign(place=[levels.index(level) for level in rows["level"]])
        same(bars(above), columns(rows, "place", "winner_mean", "winner_half_interval"))
        pca = rows.drop_duplicates("level").dropna(subset=["pca_mean"])
        assert (max(data_lines(above), key=lambda line: line.get_linewidth()).get_ydata() == pca["pca_mean"]).all()
        boxes = [patch for patch in below.patches if isinstance(patch, Rectangle)]
        said = [text for text in below.texts if text.get_transform() is below.transData]
        assert len(boxes) == len(said) < len(rows) + len(pca)  # levels with the same winner share a cell
        for row in dicts(rows):
            x, y = list(BUDGETS).index(row["budget"]), row["place"]
            (text,) = (
                text.get_text()
                for box, text in zip(boxes, said, strict=True)
                if box.get_x() < x < box.get_x() + box.get_width() and box.get_y() < y < box.get_y() + box.get_height()
            )
            assert f"{row['winner_mean']:.3f}" in text and display(row["winner"]) in text.replace("\n", " ")


def check_iso_bytes(outputs, records):
    """A panel for each rule and kind of values: the best sparse and dense dictionary at each share, named."""
    whole, *figures = outputs
    assert {output.name for output in figures} == {
        f"iso_bytes-tiny-L{layer}-n{N}-k{k}" for layer in (1, 2) for k in (8, 16)
    }
    for output in figures:
        rows, axes = output.table, iter(visible(output.figure))
        shares = sorted(set(rows["share"]), reverse=True)
        for values in ("32 bits", "any bits"):
            for rule in RULES:
                axis, shown = next(axes), only(rows, values=values, rule=rule)
                shown = shown.assign(place=[shares.index(share) for share in shown["share"]])
                expected = [
                    point
                    for side in SIDES
                    for point in columns(
                        shown.dropna(subset=[f"{side}_mean"]), "place", f"{side}_mean", f"{side}_half_interval"
                    )
                ]
                same(bars(axis), expected)
                assert len(axis.texts) == len(expected)
                key = [text.get_text() for text in visible(output.figure)[-len(RULES) + list(RULES).index(rule)].texts]
                for mark in {text.get_text() for text in axis.texts}:  # the key below explains each point's mark
                    assert len([entry for entry in key if entry.startswith(f"{mark}: ")]) == 1
                assert len(patches(axis, FLOOR_ID)) == 1 and axis.get_xlabel().startswith("stored bytes at most")
    assert sum(len(output.table) for output in figures) == len(whole.table)


def patches(axis, gid):
    """Return the filled areas of an axis with this id."""
    return [area for area in axis.collections if area.get_gid() == gid]


def check_wins(outputs, records):
    """A matrix for each way of training and reading holds the differences, and says the cells won and shared."""
    whole, *figures = outputs
    assert whole.figure is None and whole.latex
    assert {output.name for output in figures} == {"wins-encoder", "wins-omp", "wins-mp_refit"}
    matrices = [axis for output in figures for axis in visible(output.figure) if axis.images]
    ways = {axis.get_title(loc="left").split("\n")[0]: axis for axis in matrices}
    assert len(ways) == len(matrices) == 3 and "both trained by mp_refit" in ways
    axis = ways["each read by OMP"]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == [text.get_text() for text in axis.get_xticklabels()]
    matrix, said = np.array(axis.images[0].get_array()), {text.get_position(): text.get_text() for text in axis.texts}
    read_by_omp = only(whole.table, inference="omp")
    pairs = [row for row in dicts(read_by_omp) if {display(row["arm"]), display(row["other"])} <= set(names)]
    assert len(pairs) == len(said) / 2 == np.isfinite(matrix).sum() / 2 > 50
    for row in pairs:
        i, j = names.index(display(row["arm"])), names.index(display(row["other"]))
        assert matrix[i, j] == -matrix[j, i] == pytest.approx(row["difference"])
        assert (
            said[j, i] == f"{row['cells_won']}/{row['cells']}" and said[i, j] == f"{row['cells_lost']}/{row['cells']}"
        )


def readings(table, panel):
    """Return the rows that a figure of readings shows in a panel.

    Rounded arms are not shown, nor one-shot readings of dictionaries trained by pursuit, which would set every scale.
    """
    rows = only(table, **panel._asdict())
    rows = among(rows, "arm", READ)
    return where(rows, ~(rows["arm"].str.endswith("+mp_refit") & (rows["inference"] == "topk")))


def check_amortisation(output, records):
    """Left, each arm's own encoder and its best reading; right, every reading at its cost."""
    axes = visible(output.figure)
    for left, right in zip(axes[::2], axes[1::2], strict=True):
        rows = readings(output.table, panel_of(left))
        own = only(rows, inference="encoder")
        best = rows.loc[rows.groupby(["arm", "decoder_compression"])["mean"].idxmax()]
        same(bars(left), columns(pd.concat([own, best]), "decoder_compression", "mean", "half_interval"))
        same(points(right), columns(rows, "multiply_adds", "mean"))
        assert len(right.lines) == len(rows.groupby(["arm", "inference"]))
        assert left.get_xlabel().startswith("compression") and left.get_ylabel() == "cross-entropy recovered"
        assert right.get_xlabel().startswith("multiply-adds")
    assert len(axes) == 2 * len({panel_of(left) for left in axes[::2]}) == 4


def check_throughput(output, records):
    """A line for each arm and way of reading, through tokens a second at each relative error."""
    axes = visible(output.figure)
    for axis in axes:
        rows = readings(output.table, panel_of(axis))
        same(points(axis), columns(rows, "mean", "tokens_per_second"))
        assert len(axis.lines) == len(rows.groupby(["arm", "inference"]))
        assert axis.get_xlabel() == "relative error" and axis.get_ylabel().startswith("tokens a second, 1 thread")
    assert len(axes) == 2


def check_certificates(output, records):
    """R_id and R_omp of the expander beside each other, a line for each d and kind of sets, and a line at 1."""
    axes = visible(output.figure)
    (layer,) = set(output.table["layer"])
    cells = [(layer, k) for k in (8, 16)]
    for pair, (layer, k) in zip(zip(axes[::2], axes[1::2], strict=True), cells, strict=True):
        assert pair[0].get_title(loc="left").startswith(f"tiny, after block {layer}")
        assert pair[0].get_title(loc="left").endswith(f"expander trained at k = {k}")
        for axis, ratio in zip(pair, ("r_id", "r_omp"), strict=True):
            rows = only(output.table, layer=layer, k=k, arm="expander", ratio=ratio)
            same(points(axis), columns(rows, "at", "mean"))
            assert len(data_lines(axis)) == 4 and ratio.split("_")[1] in axis.get_ylabel()
            (one,) = (line for line in axis.lines if line not in data_lines(axis))
            assert set(one.get_ydata()) == {1}


def check_recovery(output, records):
    """For each algorithm the share of trials recovered and of atoms found."""
    (axis,) = visible(output.figure)
    expected = columns(output.table, "k", "exact_recovery") + columns(output.table, "k", "support_recovery")
    same(points(axis), expected)
    assert len(data_lines(axis)) == 4 and axis.get_xlabel() == "k planted atoms"
    assert axis.get_ylabel() == "recovery, noise 0"


def check_meaning(output, records):
    """A row of panels per measure, a column per kind of features and reading, each with its arms and its floor."""
    axes = visible(output.figure)
    columns_ = [
        (features, r) for features in ("dense features", "features of 7 coordinates") for r in ("topk", "mp_refit")
    ]
    measures = ("coverage", "feature_f1", "explained_variance", "absorption")
    assert len(axes) == 16 and [axis.get_ylabel() for axis in axes if axis.get_ylabel()] == [
        MEANS[m] + ("\n(from -0.25 up)" if m == "explained_variance" else "") for m in measures
    ]
    for axis, (what, (features, reading)) in zip(axes, itertools.product(measures, columns_), strict=True):
        rows = only(output.table, what=what, features=features, reading=reading)
        found = [tuple(p) for container in axis.containers for p in container.lines[0].get_xydata()]
        same(found, columns(rows, "artifact_bytes", "mean"))
        floor = [line.get_ydata()[0] for line in floors(axis)]
        assert floor == pytest.approx([rows["floor"].max()])
        low, high = axis.get_ylim()
        assert all(low <= y <= high for _, y in found)
    assert axes[0].get_title(loc="left").endswith("read one-shot")
    assert axes[-1].get_xlabel() == "bytes of the saved SAE"


def check_probing(output, records):
    """A row of panels per cell, family and reading, a column per number of latents; points, floor and coordinates."""
    axes = visible(output.figure)
    rows = only(output.table, set="mean of all sets")
    cells = groups(rows, ["model", "layer", "n", "k", "family", "reading", "best"])
    assert len(axes) == len(cells) == 6
    for axis, (key, points_) in zip(axes, cells, strict=True):
        assert f"best {key[-1]}, read one-shot" in axis.get_title(loc="left")
        found = [tuple(p) for container in axis.containers for p in container.lines[0].get_xydata()]
        same(found, columns(points_, "artifact_bytes", "mean"))
        heights = {line.get_linestyle(): line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1}
        assert heights["--"] == pytest.approx(points_["floor"].max()) and heights[":"] == pytest.approx(0.7)


def check_stability(output, records):
    """A row of panels per cell and a column per measure; each pair's mean, chance, floor and ceiling on its line."""
    axes, table = visible(output.figure), output.table
    cells = [key for key, _ in groups(table, ["model", "place", "n", "k"])]
    assert len(axes) == 4 * len(cells) and len(cells) == 4  # two k of the LM, two kinds of features
    measures, names = ["functional_match", "above_90", "above_70", "pw_mcc"], {}
    for axis, (cell, what) in zip(axes, itertools.product(cells, measures), strict=True):
        rows = only(table, what=what, **dict(zip(("model", "place", "n", "k"), cell, strict=True)))
        means = [point[0] for container in axis.containers for point in container.lines[0].get_xydata()]
        assert sorted(means) == pytest.approx(sorted(rows["mean"]))
        by_marker = {marker: [] for marker in ("|", "x", "$]$")}
        in_bars = {line for container in axis.containers for line in container.get_children()}
        for line in axis.lines:
            if line not in in_bars:
                by_marker[line.get_marker()] += list(line.get_xdata())
        for marker, name in (("|", "chance"), ("x", "floor"), ("$]$", "ceiling")):
            assert sorted(by_marker[marker]) == pytest.approx(sorted(rows[name]), nan_ok=True)
        low, high = axis.get_xlim()
        assert all(low <= x <= high for x in (*rows["mean"], *rows["chance"], *rows["ceiling"].dropna()))
        heights = sorted(point[1] for container in axis.containers for point in container.lines[0].get_xydata())
        if what == measures[0]:  # the other panels of a row share its labels
            names = dict(zip(axis.get_yticks(), (text.get_text() for text in axis.get_yticklabels()), strict=True))
        assert [names[round(height)].split(",")[0] for height in heights[::-1]] == [
            display(arm).split(",")[0] for arm in in_order(rows["arm"])
        ]
    assert axes[0].get_title(loc="left") == f"synthetic, dense features, n = {N}, k = 16"


def check_three_axes(output, records):
    """Per cell and reading: both sides against bytes, and one against the other, each with its floor."""
    axes = visible(output.figure)
    cells = groups(output.table, ["model", "layer", "n", "k", "reading"])
    assert len(axes) == 3 * len(cells) == 3 * 2 and len(groups(output.table, MODEL_LAYER_N)) == 1
    for left, middle, right in zip(axes[::3], axes[1::3], axes[2::3], strict=True):
        found = [tuple(p) for container in right.containers for p in container.lines[0].get_xydata()]
        (rows,) = [rows for _, rows in cells if sorted(columns(rows, "fidelity", "meaning")) == sorted(found)]
        for axis, side in ((left, "fidelity"), (middle, "meaning")):
            drawn = [tuple(p) for container in axis.containers for p in container.lines[0].get_xydata()]
            same(drawn, columns(rows, "artifact_bytes", side))
            assert [line.get_ydata()[0] for line in floors(axis)] == pytest.approx([rows[f"{side}_floor"].max()])
        assert {line.get_ydata()[0] for line in floors(right)} >= {rows["meaning_floor"].max()}
        assert {line.get_xdata()[0] for line in floors(right)} >= {rows["fidelity_floor"].max()}


def check_learning_curves(output, records):
    """A line with a band for each arm of the default choice, at one d, over the tokens of training."""
    axes, label = visible(output.figure), None
    names = {"fraction of variance unexplained": "fvu", "dead latents (share)": "dead_fraction"}
    for axis in axes:
        label = axis.get_ylabel() or label
        rows = only(output.table, what=names[label], **panel_of(axis)._asdict())
        rows = among(where(rows, rows["d"].isna() | (rows["d"] == 8)), "arm", LEARNED)
        same(points(axis), columns(rows, "tokens", "mean"))
        bands = [band for band in axis.collections if band.get_gid() != FLOOR_ID]
        assert len(data_lines(axis)) == len(bands) == 7 and axis.get_xlabel() == "training tokens"
        random = only(output.table, what=names[label], arm="frozen_random", d=8, **panel_of(axis)._asdict())
        same(floor_points(axis), columns(random, "tokens", "mean"))
        first = rows.sort_values(["arm", "tokens"]).iloc[0]
        low = first["mean"] - first["half_interval"]
        corners = [tuple(corner) for band in bands for corner in band.get_paths()[0].vertices]
        assert any(np.allclose(corner, (first["tokens"], low)) for corner in corners)
    assert len(axes) == 8


def check_seeds(output, records):
    """Every run of a cell of five seeds is a point, minus the cell's mean, with the interval of the mean beside it."""
    (axis,) = visible(output.figure)
    cells = where(output.table, output.table["seeds"] == 5)
    assert panel_of(axis) == (1, 16) and cells["arm"].tolist() == ["dense_tied", "expander"]
    expected = []
    for x, cell in enumerate(dicts(cells)[::-1]):  # the expander comes first
        runs = only(records.runs, layer=1, k=16, arm=cell["arm"], n_latents=cell["n_latents"])
        runs = runs if math.isnan(cell["d"]) else only(runs, d=cell["d"])
        expected += [(x, value - cell["mean"]) for value in runs["ce_recovered"]] + [(x + 0.25, 0)]
    same(points(axis), expected)
    same([(half,) for *_, half in bars(axis)], columns(cells, "half_interval"))
    names = {"expander, d=8 (5)": "expander", "dense, tied (5)": "dense_tied"}
    for text, (name, arm) in zip(axis.get_xticklabels(), names.items(), strict=True):
        (cell,) = dicts(only(cells, arm=arm))
        above = f"{cell['mean'] - cell['floor']:+.3f} ± {cell['resolvable']:.3f}"
        assert text.get_text() == f"{name}\nfloor {above}"
    assert axis.get_ylabel() == "CE recovered, minus the mean over seeds"


def check_latents_summary(output, records):
    """A column for each measure, and in it every arm and d of the panel with most arms at its value."""
    axes = visible(output.figure)
    assert [axis.get_title(loc="left") for axis in axes] == list(MEASURES.values())
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert output.figure.get_suptitle().startswith(f"tiny, after block 1, n = {N}, k = 16")
    rows = only(output.table, layer=1, k=16)
    rows = where(rows, ["+" not in arm and "bit" not in arm for arm in rows["arm"]])
    rows = rows.assign(place=[names.index(display(arm)) for arm in rows["arm"]])
    for axis, measure in zip(axes, MEASURES, strict=True):
        known = rows.dropna(subset=[measure])
        found = [point for container in axis.containers for point in container.lines[0].get_xydata()]
        same([tuple(point) for point in found if not math.isnan(point[0])], columns(known, measure, "place"))
    null = axes[list(MEASURES).index("novelty_novel_fraction")]
    nulls = [line for line in null.lines if line.get_marker() == "|" and line not in bar_caps(null)]
    assert [line.get_xdata()[0] for line in nulls] == pytest.approx([0.97] * len(rows))


SEVERAL = {
    "dominance": check_dominance,
    "iso_bytes": check_iso_bytes,
    "wins": check_wins,
}  # of several figures and a table of all
# How many figures of the same kind there are, where there are several: of 2 layers (and 2 synthetic models).
FIGURES = {"pareto": 2, "amortisation": 2, "throughput": 2, "certificates": 2, "matched": 2, "probing": 2}
FIGURES |= {"three_axes": 4}
CHECKS = {
    **{name: lambda output, records, name=name: check_bars(name, output) for name in BARS},
    "frontier": check_frontier,
    "layers": check_layers,
    "pareto": check_pareto,
    "amortisation": check_amortisation,
    "throughput": check_throughput,
    "certificates": check_certificates,
    "recovery": check_recovery,
    "meaning": check_meaning,
    "probing": check_probing,
    "stability": check_stability,
    "three_axes": check_three_axes,
    "learning_curves": check_learning_curves,
    "seeds": check_seeds,
    "latents_summary": check_latents_summary,
}


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in (*TABLES, *OF_ITS_OWN_STUDY)])
def test_a_figure_draws_the_numbers_of_its_table(records, name):
    outputs = CATALOGUE[name].load()(records, Options())
    if name in SEVERAL:
        SEVERAL[name](outputs, records)
        return
    drawn = [output for output in outputs if output.figure is not None]
    assert drawn == outputs if len(drawn) == 1 else drawn == outputs[1:]  # of several, the whole table stands first
    assert len(drawn) == FIGURES.get(name, 1) and all(output.name.startswith(name) for output in drawn)
    for output in drawn:
        CHECKS[name](output, records)
