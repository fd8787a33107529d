"""The portable backend: gathers and bags of plain PyTorch, any device, cost degree * n_latents.

`embedding_bag` is PyTorch's fused gather-multiply-sum; it carries the encoder and every dense sum, so nothing of
size (d_in, n_latents) or (tokens, k, d_in) is ever made. Gradients are written by hand and touch the k active
latents of each token only. Shapes as in `reference`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def encode_topk(x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `reference.encode_topk`; the order of the k picks is unspecified."""
    codes, indices = _EncodeTopK.apply(x, values, support, bias, k)  # type: ignore[misc]
    return codes, indices


def decode(codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """See `reference.decode`."""
    return _Decode.apply(codes, indices, values, support, d_in)  # type: ignore[return-value]


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int):
        if support is None:
            codes, indices = torch.addmm(bias, x, values.T).topk(k, dim=1, sorted=False)
        else:
            by_row = x.T.contiguous()  # (d_in, tokens): a row is gathered whole
            z = F.embedding_bag(support, by_row, mode="sum", per_sample_weights=values)
            z += bias[:, None]
            codes, indices = z.topk(k, dim=0, sorted=False)
            codes, indices = codes.T.contiguous(), indices.T.contiguous()
        ctx.save_for_backward(x, values, support, indices)
        ctx.n_latents = len(bias)
        ctx.mark_non_differentiable(indices)
        return codes, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_codes: Tensor, _: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, values, support, indices = ctx.saved_tensors
        grad_codes = grad_codes.contiguous()
        need_x, need_values, _, need_bias, _ = ctx.needs_input_grad
        # z_i = <atom_i, x> + b_i: the sums of decode, with grad_codes for codes and x for the output's gradient.
        grad_x = _weighted_atoms(grad_codes, indices, values, support, x.shape[1]) if need_x else None
        grad_values = _atom_gradient(grad_codes, indices, x, support, len(values)) if need_values else None
        grad_bias = None
        if need_bias:
            grad_bias = grad_codes.new_zeros(ctx.n_latents).index_add_(0, indices.flatten(), grad_codes.flatten())
        return grad_x, grad_values, None, grad_bias, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int):
        ctx.save_for_backward(codes, indices, values, support)
        return _weighted_atoms(codes, indices, values, support, d_in)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        codes, indices, values, support = ctx.saved_tensors
        grad = grad.contiguous()
        need_codes, _, need_values, _, _ = ctx.needs_input_grad
        grad_codes = _atom_products(grad, indices, values, support) if need_codes else None
        grad_values = _atom_gradient(codes, indices, grad, support, len(values)) if need_values else None
        return grad_codes, None, grad_values, None, None


def _pick(per_latent: Tensor, indices: Tensor) -> Tensor:
    """per_latent[indices] for (n_latents, degree) and (tokens, k); index_select copies whole rows at once."""
    return per_latent.index_select(0, indices.flatten()).view(*indices.shape, per_latent.shape[1])


def _weighted_atoms(weights: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """sum_j weights[t, j] * atom[indices[t, j]]: (tokens, d_in)."""
    if support is None:
        return F.embedding_bag(indices, values, mode="sum", per_sample_weights=weights.contiguous())
    rows, picked = _pick(support, indices), _pick(values, indices)
    terms = picked.mul_(weights[..., None])
    return weights.new_zeros(len(weights), d_in).scatter_add_(1, rows.flatten(1), terms.flatten(1))


def _atom_products(y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """<atom[indices[t, j]], y[t]>: (tokens, k)."""
    if support is None:
        # Differentiating the bag by its weights is the fused inner product: no (tokens, k, d_in) gather.
        with torch.enable_grad():
            ones = torch.ones_like(indices, dtype=values.dtype).requires_grad_()
            bag = F.embedding_bag(indices, values.detach(), mode="sum", per_sample_weights=ones)
            return torch.autograd.grad(bag, ones, y)[0]
    gathered = y.gather(1, _pick(support, indices).flatten(1)).view(*indices.shape, -1)
    return gathered.mul_(_pick(values, indices)).sum(-1)


def _atom_gradient(weights: Tensor, indices: Tensor, y: Tensor, support: Tensor | None, n_latents: int) -> Tensor:
    """sum over (t, j) with indices[t, j] = i of weights[t, j] * y[t], on atom i's support: the shape of values."""
    k = indices.shape[1]
    if support is None:
        # One bag per latent over the tokens that picked it; three times faster than index_add (2 cores, 2026-11).
        flat = indices.flatten()
        order = flat.argsort(stable=True)
        starts = torch.bincount(flat, minlength=n_latents).cumsum(0)
        offsets = torch.cat([starts.new_zeros(1), starts[:-1]])
        picked = weights.flatten()[order]
        return F.embedding_bag(order // k, y, offsets, mode="sum", per_sample_weights=picked)
    terms = y.gather(1, _pick(support, indices).flatten(1)).view(-1, support.shape[1]).mul_(weights.reshape(-1, 1))
    return terms.new_zeros(n_latents, support.shape[1]).index_add_(0, indices.flatten(), terms)
