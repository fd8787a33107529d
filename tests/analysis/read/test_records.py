from __future__ import annotations

import math

import pytest

from analysis.frames import dicts, plain
from analysis.latex.paper import table1
from analysis.output import Options
from analysis.tables.tokens import other_tokens_note, other_tokens_table
from tests.analysis.synthetic import record

PARTS = ["base_arm", "pursuit", "bits", "unrounded_arm"]


@pytest.mark.parametrize(
    "label, parts",
    [
        ("expander", ("expander", "", 32, "expander")),
        ("expander+mp_refit", ("expander", "mp_refit", 32, "expander+mp_refit")),
        ("dense_matched-8bit", ("dense_matched", "", 8, "dense_matched")),
        ("expander+mp_refit-4bit", ("expander", "mp_refit", 4, "expander+mp_refit")),
    ],
)
def test_a_run_has_the_parts_of_its_arm_as_columns(recorded, label, parts):
    found = recorded(record(label, 4, 8, 0, 0.7))
    for table in (found.everything, found.runs, found.readings):
        assert [tuple(row[name] for name in PARTS) for row in dicts(table)] == [parts]
        assert len(plain(table)) == (label == "expander")


def test_the_parts_of_an_arm_come_from_the_spec_and_not_from_the_label(recorded):
    made = record("my-8bit", 4, 8, 0, 0.7)
    made["spec"]["sae"] = {"arm": "mine", "encoder": "omp", "speed": 3}
    (row,) = dicts(recorded(made).everything)
    assert (row["base_arm"], row["pursuit"], row["bits"]) == ("mine", "omp", 32)
    assert row["arm"] == row["unrounded_arm"] == "my-8bit" and row["options"] == '{"sae.speed": 3}'


def over(tokens, arm, d, ce, seed=0, **extra):
    """Return a record about those tokens, "ordinary" or "all"."""
    made = record(arm, d, 8, seed, ce, pool=200_000 if tokens == "all" else 200_001, **extra)
    made["spec"]["activations"]["tokens"] = 200_000
    made["spec"]["eval"]["mask_policy"] = made["metrics"]["mask_policy"] = f"{tokens}_tokens"
    if tokens == "ordinary":
        made["spec"]["activations"]["outlier_norm"] = 5.0
    return made


def test_runs_about_ordinary_tokens_and_about_all_are_never_drawn_together(recorded, capsys):
    ordinary = [over("ordinary", "expander", d, 0.7) for d in (2, 4)]
    every = [over("all", "expander", 2, 0.5, layer=layer) for layer in (1, 2, 3)]
    found = recorded(*ordinary, *every)
    assert set(found.runs["mask_policy"]) == {"all_tokens"}  # at layer 1 too, where most runs are about ordinary ones
    assert "2 run(s) of tiny with other settings left out" in capsys.readouterr().err


def test_tables_of_the_paper_are_about_all_tokens_and_say_what_ordinary_ones_give(recorded):
    ordinary = [over("ordinary", "expander", d, 0.7 + 0.01 * seed, seed) for d in (2, 4) for seed in (0, 1)]
    every = [over("all", "expander", 2, 0.5, seed) for seed in (0, 1)]
    found = recorded(*ordinary, *every)
    assert set(found.runs["mask_policy"]) == {"ordinary_tokens"}
    assert set(found.as_the_paper.runs["mask_policy"]) == {"all_tokens"}
    (cell,) = dicts(other_tokens_table(found.everything, found.as_the_paper.runs))
    assert (cell["d"], cell["all"]) == (2, 0.5) and cell["ordinary"] == pytest.approx(0.705)
    note = "CE recovered over ordinary tokens (eval.tokens=ordinary): tiny L1 expander d=2 k=8 0.705 (here 0.500). "
    assert other_tokens_note(found.everything, found.as_the_paper.runs) == note
    assert note.strip() in table1(found, Options())[0].latex


def test_a_run_whose_ce_recovered_is_undefined_is_left_out_and_counted(recorded, capsys):
    undefined = over("all", "expander", 4, 0.5)
    undefined["metrics"]["ce_recovered"] = None
    found = recorded(over("all", "expander", 2, 0.5), undefined)
    assert found.everything["d"].tolist() == [2.0]
    assert "1 run(s) left out, whose CE recovered is undefined" in capsys.readouterr().err


def test_records_that_count_indices_are_counted_as_files_are_written_today(recorded):
    made = [record("dynamic", 4, 8, seed, 0.7) for seed in (0, 1)]
    d_in, n = made[0]["sizes"]["d_in"], made[0]["sizes"]["n_latents"]
    indices, ranks = n * 4 * math.ceil(math.log2(d_in)), n * math.ceil(math.log2(math.comb(d_in, 4)))
    for older_or_newer, bits in zip(made, (indices, ranks), strict=True):
        older_or_newer["storage"] |= {"index_bits": bits, "artifact_bytes": 5000 + bits // 8}
    assert {(row["index_bits"], row["artifact_bytes"]) for row in dicts(recorded(*made).everything)} == {
        (ranks, 5000 + ranks // 8)
    }
    made[0]["storage"].pop("artifact_bytes")
    assert recorded(*made).everything["artifact_bytes"].isna().tolist() == [True, False]
