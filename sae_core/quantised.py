"""Atoms of whole numbers, which take fewer bits per value: rounded after training, or in it.

An atom is used at unit norm, so its whole numbers need no scale beside them: a file holds `bits` bits per value only.
How the values of a basis are rounded is the basis' own matter (`Basis.round_values`); these always have 8 bits.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.sparse import csc_array

from sae_core.bases import Basis, Neurons
from sae_core.correlation import correlations, fires
from sae_core.rounding import grid_of, straight_through, whole_numbers
from sae_core.sae import SAE


@torch.no_grad()
def quantised(sae: SAE, bits: float) -> SAE:
    """Return a copy of `sae` whose dictionary holds whole numbers of `bits` bits; biases stay as they are.

    Raises:
        ValueError: `sae_core.rounding.GRIDS` has no such `bits`, or the encoder has weights of its own.
    """
    grid = grid_of(bits)
    if not sae.tied:
        raise ValueError("only an SAE whose encoder is tied can be quantised; this one's has weights of its own")
    other = copy.deepcopy(sae)
    _keep(other, whole_numbers(sae.dictionary.values, bits), grid.stored_bits)
    return other


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
    return other


@torch.no_grad()
def keep_rounded(sae: SAE, bits: float) -> SAE:
    """End the training of an SAE whose values are rounded where they are used; return a copy with those of before.

    From now on the dictionary of `sae` holds the whole numbers that it rounded its values to. The copy uses the float
    values underneath, which the straight-through gradient has moved, as they are.

    Raises:
        ValueError: `sae_core.rounding.GRIDS` has no such `bits`.
    """
    grid = grid_of(bits)
    sae.dictionary.rounded_to = None
    underneath = copy.deepcopy(sae)
    _keep(sae, straight_through(sae.dictionary.values, grid), grid.stored_bits)
    return underneath


def _keep(sae: SAE, numbers: torch.Tensor, stored_bits: float) -> None:
    """Put whole numbers into the dictionary of `sae`, and round its basis."""
    sae.dictionary.values.copy_(numbers)
    sae.dictionary.value_bits = stored_bits
    sae.dictionary.basis.round_values()


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
