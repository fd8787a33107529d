"""Ways to compute the portable backend's sums, side by side: `python -m tests.benchmarks.portable_kernels`.

Figures are medians in milliseconds of repeated calls in one process, at the main job's shapes. The first row of each
block is the way of `sae_core.kernels.torch_gather`.
"""

from __future__ import annotations

import statistics
import time
import warnings

import torch
import torch.nn.functional as F

from sae_core.kernels import torch_gather
from sae_core.supports import expander_support

D_IN, N, TOKENS, K, REPEATS = 256, 2048, 256, 32, 30


def milliseconds(call) -> float:
    """Return the median time of a call."""
    for _ in range(3):
        call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def encode_rows(degree: int):
    """Yield (name, call) of ways to compute pre-activations (n, tokens) of sparse atoms."""
    support = expander_support(D_IN, N, degree, 0)
    values, by_row = torch.randn(N, degree), torch.randn(D_IN, TOKENS)
    dense = torch.zeros(N, D_IN).scatter_(1, support, values)
    csr = torch.sparse_csr_tensor(
        torch.arange(0, N * degree + 1, degree), support.flatten(), values.flatten(), (N, D_IN)
    )

    def loop() -> None:
        z = torch.zeros(N, TOKENS)
        for j in range(degree):
            z.addcmul_(by_row[support[:, j]], values[:, j, None])

    yield "embedding_bag", lambda: F.embedding_bag(support, by_row, mode="sum", per_sample_weights=values)
    yield "sparse CSR product", lambda: csr @ by_row
    yield "loop of gathers", loop
    yield "dense product", lambda: dense @ by_row


def topk_rows():
    """Yield (name, call) of ways to select the k largest of n for each token."""
    z = torch.randn(N, TOKENS)
    group = 8

    def two_level() -> None:
        best = z.view(N // group, group, TOKENS).amax(1).T.contiguous().topk(K, dim=1, sorted=False).indices
        latents = (best[:, :, None] * group + torch.arange(group)).flatten(1)
        z.view(-1).take(latents * TOKENS + torch.arange(TOKENS)[:, None]).topk(K, dim=1, sorted=False)

    yield "torch.topk", lambda: z.topk(K, dim=0, sorted=False)
    yield "two levels, groups of 8", two_level


def dense_gradient_rows():
    """Yield (name, call) of ways to sum the gradient (n, d_in) of dense atoms from k active latents a token."""
    weights, y = torch.randn(TOKENS, K), torch.randn(TOKENS, D_IN)
    indices = torch.stack([torch.randperm(N)[:K] for _ in range(TOKENS)])

    def index_add() -> None:
        terms = (weights[..., None] * y[:, None]).view(-1, D_IN)
        torch.zeros(N, D_IN).index_add_(0, indices.flatten(), terms)

    yield "a bag per latent", lambda: torch_gather.atom_gradient(weights, indices, y, None, N)
    yield "index_add", index_add
    yield "dense product", lambda: torch.zeros(TOKENS, N).scatter_(1, indices, weights).T @ y


def main() -> None:
    warnings.simplefilter("ignore")  # torch warns that its CSR tensors are in beta
    print(f"m={D_IN} n={N} tokens={TOKENS} k={K}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    blocks = [(f"encode, d={d}", encode_rows(d)) for d in (3, 15, 60)]
    for title, rows in [*blocks, ("TopK", topk_rows()), ("dense gradient", dense_gradient_rows())]:
        base = None
        for name, call in rows:
            taken = milliseconds(call)
            base = base or taken
            print(f"{title:16} {name:24} {taken:8.2f} ms  {taken / base:6.1f}x")


if __name__ == "__main__":
    main()
