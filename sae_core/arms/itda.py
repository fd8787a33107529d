from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.arms.base import FittedArm, Sizes, Start, checked_sizes
from sae_core.dictionary import ActivationDictionary
from sae_core.encoders import ByPursuit
from sae_core.kernels.dispatch import Backend, get_backend
from sae_core.pursuit.solvers import canonical, solver
from sae_core.sae import SAE
from sae_core.sizes import CellError
from sae_core.storage import Layout

_BATCH = 512  # activations that are reconstructed by the same atoms (the authors' 4 prompts of 128 tokens)
_LEAST_ERROR = 1e-6  # an activation whose error is smaller counts as an atom that there is already
_LARGEST_ERROR = 2.0
_HALVINGS = 10  # of the interval of log thresholds, whose width is then 1.4 % of the threshold


@dataclass(frozen=True)
class ITDA(FittedArm):
    """Inference-time decomposition of activations (Leask, Nanda and Al Moubayed 2025, arXiv 2505.17769).

    Atoms are activations, at unit norm, and codes are found by a pursuit; nothing is trained by gradient. One pass over
    activations x chooses them. It begins with as many as there are rows, d_in, those that occur most often first. Then
    a batch at a time is reconstructed by the atoms that there are, and every x joins them whose error is above a
    threshold: ||x / |x| - x' / |x'|||^2 with its reconstruction x', twice 1 - cos(x, x'). (The authors' code divides
    the error by d_in.) Equal activations of a batch join once.

    In the paper the threshold decides how many atoms there are. Here n is given, and the threshold follows: the largest
    one whose pass finds n atoms, by bisection. No seed changes the atoms; the order is the pool's.

    A file holds the atoms, because activations are not the same bit for bit on every machine, and beside them where
    each came from: its number in the pool, in ceil(log2 tokens) bits (`Storage.source_bits`). These alone would do for
    who has the pool, or makes it again.

    Args:
        encoder: the pursuit that chooses atoms and reads codes. `mp_magnitude` is what the authors' code does, but for
            one difference: here no atom is picked twice.
        tokens: how many activations, the first of the pool, atoms are chosen from.
    """

    n_latents: int
    k: int
    encoder: str = "mp_magnitude"
    tokens: int = 65536
    name = "itda"

    def __post_init__(self):
        try:
            object.__setattr__(self, "encoder", canonical(self.encoder))
        except ValueError as error:
            raise ValueError(f"sae.encoder={error}") from None
        if self.tokens < 1:
            raise ValueError(f"sae.tokens={self.tokens} must be at least 1")

    @property
    def label(self) -> str:
        return f"{self.name}+{self.encoder}"

    def sizes(self, d_in: int) -> Sizes:
        if not d_in < self.n_latents <= self.tokens:
            raise CellError(
                f"n={self.n_latents} must be in {d_in + 1}..{self.tokens}: above d_in, as many atoms as ITDA begins "
                "with, and at most sae.tokens, of which atoms are chosen"
            )
        return checked_sizes(d_in, self.n_latents, d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(pursuit=self.encoder, source_tokens=self.tokens)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = ActivationDictionary(start.d_in, n_latents, generator, self.tokens)
        return SAE(dictionary, ByPursuit(self.encoder), k, start.scale)

    def fit_tokens(self, pool_tokens: int) -> int:
        return min(self.tokens, pool_tokens)

    def fit_products(self, pool_tokens: int, d_in: int) -> int:
        """Count a pass of matching pursuit over all tokens for each halving; half of them find n atoms early."""
        return _HALVINGS * self.fit_tokens(pool_tokens) * self.n_latents * (d_in + self.k) // 2

    @torch.no_grad()
    def fit(self, sae: SAE, batches: Iterable[Tensor]) -> None:
        """Choose the atoms among the first `tokens` activations.

        Raises:
            ValueError: there are fewer than n different ones among them.
        """
        dictionary = sae.dictionary
        assert isinstance(dictionary, ActivationDictionary)
        kernels = get_backend(sae.backend, sae.b_dec.device)
        pool = _first(batches, self.tokens).to(sae.b_dec.device)
        low, high = math.log(_LEAST_ERROR), math.log(_LARGEST_ERROR)
        chosen = self._one_pass(kernels, pool, _LEAST_ERROR)
        if len(chosen) < self.n_latents:
            raise ValueError(
                f"n={self.n_latents} atoms cannot be chosen: the first {len(pool)} activations of the pool "
                f"(sae.tokens) hold {len(chosen)} that the others do not reconstruct"
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = self._one_pass(kernels, pool, math.exp(middle))
            if len(found) == self.n_latents:
                chosen, low = found, middle
            else:
                high = middle
        dictionary.sources.copy_(chosen)
        dictionary.values.copy_(pool[chosen].to(dictionary.values.dtype) * sae.scale)

    def _one_pass(self, kernels: Backend, pool: Tensor, threshold: float) -> Tensor:
        """Return the rows of `pool` that one pass makes atoms, n of them or fewer: int64 (atoms,)."""
        chosen, (_, d_in) = torch.zeros(0, dtype=torch.int64, device=pool.device), pool.shape
        for first in range(0, len(pool), _BATCH):
            x = pool[first : first + _BATCH].float()
            distinct, occurrences = _distinct(x)
            if (missing := d_in - len(chosen)) > 0:
                often = occurrences.argsort(descending=True, stable=True)[:missing]
                chosen = torch.cat((chosen, first + distinct[often]))
            atoms = kernels.unit_norm(pool[chosen].float())
            bad = distinct[self._errors(kernels, x[distinct], atoms) > threshold]
            chosen = torch.cat((chosen, first + bad))[: self.n_latents]
            if len(chosen) == self.n_latents:
                break
        return chosen

    def _errors(self, kernels: Backend, x: Tensor, atoms: Tensor) -> Tensor:
        """Return 2 (1 - cos) of each row of x with its reconstruction: (rows,)."""
        codes, indices = solver(self.encoder)(kernels, x, atoms, None, min(self.k, len(atoms)))
        reconstruction = kernels.decode(codes, indices, atoms, None, x.shape[1])
        return 2 * (1 - torch.cosine_similarity(x, reconstruction, dim=1))


def _first(batches: Iterable[Tensor], tokens: int) -> Tensor:
    """Return the first `tokens` rows of the batches, or all where they are fewer: (tokens, d_in)."""
    parts: list[Tensor] = []
    for batch in batches:
        parts.append(batch.detach()[:tokens])
        tokens -= len(parts[-1])
        if tokens == 0:
            break
    return torch.cat(parts)


def _distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of x that differ from all before them, in order, and how often each occurs: int64 (rows,)."""
    _, which, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
    at = torch.arange(len(x), device=x.device)
    first = torch.full_like(counts, len(x)).scatter_reduce_(0, which, at, "amin")
    order = first.argsort()
    return first[order], counts[order]
