"""Dense atoms with an encoder of their own: 2*m*n + n + m values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sae_core.arms.base import Arm, Sizes, checked
from sae_core.dictionary import DenseDictionary
from sae_core.encoders import OwnTopK
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class DenseOwn(Arm):
    """Abstract: `start` is where the encoder's weights begin (`sae_core.encoders.OwnTopK`)."""

    n_latents: int
    k: int
    start: ClassVar[str]
    can_be_quantised = False

    def sizes(self, d_in: int) -> Sizes:
        return checked(self.n_latents, d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(own_encoder=True)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        generator = torch.Generator().manual_seed(seed)
        dictionary = DenseDictionary(d_in, n_latents, generator)
        return SAE(dictionary, OwnTopK(dictionary, self.start, generator), k, scale)


@dataclass(frozen=True)
class DenseWarmTied(DenseOwn):
    """The encoder starts at W^T: the paper's "Dense-SAE"."""

    name = "dense_warmtied"
    start = "transpose"


@dataclass(frozen=True)
class DenseRandInit(DenseOwn):
    """The encoder starts at random."""

    name = "dense_randinit"
    start = "random"
