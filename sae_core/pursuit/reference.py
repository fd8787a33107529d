"""The readable truth of every pursuit: one target at a time, dense atoms, meant for float64. Never used in training.

Each approximates a target y (d_in,) by k of the atoms (n_latents, d_in; rows of unit norm) and returns a `Pursuit`.
Nothing depends on the target's scale, as long as its square neither over- nor underflows: every tolerance is relative
to ||y||. (The batched ones scale their targets first.)

Where the definitions of the literature leave a choice, ours are:

- `signed` picks the largest correlation, as the paper does; otherwise the largest magnitude.
- No atom is picked twice, so k picks are k atoms (matching pursuit included).
- Once ||r||, or the best atom's correlation with it, is within rounding * ||y|| of 0, nothing is left to approximate:
  the picks that remain are the unused atoms of lowest index, with code 0. A zero target is the extreme case.
- Least squares on dependent atoms (duplicates, k beyond the rank): an atom in the span of those before it gets code 0.
- A target that is not finite has NaN codes, on the atoms of lowest index.

Sources: OMP, Pati et al. 1993 and the paper, section 3; generalised OMP, Wang, Kwon & Shim 2012; matching pursuit,
Mallat & Zhang 1993; NIHT, Blumensath & Davies 2010; CoSaMP, Needell & Tropp 2009.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 50  # of the two that iterate to a fixed point
SHRINK = 0.5  # NIHT: how a step that is too long is shortened
MARGIN = 0.01  # NIHT: the paper's c, how far below the stability bound a step must stay


class Pursuit(NamedTuple):
    """k atoms and what they leave."""

    indices: Tensor  # int64 (k,), distinct, in the order picked where there is one
    codes: Tensor  # (k,)
    residual_norm: Tensor  # ()


def rounding(dtype: torch.dtype) -> float:
    """eps ** 0.75, of the whole: a residual, or an atom's squared distance from a span, this small is rounding."""
    return torch.finfo(dtype).eps ** 0.75


def omp(atoms: Tensor, y: Tensor, k: int, signed: bool = True) -> Pursuit:
    """Orthogonal matching pursuit: pick the best atom, refit all picked by least squares, k times."""
    return gomp(atoms, y, k, 1, signed)


def gomp(atoms: Tensor, y: Tensor, k: int, block: int, signed: bool = True) -> Pursuit:
    """Generalised (block) OMP: the `block` best atoms a step; the last step takes what is left to k."""
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    while len(picked) < k and not _exhausted(residual, y):
        scores, best = _scores(atoms, residual, picked, signed).topk(min(block, k - len(picked)))
        if _exhausted(scores[0], y):
            break
        picked = torch.cat([picked, best])
        residual = y - least_squares(atoms, y, picked) @ atoms[picked]
    return _filled(atoms, y, picked, least_squares(atoms, y, picked), k)


def matching_pursuit(atoms: Tensor, y: Tensor, k: int, signed: bool = True, refit: bool = True) -> Pursuit:
    """Pick the best atom, subtract its projection, k times; `refit` ends with least squares on the picked."""
    picked, residual = y.new_zeros(0, dtype=torch.int64), y
    codes = y.new_zeros(0)
    while len(picked) < k and not _exhausted(residual, y):
        best = _scores(atoms, residual, picked, signed).argmax()
        code = atoms[best] @ residual
        if _exhausted(code, y):
            break
        residual = residual - code * atoms[best]
        picked, codes = torch.cat([picked, best[None]]), torch.cat([codes, code[None]])
    return _filled(atoms, y, picked, least_squares(atoms, y, picked) if refit else codes, k)


def refit(atoms: Tensor, y: Tensor, indices: Tensor) -> Pursuit:
    """Least squares on given atoms: any encoder's support with the best codes it can have."""
    return _filled(atoms, y, indices, least_squares(atoms, y, indices), len(indices))


def niht(atoms: Tensor, y: Tensor, k: int) -> Pursuit:
    """Normalised iterative hard thresholding: gradient steps, the k largest magnitudes kept after each.

    The step is the exact one on the current support; where the support would change, it is shortened until the
    objective cannot grow. The codes are the iterate's own (no refit).
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
    return _filled(atoms, y, indices, codes[indices], k)


def _niht_step(atoms: Tensor, y: Tensor, codes: Tensor, support: Tensor, k: int) -> Tensor:
    gradient = atoms @ (y - codes @ atoms)
    on_support = torch.zeros_like(gradient).scatter(0, support, gradient[support])
    length = (on_support @ atoms).square().sum()
    step = on_support.square().sum() / length if length > 0 else length.new_tensor(1.0)
    while True:
        new = _largest(codes + step * gradient, k)
        change = new - codes
        image = (change @ atoms).square().sum()
        same = set(new.nonzero().flatten().tolist()) <= set(support.tolist())
        if same or image == 0 or step <= (1 - MARGIN) * change.square().sum() / image:
            return new
        step = step * SHRINK


def cosamp(atoms: Tensor, y: Tensor, k: int) -> Pursuit:
    """Compressive sampling matching pursuit: join the 2k best correlations to the support, refit, keep the k largest.

    Ends when a round no longer lowers the residual, and keeps the best round.
    """
    best = _filled(atoms, y, y.new_zeros(0, dtype=torch.int64), y.new_zeros(0), k)
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
    """Codes (picked,) of least ||y - codes @ atoms[picked]||; 0 for an atom in the span of those before it."""
    basis: list[Tensor] = []
    kept: list[int] = []
    for i, atom in enumerate(atoms[picked]):
        rest = atom
        for _ in range(2):  # once more: what the first pass's rounding left
            for direction in basis:
                rest = rest - (direction @ rest) * direction
        if rest @ rest > rounding(y.dtype) * (atom @ atom):
            basis.append(rest / rest.norm())
            kept.append(i)
    codes = y.new_zeros(len(picked))
    if kept:
        codes[kept] = torch.linalg.lstsq(atoms[picked[kept]].T, y[:, None]).solution[:, 0]
    return codes


def _scores(atoms: Tensor, residual: Tensor, picked: Tensor, signed: bool) -> Tensor:
    correlations = atoms @ residual
    scores = correlations if signed else correlations.abs()
    return scores.scatter(0, picked, float("-inf"))


def _exhausted(residual: Tensor, y: Tensor) -> bool:
    return not bool(residual.norm() > rounding(y.dtype) * y.norm())


def _largest(codes: Tensor, k: int) -> Tensor:
    kept = codes.abs().topk(k).indices
    return torch.zeros_like(codes).scatter(0, kept, codes[kept])


def _filled(atoms: Tensor, y: Tensor, picked: Tensor, codes: Tensor, k: int) -> Pursuit:
    """The result, padded to k picks with unused atoms of code 0."""
    unused = torch.ones(len(atoms), dtype=torch.bool).scatter(0, picked, False).nonzero().flatten()
    padding = unused[: k - len(picked)]
    if not torch.isfinite(y).all():
        return Pursuit(torch.arange(k, device=y.device), y.new_full((k,), torch.nan), y.new_tensor(torch.nan))
    residual = y - codes @ atoms[picked]
    return Pursuit(torch.cat([picked, padding]), torch.cat([codes, codes.new_zeros(len(padding))]), residual.norm())
