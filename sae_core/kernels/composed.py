"""Pursuits and training steps' sums made of a backend's own kernels, for backends without such functions of their own.

Pursuits are batched, and run on any device.

The best atoms not yet picked are among the `picked + block` best of all, so correlations come from the backend's fused
encode + TopK. `sae_core.pursuit.reference` defines the results, `autograd.Kernels` the shapes.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

from sae_core.kernels.autograd import Kernels, LossSums, widened
from sae_core.pursuit.reference import rounding

_PICKED_VALUES = 1 << 26  # values of dense copies of picked atoms that least squares holds at once: 256 MiB in float32


class Composed:
    """The functions of `autograd.Pursuits` and `autograd.Losses`, computed by those of the backend `kernels`."""

    def __init__(self, kernels: Kernels):
        self.kernels = kernels

    def loss_sums(
        self,
        u: Tensor,
        codes: Tensor,
        indices: Tensor,
        unit: Tensor,
        inverse: Tensor,
        support: Tensor | None,
        encoder: Tensor | None,
        always_on: int,
        frozen: bool,
    ) -> LossSums:
        """Compute what `autograd.Losses.loss_sums` defines."""
        kernels, (n, _), d_in = self.kernels, unit.shape, u.shape[1]
        weights = -codes
        left = kernels.weighted_atoms(weights, indices, unit, support, d_in, u)
        left[:, :always_on] = 0
        g = left * (2 / len(u))
        into_bias, into_encoder, into_rows, into_atoms = g.sum(0), None, None, None
        parts = [(weights, g)]  # what the atoms' gradient is a sum of: for each pick, a weight times a row
        if encoder is not None:
            into_codes = kernels.atom_products(g, indices, unit, support).neg_()
            into_encoder = unit.new_zeros(n).scatter_add_(0, indices.flatten(), into_codes.flatten())
            if encoder is unit:
                parts.append((into_codes, u))
                into_bias += _weighted_sum(into_encoder, unit, support, d_in)
            else:
                into_rows = kernels.atom_gradient(into_codes, indices, u, None, n)
                into_bias += into_encoder @ encoder
        if not frozen:
            sums = (kernels.atom_gradient(w, indices, rows, support, n) for w, rows in parts)
            into_atoms = kernels.unit_norm_gradient(functools.reduce(Tensor.add_, sums), unit, inverse)
        errors = torch.linalg.vector_norm(left, dim=1).square_()
        return LossSums(left, errors, into_bias, into_encoder, into_rows, into_atoms)

    def gomp(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, block: int, signed: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute what `autograd.Pursuits.gomp` defines."""
        fit = _GrowingFit(self.kernels, x, values, support, k)
        active = fit.finite
        for done in range(0, k, block):
            many = min(block, k - done)
            active = active & fit.matters(fit.residual.norm(dim=1))
            scores, latents = self._best(fit, done, many, signed)
            active = active & fit.matters(scores.amax(1))
            for i in range(many):
                fit.append(latents[:, i], active)
            fit.correct(done if block == 1 else 0)  # atoms picked one at a time are far from dependent
        fit.correct(0)
        return fit.result()

    def matching_pursuit(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute what `autograd.Pursuits.matching_pursuit` defines."""
        fit = _Fit(self.kernels, x, values, support, k)
        active = fit.finite
        for done in range(k):
            active = active & fit.matters(fit.residual.norm(dim=1))
            scores, latents = self._best(fit, done, 1, signed)
            active = active & fit.matters(scores[:, 0])
            fit.project(latents, active, done)
        if refit:
            fit.refit()
        return fit.result()

    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `autograd.Pursuits.refit` defines."""
        fit = _Fit(self.kernels, x, values, support, indices.shape[1])
        fit.picks.copy_(indices)
        fit.taken.fill_(True)
        fit.refit()
        return fit.result()[0]

    def _best(self, fit: _Fit, done: int, many: int, signed: bool) -> tuple[Tensor, Tensor]:
        """Return (scores, latents) of the `many` best atoms that are not among the first `done` picks of a token."""
        count = min(len(fit.values), done + many)
        if signed:
            none = fit.values.new_zeros(len(fit.values))
            scores, latents = self.kernels.encode_topk(fit.residual, fit.values, fit.support, none, count)
        else:
            correlations, latents = largest_magnitudes(self.kernels, fit.residual, fit.values, fit.support, count)
            scores = correlations.abs()
        picked = (latents[:, :, None] == fit.picks[:, None, :done]) & fit.taken[:, None, :done]
        best = scores.masked_fill(picked.any(-1), float("-inf")).topk(many, dim=1)
        return best.values, latents.gather(1, best.indices)


def _weighted_sum(weights: Tensor, unit: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """Return sum_i weights[i] * atom[i]: (d_in,)."""
    if support is None:
        return weights @ unit
    return unit.new_zeros(d_in).index_add_(0, support.flatten(), (weights[:, None] * unit).flatten())


class _Encodes(Protocol):
    """Anything with encode + TopK: a backend's kernels, or a differentiable backend."""

    def encode_topk(
        self, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]: ...


def largest_magnitudes(
    kernels: _Encodes, x: Tensor, values: Tensor, support: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Return (correlations, latents), each (tokens, count): the atoms whose correlation with x is of largest magnitude.

    Correlations keep their sign.
    """
    none = values.new_zeros(len(values))
    high, of_high = kernels.encode_topk(x, values, support, none, count)
    low, of_low = kernels.encode_topk(-x, values, support, none, count)
    # A latent may be in both halves: it counts in the half where it is positive, and at 0 in the first half.
    scores = torch.cat([high.masked_fill(high < 0, -1.0), low.masked_fill(low <= 0, -1.0)], 1)
    kept = scores.topk(count, dim=1).indices
    return torch.cat([high, -low], 1).gather(1, kept), torch.cat([of_high, of_low], 1).gather(1, kept)


def power_of_two_scaled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x / scale, scale (tokens, 1), finite (tokens,)), x scaled so that no square over- or underflows.

    Scales are powers of two, so dividing is exact. Rows that are not finite become 0.
    """
    finite = torch.isfinite(x).all(1)
    x = x.masked_fill(~finite[:, None], 0.0)
    _, exponent = torch.frexp(x.abs().amax(1, keepdim=True))
    limit = 125 if x.dtype == torch.float32 else 1000
    scale = torch.exp2(exponent.clamp(-limit, limit).to(x.dtype))
    return x / scale, scale, finite


def filled_up(picks: Tensor, taken: Tensor, n_latents: int) -> Tensor:
    """Return picks (tokens, k) with the unused atoms of lowest index, in order, in the place of those not taken."""
    candidates = min(n_latents, 2 * picks.shape[1])
    used = torch.zeros(len(picks), candidates + 1, dtype=torch.bool, device=picks.device)
    used.scatter_(1, picks.clamp(max=candidates).masked_fill(~taken, candidates), True)
    unused = used[:, :candidates].to(torch.int8).argsort(dim=1, stable=True)  # unused atoms first, by index
    place = (~taken).cumsum(1) - 1
    return torch.where(taken, picks, unused.gather(1, place.clamp(0, candidates - 1)))


def dense_picks(picks: Tensor, taken: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """Return the atoms of picks (tokens, k) as rows (tokens, k, d_in); those not `taken` (tokens, k) are 0."""
    atoms = values[picks].masked_fill_(~taken[..., None], 0.0)
    return atoms if support is None else atoms.new_zeros(*picks.shape, d_in).scatter_(2, support[picks], atoms)


class _Fit:
    """A batch of targets, each approximated by atoms picked for it.

    Args:
        x: the targets (tokens, d_in).
        values, support: the atoms; `autograd.Kernels` says the shapes.
        k: how many picks each token has room for.
    """

    def __init__(self, kernels: Kernels, x: Tensor, values: Tensor, support: Tensor | None, k: int):
        self.kernels, self.dtype, self.support = kernels, x.dtype, support
        x, self.values = widened(x), widened(values)
        tokens = len(x)
        self.target, self.scale, self.finite = power_of_two_scaled(x)
        self.norm = self.target.norm(dim=1)
        self.residual = self.target.clone()
        self.picks = torch.zeros(tokens, k, dtype=torch.int64, device=x.device)
        self.taken = torch.zeros(tokens, k, dtype=torch.bool, device=x.device)
        self.codes = x.new_zeros(tokens, k)

    def matters(self, size: Tensor) -> Tensor:
        """Return whether each token's `size` (tokens,) is above the rounding error of its target: bool (tokens,)."""
        return size.abs() > rounding(self.target.dtype) * self.norm

    def project(self, latents: Tensor, active: Tensor, s: int) -> None:
        """Take a step of matching pursuit: subtract the projection on one more pick of the `active` tokens."""
        self.picks[:, s], self.taken[:, s] = latents[:, 0], active
        latents = latents.contiguous()
        code = self.kernels.atom_products(self.residual, latents, self.values, self.support) * active[:, None]
        self.codes[:, s] = code[:, 0]
        self.residual = self._plus(-code, latents, self.residual)

    def refit(self) -> None:
        """Set the codes to the least squares solution on all picks taken; `residual` stays what it was.

        Tokens whose picks are dependent, which Cholesky's method finds out, are solved pick by pick.
        """
        k, d_in = self.picks.shape[1], self.target.shape[1]
        parts = torch.arange(len(self.target), device=self.target.device).split(max(1, _PICKED_VALUES // (k * d_in)))
        dependent = torch.cat([part[~self._solve(part)] for part in parts]) if len(self.target) else []
        if len(dependent):
            one_by_one = _GrowingFit(self.kernels, self.target[dependent], self.values, self.support, k)
            one_by_one.picks, one_by_one.taken = self.picks[dependent], self.taken[dependent]
            one_by_one.solve()
            self.codes[dependent] = one_by_one.codes * one_by_one.scale

    def _solve(self, part: Tensor) -> Tensor:
        """Solve the least squares of the tokens `part` (t,); return which tokens have independent picks: bool (t,)."""
        picks, taken, target = self.picks[part], self.taken[part], self.target[part]
        atoms = dense_picks(picks, taken, self.values, self.support, self.target.shape[1])
        gram = atoms @ atoms.mT
        sizes = gram.diagonal(dim1=1, dim2=2).add_(~taken)
        factor, failed = torch.linalg.cholesky_ex(gram)
        pivots = factor.diagonal(dim1=1, dim2=2).square()
        independent = (failed == 0) & (pivots > rounding(pivots.dtype) * sizes).all(1)
        codes = gram.new_zeros(*picks.shape, 1)
        for _ in range(2):  # a second time, for the error that the factor's rounding left
            left = target[..., None] - atoms.mT @ codes
            half = torch.linalg.solve_triangular(factor, atoms @ left, upper=False)
            codes += torch.linalg.solve_triangular(factor.mT, half, upper=True)
        self.codes[part] = codes[..., 0]
        return independent

    def _plus(self, weights: Tensor, picks: Tensor, start: Tensor) -> Tensor:
        return self.kernels.weighted_atoms(weights, picks, self.values, self.support, start.shape[1], start)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return (codes in the targets' units, picks); the unused atoms of lowest index stand for picks never made."""
        codes = self.codes * self.taken * self.scale
        codes = codes.masked_fill(~self.finite[:, None], float("nan"))
        return codes.to(self.dtype), filled_up(self.picks, self.taken, len(self.values))


class _GrowingFit(_Fit):
    """A fit whose picks' Gram matrix is kept as a Cholesky factor that grows by one atom at a time.

    An atom in the span of those before it has pivot 0: its row is left out of every solve.
    """

    def __init__(self, kernels: Kernels, x: Tensor, values: Tensor, support: Tensor | None, k: int):
        super().__init__(kernels, x, values, support, k)
        self.independent = torch.zeros_like(self.taken)
        self.factor = torch.eye(k, dtype=self.codes.dtype, device=x.device).repeat(len(x), 1, 1)
        self.size = 0

    def append(self, latents: Tensor, active: Tensor) -> None:
        """Add one pick to the `active` tokens; the others keep what they have."""
        self.picks[:, self.size], self.taken[:, self.size] = latents, active
        self._factorise()

    def solve(self) -> None:
        """Set the codes to the least squares solution on all picks, which are there but not factorised yet."""
        while self.size < self.picks.shape[1]:
            self._factorise()
        self.correct(0)
        self.correct(0)  # a second time, for the error that the factor's rounding left

    def _factorise(self) -> None:
        """Add pick number `size` to the factor of the tokens that took it."""
        s = self.size
        mine, new = self.picks[:, : s + 1].contiguous(), self.picks[:, s : s + 1].contiguous()
        one = self.codes.new_ones(len(mine), 1)
        atom = self.kernels.weighted_atoms(one, new, self.values, self.support, self.target.shape[1])
        products = self.kernels.atom_products(atom, mine, self.values, self.support)
        row = self._forward(products[:, :s], s)
        rest = products[:, s] - row.square().sum(1)
        kept = self.taken[:, s] & (rest > rounding(rest.dtype) * products[:, s])
        self.independent[:, s] = kept
        self.factor[:, s, :s] = row * kept[:, None]
        self.factor[:, s, s] = torch.where(kept, rest.clamp_min(0).sqrt(), 1.0)
        self.size += 1

    def _forward(self, rhs: Tensor, s: int) -> Tensor:
        """Return L^-1 rhs (tokens, s) over the independent picks, 0 elsewhere."""
        rhs = (rhs * self.independent[:, :s])[..., None]
        return torch.linalg.solve_triangular(self.factor[:, :s, :s], rhs, upper=False)[..., 0]

    def correct(self, first: int) -> None:
        """Move the codes to the least squares solution; picks before `first` are orthogonal to the residual already."""
        s = self.size
        picks = self.picks[:, :s].contiguous()
        products = self.kernels.atom_products(self.residual, picks, self.values, self.support)
        products[:, :first] = 0
        half = self._forward(products, s)[..., None]
        step = torch.linalg.solve_triangular(self.factor[:, :s, :s].mT, half, upper=True)[..., 0]
        self.codes[:, :s] += step * self.independent[:, :s]
        self.residual = self._plus(-self.codes[:, :s].contiguous(), picks, self.target)
