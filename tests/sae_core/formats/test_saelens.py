"""What SAELens loads of our exports: the codes, the reconstructions and the hook point are ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_core.arms import DenseRandInit, Expander
from sae_core.encoders import BatchTopK
from sae_core.formats import FormatError, export
from sae_core.formats.dense import MatchingPursuit, dense_form
from sae_core.inference import infer_by
from tests.contracts.test_arms import D, K, N
from tests.sae_core.formats.cases import (
    ABOUT,
    ARMS,
    SCALE,
    Reading,
    activations,
    check_alike,
    exported,
    identified,
    ours,
    trained,
)

sae_lens: Any = pytest.importorskip("sae_lens", reason="extra bench is not installed")


@torch.no_grad()
def theirs(folder, h) -> tuple[Any, Reading]:
    sae = sae_lens.SAE.load_from_disk(folder)
    codes = sae.encode(h)
    return sae, Reading(codes, sae.decode(codes))


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_every_arm_that_it_can_express_reads_the_same(arm, tmp_path):
    sae, h = trained(arm), activations()
    try:
        export(sae, "saelens", tmp_path, ABOUT)
    except FormatError as error:
        assert "nearest is" in str(error) and not list(tmp_path.iterdir())
        return
    loaded, found = theirs(tmp_path, h)
    expected = exported(sae, h)
    most = 4 * K if isinstance(sae.encoder, BatchTopK) else N + 1  # which looks at no more
    same = (expected.codes >= 0).all(1) & ((expected.codes != 0).sum(1) < most)
    check_alike(found, expected, same)
    assert loaded(h).equal(found.reconstruction)


def test_a_threshold_becomes_a_jumprelu_of_it(tmp_path):
    sae = trained(DenseRandInit(N, K, "batch_topk"))
    export(sae, "saelens", tmp_path, ABOUT)
    loaded, encoder = sae_lens.SAE.load_from_disk(tmp_path), sae.encoder
    assert isinstance(encoder, BatchTopK) and loaded.cfg.architecture() == "jumprelu"
    assert float(encoder.threshold) > 0 and set(loaded.threshold.tolist()) == {float(encoder.threshold)}


@pytest.mark.parametrize("encoder", ["mp_refit", "topk"])
def test_matching_pursuit_is_theirs_where_no_atom_comes_again(encoder, tmp_path):
    sae, h = infer_by(trained(Expander(N, D, K, encoder=encoder)), "mp"), activations()
    notes = export(sae, "saelens", tmp_path, ABOUT).notes
    loaded, found = theirs(tmp_path, h)
    codes, reconstruction = ours(sae, h)
    once = (found.codes != 0).sum(1) == K
    check_alike(found, Reading(codes / SCALE, reconstruction), once, least=0.8)
    again = ~once
    assert bool(again.any()) and (found.codes[again] != 0).sum(1).max() < K and "comes back to an atom" in notes[0]
    assert isinstance(dense_form(sae).rule, MatchingPursuit) and loaded.cfg.max_iterations == K


def test_the_hook_point_and_what_the_sae_is_of_are_found(tmp_path):
    export(trained(Expander(N, D, K)), "saelens", tmp_path, ABOUT)
    about = sae_lens.SAE.load_from_disk(tmp_path).cfg.metadata
    assert (about.model_name, about.hook_name) == ("gpt-nonesuch", "blocks.3.hook_resid_post")
    assert (about.context_size, about.dataset_path, about.prepend_bos) == (128, "some/text", True)


def test_it_saves_and_loads_it_again_as_its_own(tmp_path):
    sae, h = trained(Expander(N, D, K)), activations()
    export(sae, "saelens", tmp_path / "ours", ABOUT)
    loaded, found = theirs(tmp_path / "ours", h)
    loaded.save_model(tmp_path / "again")
    again, found_again = theirs(tmp_path / "again", h)
    assert found_again.codes.equal(found.codes) and again.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
