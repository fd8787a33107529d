from __future__ import annotations

import pytest

from analysis.frames import where
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.pursuits import (
    amortisation_table,
    certificates_table,
    readable_readings,
    recovery_table,
    throughput_table,
)
from sweep.store.records import write_record
from tests.analysis.synthetic import planted, reading, record


def with_inference(arm, d, seed, ce, **extra):
    """Return a record that was read by OMP too; an expander's has certificates."""
    curves = {
        "k": [1, 2],
        "kind": "bound",
        "r_id_random": [1.0 + seed, 2.0],
        "r_id_observed": [3.0, 4.0],
        "r_omp_random": [5.0, 6.0],
        "r_omp_observed": [7.0, 8.0],
    }
    metrics = {"ce_recovered": ce, "relative_error": 1 - ce, "fvu": 0.3}
    inference = {"encoder": reading(metrics, 100), "omp": reading(metrics, 5000, 0.1 + 0.01 * seed)}
    theory = {"coherence": {"value": 0.5, "kind": "exact"}}
    if arm.startswith("expander"):
        theory["certificates"] = curves
    return record(arm, d, 4, seed, ce, inference=inference, theory=theory, **extra)


@pytest.fixture
def runs(tmp_path):
    """The folder of two expanders, one trained by pursuit, and a dense SAE, each read in two ways."""
    folder = tmp_path / "runs"
    for seed in (0, 1, 2):
        for arm in ("expander", "expander+mp_refit", "dense_tied"):
            for d in (2, 4) if arm != "dense_tied" else (16,):
                write_record(folder, with_inference(arm, d, seed, 0.7 + 0.02 * d + 0.05 * seed))
    return folder


def test_gains_are_paired_by_run(runs):
    """Over seeds the encoder varies by .05 and the gain by .01: paired, the interval is that of the gain."""
    table = amortisation_table(Records.read(runs).readings)
    row = table.query("arm == 'expander' and degree == 2 and inference == 'omp'").iloc[0]
    assert row["seeds"] == 3 and row["mean"] == pytest.approx(0.74 + 0.05 + 0.11)
    assert row["gain"] == pytest.approx(0.11)
    assert row["gain_half_interval"] == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert row["half_interval"] > 5 * row["gain_half_interval"]
    assert row["multiply_adds"] == 5000 and row["tokens_per_second"] == 200_000
    assert (table.query("inference == 'encoder'")["gain"] == 0).all()


def test_runs_hold_the_own_encoder_and_readings_a_row_for_each_inference(runs):
    assert len(Records.read(runs).readings) == 2 * len(Records.read(runs).runs) == 30
    assert set(Records.read(runs).runs["ce_recovered"]) == set(
        Records.read(runs).readings.query("inference == 'encoder'").ce_recovered
    )


def test_speeds_with_another_number_of_threads_are_left_out(runs):
    other = with_inference("expander", 8, 0, 0.9, run_id="other")
    other["inference"]["encoder"]["cost"]["threads"] = 2
    write_record(runs, other)
    table = throughput_table(Records.read(runs).readings)
    assert set(table["threads"]) == {1}
    assert table.query("degree == 8")["inference"].tolist() == ["omp"]


def test_certificates_are_means_over_seeds(runs):
    table = certificates_table(Records.read(runs).runs)
    row = table.query("arm == 'expander' and degree == 2 and ratio == 'r_id' and sets == 'random' and at == 1").iloc[0]
    assert row["mean"] == pytest.approx(2.0) and row["seeds"] == 3
    assert "dense_tied" not in set(table["arm"])


def test_recovery_is_a_mean_over_seeds_and_kept_apart_from_saes(runs, capsys):
    for seed, exact in ((0, 1.0), (1, 0.5)):
        write_record(runs, planted("expander", 4, seed, exact))
    table = recovery_table(Records.read(runs).recovery)
    assert table["exact_recovery"].tolist() == [0.75, 0.75] and set(table["algorithm"]) == {"omp_magnitude", "niht"}
    assert table["seeds"].tolist() == [2, 2]
    assert len(Records.read(runs).runs) == 15 and capsys.readouterr().err == ""


def test_a_figure_shows_arms_of_both_ways_of_training_and_none_rounded(records):
    table = amortisation_table(records.readings)
    shown = set(readable_readings(table, ["expander", "expander+mp_refit", "dense_tied", "pca"])["arm"])
    assert shown == {"expander", "expander+mp_refit", "dense_tied", "dense_tied+mp_refit", "frozen_random"}
    assert set(readable_readings(table, ["no such arm"])["arm"]) == {"frozen_random"}
    without = where(table, ~table["arm"].str.startswith("frozen"))
    assert len(readable_readings(without, ["no such arm"])) == len(without)


def test_records_without_synthetic_runs_are_an_error(recorded):
    with pytest.raises(NoRunsError, match="no synthetic run"):
        _ = recorded(record("expander", 4, 4, 0, 0.7)).recovery
