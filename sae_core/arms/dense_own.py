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
from sae_core.prefixes import checked_parts, label_with_prefixes, prefix_sizes
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class DenseOwn(Arm):
    """Dense atoms with an own encoder; `start` says where its weights begin (`sae_core.encoders.OwnTopK`). Abstract.

    `encoder` is `topk`, or `batch_topk` for k latents a token on average; `prefixes` are those of `TiedArm`.
    """

    n_latents: int
    k: int
    encoder: str = later(TOPK)
    prefixes: tuple[int | str, ...] = later(())
    start: ClassVar[str]
    own_encoder = True
    turns_freely = True

    def __post_init__(self):
        one_shot_name(self.encoder)
        object.__setattr__(self, "prefixes", checked_parts(self.prefixes))

    @property
    def label(self) -> str:
        return label_with_encoder(label_with_prefixes(self.name, self.prefixes), self.encoder)

    def sizes(self, d_in: int) -> Sizes:
        prefix_sizes(self.prefixes, self.n_latents)
        return checked_sizes(d_in, self.n_latents, d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        prefixes = prefix_sizes(self.prefixes, self.n_latents)
        layout = super().layout(d_in)._replace(own_encoder=True, prefixes=prefixes)
        return layout._replace(batch_topk=self.encoder == BATCH_TOPK)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = DenseDictionary(start.d_in, n_latents, generator)
        encoder = one_shot_encoder(OwnTopK.starting(dictionary, self.start, generator), self.encoder)
        return SAE(dictionary, encoder, k, start.scale, prefixes=prefix_sizes(self.prefixes, n_latents))


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
