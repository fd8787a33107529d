"""Codes as matrices: they say what sparse codes do, and their gradient reaches every latent."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import Expander
from sae_core.dense_codes import decode_dense, encode_dense
from tests.contracts.test_arms import D, K, M, N
from tests.sae_core.formats.cases import ARMS, activations, identified, ours, trained


def dense_decoder(sae):
    """The rows that codes of 1 add to the reconstruction, of coordinates that are always on too."""
    atoms, always_on = sae.dictionary.dense_atoms(), sae.dictionary.always_on
    kept = sae.dictionary.basis.out_of(torch.eye(M)[:always_on])
    return torch.cat((atoms, kept)).detach() / sae.scale


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_codes_and_reconstructions_are_the_saes(arm):
    sae, h = trained(arm), activations()
    expected = ours(sae, h)
    with torch.no_grad():
        codes = encode_dense(sae, h)
        assert codes.equal(expected.codes)
        torch.testing.assert_close(decode_dense(sae, codes), expected.reconstruction, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_any_codes_decode_and_the_gradient_reaches_those_that_are_0(arm):
    sae = trained(arm)
    decoder, upstream = dense_decoder(sae), activations(7)
    codes = torch.randn(len(upstream), sae.n_latents, generator=torch.Generator().manual_seed(4))
    codes[:, ::3] = 0
    codes[1] = 0
    codes.requires_grad_()
    found = decode_dense(sae, codes)
    torch.testing.assert_close(found, codes @ decoder + sae.b_dec / sae.scale, rtol=1e-4, atol=1e-4)
    found.backward(upstream)
    torch.testing.assert_close(codes.grad, upstream @ decoder.T, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in sae.parameters())


def test_no_tokens_and_wrong_shapes():
    sae = trained(Expander(N, D, K))
    assert decode_dense(sae, encode_dense(sae, torch.zeros(0, M))).shape == (0, M)
    with pytest.raises(ValueError, match=rf"codes of shape \(3, 5\) must be \(tokens, {N}\)"):
        decode_dense(sae, torch.zeros(3, 5))
