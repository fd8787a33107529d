"""SAEs that were made smaller, beside what they were made of."""

from __future__ import annotations

import pytest

from analysis.__main__ import main
from analysis.arms import described, display
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.compressed import compressed_table
from sweep.store.records import write_record
from tests.analysis.synthetic import M, N, record

IMPORTED = {"arm": "imported", "k": 8, "content": "0123"}


def made(label, degree, ce, sae, survived=None, size=1000):
    """The record of an SAE of another library, or of one that was made of it."""
    found = record(label, degree, 8, 0, ce)
    found["spec"]["sae"] = sae
    found["storage"]["artifact_bytes"] = size
    return found if survived is None else {**found, "survival": {"survived": survived}}


def smaller(bits, degree, encoder="topk"):
    own = {"arm": "compressed", "n_latents": N, "degree": degree, "k": 8, "of": IMPORTED}
    own |= {} if encoder == "topk" else {"encoder": encoder}
    return {"arm": f"compressed-{bits}bit_trained", "of": own, "bits": bits, "rounded_in": "neurons", "rounded_from": 0}


@pytest.fixture
def runs(tmp_path):
    original = made("imported", M, 0.9, IMPORTED, size=8000)
    one_shot = made("compressed-4bit_trained_from0", M, 0.89, smaller(4, M), 0.92)
    pursuit = made("compressed+mp_refit-2bit_trained_from0", 4, 0.95, smaller(2, 4, "mp_refit"), 0.1, 500)
    for found in (original, one_shot, pursuit):
        write_record(tmp_path, found)
    return tmp_path


def test_what_was_made_smaller_is_not_taken_for_what_it_was_made_of():
    arm = described(smaller(2, 4, "mp_refit"))
    assert (arm.base, arm.pursuit, arm.bits, arm.label) == (
        "compressed",
        "mp_refit",
        2,
        "compressed+mp_refit-2bit_trained_from0",
    )
    assert display(arm.label) == "compressed, trained by mp_refit, 2 bits, trained from 0 on"


def test_the_table_has_the_original_first_and_how_many_latents_stay(runs):
    table = compressed_table(Records.read(runs).everything)
    assert table["base_arm"].tolist() == ["imported", "compressed", "compressed"]
    assert table["artifact_bytes"].tolist() == [8000, 1000, 500] and table["bits"].tolist() == [32, 4, 2]
    assert table["survived"].tolist()[1:] == [0.92, 0.1] and table["survived"].isna()[0]
    assert table["reading"].tolist() == ["topk", "topk", "mp_refit"]


def test_an_original_alone_is_nothing_made_smaller(tmp_path):
    write_record(tmp_path, made("imported", M, 0.9, IMPORTED))
    with pytest.raises(NoRunsError, match="sweep.compress"):
        compressed_table(Records.read(tmp_path).everything)


def test_the_figure_names_what_it_was_made_of(runs, tmp_path):
    assert main(["compressed", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out" / "compressed.svg").read_text()
    assert "what it was made of" in drawn and "share of latents that stay what they were" in drawn
    assert "d=4, 2 bits" in drawn
