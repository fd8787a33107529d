"""SAEs that the libraries' own classes made and saved, with every weight random: what we read reconstructs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.formats import FormatError, describe, find, load
from tests.contracts.test_arms import K, M, N
from tests.sae_core.formats.cases import activations

BENCH = "extra bench is not installed"


@torch.no_grad()
def randomised(sae: torch.nn.Module) -> Any:
    """Give every parameter of a library's SAE random values; thresholds are positive."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sae.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        if "threshold" in name:
            parameter.abs_()
    return sae


@torch.no_grad()
def check_same(folder: Path, theirs: torch.Tensor, h: torch.Tensor) -> None:
    found = load(folder)(h).reconstruction
    assert float((found - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", ["Standard", "JumpReLU", "TopK", "Gated"])
def test_sae_lens(kind, subtracts, tmp_path):
    saes: Any = pytest.importorskip("sae_lens.saes", reason=BENCH)
    config = getattr(saes, f"{kind}SAEConfig")(d_in=M, d_sae=N, apply_b_dec_to_input=subtracts)
    if kind == "TopK":
        config.k, config.rescale_acts_by_decoder_norm = K, subtracts
    config.metadata.hook_name = "blocks.2.hook_resid_pre"
    sae, h = randomised(getattr(saes, f"{kind}SAE")(config)), activations()
    sae.save_model(tmp_path)
    check_same(tmp_path, sae(h), h)
    assert describe(find(tmp_path)).about.layer == 1


@pytest.mark.parametrize(
    "settings", [{}, {"max_iterations": K, "residual_threshold": 0.0}, {"residual_threshold": 2.0}]
)
def test_matching_pursuit_of_sae_lens(settings, tmp_path):
    saes: Any = pytest.importorskip("sae_lens.saes.matching_pursuit_sae", reason=BENCH)
    sae = randomised(saes.MatchingPursuitSAE(saes.MatchingPursuitSAEConfig(d_in=M, d_sae=N, **settings)))
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True) * torch.linspace(0.9, 1.1, N)[:, None]
    h = activations()
    sae.save_model(tmp_path)
    with torch.no_grad():
        alike = torch.isclose(load(tmp_path)(h).reconstruction, sae(h), rtol=1e-4, atol=1e-4).all(1)
    assert alike.float().mean() > 0.95  # two atoms may be equally good in float32


def test_sae_lens_saves_a_trained_batch_topk_sae_as_a_jumprelu(tmp_path):
    batchtopk: Any = pytest.importorskip("sae_lens.saes.batchtopk_sae", reason=BENCH)
    sae_lens: Any = pytest.importorskip("sae_lens", reason=BENCH)
    trainer = randomised(batchtopk.BatchTopKTrainingSAE(batchtopk.BatchTopKTrainingSAEConfig(d_in=M, d_sae=N, k=K)))
    trainer.topk_threshold.fill_(0.7)
    trainer.save_inference_model(tmp_path)
    h = activations()
    check_same(tmp_path, sae_lens.SAE.load_from_disk(tmp_path)(h), h)


@pytest.mark.parametrize("setting, value", [("transcode", True), ("skip_connection", True), ("activation", "groupmax")])
def test_sparsify_in_other_forms_is_refused(setting, value, tmp_path):
    sparsify: Any = pytest.importorskip("sparsify", reason=BENCH)
    config = sparsify.SparseCoderConfig(num_latents=N, k=K, **{setting: value})
    sparsify.SparseCoder(M, config).save_to_disk(tmp_path)
    with pytest.raises(FormatError, match=f"{setting}={value} cannot be read here"):
        load(tmp_path)


def test_sparsify(tmp_path):
    sparsify: Any = pytest.importorskip("sparsify", reason=BENCH)
    sae, h = randomised(sparsify.SparseCoder(M, sparsify.SparseCoderConfig(expansion_factor=4, k=K))), activations()
    folder = tmp_path / "h.7"
    sae.save_to_disk(folder)
    with torch.no_grad():
        found = sae.encode(h)
        theirs = sae.decode(found.top_acts, found.top_indices)
    check_same(folder, theirs, h)
    assert describe(find(folder)).about.layer == 7 and find(folder).format == "sparsify"


CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)


@pytest.mark.parametrize("dict_class", CLASSES)
def test_dictionary_learning(dict_class, tmp_path):
    missing = "dictionary-learning is not installed"
    utils: Any = pytest.importorskip("dictionary_learning.utils", reason=missing)
    dictionary: Any = pytest.importorskip("dictionary_learning.dictionary", reason=missing)
    cls, rest = getattr(utils, dict_class, None) or getattr(dictionary, dict_class), {}
    if "TopK" in dict_class:
        rest["k"] = K
    if "Matryoshka" in dict_class:
        rest["group_sizes"] = [N // 4, N - N // 4]
    sae, h = randomised(cls(M, N, **rest)), activations()
    if "Batch" in dict_class:
        sae.threshold.fill_(0.6)
    torch.save(sae.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": dict_class, "activation_dim": M, "dict_size": N, "k": K, "layer": 4, "lm_name": "org/lm"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 64}}))
    loaded, _ = utils.load_dictionary(str(tmp_path), "cpu")
    with torch.no_grad():
        check_same(tmp_path, loaded(h), h)
    about = describe(find(tmp_path)).about
    assert (about.model, about.layer, about.context) == ("org/lm", 4, 64)
