"""The definition of every pursuit: one target at a time, dense atoms, meant for float64. Never used in training.

Each approximates a target y (d_in,) by k of the atoms (n_latents, d_in; rows of unit norm) and returns a `Pursuit`.
Nothing depends on the target's scale, as long as its square neither over- nor underflows: every tolerance is relative
to ||y||. (The batched pursuits scale their targets first.)

Where the definitions of the literature leave a choice, ours are:

- With `signed` the largest correlation is picked, as in the paper; otherwise the largest magnitude.
- No atom is picked twice, so k picks are k atoms (matching pursuit included).
- Once ||r||, or the best atom's correlation with it, is within rounding * ||y|| of 0, nothing is left to approximate:
  the picks that remain are the unused atoms of lowest index, with code 0. A zero target is the extreme case.
- Least squares on dependent atoms (duplicates, k beyond the rank): an atom in the span of those before it gets code 0.
- A target that is not finite has NaN codes, on the atoms of lowest index.

Sources: OMP, Pati et al. 1993 and the paper, section 3; generalised OMP, Wang, Kwon & Shim 2012; matching pursuit,
Mallat & Zhang 1993; steps of conjugate gradients for least squares, Blumensath & Davies 2008, Gradient pursuits; NIHT,
Blumensath & Davies 2010; CoSaMP, Needell & Tropp 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 50  # most steps of NIHT and CoSaMP, which iterate to a fixed point
SHRINK = 0.5  # NIHT multiplies a step that is too long by this
MARGIN = 0.01  # NIHT: c of Blumensath & Davies, how far below the stability bound a step must stay


class Pursuit(NamedTuple):
    """The k atoms picked for a target, their codes, and the norm of what they leave of it."""

    indices: Tensor  # int64 (k,), distinct, in the order picked where there is one
    codes: Tensor  # (k,)
    residual_norm: Tensor  # ()


def rounding(dtype: torch.dtype) -> float:
    """Return eps ** 0.75, the share of the whole below which a size counts as rounding error.

    Residuals are compared with it, and an atom's squared distance from the span of others.
    """
    return torch.finfo(dtype).eps ** 0.75


def omp(atoms: Tensor, y: Tensor, k: int, signed: bool = True) -> Pursuit:
    """Find codes by orthogonal matching pursuit: pick the best atom, refit all picked by least squares, k times."""
    return gomp(atoms, y, k, 1, signed)


def gomp(atoms: Tensor, y: Tensor, k: int, block: int, signed: bool = True) -> Pursuit:
    """Find codes by generalised (block) OMP: pick the `block` best atoms a step, or as many as k still lacks."""
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    while len(picked) < k and not _exhausted(residual, y):
        scores, best = _scores(atoms, residual, picked, signed).topk(min(block, k - len(picked)))
        if _exhausted(scores[0], y):
            break
        picked = torch.cat([picked, best])
        residual = y - least_squares(atoms, y, picked) @ atoms[picked]
    return _padded(atoms, y, picked, least_squares(atoms, y, picked), k)


def matching_pursuit(atoms: Tensor, y: Tensor, k: int, signed: bool = True, refit: bool = True) -> Pursuit:
    """Find codes by matching pursuit: pick the best atom, subtract its projection, k times.

    `refit` ends it with least squares on the picked atoms.
    """
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    codes = y.new_zeros(0)
    while len(picked) < k and not _exhausted(residual, y):
        best = _scores(atoms, residual, picked, signed).argmax()
        code = atoms[best] @ residual
        if _exhausted(code, y):
            break
        residual = residual - code * atoms[best]
        picked, codes = torch.cat([picked, best[None]]), torch.cat([codes, code[None]])
    return _padded(atoms, y, picked, least_squares(atoms, y, picked) if refit else codes, k)


def corrected_matching_pursuit(atoms: Tensor, y: Tensor, k: int, steps: int) -> Pursuit:
    """Find codes by matching pursuit, then take `steps` steps of conjugate gradients on all its picks."""
    found = matching_pursuit(atoms, y, k, refit=False)
    made = found.codes != 0  # a target that is not finite has NaN codes, which stay
    picked = found.indices[made]
    return _padded(atoms, y, picked, conjugate_gradients(atoms, y, picked, found.codes[made], steps), k)


def conjugate_gradients(atoms: Tensor, y: Tensor, picked: Tensor, codes: Tensor, steps: int) -> Tensor:
    """Return codes after `steps` steps from `codes` towards the least ||y - codes @ atoms[picked]||.

    They end early where the gradient is within rounding * ||y|| of 0.
    """
    chosen = atoms[picked]
    gradient = chosen @ (y - codes @ chosen)
    direction = gradient
    for _ in range(steps):
        if _exhausted(gradient, y):
            break
        image = direction @ chosen
        codes = codes + (gradient @ gradient) / (image @ image) * direction
        new = chosen @ (y - codes @ chosen)
        direction = new + (new @ new) / (gradient @ gradient) * direction
        gradient = new
    return codes


def nested_pursuit(atoms: Tensor, y: Tensor, k: int, floor: float, prefixes: Sequence[int]) -> Pursuit:
    """Find codes by matching pursuit in one group of atoms after another, as long as picks gain enough.

    Group g holds the atoms prefixes[g-1]..prefixes[g]-1, so that the groups are nested prefixes of the dictionary less
    the prefix before (Matryoshka SAEs, arXiv 2503.17547, are trained on such prefixes). In each group matching pursuit
    picks by the largest correlation c; a pick lowers ||r||^2 by c^2, and the first one of c^2 < floor * ||y||^2 ends
    the group without being made. After each group the codes of all picks are those of least squares, and the next group
    approximates what they leave. There are k picks at most, those of the first groups first.

    Args:
        floor: above 0; the least share of ||y||^2 that a pick must explain.
        prefixes: rising, the last one is the number of atoms; a single prefix is all atoms at once.
    """
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    for first, last in pairwise((0, *prefixes)):
        found = matching_pursuit(atoms[first:last], residual, min(k, last - first), refit=False)
        enough = (found.codes > 0) & (found.codes >= floor**0.5 * y.norm())
        picked = torch.cat([picked, found.indices[enough.cumprod(0).bool()] + first])[:k]
        residual = y - least_squares(atoms, y, picked) @ atoms[picked]
    return _padded(atoms, y, picked, least_squares(atoms, y, picked), k)


def refit(atoms: Tensor, y: Tensor, indices: Tensor) -> Pursuit:
    """Find codes by least squares on given atoms: the best codes that any encoder's picks can have."""
    return _padded(atoms, y, indices, least_squares(atoms, y, indices), len(indices))


def niht(atoms: Tensor, y: Tensor, k: int) -> Pursuit:
    """Find codes by normalised iterative hard thresholding: gradient steps, each keeping the k largest magnitudes.

    The step is the exact one on the current support; where the support would change, it is shortened until the
    objective cannot grow. The codes are those of the last step, without a refit.
    """
    codes = y.new_zeros(len(atoms))
    if not _exhausted(y, y):
        support = (atoms @ y).abs().topk(k).indices
        for _ in range(STEPS):
            new = _niht_step(atoms, y, codes, support, k)
            support = new.abs().topk(k).indices
            moved, codes = (new - codes).norm(), new
            if moved <= rounding(y.dtype) * codes.norm():
                break
    indices = codes.abs().topk(k).indices
    indices = indices[codes[indices] != 0]
    return _padded(atoms, y, indices, codes[indices], k)


def _niht_step(atoms: Tensor, y: Tensor, codes: Tensor, support: Tensor, k: int) -> Tensor:
    gradient = atoms @ (y - codes @ atoms)
    on_support = torch.zeros_like(gradient).scatter(0, support, gradient[support])
    length = (on_support @ atoms).square().sum()
    step = on_support.square().sum() / length if length > 0 else length.new_tensor(1.0)
    while True:
        new = _keep_largest(codes + step * gradient, k)
        change = new - codes
        image = (change @ atoms).square().sum()
        same = set(new.nonzero().flatten().tolist()) <= set(support.tolist())
        if same or image == 0 or step <= (1 - MARGIN) * change.square().sum() / image:
            return new
        step = step * SHRINK


def cosamp(atoms: Tensor, y: Tensor, k: int) -> Pursuit:
    """Find codes by compressive sampling matching pursuit.

    A round joins the 2k best correlations to the support, refits and keeps the k largest codes. The pursuit ends when a
    round no longer lowers the residual, and keeps the best round.
    """
    best = _padded(atoms, y, y.new_zeros(0, dtype=torch.int64), y.new_zeros(0), k)
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    for _ in range(STEPS):
        if _exhausted(residual, y):
            break
        joined = (atoms @ residual).abs().topk(min(2 * k, len(atoms))).indices
        joined = torch.cat([picked, joined]).unique()
        codes = least_squares(atoms, y, joined)
        picked = joined[codes.abs().topk(min(k, len(joined))).indices]
        found = refit(atoms, y, picked) if len(picked) == k else best
        residual = y - least_squares(atoms, y, picked) @ atoms[picked]
        if not found.residual_norm < best.residual_norm:
            break
        best = found
    return best


def least_squares(atoms: Tensor, y: Tensor, picked: Tensor) -> Tensor:
    """Return codes (picked,) of least ||y - codes @ atoms[picked]||; 0 for an atom in the span of those before it.

    They are all 0 for a target that is not finite.
    """
    basis: list[Tensor] = []
    kept: list[int] = []
    for i, atom in enumerate(atoms[picked]):
        rest = atom
        for _ in range(2):  # a second pass removes what the first pass's rounding left
            for direction in basis:
                rest = rest - (direction @ rest) * direction
        if rest @ rest > rounding(y.dtype) * (atom @ atom):
            basis.append(rest / rest.norm())
            kept.append(i)
    codes = y.new_zeros(len(picked))
    if kept and torch.isfinite(y).all():
        codes[kept] = torch.linalg.lstsq(atoms[picked[kept]].T, y[:, None]).solution[:, 0]
    return codes


def _scores(atoms: Tensor, residual: Tensor, picked: Tensor, signed: bool) -> Tensor:
    """Return each atom's correlation, or its magnitude unless `signed`; -inf for an atom picked before."""
    correlations = atoms @ residual
    scores = correlations if signed else correlations.abs()
    return scores.scatter(0, picked, float("-inf"))


def _exhausted(residual: Tensor, y: Tensor) -> bool:
    """Return whether a residual, or one correlation with it, is so small beside y that nothing is left to pick."""
    return not bool(residual.norm() > rounding(y.dtype) * y.norm())


def _keep_largest(codes: Tensor, k: int) -> Tensor:
    kept = codes.abs().topk(k).indices
    return torch.zeros_like(codes).scatter(0, kept, codes[kept])


def _padded(atoms: Tensor, y: Tensor, picked: Tensor, codes: Tensor, k: int) -> Pursuit:
    """Return the result, padded to k picks with unused atoms of code 0."""
    unused = torch.ones(len(atoms), dtype=torch.bool).scatter(0, picked, False).nonzero().flatten()
    padding = unused[: k - len(picked)]
    if not torch.isfinite(y).all():
        return Pursuit(torch.arange(k, device=y.device), y.new_full((k,), torch.nan), y.new_tensor(torch.nan))
    residual = y - codes @ atoms[picked]
    return Pursuit(torch.cat([picked, padding]), torch.cat([codes, codes.new_zeros(len(padding))]), residual.norm())
