from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.recoded import NEAREST, WEIGHTED, RecodedArm
from sae_core.bases import FOURIER, Basis
from sae_core.dictionary import Dictionary
from sae_core.storage import Layout
from sae_core.trellis import STEP_BITS, TrellisDictionary, check_steps, nearest_steps, weighted_steps


@dataclass(frozen=True)
class TrellisCoded(RecodedArm):
    """A trained dense SAE whose atoms become paths through a trellis; then its biases are trained again.

    A path takes `bits` bits a value and nothing else (`sae_core.trellis`), and stays as it is. It takes twice the
    training, whose second half has no gradient of atoms.

    Args:
        of: `DenseTied` or `DenseMatched`.
        bits: 4, 2 or 1 for a value.
        rounded_in: the basis whose coordinates paths are to meet. Paths meet Gaussian values best, which those of a
            `fourier` basis nearly are.
        path: `nearest` to the atom, or `weighted`: so chosen that the errors of an atom's values cancel on activations
            (`sae_core.trellis.weighted_steps`).
    """

    rounded_in: str = FOURIER
    path: str = NEAREST

    @property
    def suffix(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "_tcq" if self.path == NEAREST else "_tcq_weighted"

    def __post_init__(self):
        super().__post_init__()
        if self.bits not in STEP_BITS:
            raise ValueError(f"sae.bits={self.bits} must be 4, 2 or 1: the bits of a step")
        if self.path not in (NEAREST, WEIGHTED):
            raise ValueError(f"sae.path={self.path} must be {NEAREST} or {WEIGHTED}")

    @property
    def _made(self) -> str:
        return "paths through a trellis"

    @property
    def _follows(self) -> str:
        return self.path

    def layout(self, d_in: int) -> Layout:
        check_steps(d_in, int(self.bits))
        return self.of.layout(d_in)._replace(value_bits=self.bits, basis=self.rounded_in)

    def _coded(self, atoms: torch.Tensor, seed: int, basis: Basis, moments: torch.Tensor | None) -> Dictionary:
        bits = int(self.bits)
        steps = nearest_steps(atoms, bits) if moments is None else weighted_steps(atoms, bits, moments)
        return TrellisDictionary(steps, bits, basis)
