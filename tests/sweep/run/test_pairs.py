"""Pairs of finished runs that differ in a seed, through the command line: found, measured, recorded once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_core import io
from sae_core.arms import PCA, DenseTied, Expander, Quantised
from sae_core.stability import ReadTokens, stability_measures
from sweep.jobs.spec import Seeds
from sweep.run.pairs import ALL, Finished, Read, difference, rounded_pairs, seed_pairs
from sweep.store.records import iterate_records, read_record
from sweep.synthetic.config import SyntheticConfig, held_out_samples
from sweep.synthetic.model import SyntheticModel
from tests.sweep.jobs.test_spec import SPEC
from tests.sweep.synthetic.test_runs import RATES, SIZES, SMALL
from tests.sweep.test_inference import SMALL as ON_TEXT
from tests.sweep.test_inference import call


class FakeJob:
    """A stand-in for a job, with the two attributes that `seed_pairs` reads."""

    def __init__(self, spec):
        self.spec, self.starts_from = spec, None


def finished(record=None, **changed):
    return Finished(FakeJob(replace(SPEC, **changed)), record or {})


def test_which_seeds_differ():
    assert difference(Seeds(0, 0, 0), Seeds(1, 1, 1)) == ALL
    assert [difference(Seeds(0, 0, 0), Seeds(*np.eye(3, dtype=int)[i].tolist())) for i in range(3)] == [
        "support",
        "values",
        "order",
    ]
    assert difference(Seeds(0, 0, 0), Seeds(1, 1, 0)) is None is difference(Seeds(0, 0, 0), Seeds(0, 0, 0))
    assert difference(Seeds(None, 0, 0), Seeds(None, 1, 1)) == ALL
    assert difference(Seeds(None, 0, 0), Seeds(None, 0, 1)) == "order"


def test_pairs_are_of_one_configuration():
    runs = [finished(seed=seed) for seed in (0, 1)] + [finished(seed=0, seed_support=1), finished(seed=0, seed_order=1)]
    runs += [finished(arm=DenseTied(64, 4), seed=0), finished(arm=Expander(64, 4, 4)), finished(arm=PCA(64, 3), seed=0)]
    runs += [finished(arm=PCA(64, 3), seed=1)]
    found = seed_pairs(runs)
    assert sorted(pair.differs for pair in found) == [ALL, "order", "support"]
    assert all(pair.first.run_id < pair.second.run_id for pair in found)
    assert [pair for pair in found if pair.done] == []
    pair = found[0]
    pair.first.record["stability"] = {pair.second.run_id: {}}
    assert pair.done


def test_a_rounded_run_is_compared_with_its_original_once():
    original, rounded = finished(), finished(arm=Quantised(SPEC.arm, 8))
    rounded.job.starts_from = original.job
    assert rounded_pairs([original, rounded]) == [(rounded, original)]
    assert rounded_pairs([rounded]) == []
    assert rounded_pairs([original, rounded._replace(record={"rounding": {}})]) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    arguments = [*SMALL, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    call("sweep", "-m", *arguments, "sae=expander,dense_tied", "seed=0,1")
    call("sweep", "-m", *arguments, "sae=expander,expander_quantised", "seed_values=2")
    return folder / "runs", arguments


@pytest.fixture(scope="module")
def compared(place):
    """Run the command; give what it showed, and every pair with its measures: {(first id, second id): found}."""
    runs, _ = place
    done = call("sweep.stability", f"runs_dir={runs}")
    pairs = {}
    for _, record in iterate_records(runs):
        pairs |= {(record["run_id"], other): found for other, found in record.get("stability", {}).items()}
    return done, pairs


def records(runs):
    """Return the records by arm and seeds, which a title has beside sizes and the training's length."""
    found = [record for _, record in iterate_records(runs)]
    return {record["title"].split(" steps=")[0].replace(" d=7 k=4 n=64 L0", ""): record for record in found}


def test_every_pair_is_measured_and_said(compared, place):
    done, pairs = compared
    by_id = {record["run_id"]: title for title, record in records(place[0]).items()}
    named = {frozenset((by_id[one], by_id[other])): found["differs"] for (one, other), found in pairs.items()}
    dense = "dense_tied d=32 k=4 n=64 L0 s"
    assert named == {
        frozenset(("expander s0", "expander s1")): "all",
        frozenset(("expander s0", "expander s0 (values 2)")): "values",
        frozenset(("expander s1", "expander s0 (values 2)")): "all",
        frozenset((f"{dense}0", f"{dense}1")): "all",
    }
    assert "4 pairs that differ in a seed, 0 of them measured before" in done.stdout and "[4/4]" in done.stdout


def held_out():
    """The held-out samples that the runs are measured on."""
    config = SyntheticConfig(**SIZES, **RATES)
    model, windows = SyntheticModel(config), held_out_samples(config, 12)
    return torch.cat([model.samples(model.activations(int(row[0]) // 50)) for row in windows.tokens])


def dense_codes(folder):
    """The codes of the held-out samples by a saved SAE, as a dense table."""
    h = held_out()
    with torch.no_grad():
        codes, indices = io.load(folder).encode(h)
    return torch.zeros(len(h), 64).scatter_(1, indices, codes).double().numpy()


def test_the_numbers_are_those_of_the_saved_saes(compared, place):
    runs, _ = place
    h = held_out()
    for (one, other), found in compared[1].items():
        saes = [io.load(runs / run_id) for run_id in (one, other)]
        with torch.no_grad():
            reads = [ReadTokens(*sae.encode(h), torch.arange(len(h))) for sae in saes]
        expected = stability_measures(saes[0].dictionary, reads[0], saes[1].dictionary, reads[1])
        assert {**expected, "differs": found["differs"]} == pytest.approx(found, nan_ok=True, abs=1e-4)


def test_nothing_is_measured_twice_and_a_run_without_weights_is_named(compared, place, tmp_path):
    runs, arguments = place
    shutil.copytree(runs, tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/record.json")}
    again = call("sweep.stability", f"runs_dir={runs}")
    assert "4 pairs that differ in a seed, 4 of them measured before" in again.stdout and "[1/" not in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}
    lost = records(runs)["expander s0"]["run_id"]
    (tmp_path / "runs" / lost / io.WEIGHTS_FILE).unlink()
    done = call("sweep.stability", f"runs_dir={tmp_path / 'runs'}")
    assert f"left out: {lost} expander d=7" in done.stderr and "2 pairs that differ" in done.stdout
    assert "skipped: done" in call("sweep", *arguments, "sae=expander").stdout


def test_a_damaged_sae_is_said_and_the_others_go_on(compared, place, tmp_path):
    shutil.copytree(place[0], tmp_path / "runs")
    for _, record in iterate_records(tmp_path / "runs"):
        record.pop("stability", None)
        (tmp_path / "runs" / record["run_id"] / "record.json").write_text(json.dumps(record))
    bad = records(place[0])["expander s1"]["run_id"]
    (tmp_path / "runs" / bad / io.WEIGHTS_FILE).write_bytes(b"x" * 100)
    done = call("sweep.stability", f"runs_dir={tmp_path / 'runs'}", code=1)
    assert "not measured" in done.stdout and done.stdout.count("match 0") == 2
    assert read_record(tmp_path / "runs", bad)["status"] == "complete"


def test_rounding_is_measured_at_the_runs_evaluation_and_later_where_it_lacks(compared, place, tmp_path):
    runs, _ = place
    (rounded,) = (record for record in records(runs).values() if "rounding" in record)
    found = rounded["rounding"]
    assert rounded["labels"]["arm"] == "expander-8bit" and set(found) == {"correlation", "below_90", "silenced", "dead"}
    before, after = (dense_codes(runs / run_id) for run_id in (rounded["source"]["run_id"], rounded["run_id"]))
    both = [i for i in range(64) if before[:, i].any() and after[:, i].any()]
    alive = int((before.any(0) | after.any(0)).sum())
    values = [np.corrcoef(before[:, i], after[:, i])[0, 1] for i in both]
    assert found["correlation"] == pytest.approx(sum(values) / alive) and found["correlation"] > 0.9
    assert found["below_90"] == pytest.approx((sum(v < 0.9 for v in values) + alive - len(both)) / alive)
    assert found["dead"] == pytest.approx(1 - alive / 64)
    shutil.copytree(runs, tmp_path / "runs")
    older = {key: value for key, value in rounded.items() if key != "rounding"}
    (tmp_path / "runs" / rounded["run_id"] / "record.json").write_text(json.dumps(older))
    done = call("sweep.stability", f"runs_dir={tmp_path / 'runs'}")
    assert "[1/1] expander-8bit" in done.stdout and "its original" in done.stdout
    assert read_record(tmp_path / "runs", rounded["run_id"])["rounding"] == pytest.approx(found)


def test_saes_of_an_lm_are_read_on_its_held_out_text(tmp_path, model_folders, text_file):
    given = [f"model.path={model_folders['gpt_neox']}", f"corpus.path={text_file}"]
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    call("sweep", "-m", *ON_TEXT, *given, *places, "seed_order=0,1", "sae=expander,expander_quantised", "seed=0")
    shutil.rmtree(tmp_path / "cache" / "held-out")
    done = call("sweep.stability", f"runs_dir={tmp_path / 'runs'}")
    assert done.stdout.count("order: match") == 2 and "LM pass over held-out text" in done.stdout
    of = {record["title"]: record for _, record in iterate_records(tmp_path / "runs")}
    assert sum(len(record.get("stability", {})) for record in of.values()) == 2
    assert sum("rounding" in record for record in of.values()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=abc"], "run=abc: no finished run"),
        (["d=3"], "d is settled for a finished run"),
        (["runs_dir=nowhere"], "no finished run under nowhere"),
        (["nonsense"], "nonsense is not KEY=VALUE"),
    ],
)
def test_bad_input_ends_in_one_line(place, arguments, said):
    named = [] if arguments[0].startswith("runs_dir") else [f"runs_dir={place[0]}"]
    done = call("sweep.stability", *named, *arguments, code=1)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_store_without_pairs_says_what_makes_them(place, tmp_path):
    shutil.copytree(place[0], tmp_path / "runs")
    for _, record in list(iterate_records(tmp_path / "runs"))[1:]:
        shutil.rmtree(tmp_path / "runs" / record["run_id"])
    done = call("sweep.stability", f"runs_dir={tmp_path / 'runs'}", code=1)
    assert "seed=0,1,2 makes such runs" in done.stderr


def test_coordinates_that_are_always_on_are_no_latents_to_find_again():
    sae = Expander(60, 3, 4, always_on=2).build(20, seed=0)
    h = torch.randn(80, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes, indices = sae.encode(h)
    read = Read(sae, ReadTokens(codes, indices, torch.arange(80)))
    assert indices.max() == 61 and read.of_atoms.indices.max() < 60 and read.of_atoms.codes.shape == (80, 4)
    found = stability_measures(read.dictionary, read.of_atoms, read.dictionary, read.of_atoms)
    assert found["functional_match"] == pytest.approx(1) and found["pw_mcc"] == pytest.approx(1)
