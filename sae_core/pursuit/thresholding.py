"""NIHT and CoSaMP for a batch of targets, made of a backend's kernels; `reference` defines both.

Codes stay k-sparse throughout: the atoms that thresholding keeps are among those picked before and those of largest
gradient, so nothing of size n_latents is made. `sae_core.kernels.reference` says the shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.kernels.autograd import widened
from sae_core.kernels.composed import largest_magnitudes, power_of_two_scaled
from sae_core.kernels.dispatch import Backend
from sae_core.pursuit.reference import MARGIN, SHRINK, STEPS, rounding


@torch.no_grad()
def niht(backend: Backend, x: Tensor, values: Tensor, support: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Return (codes, indices), each (tokens, k), by normalised iterative hard thresholding."""
    return _Problem(backend, x, values, support, k).niht()


@torch.no_grad()
def cosamp(backend: Backend, x: Tensor, values: Tensor, support: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Return (codes, indices), each (tokens, k), by compressive sampling matching pursuit."""
    return _Problem(backend, x, values, support, k).cosamp()


class _Problem:
    """Targets scaled for the computation, and the sums that both algorithms are made of."""

    def __init__(self, backend: Backend, x: Tensor, values: Tensor, support: Tensor | None, k: int):
        self.backend, self.values, self.support, self.k, self.dtype = backend, widened(values), support, k, x.dtype
        self.y, self.scale, self.finite = power_of_two_scaled(widened(x))
        self.norm = self.y.norm(dim=1)
        self.lowest = torch.arange(k, device=x.device).repeat(len(x), 1)

    def niht(self) -> tuple[Tensor, Tensor]:
        picks, codes = self._largest_correlations(self.y, self.k)[1], self.y.new_zeros(len(self.y), self.k)
        going = self.norm > 0
        for _ in range(STEPS):
            if not going.any():
                break
            new_codes, new_picks = self._niht_step(codes, picks)
            change = torch.cat([new_codes, -codes], 1)
            moved = _merged_norm(change, torch.cat([new_picks, picks], 1))
            codes, picks = _where(going, new_codes, codes), _where(going, new_picks, picks)
            going = going & (moved > rounding(self.y.dtype) * codes.norm(dim=1))
        return self._result(codes, picks)

    def _niht_step(self, codes: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.backend.residual(self.y, codes, picks, self.values, self.support)
        on_support = self.backend.atom_products(residual, picks, self.values, self.support)
        length = self._image(on_support, picks).square().sum(1)
        step = torch.where(length > 0, on_support.square().sum(1) / length, 1.0)
        # An atom that is not among the k picked can only enter if its gradient is among the 2k largest.
        gradient, latents = self._largest_correlations(residual, min(2 * self.k, len(self.values)))
        of_others = gradient.masked_fill((latents[:, :, None] == picks[:, None]).any(-1), 0.0)
        joined = torch.cat([picks, latents], 1)
        result = codes, picks
        accepted = torch.zeros_like(step, dtype=torch.bool)
        while not accepted.all():
            moved = torch.cat([codes + step[:, None] * on_support, step[:, None] * of_others], 1)
            kept = moved.abs().topk(self.k, dim=1).indices
            new = moved.gather(1, kept), joined.gather(1, kept)
            both, of_both = torch.cat([new[0], -codes], 1), torch.cat([new[1], picks], 1)
            image = self._image(both, of_both).square().sum(1)
            inside = ((new[1][:, :, None] == picks[:, None]).any(-1) | (new[0] == 0)).all(1)
            short = step <= (1 - MARGIN) * _merged_norm(both, of_both).square() / image
            now = ~accepted & (inside | (image == 0) | short)
            result = _where(now, new[0], result[0]), _where(now, new[1], result[1])
            accepted = accepted | now
            step = step * SHRINK
        return result

    def cosamp(self) -> tuple[Tensor, Tensor]:
        k, best = self.k, self.norm
        codes, picks, joined = torch.zeros_like(self.lowest, dtype=self.y.dtype), self.lowest, None
        best_codes, best_picks, residual = codes, picks, self.y
        going = self.norm > 0
        for _ in range(STEPS):
            going = going & (residual.norm(dim=1) > rounding(self.y.dtype) * self.norm)
            if not going.any():
                break
            latents = self._largest_correlations(residual, min(2 * k, len(self.values)))[1]
            joined = (latents if joined is None else torch.cat([picks, latents], 1)).sort(dim=1).values
            again = torch.zeros_like(joined, dtype=torch.bool)
            again[:, 1:] = joined[:, 1:] == joined[:, :-1]  # an atom named twice: the second one's code is 0
            scores = self.backend.refit(self.y, joined, self.values, self.support).abs().masked_fill(again, -1.0)
            picks = joined.gather(1, scores.topk(k, dim=1).indices)
            codes = self.backend.refit(self.y, picks, self.values, self.support)
            residual = self.backend.residual(self.y, codes, picks, self.values, self.support)
            norm = residual.norm(dim=1)
            going = going & (norm < best)
            best = _where(going, norm, best)
            best_codes, best_picks = _where(going, codes, best_codes), _where(going, picks, best_picks)
        return self._result(best_codes, best_picks)

    def _largest_correlations(self, residual: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return (correlations, latents), each (tokens, count), of the largest magnitudes."""
        return largest_magnitudes(self.backend, residual, self.values, self.support, count)

    def _image(self, codes: Tensor, picks: Tensor) -> Tensor:
        """Return the reconstruction (tokens, d_in) that codes at picks make."""
        return self.backend.decode(codes, picks, self.values, self.support, self.y.shape[1])

    def _result(self, codes: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes in the targets' units and picks; a target of zeros or not finite takes the lowest latents."""
        solved = self.finite & (self.norm > 0)
        codes = (codes * self.scale).masked_fill(~self.finite[:, None], float("nan"))
        return codes.to(self.dtype), _where(solved, picks, self.lowest)


def _where(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return `new` for the tokens in `which`, bool (tokens,), and `old` for the others."""
    return torch.where(which[:, None] if new.ndim == 2 else which, new, old)


def _merged_norm(codes: Tensor, picks: Tensor) -> Tensor:
    """Return l2 norms (tokens,) of sparse vectors that have `codes` (tokens, j) at `picks`; an index may come twice."""
    order = picks.argsort(dim=1)
    picks, codes = picks.gather(1, order), codes.gather(1, order)
    same = picks[:, 1:] == picks[:, :-1]
    cross = (2 * codes[:, 1:] * codes[:, :-1] * same).sum(1)
    return (codes.square().sum(1) + cross).clamp_min(0).sqrt()
