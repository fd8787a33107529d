"""SAEs of whole numbers, which take fewer bits per value: rounded after training, or in it.

An atom is used at unit norm, so its whole numbers need no scale beside them: a file holds `bits` bits per value only.
An encoder's own weights are whole numbers too, times a factor (float32) for each latent. Biases stay as they are. How
the values of a basis are rounded is the basis' own matter (`Basis.round_values`); these always have 8 bits.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.sparse import csc_array
from torch import nn

from sae_core.bases import Basis, Neurons
from sae_core.correlation import correlations, fires
from sae_core.encoders import OwnTopK, inner_encoder
from sae_core.kronecker import KroneckerTopK
from sae_core.rounding import Grids, grids_of, on_grid, straight_through, whole_numbers, with_factors
from sae_core.sae import SAE


@torch.no_grad()
def quantised(sae: SAE, bits: float, encoder_bits: float | None = None) -> SAE:
    """Return a copy of `sae` whose dictionary holds whole numbers of `bits` bits; biases stay as they are.

    Args:
        encoder_bits: of the encoder's own weights, where it has any; `bits` unless given.

    Raises:
        ValueError: `sae_core.rounding.GRIDS` has no such bits, or latents share the encoder's rows (`kron`).
    """
    grids = grids_of(bits, encoder_bits)
    if isinstance(inner_encoder(sae.encoder), KroneckerTopK):
        raise ValueError("an SAE of kron cannot be quantised: its latents share the encoder's rows")
    other = copy.deepcopy(sae)
    _keep(other, whole_numbers(sae.dictionary.values, bits), grids.atoms.stored_bits)
    if isinstance(encoder := inner_encoder(other.encoder), OwnTopK):
        numbers, factors = with_factors(encoder.rows(), bits if encoder_bits is None else encoder_bits)
        _keep_rows(encoder, numbers, factors, grids.encoder.stored_bits)
    return other


def use_rounded(sae: SAE, grids: Grids | None) -> None:
    """Let `sae` use its values rounded from now on, while those underneath are trained; with None it uses them."""
    sae.dictionary.rounded_to = None if grids is None else grids.atoms
    if isinstance(encoder := inner_encoder(sae.encoder), OwnTopK):
        encoder.rounded_to = None if grids is None else grids.encoder


@torch.no_grad()
def turned(sae: SAE, basis: Basis) -> SAE:
    """Return a copy of an SAE of dense atoms whose values are coordinates in `basis`: the same SAE, written otherwise.

    Raises:
        ValueError: atoms are sparse, of low rank, or in another basis than the neurons' already.
    """
    dictionary = sae.dictionary
    if dictionary.rows < dictionary.d_in or dictionary.support is not None or not isinstance(dictionary.basis, Neurons):
        raise ValueError("only dense atoms in the neurons' basis can be written in another one at no loss")
    other = copy.deepcopy(sae)
    other.dictionary.basis = basis.to(sae.b_dec.device)
    other.dictionary.values.copy_(basis.into(dictionary.values))
    if isinstance(encoder := inner_encoder(other.encoder), OwnTopK):
        encoder.weight.copy_(basis.into(encoder.weight))
    return other


@torch.no_grad()
def keep_rounded(sae: SAE, bits: float, encoder_bits: float | None = None) -> SAE:
    """End the training of an SAE whose values are rounded where they are used; return a copy with those of before.

    From now on the dictionary of `sae` holds the whole numbers that it rounded its values to, and so does an encoder
    with weights of its own. The copy uses the float values underneath, which the straight-through gradient has moved,
    as they are.

    Args:
        encoder_bits: of the encoder's own weights, where it has any; `bits` unless given.

    Raises:
        ValueError: `sae_core.rounding.GRIDS` has no such bits.
    """
    grids = grids_of(bits, encoder_bits)
    use_rounded(sae, None)
    underneath = copy.deepcopy(sae)
    _keep(sae, straight_through(sae.dictionary.values, grids.atoms), grids.atoms.stored_bits)
    if isinstance(encoder := inner_encoder(sae.encoder), OwnTopK):
        numbers, inverse = on_grid(encoder.weight, grids.encoder)
        _keep_rows(encoder, numbers, inverse.reciprocal().view(-1), grids.encoder.stored_bits)
    return underneath


def _keep(sae: SAE, numbers: torch.Tensor, stored_bits: float) -> None:
    """Put whole numbers into the dictionary of `sae`, and round its basis."""
    sae.dictionary.values.copy_(numbers)
    sae.dictionary.value_bits = stored_bits
    sae.dictionary.basis.round_values()


def _keep_rows(encoder: OwnTopK, numbers: torch.Tensor, factors: torch.Tensor, stored_bits: float) -> None:
    """Put whole numbers, and their factors (n_latents,), in the place of an encoder's own weights."""
    encoder.weight.copy_(numbers)
    encoder.row_scale = nn.Parameter(factors.contiguous(), encoder.weight.requires_grad)
    encoder.weight_bits = stored_bits


def rounding_measures(before: csc_array, after: csc_array) -> dict[str, float | None]:
    """Measure what rounding an SAE's values changes of its latents: a damage that fidelity need not show.

    Args:
        before, after: the codes of the same tokens by the SAE and by its rounded copy (`sae_core.correlation`).

    Returns:
        correlation  mean over latents of the correlation of a latent's activations before and after
        below_90     share of latents whose correlation is below .9
        silenced     share of latents that fire before and never after
        dead         share of all latents that fire neither before nor after; the other three leave these out

        A latent that fires on one side only has correlation 0. All but `dead` are None where no latent fires.
    """
    alive_before, alive_after = fires(before), fires(after)
    alive = alive_before | alive_after
    found = np.nan_to_num(correlations(before, after))[alive]
    known = len(found) > 0
    return {
        "correlation": float(found.mean()) if known else None,
        "below_90": float((found < 0.9).mean()) if known else None,
        "silenced": float((alive_before & ~alive_after)[alive].mean()) if known else None,
        "dead": float((~alive).mean()),
    }
