"""Gradients, written once: any backend's plain kernels become the differentiable operations of `reference`.

With z_i = <atom_i, x> + b_i over the picked latents and h_hat = sum of code_i * atom_i, every gradient is one of the
three sums that a backend offers, over the k active latents of each token only:

    encode   d/dx = weighted_atoms(grad_codes)         decode   d/dcodes = atom_products(grad)
             d/dvalues = atom_gradient(grad_codes, x)            d/dvalues = atom_gradient(codes, grad)
             d/dbias = sum of grad_codes by latent

A tied weight is an input of both; autograd adds its two contributions, and the unit norm passes their sum on.

Atoms that use only the first rows are dense on these: a backend is given that part of x, and sees nothing of the rest.

Pursuits have no gradient: where their codes minimise the loss on the picked atoms, moving the codes changes nothing to
first order (the envelope theorem), and decode's gradient to the values is the whole gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_core.kernels.checks import check_atoms, check_picks, check_selection, check_targets


class Kernels(Protocol):
    """The six functions of a backend, on contiguous tensors of one device and float dtype; no gradients are tracked.

    Shapes: x, y (tokens, d_in); values (n_latents, degree); support int64 of that shape, rows in 0..d_in-1, or None
    for dense atoms, of degree d_in; bias (n_latents,); weights and indices (tokens, k), indices in 0..n_latents-1.
    """

    def encode_topk(
        self, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Return (codes, indices), each (tokens, k): the k largest of z = W x + bias, NaN largest, in any order."""
        ...

    def weighted_atoms(
        self,
        weights: Tensor,
        indices: Tensor,
        values: Tensor,
        support: Tensor | None,
        d_in: int,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return start[t] (0 where None) + sum_j weights[t, j] * atom[indices[t, j]]: a new (tokens, d_in)."""
        ...

    def atom_products(self, y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Return <atom[indices[t, j]], y[t]>: (tokens, k)."""
        ...

    def atom_gradient(
        self, weights: Tensor, indices: Tensor, y: Tensor, support: Tensor | None, n_latents: int
    ) -> Tensor:
        """Return, for each atom i, the sum of weights[t, j] * y[t] over (t, j) with indices[t, j] = i, on its support.

        The result has the shape of values, (n_latents, degree).
        """
        ...

    def unit_norm(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return (values / ||values|| by rows, a zero row staying zero; the inverse norms (n_latents,))."""
        ...

    def unit_norm_gradient(self, grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
        """Return (grad - unit * <grad, unit>) * inverse, by rows."""
        ...


class Pursuits(Protocol):
    """The three functions that find codes by greedy selection, as `sae_core.pursuit.reference` defines them.

    Shapes are those of `Kernels`. With signed=True the largest correlations are picked, with signed=False the largest
    magnitudes. `Differentiable` makes all codes NaN where an atom is not finite.
    """

    def gomp(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, block: int, signed: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (codes, indices) by generalised OMP, `block` atoms a step; a block of 1 is OMP."""
        ...

    def matching_pursuit(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (codes, indices) by matching pursuit, ended with least squares on the picks if `refit`."""
        ...

    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Return codes (tokens, k) by least squares on given picks."""
        ...


class LossSums(NamedTuple):
    """What codes leave of u (tokens, d_in), and the sums of the gradient of its mean squared length by tokens."""

    left: Tensor  # (tokens, d_in): u - sum of code * atom; 0 in the first `always_on` columns
    errors: Tensor  # (tokens,): the squared lengths of `left`
    into_bias: Tensor  # (d_in,): less the gradient by a bias that is subtracted from u
    into_encoder: Tensor | None  # (n_latents,): the gradient by the encoder's bias; None where codes are a pursuit's
    into_rows: Tensor | None  # (n_latents, d_in): by the encoder's rows; None where it has none of its own
    into_atoms: Tensor | None  # (n_latents, degree): by the values whose unit norms are the atoms; None where frozen


class Losses(Protocol):
    """The function that makes all sums of a training step's gradient (`sae_core.gradients` says the formulas)."""

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
        """Return the sums for codes of u on unit atoms. Shapes are those of `Kernels`.

        Args:
            unit, inverse: what `Kernels.unit_norm` gives of the values.
            encoder: the rows that codes are products with, which pass gradients on: `unit` itself where the encoder is
                tied, or (n_latents, d_in) of its own; None where a pursuit found the codes.
            always_on: how many of the first columns of u no atom has to approximate.
            frozen: whether the atoms are not trained.
        """
        ...


def widened(tensor: Tensor) -> Tensor:
    """Return a float16 or bfloat16 tensor as float32, in which some backends compute; any other as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Differentiable:
    """The operations of `reference`, computed by `kernels` and `pursuits`; `losses` is for training steps."""

    def __init__(self, kernels: Kernels, pursuits: Pursuits, losses: Losses):
        self.kernels, self.pursuits, self.losses = kernels, pursuits, losses

    def encode_topk(
        self, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Compute what `reference.encode_topk` defines; the order of the k picks is unspecified.

        Raises:
            ValueError: a tensor is of a wrong shape, dtype or device, or k is outside 1..n_latents.
        """
        check_selection(x, values, support, k, bias=bias)
        if bias.shape != values.shape[:1]:
            raise ValueError(f"bias {tuple(bias.shape)} must be ({len(values)},)")
        x = _used_rows(x, values, support)
        return _EncodeTopK.apply(self.kernels, x, values, support, bias, k)  # type: ignore[return-value]

    def decode(self, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
        """Compute what `reference.decode` defines.

        Raises:
            ValueError: a tensor is of a wrong shape, dtype or device.
            IndexError: a pick is no latent.
        """
        check_picks(codes, indices)
        check_atoms(values, support, d_in, codes=codes)
        rows = d_in if support is not None else values.shape[1]
        out: Tensor = _Decode.apply(self.kernels, None, codes, indices, values, support, rows)  # type: ignore[assignment]
        return out if rows == d_in else F.pad(out, (0, d_in - rows))

    def residual(self, x: Tensor, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `reference.residual` defines; raises the errors of `decode`."""
        check_picks(codes, indices)
        check_atoms(values, support, x.shape[-1], codes=codes, x=x)
        if x.ndim != 2 or len(x) != len(codes):
            raise ValueError(f"x {tuple(x.shape)} must be ({len(codes)}, d_in), as many tokens as codes")
        used = _used_rows(x, values, support)
        rows = used.shape[1]
        left: Tensor = _Decode.apply(self.kernels, used, codes, indices, values, support, rows)  # type: ignore[assignment]
        return left if rows == x.shape[1] else torch.cat((left, x[:, rows:]), 1)

    @torch.no_grad()
    def atom_products(self, y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `Kernels.atom_products` defines, without a gradient. Raises ValueError for a wrong shape."""
        check_targets(y, indices, values, support)
        y = _used_rows(y, values, support)
        return self.kernels.atom_products(
            y.contiguous(), indices.contiguous(), values.contiguous(), _contiguous(support)
        )

    @torch.no_grad()
    def gomp(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, block: int, signed: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute what `Pursuits.gomp` defines; codes carry no gradient.

        Raises:
            ValueError: a tensor is of a wrong shape, dtype or device, k outside 1..n_latents, or block below 1.
        """
        check_selection(x, values, support, k)
        if block < 1:
            raise ValueError(f"block={block} must be at least 1")
        x, values, support = _used_rows(x, values, support).contiguous(), values.contiguous(), _contiguous(support)
        codes, indices = self.pursuits.gomp(x, values, support, k, min(block, k), signed)
        return _nan_if_atoms_are_not_finite(codes, values), indices

    @torch.no_grad()
    def matching_pursuit(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute what `Pursuits.matching_pursuit` defines; codes carry no gradient.

        Raises:
            ValueError: a tensor is of a wrong shape, dtype or device, or k is outside 1..n_latents.
        """
        check_selection(x, values, support, k)
        x, values, support = _used_rows(x, values, support).contiguous(), values.contiguous(), _contiguous(support)
        codes, indices = self.pursuits.matching_pursuit(x, values, support, k, signed, refit)
        return _nan_if_atoms_are_not_finite(codes, values), indices

    @torch.no_grad()
    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `Pursuits.refit` defines; codes carry no gradient.

        Raises:
            ValueError: a tensor is of a wrong shape, dtype or device.
            IndexError: a pick is no latent.
        """
        check_targets(x, indices, values, support)
        x, indices = _used_rows(x, values, support).contiguous(), indices.contiguous()
        values, support = values.contiguous(), _contiguous(support)
        return _nan_if_atoms_are_not_finite(self.pursuits.refit(x, indices, values, support), values)

    def unit_norm(self, values: Tensor) -> Tensor:
        """Compute what `reference.unit_norm` defines. Raises ValueError unless values are floats of two dimensions."""
        check_atoms(values, None, values.shape[-1])
        return _UnitNorm.apply(self.kernels, values)  # type: ignore[return-value]


def _nan_if_atoms_are_not_finite(codes: Tensor, values: Tensor) -> Tensor:
    """Return `codes`, all NaN if any atom is not finite.

    A search that merely skipped such an atom would make a diverged dictionary look healthy.
    """
    return codes.masked_fill(~torch.isfinite(values).all(), float("nan"))


def _used_rows(x: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Return the rows of x that atoms without a support use, the first `degree`: (tokens, degree); else all."""
    return x if support is not None else x[:, : values.shape[1]]


def _contiguous(support: Tensor | None) -> Tensor | None:
    return None if support is None else support.contiguous()


class _EncodeTopK(torch.autograd.Function):
    """Encode + TopK of a backend, with the gradients that the module's docstring states."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int):
        x, values, support, bias = x.contiguous(), values.contiguous(), _contiguous(support), bias.contiguous()
        codes, indices = kernels.encode_topk(x, values, support, bias, k)
        ctx.kernels, ctx.n_latents = kernels, len(bias)
        ctx.save_for_backward(x, values, support, indices)
        ctx.mark_non_differentiable(indices)
        return codes, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_codes: Tensor, _: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, values, support, indices = ctx.saved_tensors
        grad_codes = grad_codes.contiguous()
        _, need_x, need_values, _, need_bias, _ = ctx.needs_input_grad
        grad_x = grad_values = grad_bias = None
        if need_x:
            grad_x = ctx.kernels.weighted_atoms(grad_codes, indices, values, support, x.shape[1])
        if need_values:
            grad_values = ctx.kernels.atom_gradient(grad_codes, indices, x, support, ctx.n_latents)
        if need_bias:
            grad_bias = grad_codes.new_zeros(ctx.n_latents).index_add_(0, indices.flatten(), grad_codes.flatten())
        return None, grad_x, grad_values, None, grad_bias, None


class _Decode(torch.autograd.Function):
    """Decode of a backend, or x - decode where x is given, with the gradients that the module's docstring states."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        x: Tensor | None,
        codes: Tensor,
        indices: Tensor,
        values: Tensor,
        support: Tensor | None,
        d_in: int,
    ):
        codes, indices, values = codes.contiguous(), indices.contiguous(), values.contiguous()
        support = _contiguous(support)
        ctx.kernels, ctx.from_x = kernels, x is not None
        weights = codes if x is None else -codes
        ctx.save_for_backward(weights, indices, values, support)
        return kernels.weighted_atoms(weights, indices, values, support, d_in, None if x is None else x.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, indices, values, support = ctx.saved_tensors
        grad = grad.contiguous()
        _, need_x, need_codes, _, need_values, _, _ = ctx.needs_input_grad
        grad_codes = grad_values = None
        if need_codes:
            grad_codes = ctx.kernels.atom_products(grad, indices, values, support)
            if ctx.from_x:
                grad_codes = grad_codes.neg_()
        if need_values:
            grad_values = ctx.kernels.atom_gradient(weights, indices, grad, support, len(values))
        return None, grad if need_x else None, grad_codes, None, grad_values, None, None


class _UnitNorm(torch.autograd.Function):
    """A backend's atoms scaled to unit norm, with the gradient through the norm."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, values: Tensor):
        unit, inverse = kernels.unit_norm(values.contiguous())
        ctx.kernels = kernels
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, ctx.kernels.unit_norm_gradient(grad.contiguous(), *ctx.saved_tensors)
