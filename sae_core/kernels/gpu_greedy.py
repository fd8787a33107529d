"""Matching pursuit on a GPU: one Triton program per token.

A token's correlations stay in memory while its program picks. After a pick they are brought up to date in one of two
ways. *Changes*: the d * d * n / m atoms that share a row with the pick are changed one by one, by atomic additions.
*Rows*: all n are changed by a row of the atoms' Gram matrix (n_latents, n_latents), which is made for the call. Dense
atoms know the second way alone, and where their Gram matrix is too large the pursuit is composed of encoders
(`composed`), as OMP and generalised OMP always are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.kernels import gpu
from sae_core.kernels.autograd import widened
from sae_core.kernels.composed import Composed
from sae_core.kernels.gpu_least_squares import MOST_PICKS, least_squares
from sae_core.kernels.reference import densify
from sae_core.pursuit.reference import rounding

_GRAM = 1 << 30  # bytes of the largest Gram matrix
_CHANGE = 8  # changing one correlation takes as long as so many of a row's
_LATENTS, _TOKENS = 32, 32  # that one program makes the correlations of
_BLOCK = 2048  # correlations that a program reads at once
_ROWS, _ENTRIES = 8, 64  # rows of a pick, and atoms on each, that are changed at once
_AT_ONCE = 1024  # atoms whose rows of the Gram matrix are made at once


class OnGpu(Composed):
    """The pursuits of the GPU's backend: matching pursuit and least squares in Triton, the others composed."""

    def matching_pursuit(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute what `autograd.Pursuits.matching_pursuit` defines."""
        way = cheapest_way(values, support, x.shape[1])
        if way is None or k > MOST_PICKS:
            return super().matching_pursuit(x, values, support, k, signed, refit)
        return pursue(way, x, values, support, k, signed, refit)

    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `autograd.Pursuits.refit` defines."""
        if indices.shape[1] > MOST_PICKS:
            return super().refit(x, indices, values, support)
        targets = _Targets.of(x)
        codes = torch.zeros_like(indices, dtype=targets.scaled.dtype)
        least_squares(targets.scaled, widened(values), support, indices, codes)
        return (codes * targets.scale[:, None]).to(x.dtype)

    def in_kernels(self, values: Tensor, support: Tensor | None, d_in: int, k: int) -> bool:
        """Return whether `matching_pursuit` is made of kernels alone, so that the host never waits for the device."""
        return cheapest_way(values, support, d_in) is not None and k <= MOST_PICKS


def cheapest_way(values: Tensor, support: Tensor | None, d_in: int) -> str | None:
    """Return how correlations are best brought up to date: "changes", "rows", or None where neither can be."""
    n, degree = values.shape
    gram_fits = n * n * max(values.element_size(), 4) <= _GRAM  # 16-bit values are computed in 32
    if support is None:
        return "rows" if gram_fits else None
    return "rows" if gram_fits and _CHANGE * degree * degree > d_in else "changes"


class _ByRow(NamedTuple):
    """The atoms' values, ordered by the row that they stand on: row r has those from first[r] to first[r + 1]."""

    first: Tensor  # int64 (d_in + 1,)
    atoms: Tensor  # int64 (n_latents * degree,)
    values: Tensor  # (n_latents * degree,)

    @classmethod
    def of(cls, values: Tensor, support: Tensor, d_in: int) -> _ByRow:
        rows, order = support.flatten().sort()
        first = torch.searchsorted(rows, torch.arange(d_in + 1, device=rows.device))
        return cls(first, order // support.shape[1], values.flatten()[order])


class _Targets(NamedTuple):
    """Targets of any scale as numbers near 1; those that are not finite are 0, and their scale is NaN."""

    scaled: Tensor  # (tokens, d_in)
    residual: Tensor  # the same, to subtract from
    scale: Tensor  # (tokens,): powers of two
    least: Tensor  # (tokens,): the rounding error of each; a code that is not above it does not matter

    @classmethod
    def of(cls, x: Tensor) -> _Targets:
        x = widened(x)
        tokens, d_in = x.shape
        targets = cls(torch.empty_like(x), torch.empty_like(x), x.new_empty(tokens), x.new_empty(tokens))
        width = gpu.power_of_two(d_in)
        if tokens:
            _kernels().scaled[(tokens,)](x, *targets, d_in, rounding(x.dtype), WIDTH=width, num_warps=gpu.warps(width))
        return targets


def pursue(
    way: str, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Pursuits.matching_pursuit` defines, by "changes" or by "rows"."""
    n, (tokens, d_in), dtype = len(values), x.shape, x.dtype
    targets, values = _Targets.of(x), widened(values)
    picks, codes = x.new_empty(tokens, k, dtype=torch.int64), values.new_empty(tokens, k)
    gram, by_row = None, (None, None, None)
    if way == "rows":
        gram = _gram(values, support, d_in)
    else:
        assert support is not None
        by_row = _ByRow.of(values, support, d_in)
    for part in gpu.parts(tokens, n * values.element_size()):
        of_part = targets.residual[part], targets.least[part]
        _pick(*of_part, values, support, gram, by_row, picks[part], codes[part], signed)
    if refit:
        codes.zero_()
        least_squares(targets.scaled, values, support, picks, codes)
    if tokens:
        sizes = {"PICKS": gpu.power_of_two(k), "UNUSED": gpu.power_of_two(min(n, 2 * k))}
        _kernels().filled_up[(tokens,)](picks, codes, targets.scale, n, k, **sizes)
    return codes.to(dtype), picks


def _pick(
    residual: Tensor,
    least: Tensor,
    values: Tensor,
    support: Tensor | None,
    gram: Tensor | None,
    by_row: tuple[Tensor | None, ...],
    picks: Tensor,
    codes: Tensor,
    signed: bool,
) -> None:
    """Fill picks and codes (tokens, k), with -1 and 0 where none is made; subtract the picks from `residual`."""
    (n, degree), (_, k) = values.shape, picks.shape
    z = _correlations(residual, values, support)
    _kernels().matching_pursuit[(len(z),)](
        *(z, residual, least, values, support, *by_row, gram, picks, codes),
        *(n, residual.shape[1], degree, k),
        MAGNITUDE=not signed,
        SPARSE=support is not None,
        BY_ROWS=gram is not None,
        BLOCK=min(_BLOCK if gram is None else 2 * _BLOCK, gpu.power_of_two(n)),
        DEGREE=min(gpu.power_of_two(degree), _ROWS if gram is None else _BLOCK),
        ENTRIES=_ENTRIES,
        PICKS=gpu.power_of_two(k),
        num_warps=16 if gram is not None and n > _BLOCK else 8,
    )


def _kernels() -> Any:
    return gpu.triton_kernels("gpu_greedy_triton")


def _correlations(x: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Return <atom, x> of every token and atom: (tokens, n_latents)."""
    if support is None:
        return x @ values.T
    (n, degree), tokens = values.shape, len(x)
    z = x.new_empty(tokens, n)
    grid = (-(-n // _LATENTS), -(-tokens // _TOKENS))
    arguments = (x.T.contiguous(), values, support, z, tokens, n, degree)
    gpu.triton_kernels().correlations[grid](*arguments, GROUP=_LATENTS, TOKENS=_TOKENS)
    return z


def _gram(values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """Return the atoms' Gram matrix (n_latents, n_latents)."""
    if support is None:
        return values @ values.T
    parts = []
    for atoms, rows in zip(values.split(_AT_ONCE), support.split(_AT_ONCE), strict=True):
        parts.append(_correlations(densify(atoms, rows, d_in), values, support))
    return torch.cat(parts)
