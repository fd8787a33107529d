from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import Arm, Start
from sae_core.arms.rounded import RoundedArm
from sae_core.quantised import use_rounded
from sae_core.regrow import SupportSchedule
from sae_core.rounding import Rounding
from sae_core.sae import SAE

FROM_THE_MIDDLE = 0.5  # the start of rounding that labels do not name


@dataclass(frozen=True)
class FewBits(RoundedArm):
    """Another arm, trained with its values rounded to few bits: what is trained is what is stored.

    From the share `rounded_from` of the training on, the rounded atoms are used, and an encoder's own weights as they
    are rounded, while the gradient
    moves float values underneath (`sae_core.rounding.straight_through`). All else goes as in the other arm: its start,
    the schedule of its support, the re-aiming of dead latents. `build` makes an SAE that rounds from the first step on,
    for training loops of one's own; `sae_core.keep_rounded` ends its training.

    On the embedded LM (k=32, one seed) 0, .5 and .75 give `dense_tied` at 2 bits a CE recovered of .950 each, and .947,
    .938 and .934 at 1.58 bits: the learning rate falls in training, so that late rounding leaves coarse values too
    little of it. At n'=120, 2 bits, it is .871 from 0 and .877 from .5. From .5 on latents stay more like those of the
    plain run.

    Args:
        rounded_from: in 0..1, 1 excluded.
    """

    rounded_from: float = FROM_THE_MIDDLE
    suffix = "_trained"

    def __post_init__(self):
        super().__post_init__()
        if not self.of.by_gradient:
            raise ValueError(f"sae.of={self.of.name} is not trained by gradient: round it after its training")
        if not 0 <= self.rounded_from < 1:
            raise ValueError(f"sae.rounded_from={self.rounded_from} must be in 0..1, 1 excluded")

    @property
    def label(self) -> str:
        return super().label + ("" if self.rounded_from == FROM_THE_MIDDLE else f"_from{self.rounded_from:g}")

    @property
    def schedule(self) -> SupportSchedule | None:
        return self.of.schedule

    @property
    def rounding(self) -> Rounding:
        return Rounding(self.bits, self.rounded_from, self.encoder_bits)

    @property
    def sample_tokens(self) -> int:
        return self.of.sample_tokens

    @property
    def starts_from(self) -> Arm | None:
        return self.of.starts_from

    def make(self, start: Start) -> SAE:
        return self._rounding(self.of.make(start), start.seed)

    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        return self._rounding(self.of.derive(trained, seed, sample), seed)

    def _rounding(self, sae: SAE, seed: int) -> SAE:
        sae = self.in_basis(sae, seed)
        use_rounded(sae, self.rounding.grids)
        return sae
