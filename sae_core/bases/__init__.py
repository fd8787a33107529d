"""Bases: orthogonal maps that cost little and stand in front of sparse atoms, one file each.

An atom that is sparse in a basis Q is Q^T a for a sparse a. Since Q is orthogonal, all that an SAE does with atoms
Q^T a on x it can do with the sparse atoms a on Qx: kernels and pursuits stay as they are, and nothing of size m*n or
m*m appears. That is double sparsity (Rubinstein, Zibulevsky and Elad 2010). Dense atoms of low rank lie in the first
coordinates of a basis (`sae_core.arms.dense_low_rank`). `BASES` has every basis by its name.
"""

from sae_core.bases.base import BASIS_BITS, FOURIER, NEURONS, Basis, BasisName
from sae_core.bases.butterfly import Butterfly
from sae_core.bases.fourier import Fourier
from sae_core.bases.monarch import Monarch
from sae_core.bases.names import BASES, basis_name, basis_sample, basis_shape, basis_values, make_basis
from sae_core.bases.neurons import Neurons
from sae_core.bases.reflections import Reflections

__all__ = [
    "BASES",
    "BASIS_BITS",
    "FOURIER",
    "NEURONS",
    "Basis",
    "BasisName",
    "Butterfly",
    "Fourier",
    "Monarch",
    "Neurons",
    "Reflections",
    "basis_name",
    "basis_sample",
    "basis_shape",
    "basis_values",
    "make_basis",
]
