from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import SparseArm
from sae_core.dictionary import Drawn, FrozenDictionary, drawn_support
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, Layout


@dataclass(frozen=True)
class FrozenRandom(SparseArm):
    """The random control: the expander's support with random values that never change; only the biases are learned.

    Support and values are drawn from the seed and not stored. n + m values are stored; where the encoder is a pursuit,
    only the m values of b_dec.
    """

    name = "frozen_random"
    can_be_quantised = False

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED, value_bits=0)

    def build(self, d_in: int, seed: int, scale: float = 1.0, sample: torch.Tensor | None = None) -> SAE:
        n_latents, degree, _ = self.sizes(d_in)
        drawn, basis = Drawn("expander", seed), self.make_basis(d_in, seed, sample)
        support = drawn_support(drawn, d_in, n_latents, degree, self.always_on)
        return self.make_sae(FrozenDictionary(d_in, support, drawn, basis, self.always_on), scale, sample)
