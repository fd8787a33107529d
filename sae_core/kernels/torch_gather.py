"""The portable backend: gathers and bags of plain PyTorch on any device, at a cost of degree * n_latents.

`embedding_bag` is PyTorch's fused gather-multiply-sum; the encoder and every dense sum are made of it, so nothing of
size (d_in, n_latents) is ever made. All pre-activations, (n_latents, tokens), and the picked atoms' terms,
(tokens, k, degree), are held. `autograd.Kernels` says the shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def encode_topk(x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Kernels.encode_topk` defines."""
    if support is None:
        return torch.addmm(bias, x, values.T).topk(k, dim=1, sorted=False)
    by_row = x.T.contiguous()  # (d_in, tokens): a row is gathered whole
    z = F.embedding_bag(support, by_row, mode="sum", per_sample_weights=values)
    z += bias[:, None]
    codes, indices = z.topk(k, dim=0, sorted=False)
    return codes.T.contiguous(), indices.T.contiguous()


def weighted_atoms(
    weights: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int, start: Tensor | None = None
) -> Tensor:
    """Compute what `autograd.Kernels.weighted_atoms` defines."""
    if support is None:
        out = F.embedding_bag(indices, values, mode="sum", per_sample_weights=weights)
        return out if start is None else out.add_(start)
    rows, picked = _pick(support, indices), _pick(values, indices)
    terms = picked.mul_(weights[..., None])
    out = weights.new_zeros(len(weights), d_in) if start is None else start.clone()
    return out.scatter_add_(1, rows.flatten(1), terms.flatten(1))


def atom_products(y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Compute what `autograd.Kernels.atom_products` defines."""
    if support is None:
        # Differentiating the bag by its weights is the fused inner product: no (tokens, k, d_in) gather.
        with torch.inference_mode(False), torch.enable_grad():
            ones = torch.ones_like(indices, dtype=values.dtype).requires_grad_()
            bag = F.embedding_bag(_kept(indices), _kept(values), mode="sum", per_sample_weights=ones)
            return torch.autograd.grad(bag, ones, _kept(y))[0]
    gathered = y.gather(1, _pick(support, indices).flatten(1)).view(*indices.shape, support.shape[1])
    return gathered.mul_(_pick(values, indices)).sum(-1)


def atom_gradient(weights: Tensor, indices: Tensor, y: Tensor, support: Tensor | None, n_latents: int) -> Tensor:
    """Compute what `autograd.Kernels.atom_gradient` defines."""
    k = indices.shape[1]
    if support is None:
        # One bag per latent over the tokens that picked it is three times faster than index_add (2 cores, 2026-11).
        flat = indices.flatten()
        latents, order = flat.sort(stable=True)
        offsets = torch.searchsorted(latents, torch.arange(n_latents, device=flat.device))
        picked = weights.flatten()[order]
        return F.embedding_bag(order // k, y, offsets, mode="sum", per_sample_weights=picked)
    terms = y.gather(1, _pick(support, indices).flatten(1)).view(-1, support.shape[1]).mul_(weights.reshape(-1, 1))
    return terms.new_zeros(n_latents, support.shape[1]).index_add_(0, indices.flatten(), terms)


def unit_norm(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Kernels.unit_norm` defines."""
    inverse = values.norm(dim=1).clamp_min_(torch.finfo(values.dtype).tiny).reciprocal_()
    return values * inverse[:, None], inverse


def unit_norm_gradient(grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Compute what `autograd.Kernels.unit_norm_gradient` defines."""
    along = torch.linalg.vecdot(grad, unit).unsqueeze(1)
    return torch.addcmul(grad, unit, along, value=-1).mul_(inverse[:, None])


def _kept(tensor: Tensor) -> Tensor:
    """Return `tensor` detached, as one that autograd may keep: it refuses those made in `torch.inference_mode`."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _pick(per_latent: Tensor, indices: Tensor) -> Tensor:
    """Return per_latent (n_latents, degree) at indices (tokens, k): (tokens, k, degree).

    index_select copies whole rows at once.
    """
    return per_latent.index_select(0, indices.flatten()).view(*indices.shape, per_latent.shape[1])
