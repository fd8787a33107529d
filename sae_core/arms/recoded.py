from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass

import torch

from sae_core.arms.base import Arm, DerivedArm
from sae_core.arms.dense_matched import DenseMatched
from sae_core.arms.dense_tied import DenseTied
from sae_core.arms.rounded import RoundedArm
from sae_core.bases import Basis
from sae_core.bases.names import SAMPLE_TOKENS
from sae_core.dictionary import Dictionary
from sae_core.sae import SAE

NEAREST, WEIGHTED = "nearest", "weighted"


@dataclass(frozen=True)
class RecodedArm(RoundedArm, DerivedArm):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A trained dense SAE whose atoms are written in a code of few bits, and which is trained again. Abstract.

    What training moves then, the code's dictionary says: its parameters and the biases.

    Args:
        of: `DenseTied` or `DenseMatched`.
        bits: 4, 2 or 1 for a value.
        rounded_in: the basis whose coordinates are written in the code.
    """

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.of, (DenseTied, DenseMatched)):
            raise ValueError(f"sae.of={self.of.name} must have dense atoms to be {self._made}")

    @property
    @abstractmethod
    def _made(self) -> str:
        """What becomes of atoms, in words that follow `to be`."""

    @property
    @abstractmethod
    def _follows(self) -> str:
        """What the code follows: NEAREST, the atoms alone, or WEIGHTED, activations too."""

    @abstractmethod
    def _coded(self, atoms: torch.Tensor, seed: int, basis: Basis, moments: torch.Tensor | None) -> Dictionary:
        """Return a dictionary of nearly the atoms (n, d_in) in `basis`; `moments` are those of activations there."""

    @property
    def sample_tokens(self) -> int:
        return SAMPLE_TOKENS if self._follows == WEIGHTED else 0

    @property
    def starts_from(self) -> Arm:
        return self.of

    @torch.no_grad()
    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        start = copy.deepcopy(self.in_basis(trained, seed)).cpu()
        moments = None
        if self._follows == WEIGHTED and sample is not None:
            u = start.coordinates(sample.cpu())
            moments = u.T @ u / len(u)
        dictionary = self._coded(start.dictionary.unit_values().detach(), seed, start.dictionary.basis, moments)
        return start.with_dictionary(dictionary).to(trained.b_dec.device)
