from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.catalogue import CATALOGUE
from analysis.draw.shared import far_apart, short
from analysis.read import load
from analysis.tables.frontier import X_AXES, Y_AXES
from analysis.tables.measures import MEASURES
from sweep.store.records import write_record
from tests.analysis.synthetic import record, write_sweep

# They need several n, or an SAE made smaller: tables/test_iso_storage.py, test_scale.py, test_compressed.py.
OF_ITS_OWN_STUDY = {"compressed", "iso_storage", "scale"}
TABLES = {"table1", "table2", "table3", "table7", "table10"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder that `all` writes for a study that has something for every figure and table."""
    folder = tmp_path_factory.mktemp("drawn")
    write_sweep(folder / "runs", layers=(1, 2), ds=(2, 8), ks=(8,), seeds=(0, 1, 2))
    with redirect_stderr(io.StringIO()) as said:
        assert main(["all", "--runs", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder / "out"


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in OF_ITS_OWN_STUDY])
def test_all_writes_every_figure_and_table_of_the_catalogue(drawn, name):
    written = {path.name for path in drawn.iterdir() if path.stat().st_size > 100}  # test_figures.py reads the figures
    assert f"{name}.csv" in written
    if name in TABLES | {"dominance", "wins", "latents_summary"}:
        assert f"{name}.tex" in written
    if name not in TABLES:
        panels = dict.fromkeys(("amortisation", "throughput", "certificates", "matched"), "-n512")
        panels |= {"dominance": "-n512-k8", "iso_bytes": "-n512-k8", "probing": "-n512-code", "pareto": ""}
        figures = {f"{name}-tiny-L{layer}{panels[name]}" for layer in (1, 2)} if name in panels else {name}
        figures = {"three_axes-tiny-code-sets-L1-n512"} if name == "three_axes" else figures
        figures = {f"wins-{way}" for way in ("encoder", "omp", "mp_refit")} if name == "wins" else figures
        assert {f"{figure}.{ending}" for figure in figures for ending in ("png", "svg")} <= written
    assert len(pd.read_csv(drawn / f"{name}.csv")) > 0


def test_all_draws_the_frontier_over_each_storage_axis(drawn):
    for name in ("frontier", "frontier-decoder_values", "frontier-stored_bytes"):
        assert (drawn / f"{name}.png").is_file()
    columns = set(pd.read_csv(drawn / "frontier.csv").columns)
    assert {"arm", "k", "compression", "ce_recovered", "half_interval", "seeds", "retained"} <= columns


def test_dominance_can_be_by_another_measure(drawn, study, tmp_path):
    for measure in ("ce_recovered_mean", "coverage", "feature_f1", "probing"):
        table = pd.read_csv(drawn / f"dominance-{measure}.csv")
        assert main(["dominance", "--runs", str(study), "--out", str(tmp_path), "--measure", measure]) == 0
        assert len(table) > 0 and {"winner", "floor", "verdict"} <= set(table)
    assert set(pd.read_csv(drawn / "dominance-coverage.csv")["model"]) == {
        "synthetic, dense features",
        "synthetic, features of 7 coordinates",
    }


def test_all_reads_the_records_once_and_notes_each_figure_it_cannot_make(tmp_path, monkeypatch, capsys):
    reads = []
    monkeypatch.setattr(
        "analysis.read.records.read_records", lambda source: reads.append(1) or load.read_records(source)
    )
    folder = tmp_path / "runs"
    write_record(folder, record("expander", 4, 8, 0, 0.7))
    assert main(["all", "--runs", str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert reads == [1] and "frontier.png" in said.out
    assert "note: no bits: " in said.err and "note: no seeds: " in said.err and "Traceback" not in said.err
    assert len(said.err.splitlines()) == said.err.count("note: no ")


def test_an_error_about_missing_records_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(load, "data_file", lambda name: tmp_path / name)  # a copy of the project without its records
    for name, runs in (
        ("frontier", tmp_path / "none"),
        ("all", tmp_path),
        ("table1", tmp_path),
        ("frontier", "embedded"),
    ):
        assert main([name, "--runs", str(runs)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: --runs") and said.count("\n") == 1
    write_record(tmp_path / "runs", record("expander", 4, 8, 0, 0.7))
    for name in ("bits", "table3", "table7", "layers", "recovery", "seeds", "matched", "learning_curves"):
        assert main([name, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1


def test_a_frontier_can_be_of_chosen_arms_and_with_published_points(study, tmp_path, capsys):
    common = ["--runs", str(study), "--out", str(tmp_path)]
    assert main(["frontier", *common, "--published", "--arms", "expander,clustered"]) == 0
    assert set(pd.read_csv(tmp_path / "frontier-published.csv")["arm"]) == {"expander", "clustered"}
    assert main(["frontier", *common, "--published", "--y", "fvu"]) == 1
    assert "--published has points for" in capsys.readouterr().err
    assert main(["masks", *common, "--arms", "nothing"]) == 1
    assert "--arms nothing" in capsys.readouterr().err


def test_a_packed_file_gives_the_same_table_as_its_folder(study, tmp_path, capsys):
    file = tmp_path / "all.jsonl.gz"
    assert main(["pack", "--runs", str(study), "--out", str(file)]) == 0
    assert "records" in capsys.readouterr().out
    assert main(["table1", "--runs", str(file), "--out", str(tmp_path)]) == 0
    assert main(["table1", "--runs", str(study), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "table1.tex").read_text() == (tmp_path / "other" / "table1.tex").read_text()


def test_the_word_embedded_names_a_file_of_the_package(study, tmp_path, monkeypatch):
    file = tmp_path / "embedded.jsonl.gz"
    main(["pack", "--runs", str(study), "--out", str(file)])
    monkeypatch.setattr(load, "data_file", lambda name: tmp_path / name)
    assert main(["table2", "--runs", "embedded", "--out", str(tmp_path)]) == 0


def test_an_error_about_an_output_folder_is_one_line(study, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["table2", "--runs", str(study), "--out", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_help_loads_no_large_library():
    code = (
        "import sys, analysis.__main__; sys.exit(bool({'pandas', 'matplotlib', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    said = subprocess.run([sys.executable, "-m", "analysis", "--help"], capture_output=True, text=True)
    assert all(name in said.stdout for name in CATALOGUE)


def test_the_command_line_knows_every_axis():
    from analysis import __main__

    assert tuple(X_AXES) == __main__._X and tuple(Y_AXES) == __main__._Y
    assert tuple(MEASURES) == __main__._MEASURES


def test_numbers_on_axes_are_short_and_labelled_where_there_is_room():
    assert (short(1_500_000.0), short(20_000.0), short(7.0)) == ("1.5M", "20k", "7")
    assert far_apart([2, 4, 8]) and not far_apart([8, 8.1, 100]) and not far_apart([0, 1]) and not far_apart([])


def test_layers_and_ks_can_be_chosen_and_pca_has_no_k(tmp_path, capsys):
    folder = tmp_path / "runs"
    for layer, k in ((1, 8), (1, 16), (2, 8)):
        write_record(folder, record("expander", 4, k, 0, 0.7, layer=layer))
    write_record(folder, record("pca", 4, 16, 0, 0.9, layer=1))
    damaged = record("expander", 5, 8, 0, 0.7, layer=1)
    del damaged["spec"]["sae"]["arm"]
    write_record(folder, damaged)
    place = ["--runs", str(folder), "--out", str(tmp_path / "out")]
    assert main(["frontier", *place, "--layer", "1", "--k", "8"]) == 0
    assert f"run {damaged['run_id']} cannot be read and is left out" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out" / "frontier.csv")
    assert set(table["layer"]) == {1} and set(table.loc[table["arm"] == "expander", "k"]) == {8}
    assert "pca" in set(table["arm"])
    assert main(["frontier", *place, "--k", "99", "--layer", "7"]) == 1
    assert capsys.readouterr().err.endswith("no run at layer [7] and k [99]\n")


def test_a_figure_of_an_earlier_command_does_not_stay_beside_a_new_table(study, tmp_path):
    common = ["amortisation", "--runs", str(study), "--out", str(tmp_path)]
    assert main([*common, "--layer", "1"]) == 0 and (tmp_path / "amortisation.png").is_file()
    assert main(common) == 0
    assert not (tmp_path / "amortisation.png").exists() and (tmp_path / "amortisation.csv").is_file()
    assert (tmp_path / "amortisation-tiny-L1-n512.png").is_file()


def test_all_says_a_line_once(drawn):
    said = (drawn.parent / "said.txt").read_text().splitlines()
    assert len(said) == len(set(said)) > 3
