"""`python -m sweep.export`: a finished run in another library's format, with what its record says of LM and text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_core import io
from sweep.export import main
from sweep.store.records import iterate_records, read_record
from tests.sweep.test_inference import SMALL, call


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_folders, text_file):
    """A store with two finished runs, by the encoder that they are trained with."""
    folder = tmp_path_factory.mktemp("exported")
    given = [f"model.path={model_folders['gpt_neox']}", f"corpus.path={text_file}", f"cache_dir={folder / 'cache'}"]
    call("sweep", "-m", *SMALL, *given, f"runs_dir={folder / 'runs'}", "sae.encoder=topk,mp_refit", "d=5")
    records = {r["config"]["sae"]["encoder"]: r for _, r in iterate_records(folder / "runs")}
    return folder / "runs", {name: record["run_id"] for name, record in records.items()}


def test_a_run_is_written_with_its_codes_and_its_place_in_the_lm(runs, tmp_path):
    folder, ids = runs
    out = tmp_path / "out"
    done = call("sweep.export", f"run={ids['topk']}", "format=saelens", f"out={out}", f"runs_dir={folder}")
    assert "expander d=5 k=4 n=64 L1 s0 steps=60 " in done.stdout and " for saelens" in done.stdout
    assert "note: of a token with fewer" in done.stdout
    config, tensors = json.loads((out / "cfg.json").read_text()), load_file(out / "sae_weights.safetensors")
    about = config["metadata"]
    assert (about["hook_name"], about["context_size"]) == ("blocks.1.hook_resid_post", 24)
    assert about["hf_hook_name"] == "gpt_neox.layers.1"
    labels = read_record(folder, ids["topk"])["labels"]
    assert (about["model_name"], about["dataset_path"]) == (labels["model"], labels["corpus"])
    assert about["expander_sae_run"] == ids["topk"] and str(folder) not in (out / "cfg.json").read_text()
    sae, h = io.load(folder / ids["topk"]), torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    z = (h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    largest = z.topk(4, dim=1)
    found = torch.zeros_like(z).scatter(1, largest.indices, largest.values) @ tensors["W_dec"] + tensors["b_dec"]
    torch.testing.assert_close(found, sae(h).reconstruction, rtol=1e-5, atol=1e-5)


def test_a_run_is_written_as_it_is_stored_for_saelens(runs, tmp_path):
    folder, ids = runs
    given = [f"run={ids['mp_refit']}", "format=saelens", "sparse=true", f"out={tmp_path}", f"runs_dir={folder}"]
    assert "note: SAELens loads it after `import sae_core.formats.saelens`" in call("sweep.export", *given).stdout
    config, tensors = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae_weights.safetensors")
    stored = load_file(folder / ids["mp_refit"] / "sae.safetensors")
    assert tensors.keys() == stored.keys() and all(tensors[name].equal(stored[name]) for name in stored)
    assert config["architecture"] == "expander" and config["stored"]["pursuit"] == "mp_refit"
    assert (config["d_in"], config["d_sae"], config["metadata"]["hook_name"]) == (32, 64, "blocks.1.hook_resid_post")


def test_a_folder_is_named_unless_one_is_given(runs, tmp_path, monkeypatch):
    folder, ids = runs
    monkeypatch.chdir(tmp_path)
    for name, place in (("sparsify", "sparsify/layers.1"), ("dictionary_learning", "dictionary_learning")):
        assert main([f"run={ids['topk']}", f"format={name}", f"runs_dir={folder}"]) == 0
        assert (Path("exports") / ids["topk"] / place).is_dir()
    assert (Path("exports") / ids["topk"] / "sparsify/config.json").exists()


def test_a_pursuit_is_written_by_what_is_nearest(runs, tmp_path):
    folder, ids = runs
    given = [f"run={ids['mp_refit']}", "format=saelens", f"runs_dir={folder}"]
    said = call("sweep.export", *given, f"out={tmp_path / 'a'}", code=1).stderr
    assert "codes by mp_refit; nearest is mp (inference=mp)" in said and len(said.splitlines()) == 1
    said = call("sweep.export", *given, f"out={tmp_path / 'b'}", "inference=mp").stdout
    assert "comes back to an atom" in said
    assert json.loads((tmp_path / "b/cfg.json").read_text())["architecture"] == "matching_pursuit"
    assert not (tmp_path / "a").exists()


def test_wrong_arguments_are_one_line(runs, tmp_path):
    folder, ids = runs
    run, out, where = f"run={ids['topk']}", f"out={tmp_path}", f"runs_dir={folder}"
    for wrong, said in (
        ([run, "format=lens", out, where], "format=lens must be saelens, sparsify, dictionary_learning"),
        (["run=0123", "format=saelens", out, where], "run=0123: no finished run"),
        ([run, out, where], "format= is missing"),
        ([run, "format=saelens", out, where, "inference=guess"], "guess is no inference"),
        ([run, "format=sparsify", out, where, "sparse=true"], "sparse=true is for format=saelens, not for format=spar"),
        ([run, "format=saelens", out, where, "sparse=1"], "sparse=1 must be true or false"),
        ([run, "format=saelens", out, where, "k=3"], "k=3 must be one of run=ID, format=saelens"),
    ):
        done = call("sweep.export", *wrong, code=1)
        assert said in done.stderr and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
