"""The gradient of the reconstruction loss, for a training step: written out where it is known, by autograd elsewhere.

With u = Qx (tokens, m), unit atoms a_i on their supports, codes c and residual r = u - sum_j c_j a_(i_j), the loss
L = mean_t ||r_t||^2 over B tokens has, with g = 2 r / B,

    dL/dc_j  = -<a_(i_j), g_t>                                    0 for a pursuit (the envelope theorem)
    dL/da_i  = sum over the picks of i of  dL/dc * u_t - c * g_t  on the support; then through the unit norm, and
                                                                  the rounding of values that are trained at few bits
    dL/db_i  = sum over the picks of i of  dL/dc                  the encoder's bias
    dL/db    = -Q^T (sum_t g_t + sum_i dL/db_i a_i)               the decoder's bias: of all tokens at once

An encoder with rows w_i of its own has dL/dw_i = sum of dL/dc * u_t, which dL/da_i then lacks, and dL/db has w_i for
a_i.

Autograd finds the same numbers (tests/sae_core/test_gradients.py), but it makes a row of m values of the gradient of
every token, where only their sum is needed, and at small batches its graph costs as much as a kernel
(`python -m tests.benchmarks.gradients` holds one against the other).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae_core.codebook import CodebookDictionary
from sae_core.encoders import ByPursuit, OwnTopK, TiedTopK
from sae_core.kernels.autograd import Differentiable
from sae_core.losses import reconstruction_loss, squared_errors
from sae_core.rounding import on_grid
from sae_core.sae import SAE, SAEResidual

_FLOATS = (torch.float32, torch.float64)


def loss_gradients(sae: SAE, h: Tensor) -> tuple[SAEResidual, Tensor]:
    """Set `.grad` of every parameter to its gradient of the mean squared error on h (tokens, d_in), in scaled units.

    Of an SAE of nested prefixes, the errors of all prefixes are added (`sae_core.losses.matryoshka_loss`).

    Returns:
        the residual, in coordinates of the dictionary's basis (`SAE.residual_coordinates`), and each token's squared
        error (tokens,), both detached.
    """
    if (backend := _backend_to_write_out(sae)) is not None:
        return _written_out(sae, h, backend)
    output = sae.residual_coordinates(h)
    errors = squared_errors(output.residual)
    loss = errors.mean()
    for shorter in output.shorter:  # as `sae_core.losses.matryoshka_loss`, with the errors of each token kept
        loss = loss + reconstruction_loss(shorter.residual)
    sae.zero_grad(set_to_none=True)
    loss.backward()
    return SAEResidual(output.residual.detach(), output.codes.detach(), output.indices), errors.detach()


def is_written_out(sae: SAE) -> bool:
    """Return whether `loss_gradients` of this SAE are the module's formulas, and not autograd's."""
    return _backend_to_write_out(sae) is not None


def _backend_to_write_out(sae: SAE) -> Differentiable | None:
    """Return the backend that computes the module's formulas; None where these do not hold.

    They hold for pursuits, and for an encoder of one product whose picks are not refitted and whose rows are not
    rounded; for float32 or float64 parameters that are all trained, and a basis that stays as it is. Nested prefixes,
    dictionaries of low rank and those of pieces out of a codebook are left to autograd.
    """
    backend, basis = sae.kernels, {id(p) for p in sae.dictionary.basis.parameters()}
    encoder = sae.encoder
    if not isinstance(backend, Differentiable) or type(encoder) not in (TiedTopK, OwnTopK, ByPursuit):
        return None
    if isinstance(encoder, OwnTopK) and (encoder.rounded_to is not None or encoder.row_scale is not None):
        return None
    if sae.prefixes or sae.dictionary.rows < sae.dictionary.d_in or isinstance(sae.dictionary, CodebookDictionary):
        return None
    if any((id(p) in basis) == p.requires_grad or p.dtype not in _FLOATS for p in sae.parameters()):
        return None
    return backend


@torch.no_grad()
def _written_out(sae: SAE, h: Tensor, backend: Differentiable) -> tuple[SAEResidual, Tensor]:
    dictionary, encoder = sae.dictionary, sae.encoder
    support = None if dictionary.support is None else dictionary.support.contiguous()
    values, grid = dictionary.values.contiguous(), dictionary.rounded_to
    numbers, factor = (values, None) if grid is None else on_grid(values, grid)
    unit, inverse = backend.kernels.unit_norm(numbers)
    u = sae.coordinates(h)
    codes, picks = sae.pick(u, unit, sae.dictionary.support)
    used = codes[:, : sae.k].contiguous(), picks[:, : sae.k].contiguous()
    rows = (
        encoder.weight.contiguous() if isinstance(encoder, OwnTopK) else unit if isinstance(encoder, TiedTopK) else None
    )
    frozen = not isinstance(dictionary.values, nn.Parameter)
    sums = backend.losses.loss_sums(u, *used, unit, inverse, support, rows, dictionary.always_on, frozen)
    if isinstance(encoder, TiedTopK | OwnTopK):
        encoder.b_enc.grad = sums.into_encoder
    if isinstance(encoder, OwnTopK):
        encoder.weight.grad = sums.into_rows
    if sums.into_atoms is not None:
        dictionary.values.grad = sums.into_atoms if factor is None else sums.into_atoms.mul_(factor)
    sae.b_dec.grad = dictionary.basis.out_of(sums.into_bias.view(1, -1)).view(-1).neg_()
    return SAEResidual(sums.left, *sae.with_always_on(u, codes, picks)), sums.errors
