"""How errors of some coordinates of an atom are made up for by those that are still to be chosen (GPTQ's rule)."""

from __future__ import annotations

import torch

_EVEN = 1.0  # energy in every direction that is added to the activations' mean one: decoders use all of an atom


def feedback_factor(moments: torch.Tensor) -> torch.Tensor:
    """Return the upper triangle F, float64 (d_in, d_in), with H^-1 = F^T F, where errors e of atoms cost e^T H e.

    Once the coordinates first..last-1 of an atom have errors e, the cheapest values of the later ones have moved by
    -e F[first:last, first:last]^-1 F[first:last, last:]. (GPTQ, arXiv 2210.17323; GPTVQ, arXiv 2402.15319.)

    Args:
        moments: (d_in, d_in), the mean of u u^T over the activations u that the encoder multiplies atoms with. H is
            this over its mean diagonal, plus the identity.
    """
    even = _EVEN * torch.eye(len(moments), dtype=torch.float64)
    h = moments.double() / moments.diagonal().double().mean().clamp_min(1e-30) + even
    return torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
