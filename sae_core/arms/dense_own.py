"""Dense atoms whose encoder has weights of its own: 2*m*n + n + m values are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sae_core.arms.base import (
    BATCH_TOPK,
    TOPK,
    Arm,
    Sizes,
    Start,
    checked_sizes,
    label_with_encoder,
    one_shot_encoder,
    one_shot_name,
)
from sae_core.dictionary import DenseDictionary
from sae_core.encoders import OwnTopK
from sae_core.hashed import later
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class DenseOwn(Arm):
    """Dense atoms with an own encoder; `start` says where its weights begin (`sae_core.encoders.OwnTopK`). Abstract.

    `encoder` is `topk`, or `batch_topk` for k latents a token on average.
    """

    n_latents: int
    k: int
    encoder: str = later(TOPK)
    start: ClassVar[str]
    can_be_quantised = False

    def __post_init__(self):
        one_shot_name(self.encoder)

    @property
    def label(self) -> str:
        return label_with_encoder(self.name, self.encoder)

    def sizes(self, d_in: int) -> Sizes:
        return checked_sizes(d_in, self.n_latents, d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(own_encoder=True, batch_topk=self.encoder == BATCH_TOPK)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = DenseDictionary(start.d_in, n_latents, generator)
        encoder = one_shot_encoder(OwnTopK(dictionary, self.start, generator), self.encoder)
        return SAE(dictionary, encoder, k, start.scale)


@dataclass(frozen=True)
class DenseWarmTied(DenseOwn):
    """The paper's "Dense-SAE": the encoder's weights start at W^T."""

    name = "dense_warmtied"
    start = "transpose"


@dataclass(frozen=True)
class DenseRandInit(DenseOwn):
    """Dense atoms whose encoder's weights start at random."""

    name = "dense_randinit"
    start = "random"
