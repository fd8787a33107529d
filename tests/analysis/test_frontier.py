from __future__ import annotations

import math

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.frontier import frontier_table
from analysis.load import NoRunsError, comparable, load_published, load_runs
from analysis.plots import spread
from analysis.stats import half_interval
from sweep.store import SCHEMA, write_record

M, N = 16, 128


def record(arm, d, k, seed, ce, n_latents=N, values=None, **extra):
    return {
        "schema": SCHEMA, "run_id": f"{arm}-{d}-{k}-{seed}", "status": "complete",
        "labels": {"model": "tiny", "corpus": "text", "arm": arm, "sweep": "s"},
        "axes": {"layer": 1, "d": d, "k": k, "n": N, "seed": seed},
        "sizes": {"d_in": M, "n_latents": n_latents, "degree": d, "k": k},
        "storage": {"learned_decoder_values": values or d * N, "compression": M / d, "artifact_bytes": 4 * d * N},
        "metrics": {"ce_recovered": ce, "ce_recovered_mean": ce - 0.1, "delta_ce": 1 - ce, "fvu": 0.3},
        "timings": {"total": 1.0}, "finished": "2026-01-01T00:00:00+00:00",
        "spec": {"activations": {"layer": 1, "corpus": "c"}, "train": {"steps": 5000}, "eval": {"windows": 100}},
        **extra,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in (0, 1, 2):
        for k in (4, 8):
            write_record(folder, record("dense_tied", M, k, seed, 0.96 + 0.01 * seed))
            for d in (2, 4, 8):
                write_record(folder, record("expander", d, k, seed, 0.7 + 0.02 * d + 0.01 * seed))
            write_record(folder, record("dense_matched", M, k, seed, 0.8, n_latents=N // 4, values=M * N // 4))
    return folder


def test_means_intervals_compression_and_retained(runs):
    table = frontier_table(load_runs(runs))
    row = table[(table.arm == "expander") & (table.k == 4) & (table.degree == 4)].iloc[0]
    assert row["x"] == 4 and row["seeds"] == 3
    assert row["mean"] == pytest.approx(0.79)
    assert row["half_interval"] == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    assert row["retained"] == pytest.approx(0.79 / 0.97)
    matched = table[table.arm == "dense_matched"]
    assert (matched["x"] == 4).all()


def test_runs_of_another_recipe_are_not_one_more_seed(runs, capsys):
    trial = record("expander", 4, 4, 9, 0.1, run_id="trial")
    trial["spec"] = {**trial["spec"], "train": {"steps": 50}}
    write_record(runs, trial)
    table = frontier_table(comparable(load_runs(runs)))
    row = table[(table.arm == "expander") & (table.k == 4) & (table.degree == 4)].iloc[0]
    assert row["seeds"] == 3 and row["mean"] == pytest.approx(0.79)
    assert "1 run(s)" in capsys.readouterr().err


def test_one_seed_has_no_interval():
    assert math.isnan(half_interval(pd.Series([1.0])))


def test_figures_and_csv_without_torch_in_sight(runs, tmp_path, capsys):
    out = tmp_path / "figures"
    assert main(["frontier", "--runs", str(runs), "--out", str(out)]) == 0
    assert main(["frontier", "--runs", str(runs), "--out", str(out), "--published"]) == 0
    assert main(["all", "--runs", str(runs), "--out", str(out)]) == 0
    for name in ("frontier", "frontier-published", "frontier-decoder_values", "frontier-stored_bytes"):
        for suffix in (".png", ".svg", ".csv"):
            assert (out / f"{name}{suffix}").stat().st_size > 500
    csv = pd.read_csv(out / "frontier.csv")
    assert {"arm", "k", "compression", "ce_recovered", "half_interval", "seeds", "retained"} <= set(csv.columns)
    assert len(csv) == 2 * (1 + 3 + 1)
    assert "frontier.png" in capsys.readouterr().out


def test_unreadable_and_failed_records_are_said_and_the_rest_used(runs, capsys):
    (runs / "broken").mkdir()
    (runs / "broken" / "record.json").write_text("{")
    write_record(runs, {"schema": SCHEMA, "run_id": "f", "status": "failed", "error": "x"})
    write_record(runs, {"schema": SCHEMA, "run_id": "h", "status": "complete"})
    assert len(load_runs(runs)) == 30
    said = capsys.readouterr().err
    assert "broken/record.json cannot be read" in said and "h/record.json" in said and "1 failed run" in said


def test_nothing_to_draw_is_one_line(tmp_path, capsys):
    assert main(["frontier", "--runs", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: --runs")
    with pytest.raises(NoRunsError, match="no complete run"):
        load_runs(tmp_path)


def test_published_points_are_the_papers():
    table = load_published()
    cell = table.query("model == 'pythia-70m-deduped' and layer == 3 and arm == 'expander_tied' and d == 7 and k == 64")
    assert float(cell["ce_recovered"].iloc[0]) == pytest.approx(0.817, abs=5e-4)
    matched = table.query("arm == 'dense_tied' and n == 240 and k == 64 and layer == 3")
    assert float(matched["ce_recovered"].iloc[0]) == pytest.approx(0.866, abs=2e-3)


def test_labels_never_overlap():
    places = spread([0.1, 0.1, 0.11, 0.5, 0.99, 1.0], gap=0.05, low=0.0, high=1.0)
    assert all(b - a >= 0.05 - 1e-12 for a, b in zip(places, places[1:], strict=False))
    assert places[-1] <= 1.0 and places[3] == 0.5
