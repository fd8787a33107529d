"""What arms preserve at few bits a value: the table, the best of each kind, and how they are marked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.lines import Line2D

from analysis.commands import bits
from analysis.draw.bits import style_of_bits
from analysis.output import Options
from analysis.tables.bits import ROUNDED, best_of_bits, bits_table
from tests.analysis.synthetic import record
from tests.analysis.tables.test_stability import row

SIZES = {32: 9000, 8: 3000, 6: 2500, 4: 2000, 2: 1000}


@pytest.fixture
def several(recorded):
    """Records of an expander at four numbers of bits and in two bases, and of a dense arm."""
    made = {
        "expander": 0.80,
        "expander-8bit": 0.81,  # better than at 32 bits, and smaller
        "expander-2bit": 0.70,
        "expander-2bit_trained": 0.75,
        "expander@reflections4": 0.90,
        "expander@reflections4-8bit": 0.79,
        "expander@reflections4-6bit": 0.82,
        "dense_tied": 0.95,
        "dense_tied-4bit": 0.94,
    }
    records = []
    for arm, ce in made.items():
        few = 32 if "bit" not in arm else int(arm.split("-")[1].split("bit")[0])
        changed = {} if few == 32 else {"rounding": {"below_90": 1 / few, "correlation": 0.9}}
        records.append(record(arm, 8, 8, 0, ce, stored=SIZES[few], bits=few) | changed)
    return recorded(*records)


def drawn_names(output):
    return [text.get_text().replace("\n", " ") for text in output.figure.legends[0].get_texts()]


def test_rounded_arms_have_their_float32_runs_beside_them(records):
    table = bits_table(records.runs)
    assert set(table["base"]) == {"expander"} and set(table["bits"]) == {32, 8, 4}
    cell = "layer == 1 and k == 8 and d == 8 and what == 'ce_recovered'"
    sizes = table.query(cell).set_index("bits")["artifact_bytes"]
    assert sizes[4] < sizes[8] < sizes[32]
    runs = records.runs
    partly = bits_table(runs[(runs["bits"] == 32) | (runs["k"] == 8)])
    assert set(partly["k"]) == {8} < set(table["k"])  # where nothing was rounded there is nothing to compare


def test_what_rounding_changes_stands_below_fidelity(recorded):
    made = [record("expander", 8, 16, seed, 0.7) for seed in (0, 1)]
    for seed, share in ((0, 0.1), (1, 0.2)):
        made.append(record("expander-8bit", 8, 16, seed, 0.69) | {"rounding": {"below_90": share, "correlation": 0.9}})
    table = bits_table(recorded(*made).runs)
    changed = row(table, what=ROUNDED)
    assert changed["mean"] == pytest.approx(0.15) and changed["bits"] == 8 and changed["seeds"] == 2
    unmeasured = [{key: value for key, value in one.items() if key != "rounding"} for one in made]
    without = bits_table(replace(recorded(*made), records=tuple(unmeasured)).runs)
    assert set(without["what"]) == {"ce_recovered"} and len(without) == 2


def test_the_best_of_a_kind_are_those_that_no_smaller_one_beats(several):
    table = bits_table(several.runs)
    best = best_of_bits(table)
    fidelity = best[best["what"] == "ce_recovered"]
    # The basis does not make a kind: at 6 bits in another basis the expander beats its larger selves.
    assert set(fidelity["arm"]) == {
        "expander-2bit_trained",
        "expander@reflections4-6bit",
        "expander@reflections4",
        "dense_tied-4bit",
        "dense_tied",
    }
    assert set(best["kind"]) == {"expander", "dense_tied"}
    changed = best[best["what"] == ROUNDED]
    assert set(changed["arm"]) == {"expander-2bit_trained", "expander@reflections4-6bit", "dense_tied-4bit"}


def test_the_figure_shows_the_best_unless_arms_are_asked_for(several, capsys):
    (best,) = bits(several, Options())
    assert drawn_names(best) == [
        "expander",
        "dense, tied",
        "32 bits",
        "6 bits, rounded after training",
        "4 bits, rounded after training",
        "2 bits",
    ]
    assert "note: bits: 7 of 15 rows are in the CSV only" in capsys.readouterr().err and len(best.table) == 15
    (asked,) = bits(several, Options(arms=("expander*",)))
    assert len(drawn_names(asked)) == 7 and "expander, 2 bits, trained" in drawn_names(asked)
    assert "note" not in capsys.readouterr().err


def test_no_two_ways_to_few_bits_look_alike_and_those_after_training_are_hollow():
    looks = {}
    for few in (8, 4, 2, 1.58, 1):
        pieces = ("pq", "pq_weighted", "pq_fourier", "pq_weighted_fourier") if few in (4, 2, 1) else ()
        ways = ("", "trained", "fourier", "trained_fourier", *pieces)
        for how in (*ways, "trained_fourier_from0.1"):
            style = style_of_bits({"base": "dense_tied", "bits": few, "how_rounded": how, "rounding": how})
            assert style.hollow == (how in ("", "fourier"))
            assert Line2D([], [], marker=style.marker).get_marker() == style.marker
            looks.setdefault((style.marker, style.hollow), set()).add((few, how.removesuffix("_from0.1")))
    assert all(len(shown) == 1 for shown in looks.values()) and len(looks) == 32
    floats = style_of_bits({"base": "dense_tied", "bits": 32, "how_rounded": "", "rounding": ""})
    assert (floats.marker, floats.hollow) not in looks and not floats.hollow
