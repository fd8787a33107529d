"""The contenders of the benchmarks: each is a function from a cell to the callable that is timed.

A training step is forward, backward and Adam (fused) on one batch, in float32, for everybody. Ours also clips the
gradient, as `sweep.train.loop` does; the peers' steps go without their trainers' own extras (clipping, decoder
renormalisation, dead-latent statistics), which would only slow them down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from sae_core.arms import DenseTied, Expander
from sae_core.kernels.dispatch import get_backend
from sae_core.kernels.reference import densify
from sae_core.pursuit.solvers import solver
from sae_core.sae import SAE
from sae_core.supports import expander_support
from sweep.train.loop import train_step
from sweep.train.recorded import recording

LR = 3e-4
Call = Callable[[], object]


@dataclass(frozen=True)
class Cell:
    """The sizes of one measurement; only sparse contenders use `degree`."""

    d_in: int
    n_latents: int
    k: int
    degree: int = 7
    tokens: int = 1024
    device: str = "cpu"
    threads: int = 0  # of the CPU that compute it; 0 for all

    def batch(self) -> torch.Tensor:
        """Return random activations (tokens, d_in) on the cell's device."""
        return torch.randn(self.tokens, self.d_in, generator=torch.Generator().manual_seed(0)).to(self.device)


def expander(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k).build(cell.d_in, 0), cell)


def expander_reflections(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose atoms are sparse behind 64 fixed reflections."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis="reflections64").build(cell.d_in, 0), cell)


def expander_trained_reflections(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose 64 reflections are trained too."""
    basis = "reflections64_trained"
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis=basis).build(cell.d_in, 0), cell)


def expander_monarch(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose atoms are sparse behind a fixed Monarch matrix."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis="monarch").build(cell.d_in, 0), cell)


def expander_trained_monarch(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose Monarch matrix is trained too."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis="monarch_trained").build(cell.d_in, 0), cell)


def expander_butterfly(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose atoms are sparse behind a fixed butterfly."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis="butterfly").build(cell.d_in, 0), cell)


def expander_trained_butterfly(cell: Cell) -> Call:
    """Make a training step of our Expander SAE of cell.degree whose butterfly is trained too."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, basis="butterfly_trained").build(cell.d_in, 0), cell)


def dense_tied(cell: Cell) -> Call:
    """Make a training step of our SAE of dense tied atoms."""
    return _our_step(DenseTied(cell.n_latents, cell.k).build(cell.d_in, 0), cell)


def _our_step(sae: nn.Module, cell: Cell) -> Call:
    sae, h = sae.to(cell.device), cell.batch()
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)
    recorded = recording(sae) if isinstance(sae, SAE) else None
    return lambda: train_step(sae, optimizer, h, LR, 1.0, recorded)  # type: ignore[arg-type]


class MaskedDense(nn.Module):
    """An SAE as the paper formulates it: a dense matrix times a 0/1 mask, dense in every product."""

    def __init__(self, cell: Cell):
        super().__init__()
        support = expander_support(cell.d_in, cell.n_latents, cell.degree, 0)
        mask = torch.zeros(cell.n_latents, cell.d_in).scatter_(1, support, 1.0)
        self.register_buffer("mask", mask)
        self.values = nn.Parameter(torch.randn(mask.shape) / cell.degree**0.5)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(cell.n_latents)), nn.Parameter(torch.zeros(cell.d_in))
        self.k = cell.k

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch h (tokens, d_in)."""
        atoms = nn.functional.normalize(self.values * self.mask, dim=1)
        z = (h - self.b_dec) @ atoms.T + self.b_enc
        top = z.topk(self.k, dim=1)
        codes = torch.zeros_like(z).scatter(1, top.indices, top.values)
        return (codes @ atoms + self.b_dec - h).square().sum(1).mean()


def masked_dense(cell: Cell) -> Call:
    """Make a training step of an expander that is a masked dense matrix, as in the paper's code."""
    return _peer_step(MaskedDense(cell), cell, lambda model, h: model(h))


def sae_lens(cell: Cell) -> Call:
    """Make a training step of sae-lens' TopKTrainingSAE as it comes.

    With use_sparse_activations it raises an error on a CPU (6.54, torch 2.13).
    """
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    model = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=cell.d_in, d_sae=cell.n_latents, k=cell.k))

    def loss(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
        return model.training_forward_pass(TrainStepInput(h, {}, None, 0, False)).loss  # type: ignore[operator]

    return _peer_step(model, cell, loss)


def sparsify(cell: Cell) -> Call:
    """Make a training step of eai-sparsify's SparseCoder as it comes; on a GPU it computes in bfloat16 by itself."""
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(cell.d_in, SparseCoderConfig(num_latents=cell.n_latents, k=cell.k))
    return _peer_step(model, cell, lambda model, h: model(h).fvu)


def _peer_step(model: nn.Module, cell: Cell, loss: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> Call:
    model, h = model.to(cell.device), cell.batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model, h).backward()
        optimizer.step()

    return step


def encode_expander(cell: Cell) -> Call:
    """Make our encode + TopK on sparse atoms."""
    support = expander_support(cell.d_in, cell.n_latents, cell.degree, 0).to(cell.device)
    values = torch.randn(support.shape).to(cell.device)
    return _encode(cell, values, support)


def encode_dense(cell: Cell) -> Call:
    """Make our encode + TopK on dense atoms."""
    return _encode(cell, torch.randn(cell.n_latents, cell.d_in).to(cell.device), None)


def _encode(cell: Cell, values: torch.Tensor, support: torch.Tensor | None) -> Call:
    h, bias = cell.batch(), torch.zeros(cell.n_latents, device=cell.device)
    backend = get_backend("auto", torch.device(cell.device))
    return lambda: backend.encode_topk(h, values, support, bias, cell.k)


def encode_torch_fp32(cell: Cell) -> Call:
    """Make torch.addmm + torch.topk on dense atoms, in float32."""
    return _encode_torch(cell, torch.float32)


def encode_torch_bf16(cell: Cell) -> Call:
    """Make torch.addmm + torch.topk on dense atoms, in bfloat16."""
    return _encode_torch(cell, torch.bfloat16)


def _encode_torch(cell: Cell, dtype: torch.dtype) -> Call:
    h = cell.batch().to(dtype)
    atoms = torch.randn(cell.n_latents, cell.d_in).to(cell.device, dtype)
    bias = torch.zeros(cell.n_latents, device=cell.device, dtype=dtype)
    return lambda: torch.addmm(bias, h, atoms.T).topk(cell.k, dim=1, sorted=False)


def pursuit(cell: Cell, name: str) -> Call:
    """Make our pursuit called `name`, on a batch and sparse atoms; `refit` is least squares on given picks."""
    dictionary = Expander(cell.n_latents, cell.degree, cell.k).build(cell.d_in, 0).dictionary.to(cell.device)
    values, support, x = dictionary.unit_values().detach(), dictionary.support, cell.batch()
    backend = get_backend("auto", torch.device(cell.device))
    if name == "refit":
        none = torch.zeros(cell.n_latents, device=cell.device)
        picks = backend.encode_topk(x, values, support, none, cell.k)[1]
        return lambda: backend.refit(x, picks, values, support)
    solve = solver(name)
    return lambda: solve(backend, x, values, support, cell.k)


def train_by_mp_refit(cell: Cell) -> Call:
    """Make a training step of our Expander SAE whose encoder is mp_refit."""
    return _our_step(Expander(cell.n_latents, cell.degree, cell.k, "mp_refit").build(cell.d_in, 0), cell)


def torch_omp(cell: Cell) -> Call:
    """Make OMP of plain batched PyTorch: dense correlations, argmax and torch.linalg.lstsq on the picks, k times."""
    atoms, x = _dense_atoms(cell), cell.batch()

    def solve() -> torch.Tensor:
        residual, picked = x, torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        codes = x.new_empty(len(x), 0)
        for _ in range(cell.k):
            scores = (residual @ atoms.T).scatter(1, picked, float("-inf"))
            picked = torch.cat([picked, scores.argmax(1, keepdim=True)], 1)
            chosen = atoms[picked].mT
            codes = torch.linalg.lstsq(chosen, x[..., None]).solution
            residual = x - (chosen @ codes)[..., 0]
        return codes

    return solve


def sklearn_omp(cell: Cell) -> Call:
    """Make scikit-learn's OMP on a precomputed Gram matrix and correlations, which are not timed."""
    from sklearn.linear_model import orthogonal_mp_gram

    atoms, x = _dense_atoms(cell).double().numpy(), cell.batch().double().numpy()
    gram, products = atoms @ atoms.T, atoms @ x.T
    return lambda: orthogonal_mp_gram(gram, products, n_nonzero_coefs=cell.k)


def _dense_atoms(cell: Cell) -> torch.Tensor:
    dictionary = Expander(cell.n_latents, cell.degree, cell.k).build(cell.d_in, 0).dictionary
    return densify(dictionary.unit_values().detach(), dictionary.support, cell.d_in).to(cell.device)


# By the names that the tables of results have.
IN_BASES = {
    c.__name__: c
    for c in (
        expander_reflections,
        expander_trained_reflections,
        expander_monarch,
        expander_trained_monarch,
        expander_butterfly,
        expander_trained_butterfly,
    )
}
STEPS = {c.__name__: c for c in (expander, *IN_BASES.values(), dense_tied, sae_lens, sparsify, masked_dense)}
ENCODES = {c.__name__: c for c in (encode_expander, encode_dense, encode_torch_fp32, encode_torch_bf16)}
SOLVERS = ("refit", "mp_refit", "gomp16", "gomp4", "omp", "cosamp")
PURSUITS: dict[str, Callable[[Cell], Call]] = {
    **{name: partial(pursuit, name=name) for name in SOLVERS},
    **{c.__name__: c for c in (train_by_mp_refit, torch_omp, sklearn_omp)},
}
CONTENDERS: dict[str, Callable[[Cell], Call]] = {**STEPS, **ENCODES, **PURSUITS}
