"""The dense form: its formula gives our codes and reconstructions, or it says why no library can hold the SAE."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae_core.arms import ITDA, PCA, DenseTied, Expander, FewBits, Kron
from sae_core.encoders import BatchTopK, PositiveTopK
from sae_core.formats import FormatError
from sae_core.formats.dense import Above, DenseForm, MatchingPursuit, TopK, dense_form
from sae_core.inference import infer_by
from tests.contracts.test_arms import D, K, N
from tests.sae_core.formats.cases import ARMS, Reading, activations, check_alike, identified, ours, trained


def read(form: DenseForm, h: torch.Tensor) -> Reading:
    """Read h by the formula of the dense form's docstring."""
    z = (h - form.b_dec) @ form.encoder.T + form.b_enc
    match form.rule:
        case TopK(k):
            largest = z.topk(k, dim=1)
            codes = torch.zeros_like(z).scatter(1, largest.indices, largest.values.relu())
        case Above(threshold):
            codes = z * (z > threshold)
        case MatchingPursuit(k):
            codes, left, taken = torch.zeros_like(z), h - form.b_dec, torch.zeros_like(z, dtype=torch.bool)
            for _ in range(k):
                best = (left @ form.encoder.T).masked_fill(taken, -torch.inf).max(1, keepdim=True)
                taken.scatter_(1, best.indices, True)
                codes.scatter_(1, best.indices, best.values)
                left = left - best.values * form.decoder[best.indices[:, 0]]
    return Reading(codes, codes @ form.decoder + form.b_dec)


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_the_formula_gives_our_codes_or_the_error_says_what_is_nearest(arm):
    sae, h = trained(arm), activations()
    try:
        form = dense_form(sae)
    except FormatError as error:
        pursuit = getattr(arm, "encoder", getattr(getattr(arm, "of", None), "encoder", "topk"))
        refused = sae.dictionary.always_on or isinstance(arm, (PCA, Kron)) or "topk" not in pursuit
        assert refused and "nearest is" in str(error) and "\n" not in str(error)
        return
    expected = ours(sae, h)
    fired = (expected.codes > 0).sum(1)
    same = fired < 4 * K if isinstance(sae.encoder, BatchTopK) else (expected.codes >= 0).all(1)
    if isinstance(sae.encoder, PositiveTopK):  # the form's atoms have the gains, and ours the codes
        expected = expected._replace(codes=expected.codes / sae.encoder.gain)
    check_alike(read(form, h), expected, same)
    assert {tensor.dtype for tensor in form[:4]} == {torch.float32}


def test_matching_pursuit_has_unit_atoms_and_codes_over_the_scale():
    sae, h = infer_by(trained(Expander(N, D, K, encoder="mp_refit")), "mp"), activations()
    form = dense_form(sae)
    torch.testing.assert_close(form.decoder.norm(dim=1), torch.ones(N))
    codes, reconstruction = ours(sae, h)
    check_alike(read(form, h), Reading(codes / float(sae.scale), reconstruction), codes[:, 0] == codes[:, 0])


@pytest.mark.parametrize("reading", ["mp_refit", "omp", "gomp2", "mp_magnitude", "niht", "refit"])
def test_other_readings_are_refused(reading):
    with pytest.raises(FormatError, match="nearest is"):
        dense_form(infer_by(trained(DenseTied(N, K)), reading))


def test_what_is_refused_is_named():
    for arm, said in (
        (Expander(N, D, K, always_on=2), "always_on=2"),
        (PCA(N, D), "half of them or more"),
        (ITDA(N, K, tokens=500), "by mp_magnitude"),
        (Kron(N, K), "KronSAE"),
        (replace(Expander(N, D, K), encoder="mp_cg1"), "by mp_cg1"),
    ):
        with pytest.raises(FormatError, match=said):
            dense_form(trained(arm))
    with pytest.raises(ValueError, match="keep_rounded"):
        dense_form(FewBits(Expander(N, D, K), 2).build(24, 0))


def test_negative_codes_are_lost_and_the_note_says_so():
    sae, h = trained(DenseTied(N, K)), activations()
    with torch.no_grad():
        sae.encoder.b_enc -= 100  # pyright: ignore[reportOperatorIssue]
    form = dense_form(sae)
    assert (ours(sae, h).codes <= 0).all() and not read(form, h).codes.any()
    assert "negative" in form.notes[0]
