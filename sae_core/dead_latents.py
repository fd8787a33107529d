"""Dead latents, and how training re-aims them (paper, section 2)."""

from __future__ import annotations

import torch

from sae_core.sae import SAE

MIN_FIRINGS = 5  # a latent that fired less often since the last check is re-aimed
MAX_DEAD_FRACTION = 0.8  # above this nothing is re-aimed: the SAE is broken, not its latents


@torch.no_grad()
def resample_dead(
    sae: SAE,
    firings: torch.Tensor,
    residual: torch.Tensor,
    squared_errors: torch.Tensor,
    generator: torch.Generator,
) -> int:
    """Re-aim every latent with fewer than MIN_FIRINGS firings at a badly reconstructed sample; return their number.

    Each takes the residual h - h_hat of a sample drawn with probability proportional to its squared error,
    restricted to the latent's support, normalised, / sqrt(degree). Its encoder bias becomes 0, and its encoder row,
    where it has one, takes the same direction. Adam's moments stay: those of a dead latent are already near 0.

    Args:
        firings: int (n_latents,), how often each latent was among the k since the last check.
        residual: (tokens, d_in), h - h_hat up to a positive factor.
        squared_errors: (tokens,), ||h - h_hat||^2 up to a factor.
        generator: draws the samples.
    """
    dead = torch.nonzero(firings < MIN_FIRINGS).flatten()
    weights = squared_errors.double()
    if len(dead) == 0 or len(dead) > MAX_DEAD_FRACTION * len(firings) or not weights.sum() > 0:
        return 0
    samples = torch.multinomial(weights, len(dead), replacement=True, generator=generator)
    directions = residual[samples]
    sae.dictionary.set_atoms(dead, directions)
    sae.encoder.set_rows(dead, sae.dictionary.coordinates(directions))
    return len(dead)
