"""Arms that need another run first, and what is measured of latents: through the command line, on a small real LM."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest
import torch

from sae_core import io
from sweep.store.records import COMPLETE, iterate_records, read_record
from tests.sweep.test_inference import ROOT, SMALL, call


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folders, text_file):
    folder = tmp_path_factory.mktemp("arms")
    given = [f"model.path={model_folders['gpt_neox']}", f"corpus.path={text_file}"]
    return folder / "runs", [*SMALL, *given, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]


@pytest.fixture(scope="module")
def launched(place):
    """Launch arms that start from other runs, which nobody asked for; give all records by arm and seed."""
    runs, arguments = place
    arms = "pruned_retuned,dynamic_quantised,pca,frozen_random,dense_low_rank,itda"
    call("sweep", "-m", *arguments, f"sae={arms}", "eval.novelty=true", "eval.contexts=2", "d=5")
    return {(r["labels"]["arm"], r["axes"]["seed"]): r for _, r in iterate_records(runs)}


def test_needed_runs_are_trained_once_and_are_runs_of_their_own(launched):
    names = ("pruned_retuned", "dynamic-8bit", "pca", "frozen_random", "dense_low_rank", "itda+mp_magnitude")
    asked = {(name, 0) for name in names}
    needed = {("dense_tied", 0), ("dense_tied", 1), ("dynamic", 0)}
    assert set(launched) == asked | needed
    assert {record["status"] for record in launched.values()} == {COMPLETE}


def test_the_cost_of_the_run_that_an_sae_starts_from_is_counted(launched):
    steps = 60 * 32
    pruned, dense = launched["pruned_retuned", 0], launched["dense_tied", 0]
    cost = {"tokens": steps, "seconds": dense["training"]["seconds"]}
    assert pruned["source"] == {"run_id": dense["run_id"], "arm": "dense_tied", **cost}
    assert pruned["training"]["tokens"] == steps and launched["dynamic-8bit", 0]["training"]["tokens"] == 0
    assert launched["dynamic-8bit", 0]["source"]["arm"] == "dynamic"
    pca = launched["pca", 0]
    assert pca["training"]["tokens"] == pca["activations"]["rows"] <= 800 and "source" not in pca


def test_a_derived_dictionary_is_that_of_the_sae_it_starts_from(launched, place):
    runs, _ = place
    whole, rounded = (io.load(runs / launched[arm, 0]["run_id"]) for arm in ("dynamic", "dynamic-8bit"))
    assert rounded.dictionary.support.equal(whole.dictionary.support) and rounded.dictionary.value_bits == 8
    assert (rounded.dictionary.unit_values() - whole.dictionary.unit_values()).abs().max() < 0.01
    storage = {arm: launched[arm, 0]["storage"] for arm in ("dynamic", "dynamic-8bit", "frozen_random")}
    values = storage["dynamic"]["learned_decoder_values"]
    assert 0 <= storage["dynamic"]["artifact_bytes"] - storage["dynamic-8bit"]["artifact_bytes"] - 3 * values < 100
    assert storage["frozen_random"]["learned_decoder_values"] == storage["frozen_random"]["value_bits"] == 0


def test_dense_atoms_of_other_kinds_are_made_of_the_pool_and_read_back(launched, place):
    runs, _ = place
    low_rank, itda = launched["dense_low_rank", 0], launched["itda+mp_magnitude", 0]
    whole = io.load(runs / low_rank["run_id"])
    assert low_rank["sizes"]["degree"] == whole.dictionary.degree == 5 and whole.b_dec.norm() > 0
    assert low_rank["storage"]["basis_values"] == 5 * whole.dictionary.d_in
    assert low_rank["inference"]["encoder"]["cost"]["multiply_adds"] == 5 * (whole.dictionary.d_in + 64)
    rows = itda["activations"]["rows"]
    sources = io.load(runs / itda["run_id"]).dictionary.sources
    assert len(sources.unique()) == 64 and int(sources.max()) < rows == itda["training"]["tokens"]
    assert itda["storage"]["source_bits"] == 64 * 16 and itda["training"]["steps"] == 0


def test_values_rounded_in_training_are_what_is_stored_and_are_compared_with_those_underneath(place):
    runs, arguments = place
    few = ["sae.bits=1.58,2", "d=5", "seed=2", "sae.of.basis=reflections4"]
    call("sweep", "-m", *arguments, "sae=pruned_retuned_few_bits", *few)
    found = {r["labels"]["arm"]: r for _, r in iterate_records(runs) if r["axes"]["seed"] == 2}
    assert set(found) == {"dense_tied", *(f"pruned_retuned@reflections4-{bits}bit_trained" for bits in (1.58, 2))}
    dense = found.pop("dense_tied")
    for record, stored, numbers in zip((found[arm] for arm in sorted(found)), (1.6, 2), (3, 4), strict=True):
        sae, storage = io.load(runs / record["run_id"]), record["storage"]
        assert len(sae.dictionary.values.unique()) == numbers and sae.dictionary.basis.value_bits == 8
        assert storage["value_bits"] == stored == sae.dictionary.value_bits and storage["basis_bits"] == 8
        assert record["training"]["steps"] == 60 and record["source"]["run_id"] == dense["run_id"]
        rounding = record["rounding"]
        assert 0.3 < rounding["correlation"] < 1 and 0 < rounding["below_90"] <= 1 and rounding["dead"] < 1


def test_a_codebook_is_trained_from_the_dense_sae_and_compared_with_it(place):
    runs, arguments = place
    call("sweep", *arguments, "sae=dense_tied_pq", "sae.bits=1", "seed=3")
    found = {r["labels"]["arm"]: r for _, r in iterate_records(runs) if r["axes"]["seed"] == 3}
    dense, cut = found["dense_tied"], found["dense_tied-1bit_pq"]
    assert cut["source"]["run_id"] == dense["run_id"] and cut["training"]["steps"] == 60
    dictionary = io.load(runs / cut["run_id"]).dictionary
    assert dictionary.codebook.shape == (256, 8) and dictionary.chosen.max() < 256
    assert cut["storage"]["value_bits"] == dictionary.value_bits > 1
    assert 0.3 < cut["rounding"]["correlation"] < 1


def test_a_basis_is_made_of_the_pool_and_counted_and_read_back(place):
    """A learned support in reflections, rounded; the mean and the principal directions are the pool's."""
    runs, arguments = place
    of = ["sae.of.basis=reflections4", "sae.of.always_on=2", "d=5", "k=3"]
    call("sweep", *arguments, "sae=dynamic_quantised", "eval.inference=[encoder,omp]", *of)
    found = {r["labels"]["arm"]: r for _, r in iterate_records(runs) if r["labels"]["arm"].startswith("dynamic@")}
    assert set(found) == {"dynamic@reflections4_on2", "dynamic@reflections4_on2-8bit"}
    whole, rounded = (io.load(runs / found[arm]["run_id"]) for arm in sorted(found))
    d_in = whole.dictionary.d_in
    for record, bits in zip((found[arm] for arm in sorted(found)), (32, 8), strict=True):
        assert record["status"] == COMPLETE and record["metrics"]["l0"] == pytest.approx(5, abs=0.01)
        assert record["storage"]["basis_values"] == 4 * d_in and record["storage"]["basis_bits"] == bits
    assert rounded.dictionary.basis.vectors.abs().max() == 127
    q, r = (sae.dictionary.basis.into(torch.eye(d_in)) for sae in (whole, rounded))
    assert torch.nn.functional.cosine_similarity(q, r).min() > 0.9
    assert float(whole.b_dec.detach().norm()) > 0


def test_curves_and_latents_are_recorded(launched):
    curves, latents = launched["dynamic", 0]["curves"], launched["pruned_retuned", 0]["latents"]
    assert curves["tokens"] == [50 * 32, 60 * 32] and len(curves["fvu"]) == len(curves["dead_fraction"]) == 2
    assert launched["pca", 0]["curves"]["tokens"] == []
    assert latents["dead_fraction"] == launched["pruned_retuned", 0]["metrics"]["dead_fraction"]
    assert latents["novelty"]["reference"] == launched["dense_tied", 1]["run_id"] == latents["cosine"]["reference"]
    assert "novelty" not in launched["dense_tied", 0]["latents"]


def test_contexts_show_held_out_text(launched, place):
    with gzip.open(place[0] / launched["pruned_retuned", 0]["run_id"] / "contexts.jsonl.gz", "rt") as stream:
        latents = [json.loads(line) for line in stream]
    dead = launched["pruned_retuned", 0]["metrics"]["dead_fraction"]
    assert len(latents) == round(64 * (1 - dead)) and all(1 <= len(latent["contexts"]) <= 2 for latent in latents)
    assert any("cat" in "".join(context["tokens"]) for latent in latents for context in latent["contexts"])


def test_a_finished_run_is_compared_and_gets_contexts_later_without_training(launched, place):
    runs, _ = place
    run_id = launched["dense_tied", 1]["run_id"]
    before = read_record(runs, run_id)
    done = call("sweep.evaluate", f"run={run_id}", "eval.novelty=true", "eval.contexts=1", f"runs_dir={runs}")
    after = read_record(runs, run_id)
    assert after["latents"]["novelty"]["reference"] == launched["dense_tied", 0]["run_id"]
    assert after["finished"] == before["finished"] and (runs / run_id / "contexts.jsonl.gz").exists()
    assert "complete" in done.stdout


def test_contexts_are_written_again_only_if_more_are_asked_for(launched, place):
    runs, _ = place
    run_id = launched["frozen_random", 0]["run_id"]
    file = runs / run_id / "contexts.jsonl.gz"
    before = file.read_bytes()
    call("sweep.evaluate", f"run={run_id}", "eval.contexts=1", f"runs_dir={runs}")
    assert file.read_bytes() == before and read_record(runs, run_id)["latents"]["contexts"] == 2
    call("sweep.evaluate", f"run={run_id}", "eval.contexts=3", f"runs_dir={runs}")
    assert file.read_bytes() != before and read_record(runs, run_id)["latents"]["contexts"] == 3


def test_two_runs_that_are_each_other_s_reference_do_not_wait_for_each_other(place, tmp_path):
    _, arguments = place
    rest = [argument for argument in arguments if not argument.startswith(("runs_dir=", "train.steps="))]
    rest += [f"runs_dir={tmp_path}", "train.steps=400", "sae=dense_tied", "eval.novelty=true"]
    start = [sys.executable, "-m", "sweep", *rest]
    both = [subprocess.Popen([*start, f"seed={seed}"], cwd=ROOT, stdout=subprocess.DEVNULL) for seed in (0, 1)]
    try:
        assert [process.wait(timeout=200) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    records = {r["run_id"]: r for _, r in iterate_records(tmp_path)}
    assert {r["latents"]["novelty"]["reference"] for r in records.values()} == set(records) and len(records) == 2


def test_a_reference_that_is_gone_loses_the_comparison_and_not_the_training(place, tmp_path):
    _, arguments = place
    rest = [argument for argument in arguments if not argument.startswith("runs_dir=")] + [f"runs_dir={tmp_path}"]
    call("sweep", *rest, "sae=dense_tied", "seed=1")
    reference = next(r["run_id"] for _, r in iterate_records(tmp_path))
    (tmp_path / reference / "sae.safetensors").unlink()
    done = call("sweep", *rest, "eval.novelty=true", code=1)
    assert "not measured" in done.stdout and "the same command trains it again" in done.stdout
    record = next(r for _, r in iterate_records(tmp_path) if r["labels"]["arm"] == "expander")
    assert record["status"] == COMPLETE and "no readable SAE" in record["latents"]["novelty"]["error"]
    call("sweep", *rest, "eval.novelty=true")
    compared = read_record(tmp_path, record["run_id"])
    assert compared["latents"]["novelty"]["reference"] == reference and compared["finished"] == record["finished"]


def test_a_run_that_cannot_be_measured_again_is_said_and_the_others_go_on(place, tmp_path):
    _, arguments = place
    rest = [argument for argument in arguments if not argument.startswith("runs_dir=")] + [f"runs_dir={tmp_path}"]
    call("sweep", "-m", *rest, "seed=0,1")
    gone, whole = (record["run_id"] for _, record in iterate_records(tmp_path))
    (tmp_path / gone / "sae.safetensors").unlink()
    both = call("sweep.evaluate", "run=all", "eval.inference=[refit]", f"runs_dir={tmp_path}", code=1)
    assert f"failed: {gone}" in both.stderr and "refit" in read_record(tmp_path, whole)["inference"]


@pytest.mark.parametrize(
    "argument, message",
    [
        ("sae.bits=7", "sae.bits=7 must be 16, 8, 6, 5, 4, 3, 2, 1.58 or 1"),
        ("sae.bits=two", "sae.bits=two must be"),
        ("sae.of.degree=0", "d=0 must be in 1..32"),
        ("sae.of=3", "sae.of=3 must be a group"),
        ("sae.of._target_=nonsense", "sae.of._target_=nonsense is no class"),
        ("+sae.of.foo=1", "unknown key sae.of.foo"),
        ("sae._target_=sweep.measures.EvalConfig", "sae."),
    ],
)
def test_bad_input_of_nested_arms_is_one_line(place, argument, message):
    _, arguments = place
    done = call("sweep", *arguments, "sae=expander_quantised", argument, code=1)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_needed_run_that_fails_is_named_by_the_run_that_needs_it(place, tmp_path):
    _, arguments = place
    bad = [f"runs_dir={tmp_path}", "train.lr=1e30", "train.lr_final=0", "train.grad_clip=1e30"]
    rest = [argument for argument in arguments if not argument.startswith("runs_dir=")]
    done = call("sweep", *rest, *bad, "sae=pruned_retuned", code=1)
    assert "dense_tied d=32 k=4" in done.stdout and "which this run needs, failed: the loss became" in done.stdout


def test_a_prefix_is_a_run_of_its_own_and_can_be_cut_off_into_a_folder(place, tmp_path):
    runs, arguments = place
    of = ["sae.of.prefixes=[1/8,1/4]", "sae.of.encoder=batch_topk", "sae.share=1/4", "d=5", "k=3"]
    call("sweep", *arguments, "sae=expander_prefix", "eval.inference=[encoder,mp_refit]", *of)
    found = {r["labels"]["arm"]: r for _, r in iterate_records(runs) if ":" in r["labels"]["arm"]}
    whole, part = found["expander:n8:n4+batch_topk"], found["expander:n8:n4+batch_topk-n4"]
    assert (whole["sizes"]["n_latents"], part["sizes"]["n_latents"]) == (64, 16) and part["training"]["tokens"] == 0
    assert part["source"]["run_id"] == whole["run_id"]
    assert part["storage"]["learned_decoder_values"] == 16 * 5 and part["storage"]["index_bits"] == 64
    assert 0 < part["metrics"]["l0"] < whole["metrics"]["l0"] != 3
    assert part["inference"]["mp_refit"]["metrics"]["l0"] == pytest.approx(3, abs=0.01)
    given = [f"run={whole['run_id']}", "latents=16", f"out={tmp_path / 'cut'}", f"runs_dir={runs}"]
    assert "the first 16 of 64 latents" in call("sweep.cut", *given).stdout
    ours, theirs = (io.load(folder).state_dict() for folder in (tmp_path / "cut", runs / part["run_id"]))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    for wrong, said in (
        ([*given[:1], "latents=5", f"out={tmp_path / 'other'}", given[3]], "n=5 <= 2k=6"),
        ([*given[:1], "latents=64", f"out={tmp_path / 'other'}", given[3]], "latents=64 of n=64 must be 1..63"),
        ([*given[:1], "latents=x", f"out={tmp_path / 'other'}", given[3]], "latents=x must be a number"),
        (["run=0123", *given[1:]], "run=0123: no finished run"),
        (given, "holds an SAE already"),
        (given[:2], "out= is missing"),
        ([*given, "k=3"], "k=3 must be one of"),
    ):
        done = call("sweep.cut", *wrong, code=1)
        assert said in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "other").exists()
