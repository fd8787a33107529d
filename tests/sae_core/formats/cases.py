"""SAEs of every arm as training leaves them, and what it means that another library reads one as we do."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sae_core.arms import Arm
from sae_core.encoders import PositiveTopK
from sae_core.formats import About
from sae_core.quantised import keep_rounded
from sae_core.sae import SAE
from tests.contracts.test_arms import ARMS, M

ABOUT = About("gpt-nonesuch", 3, 128, "some/text", True, "0123456789abcdef")
SCALE = 0.7
CLOSE = 1e-5  # of the largest value
TOKENS = 200


class Reading(NamedTuple):
    """Codes of every latent (tokens, n_latents), and the reconstruction (tokens, d_in)."""

    codes: torch.Tensor
    reconstruction: torch.Tensor


def activations(seed: int = 1) -> torch.Tensor:
    """Random activations with a mean of their own (TOKENS, M)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS, M, generator=generator) * 3 + torch.randn(M, generator=generator)


def trained(arm: Arm, d_in: int = M) -> SAE:
    """Return an SAE of the arm with a scale, biases that are not 0, and a threshold where it has one."""
    sae = arm.build(d_in, seed=3, scale=SCALE)
    generator: Any = torch.Generator().manual_seed(2)
    with torch.no_grad():
        sae.b_dec.normal_(generator=generator)
        for name, parameter in sae.encoder.named_parameters():
            if name.endswith("b_enc"):
                parameter.normal_(0, 0.1, generator=generator)
        if arm.rounding is not None:
            keep_rounded(sae, arm.rounding.bits, arm.rounding.encoder_bits)
        for seed in (2, 3, 4):
            sae.residual(activations(seed))  # BatchTopK's threshold follows
    return sae.eval()


@torch.no_grad()
def ours(sae: SAE, h: torch.Tensor) -> Reading:
    found = sae(h)
    codes = torch.zeros(len(h), sae.n_latents).scatter_add(1, found.indices, found.codes)
    return Reading(codes, found.reconstruction)


@torch.no_grad()
def exported(sae: SAE, h: torch.Tensor) -> Reading:
    """Return ours as another library has it: a gain of a latent's code is the norm of its atom there."""
    found = ours(sae, h)
    return found._replace(codes=found.codes / sae.encoder.gain) if isinstance(sae.encoder, PositiveTopK) else found


def check_alike(found: Reading, expected: Reading, tokens: torch.Tensor, least: float = 0.9) -> None:
    """Assert that two readings agree to CLOSE on the `tokens` (bool), which must be a share of `least` at least."""
    assert float(tokens.float().mean()) >= least
    for theirs, own in zip(found, expected, strict=True):
        assert theirs.shape == own.shape and bool(own.any())
        assert float((theirs - own)[tokens].abs().max()) <= CLOSE * float(own.abs().max())


def identified(arm: Arm) -> str:
    return f"{arm.label}:{arm.sizes(M).degree}"


__all__ = [
    "ABOUT",
    "ARMS",
    "CLOSE",
    "SCALE",
    "Reading",
    "activations",
    "check_alike",
    "exported",
    "identified",
    "ours",
    "trained",
]
