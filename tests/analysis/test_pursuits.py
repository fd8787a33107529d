from __future__ import annotations

import pytest

from analysis.__main__ import main
from analysis.load import NoRunsError, load_inferences, load_recovery, load_runs
from analysis.pursuits import amortisation_table, certificates_table, recovery_table, throughput_table
from sweep.store import SCHEMA, write_record
from tests.analysis.test_frontier import record


def read(ce, cost, threads=1):
    metrics = {"ce_recovered": ce, "relative_error": 1 - ce, "fvu": 0.3}
    return {"metrics": metrics, "cost": {"multiply_adds": cost, "tokens_per_second": 10**6 // cost, "threads": threads}}


def with_inference(arm, d, seed, ce, **extra):
    curves = {"k": [1, 2], "kind": "bound", "r_id_random": [1.0 + seed, 2.0], "r_id_observed": [3.0, 4.0],
              "r_omp_random": [5.0, 6.0], "r_omp_observed": [7.0, 8.0]}  # fmt: skip
    inference = {"encoder": read(ce, 100), "omp": read(ce + 0.1 + 0.01 * seed, 5000)}
    theory = {"coherence": {"value": 0.5, "kind": "exact"}}
    if arm.startswith("expander"):
        theory["certificates"] = curves
    return record(arm, d, 4, seed, ce, inference=inference, theory=theory, **extra)


def synthetic(mask, k, seed, exact):
    measures = ("exact_recovery", "support_recovery", "code_error", "relative_residual", "tokens_per_second")
    return {
        "schema": SCHEMA, "kind": "recovery", "run_id": f"{mask}-{k}-{seed}", "status": "complete",
        "labels": {"model": "synthetic", "corpus": "c", "arm": mask, "sweep": "s"},
        "axes": {"d": 5, "k": k, "n": 100, "seed": seed}, "sizes": {}, "timings": {"total": 1.0},
        "spec": {"recovery": {"mask": mask, "d_in": 32, "noise": 0.0, "values": "gaussian", "codes": "gaussian",
                              "trials": 10, "algorithms": ["omp_magnitude", "niht"]}},
        "metrics": {f"{name}/{measure}": exact for name in ("omp_magnitude", "niht") for measure in measures},
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in (0, 1, 2):
        for arm in ("expander", "expander+mp_refit", "dense_tied"):
            for d in (2, 4) if arm != "dense_tied" else (16,):
                write_record(folder, with_inference(arm, d, seed, 0.7 + 0.02 * d + 0.05 * seed))
    return folder


def test_gains_are_paired_by_run(runs):
    """Over seeds the encoder varies by .05 and the gain by .01: paired, the interval is that of the gain."""
    table = amortisation_table(load_inferences(runs))
    row = table.query("arm == 'expander' and degree == 2 and inference == 'omp'").iloc[0]
    assert row["seeds"] == 3 and row["mean"] == pytest.approx(0.74 + 0.05 + 0.11)
    assert row["gain"] == pytest.approx(0.11)
    assert row["gain_half_interval"] == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert row["half_interval"] > 5 * row["gain_half_interval"]
    assert row["multiply_adds"] == 5000 and row["tokens_per_second"] == 200
    assert (table.query("inference == 'encoder'")["gain"] == 0).all()


def test_the_frontier_reads_the_own_encoder_and_every_inference_is_its_own_row(runs):
    assert len(load_inferences(runs)) == 2 * len(load_runs(runs)) == 30
    assert set(load_runs(runs)["ce_recovered"]) == set(
        load_inferences(runs).query("inference == 'encoder'").ce_recovered
    )


def test_speeds_with_another_number_of_threads_are_left_out(runs):
    other = with_inference("expander", 8, 0, 0.9, run_id="other")
    other["inference"]["encoder"]["cost"]["threads"] = 2
    write_record(runs, other)
    table = throughput_table(load_inferences(runs))
    assert set(table["threads"]) == {1}
    assert table.query("degree == 8")["inference"].tolist() == ["omp"]


def test_certificates_over_seeds(runs):
    table = certificates_table(load_inferences(runs))
    row = table.query("arm == 'expander' and degree == 2 and ratio == 'r_id' and sets == 'random' and at == 1").iloc[0]
    assert row["mean"] == pytest.approx(2.0) and row["seeds"] == 3
    assert "dense_tied" not in set(table["arm"])


def test_recovery_over_seeds_and_kept_apart_from_saes(runs, capsys):
    for seed, exact in ((0, 1.0), (1, 0.5)):
        write_record(runs, synthetic("expander", 4, seed, exact))
    table = recovery_table(load_recovery(runs))
    assert table["exact_recovery"].tolist() == [0.75, 0.75] and set(table["algorithm"]) == {"omp_magnitude", "niht"}
    assert table["seeds"].tolist() == [2, 2]
    assert len(load_runs(runs)) == 15 and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["amortisation", "certificates", "throughput", "all"])
def test_figures_are_written(runs, tmp_path, name, capsys):
    write_record(runs, synthetic("dense", 4, 0, 1.0))
    assert main([name, "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = ["frontier", "amortisation", "certificates", "throughput", "recovery"] if name == "all" else [name]
    assert {f"{n}.{ending}" for n in names for ending in ("png", "svg", "csv")} <= written


def test_what_is_not_there_is_said_in_one_line(tmp_path, capsys):
    folder = tmp_path / "runs"
    write_record(folder, record("expander", 4, 4, 0, 0.7))  # of before there was a choice of inference
    for name in ("amortisation", "recovery"):
        assert main([name, "--runs", str(folder), "--out", str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith(f"error: --runs {folder}: no ")
    with pytest.raises(NoRunsError):
        load_recovery(folder)
    assert main(["all", "--runs", str(folder), "--out", str(tmp_path)]) == 0  # the frontier is there
