from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import Arm, DerivedArm, Sizes
from sae_core.prefixes import checked_part, cut, part_label, prefix_size
from sae_core.sae import SAE
from sae_core.sizes import check_sparsity
from sae_core.storage import Layout


@dataclass(frozen=True)
class Prefix(DerivedArm):
    """The first latents of another arm's trained SAE, as an SAE of its own; no further training (`sae_core.prefixes`).

    Args:
        of: the other arm. Where it is trained on nested prefixes (`prefixes`), one of these reconstructs by itself; of
            any other arm, the first latents are what they happen to be: a control.
        share: how many of its latents, such as 1/4 or 512.
    """

    of: Arm
    share: int | str
    by_gradient = False

    def __post_init__(self):
        object.__setattr__(self, "share", checked_part("sae.share", self.share))
        if not self.of.sparse_codes:
            raise ValueError(f"sae.of={self.of.name} has no sparse codes, of which a prefix would use a part")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.of.name}-{part_label(self.share)}"

    @property
    def label(self) -> str:
        return f"{self.of.label}-{part_label(self.share)}"

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.draws_support

    @property
    def can_be_quantised(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.can_be_quantised

    @property
    def own_encoder(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.own_encoder

    @property
    def starts_from(self) -> Arm:
        return self.of

    def sizes(self, d_in: int) -> Sizes:
        n_latents, degree, k = self.of.sizes(d_in)
        size = prefix_size("sae.share", self.share, n_latents)
        check_sparsity(size, k)
        return Sizes(size, degree, k)

    def layout(self, d_in: int) -> Layout:
        return self.of.layout(d_in)._replace(n_latents=self.sizes(d_in).n_latents, prefixes=())

    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        return cut(trained, self.sizes(trained.dictionary.d_in).n_latents)
