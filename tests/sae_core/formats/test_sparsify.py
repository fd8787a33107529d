"""What sparsify loads of our exports, and SAELens through its loader of sparsify's SAEs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sae_core.arms import DenseTied, Expander
from sae_core.formats import FormatError, export
from sae_core.inference import infer_by
from tests.contracts.test_arms import D, K, M, N
from tests.sae_core.formats.cases import (
    ABOUT,
    ARMS,
    Reading,
    activations,
    check_alike,
    exported,
    identified,
    ours,
    trained,
)

sparsify: Any = pytest.importorskip("sparsify", reason="extra bench is not installed")


@torch.no_grad()
def theirs(sae: Any, h: torch.Tensor) -> Reading:
    found = sae.encode(h)
    codes = torch.zeros(len(h), sae.num_latents).scatter(1, found.top_indices, found.top_acts)
    return Reading(codes, sae.decode(found.top_acts, found.top_indices))


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_every_arm_that_it_can_express_reads_the_same(arm, tmp_path):
    sae, h = trained(arm), activations()
    try:
        export(sae, "sparsify", tmp_path, ABOUT)
    except FormatError as error:
        assert "nearest is" in str(error) and not list(tmp_path.iterdir())
        return
    expected = exported(sae, h)
    found = theirs(sparsify.SparseCoder.load_from_disk(tmp_path), h)
    check_alike(found, expected, (expected.codes >= 0).all(1))


def test_its_hook_points_are_the_names_of_folders(tmp_path):
    h, saes = activations(), {3: trained(DenseTied(N, K)), 12: trained(Expander(N, D, K))}
    for layer, sae in saes.items():
        export(sae, "sparsify", tmp_path / f"layers.{layer}", replace(ABOUT, layer=layer))
    found = sparsify.SparseCoder.load_many(str(tmp_path), local=True)
    assert list(found) == ["layers.3", "layers.12"]
    for layer, sae in saes.items():
        expected = ours(sae, h)
        check_alike(theirs(found[f"layers.{layer}"], h), expected, (expected.codes >= 0).all(1))


def test_sae_lens_finds_model_and_hook_point_in_it(tmp_path):
    loaders: Any = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders", reason="extra bench is not installed")
    export(trained(DenseTied(N, K)), "sparsify", tmp_path / "layers.3", ABOUT)
    config = loaders.get_sparsify_config_from_disk(tmp_path / "layers.3")
    assert (config["model_name"], config["hook_name"]) == ("gpt-nonesuch", "blocks.3.hook_resid_post")
    assert (config["context_size"], config["dataset_path"]) == (128, "some/text")
    assert config["apply_b_dec_to_input"] and (config["d_in"], config["d_sae"]) == (M, N)
    assert config["activation_fn_kwargs"]["k"] == K


def test_another_folder_name_is_said(tmp_path):
    notes = export(trained(DenseTied(N, K)), "sparsify", tmp_path / "mine", ABOUT).notes
    assert any("layers.3" in note for note in notes) and not (tmp_path / "config.json").exists()


def test_batch_topk_and_pursuits_are_refused_by_what_is_nearest(tmp_path):
    for sae, said in (
        (trained(Expander(N, D, K, encoder="batch_topk")), "not by a threshold"),
        (infer_by(trained(Expander(N, D, K)), "mp"), "not by matching pursuit"),
    ):
        with pytest.raises(FormatError, match=said):
            export(sae, "sparsify", tmp_path, ABOUT)
        export(infer_by(sae, "topk"), "sparsify", tmp_path / said.replace(" ", "_"), ABOUT)
