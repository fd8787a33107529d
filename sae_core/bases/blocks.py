"""Block-diagonal orthogonal matrices: how they are applied, and how few values make them."""

from __future__ import annotations

import torch

_TOLERANCE = 1e-6


def in_blocks(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return blocks[b] @ x[t, b] for each row t and block b, with the rows innermost in memory.

    So the next product can take any dimension in its blocks without a copy.

    Args:
        x: (rows, b, w).
        blocks: (b, w, w).

    Returns:
        (rows, b, w).
    """
    return torch.bmm(blocks, x.permute(1, 2, 0)).permute(2, 0, 1)


def flat_in_blocks(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return `in_blocks` with each row in one piece: (rows, b * w)."""
    return torch.bmm(x.transpose(0, 1), blocks.mT).transpose(0, 1).flatten(1)


def cayley(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return the orthogonal blocks (I - A)(I + A)^-1 of skew-symmetric A, in float64: Cayley's transform.

    Every skew-symmetric matrix has one, and it is orthogonal with determinant 1.

    Args:
        values: (b, width * (width - 1) / 2), what stands below A's diagonal, row by row.

    Returns:
        (b, width, width).
    """
    below = values.new_zeros(len(values), width, width, dtype=torch.float64)
    row, column = torch.tril_indices(width, width, -1, device=values.device)
    below[:, row, column] = values.double()
    identity = torch.eye(width, dtype=torch.float64, device=values.device)
    return 2 * torch.linalg.inv(identity + below - below.mT) - identity


def skew_values(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values v and signs s with cayley(v) = s * blocks, each of the rows of a block times a sign.

    Cayley's transform reaches no matrix with an eigenvalue -1, but some signs of the rows always make every |v| <= 1
    (O'Dorney 2014, Minimizing the Cayley transform of an orthogonal matrix by multiplying by signature matrices). They
    are found by turning two rows at a time: where |A_ij| > 1, other signs of the rows i and j make det(I + s * block)
    larger by A_ij^2, so that this ends.

    Args:
        blocks: (b, w, w), orthogonal.

    Returns:
        float64 values (b, w(w-1)/2) and signs (b, w), each 1 or -1.
    """
    blocks = blocks.double()
    count, width, _ = blocks.shape
    signs = _invertible_signs(blocks)
    row, column = torch.tril_indices(width, width, -1)
    while True:
        identity = torch.eye(width, dtype=torch.float64)
        skew = 2 * torch.linalg.inv(identity + signs[:, :, None] * blocks) - identity
        values = skew[:, row, column]
        if not values.numel() or float(values.abs().max()) <= 1 + _TOLERANCE:
            return values, signs
        largest, at = values.abs().max(1)
        turned = torch.arange(count)[largest > 1 + _TOLERANCE]
        for end in (row, column):
            signs[turned, end[at[turned]]] *= -1


def _invertible_signs(blocks: torch.Tensor) -> torch.Tensor:
    """Return signs (b, w) with an invertible I + s * block: those of the pivots of an elimination of block + diag(s).

    No pivot is below 1 in magnitude (Ballard et al. 2015, Reconstructing Householder vectors from TSQR).
    """
    left, signs = blocks.clone(), torch.ones(blocks.shape[:2], dtype=blocks.dtype)
    for i in range(blocks.shape[1]):
        pivot = left[:, i, i]
        signs[:, i] = torch.where(pivot < 0, -1.0, 1.0)
        column = left[:, i + 1 :, i] / (pivot + signs[:, i])[:, None]
        left[:, i + 1 :, i + 1 :] -= column[:, :, None] * left[:, None, i, i + 1 :]
    return signs
