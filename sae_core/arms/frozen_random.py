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
    draws_support = True

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED, value_bits=0)

    def build(
        self,
        d_in: int,
        seed: int,
        scale: float = 1.0,
        sample: torch.Tensor | None = None,
        support_seed: int | None = None,
    ) -> SAE:
        n_latents, degree, _ = self.sizes(d_in)
        drawn = Drawn("expander", seed if support_seed is None else support_seed)
        basis = self.make_basis(d_in, seed, sample)
        support = drawn_support(drawn, d_in, n_latents, degree, self.always_on)
        dictionary = FrozenDictionary(d_in, support, drawn, basis, self.always_on, values_seed=seed)
        return self.make_sae(dictionary, scale, sample)
