"""Nested prefixes of latents, each of which is to reconstruct by itself: Matryoshka SAEs (arXiv 2503.17547).

A prefix is given as a number of latents, or as a share of them such as "1/4".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import nn

from sae_core.encoders import JumpReLU, OwnTopK, PositiveTopK, TiedTopK, inner_encoder
from sae_core.kronecker import KroneckerTopK
from sae_core.packed import is_packed
from sae_core.sae import SAE
from sae_core.sizes import CellError, check_sparsity

# A number of latents, or a share such as "1/4". Arms spell this out: configs are checked by their annotations.
Part = int | str


def checked_part(key: str, part: Part) -> Part:
    """Return a prefix in its shortest form: 512, "1/4" for "2/8". Raises ValueError, naming `key`, where it is none."""
    if isinstance(part, int):
        if part < 1:
            raise ValueError(f"{key}={part} must be at least 1 latent")
        return part
    try:
        share = Fraction(part)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise ValueError(f"{key}={part} must be a number of latents, or a share of them such as 1/4")
    return str(share)


def checked_parts(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the prefixes of `sae.prefixes` in their shortest form. Raises ValueError where one is none."""
    return tuple(checked_part("sae.prefixes", part) for part in parts)


def prefix_size(key: str, part: Part, n_latents: int) -> int:
    """Return how many of n latents a prefix has; shares are rounded down. Raises CellError unless some, and not all."""
    size = part if isinstance(part, int) else int(Fraction(part) * n_latents)
    if not 0 < size < n_latents:
        raise CellError(f"{key}={part} of n={n_latents} must be 1..{n_latents - 1} latents")
    return size


def prefix_sizes(parts: Sequence[Part], n_latents: int) -> tuple[int, ...]:
    """Return the sizes that the prefixes of `sae.prefixes` have, and n after them; () where there are none.

    Raises CellError unless they rise.
    """
    sizes = [prefix_size("sae.prefixes", part, n_latents) for part in parts]
    if sizes != sorted(set(sizes)):
        raise CellError(f"sae.prefixes={list(parts)} of n={n_latents}, that is {sizes}, must rise")
    return (*sizes, n_latents) if sizes else ()


def part_label(part: Part) -> str:
    """Return a prefix as a label names it: `512`; `n4` for a quarter of n, `3n4` for three quarters."""
    if isinstance(part, int):
        return str(part)
    share = Fraction(part)
    return f"{share.numerator if share.numerator > 1 else ''}n{share.denominator}"


def label_with_prefixes(name: str, parts: Sequence[Part]) -> str:
    """Return an arm's name with the prefixes that it is trained on: `expander:n16:n4`."""
    return ":".join([name, *map(part_label, parts)])


@torch.no_grad()
def cut(sae: SAE, n_latents: int) -> SAE:
    """Return a copy of the first `n_latents` latents of `sae` as an SAE of its own.

    Bias, scale, k and threshold stay. Read by a threshold, the prefix has the codes that it has in the whole; read by
    TopK, it picks k latents of its own. Where a seed drew the support, it still does: the first of more atoms.

    Raises:
        ValueError: `n_latents` is not in 1..n - 1, or no more than 2k (a CellError); or latents share encoder rows, or
            atoms stay packed.
    """
    n = sae.dictionary.n_latents
    if not 1 <= n_latents < n:
        raise ValueError(f"latents={n_latents} must be in 1..{n - 1}: the SAE has {n}")
    check_sparsity(n_latents, sae.k)
    if isinstance(inner_encoder(sae.encoder), KroneckerTopK):
        raise ValueError("an SAE of kron cannot be cut: its latents share the encoder's rows")
    if is_packed(sae):
        raise ValueError("packed atoms cannot be cut: load the SAE without keep_packed=True")
    other = copy.deepcopy(sae)
    dictionary, encoder = other.dictionary, inner_encoder(other.encoder)
    for name in dictionary.rows_of_atoms:
        if getattr(dictionary, name) is not None:
            _keep(dictionary, name, n_latents)
    if isinstance(encoder, (TiedTopK, OwnTopK)):
        _keep(encoder, "b_enc", n_latents)
    if isinstance(encoder, OwnTopK):
        _keep(encoder, "weight", n_latents)
        if encoder.row_scale is not None:
            _keep(encoder, "row_scale", n_latents)
    if isinstance(other.encoder, JumpReLU):
        _keep(other.encoder, "threshold", n_latents)
    if isinstance(other.encoder, PositiveTopK):
        _keep(other.encoder, "gain", n_latents)
    if dictionary.drawn is not None:
        dictionary.drawn = dictionary.drawn._replace(atoms=dictionary.drawn.atoms or n)
    shorter = [size for size in sae.prefixes if size < n_latents]
    other.prefixes = (*shorter, n_latents) if shorter else ()
    return other


def _keep(module: nn.Module, name: str, count: int) -> None:
    """Keep the first `count` rows of a module's parameter or buffer."""
    tensor = getattr(module, name)
    kept = tensor.detach()[:count].clone()
    setattr(module, name, nn.Parameter(kept, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept)
