"""Bases by name, as configs and records write them.

neurons           the LM's own coordinates; the default
reflections{R}    R Householder reflections onto the pool's R principal directions: R*m values, fixed
reflections{R}_trained   the same, trained with the rest
monarch           two block-diagonal factors that follow the pool: about m*sqrt(m) values, fixed; monarch_trained
butterfly         levels of rotations of two coordinates that follow the pool, fixed; butterfly_trained
fourier           random signs and a fast transform, from the seed: the control
"""

from __future__ import annotations

import math
import re

import torch

from sae_core.bases.base import Basis, BasisName
from sae_core.bases.butterfly import Butterfly
from sae_core.bases.fourier import Fourier
from sae_core.bases.monarch import Monarch
from sae_core.bases.neurons import Neurons
from sae_core.bases.reflections import Reflections

NAMES = (
    "neurons, reflections{R}, reflections{R}_trained, monarch, monarch_trained, butterfly, butterfly_trained, fourier"
)
BASES: dict[str, type[Basis]] = {
    "neurons": Neurons,
    "reflections": Reflections,
    "monarch": Monarch,
    "butterfly": Butterfly,
    "fourier": Fourier,
}
SAMPLE_TOKENS = 16384  # activations that a basis which follows the data is made of
_NAME = re.compile(r"(?:(neurons|fourier)|(?:(reflections)([1-9][0-9]*)|(monarch|butterfly))(_trained)?)")


def basis_name(name: str) -> BasisName:
    """Return the parts of a basis' name. Raises ValueError where no basis has this name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no basis: choose from {NAMES}")
    plain, counted, count, uncounted, trained = found.groups()
    return BasisName(plain or counted or uncounted, int(count or 0), trained is not None)


def basis_shape(name: str, d_in: int) -> tuple[int, ...]:
    """Return the shape of the values that a basis stores, () where there are none; see `Basis.shape` for errors."""
    parts = basis_name(name)
    return BASES[parts.kind].shape(parts, d_in)


def basis_values(name: str, d_in: int) -> int:
    """Return how many values a basis stores. Raises the errors of `Basis.shape`."""
    shape = basis_shape(name, d_in)
    return math.prod(shape) if shape else 0


def make_basis(name: str, d_in: int, seed: int, sample: torch.Tensor | None = None) -> Basis:
    """Make the basis called `name`; `Basis.make` says what the arguments are."""
    parts = basis_name(name)
    return BASES[parts.kind].make(parts, d_in, seed, sample)


def basis_sample(name: str) -> int:
    """Return how many activations `make_basis` looks at: SAMPLE_TOKENS where the basis follows the data, else 0."""
    return SAMPLE_TOKENS if BASES[basis_name(name).kind].follows_data else 0
