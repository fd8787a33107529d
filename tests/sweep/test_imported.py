"""`sae=imported` through the command line: measured like any run, and named by what the files hold."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sae_core import io
from sae_core.arms import DenseRandInit
from sae_core.formats import About, export
from sweep.jobs.build import build_job
from sweep.store.records import COMPLETE, iterate_records
from tests.sweep.test_inference import SMALL, call
from tests.sweep.world import composed

D_IN, N = 32, 96


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folders, text_file):
    """The arguments of a sweep on a small LM, and a folder with two SAEs of that LM, by TopK and by threshold."""
    folder = tmp_path_factory.mktemp("imported")
    model = model_folders["gpt_neox"]
    given = [f"model.path={model}", f"corpus.path={text_file}", f"cache_dir={folder / 'cache'}"]
    for name, library, encoder in (("topk", "sparsify", "topk"), ("jumprelu", "saelens", "batch_topk")):
        sae = DenseRandInit(N, 5, encoder).build(D_IN, seed=1, scale=0.8)
        sae.residual(torch.randn(500, D_IN, generator=torch.Generator().manual_seed(0)))
        export(sae, library, folder / name / "layers.1", About(model.name, 1, 24, "text"))
    return folder, [*SMALL, *given, f"runs_dir={folder / 'runs'}"]


@pytest.fixture(scope="module")
def measured(place):
    """The records of both SAEs and of a trained one, by arm and k."""
    folder, arguments = place
    own = ["eval.inference=[encoder,topk,mp_refit,refit]", "eval.contexts=2"]
    for name in ("topk", "jumprelu"):
        call("sweep", *arguments, "sae=imported", f"sae.path={folder / name / 'layers.1'}", *own)
    call("sweep", *arguments, "sae=dense_tied")
    return {(r["labels"]["arm"], r["sizes"]["k"]): r for _, r in iterate_records(folder / "runs")}


def test_they_are_runs_like_any_other(measured, place):
    folder, _ = place
    assert {record["status"] for record in measured.values()} == {COMPLETE}
    for k, name, file in ((5, "topk", "sae.safetensors"), (4, "jumprelu", "sae_weights.safetensors")):
        record = measured["imported", k]
        assert (record["sizes"]["n_latents"], record["axes"]["n"], record["axes"]["k"]) == (N, N, k)
        assert record["training"]["tokens"] == 0 and set(record["inference"]) == {
            "encoder",
            "topk",
            "mp_refit",
            "refit",
        }
        assert all("metrics" in found for found in record["inference"].values())
        assert set(record["metrics"]) >= {"ce_recovered", "ce_recovered_mean", "fvu", "l0", "kl"}
        assert {"theory", "latents"} <= set(record) and record["latents"]["contexts"] == 2
        size = (folder / name / "layers.1" / file).stat().st_size
        assert record["storage"]["artifact_bytes"] == size and record["storage"]["value_bits"] == 32
        assert record["storage"]["learned_parameters"] == 2 * N * D_IN + 2 * N + D_IN
    assert measured["imported", 5]["metrics"]["l0"] <= 5 != measured["imported", 4]["metrics"]["l0"]


def test_the_run_has_the_codes_of_the_files(measured, place):
    folder, _ = place
    h = torch.randn(100, D_IN, generator=torch.Generator().manual_seed(3))
    sae = DenseRandInit(N, 5, "topk").build(D_IN, seed=1, scale=0.8)
    run = io.load(folder / "runs" / measured["imported", 5]["run_id"])
    torch.testing.assert_close(run(h).reconstruction, sae(h).reconstruction, rtol=1e-4, atol=1e-5)


def test_the_run_id_follows_from_the_content_and_not_from_the_place(place, measured, tmp_path):
    folder, arguments = place
    shutil.copytree(folder / "topk", tmp_path / "moved")
    moved = ["sae=imported", f"sae.path={tmp_path / 'moved/layers.1/sae.safetensors'}", "n=50", "k=3", "d=2"]
    planned = call("sweep", *arguments, *moved, "plan=true").stdout
    assert measured["imported", 5]["run_id"] in planned and "imported" in planned
    config = tmp_path / "moved/layers.1/cfg.json"
    config.write_text(config.read_text().replace('"k": 5', '"k": 6'))
    assert measured["imported", 5]["run_id"] not in call("sweep", *arguments, *moved, "plan=true").stdout


def test_a_finished_run_can_be_exported_and_measured_again(place, measured, tmp_path):
    folder, _ = place
    run = measured["imported", 4]["run_id"]
    given = [f"run={run}", "format=dictionary_learning", f"out={tmp_path / 'out'}", f"runs_dir={folder / 'runs'}"]
    call("sweep.export", *given)
    assert json.loads((tmp_path / "out/config.json").read_text())["trainer"]["dict_class"] in (
        "BatchTopKSAE",
        "JumpReluAutoEncoder",
    )
    again = [f"run={run}", "eval.inference=[omp]", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    assert "imported" in call("sweep.evaluate", *again).stdout


def test_what_does_not_fit_is_one_line_before_any_lm_is_loaded(place, tmp_path):
    folder, arguments = place
    path = folder / "jumprelu/layers.1"
    other = tmp_path / "other"
    shutil.copytree(path, other)
    config = json.loads((other / "cfg.json").read_text())
    config["metadata"]["model_name"] = "org/another-lm"
    (other / "cfg.json").write_text(json.dumps(config))
    small = tmp_path / "small"
    export(DenseRandInit(N, 5).build(16, 0), "saelens", small)
    for wrong, said in (
        ([f"sae.path={path}", "layer=0"], "layer=0 must be 1, the layer that"),
        ([f"sae.path={other}"], "is of the LM org/another-lm, and not of"),
        ([f"sae.path={small}"], "has d_in=16, and the LM's activations 32"),
        ([f"sae.path={tmp_path / 'none'}"], "none is not there"),
        ([f"sae.path={path}", "sae.format=sparsify"], "must be a whole number"),
        ([], r"sae\.path must name the folder"),
        ([f"sae.path={path}", "k=97", "n=200"], r"k=97 must be in 1\.\.96"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            build_job(composed(*arguments, "sae=imported", *wrong), "test")
        assert "\n" not in str(caught.value)
    allowed = [*arguments, "sae=imported", f"sae.path={other}", "sae.check_model=false"]
    assert build_job(composed(*allowed), "test").labels["arm"] == "imported"
    done = call("sweep", *arguments, "sae=imported", f"sae.path={other}", code=1)
    assert done.stderr.startswith(f"error: sae.path={other} is of the LM") and len(done.stderr.splitlines()) == 1
