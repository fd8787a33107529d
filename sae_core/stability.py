"""How alike two SAEs are that were trained alike: how far latents depend on a seed.

Latents are matched by their activations on the same held-out tokens (`sae_core.correlation`), and atoms by their
directions (PW-MCC). Beside each measure stands what chance gives, and beside PW-MCC the most that these supports allow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_array
from torch import Tensor

from sae_core.activity import activity_of
from sae_core.comparison import assigned_mean, unrelated_tokens
from sae_core.correlation import Floats, best_matches, code_matrix, correlations, fires
from sae_core.dictionary import Dictionary
from sae_core.kernels.reference import densify

LEVELS = {"above_90": 0.9, "above_70": 0.7, "above_50": 0.5}  # a latent is found again where its match correlates more
_CHANCE_SEED = 0  # draws the random atoms that PW-MCC is compared with
_CHUNK_VALUES = 1 << 24  # cosines, or entries of dense atoms, that are worked on at once


class ReadTokens(NamedTuple):
    """The codes that an SAE finds of held-out tokens, on the CPU."""

    codes: Tensor  # (T, k)
    indices: Tensor  # int64 (T, k)
    windows: Tensor  # int64 (T,), the window that each token is from; the tokens of a window lie together


def stability_measures(
    ours: Dictionary, our_read: ReadTokens, theirs: Dictionary, their_read: ReadTokens
) -> dict[str, float | None]:
    """Measure how many latents of each of two SAEs the other has too; the order of the two does not matter.

    Returns:
        functional_match  mean over the live latents of both SAEs of the correlation with the best-matching latent of
                          the other one
        above_90, above_70, above_50
                          share of these whose correlation is above .9, .7, .5
        live_fraction     share of the latents of both that are live: they fire in both halves of the tokens
        *_chance          the same with the other SAE's codes of unrelated text (`unrelated_tokens`): its latents fire
                          as often, and independently
        pw_mcc, pw_mcc_chance, pw_mcc_ceiling
                          see `pw_mcc`

        A match is chosen on the first half of the tokens and scored on the second, because the best of thousands looks
        good by chance. A latent whose match never fires in the second half scores 0. Measures of latents are None
        where none is live.

    Raises:
        ValueError: the two are not of the same tokens, of different d_in, or of a single window.
    """
    if len(our_read.windows) != len(their_read.windows) or bool((our_read.windows != their_read.windows).any()):
        raise ValueError("the codes of the two SAEs are not of the same tokens")
    half = _half(our_read.windows)
    codes = code_matrix(our_read.codes, our_read.indices, ours.n_latents)
    others = code_matrix(their_read.codes, their_read.indices, theirs.n_latents)
    activity = activity_of(
        our_read.codes, our_read.indices, ours.n_latents, torch.zeros_like(our_read.windows), our_read.windows
    )
    unrelated = others.tocsr()[unrelated_tokens(activity).numpy()].tocsc()
    found, by_chance = functional_matches(codes, others, half), functional_matches(codes, unrelated, half)
    return {
        **_summary(found, ""),
        "live_fraction": len(found) / (ours.n_latents + theirs.n_latents),
        **_summary(by_chance, "_chance"),
        **pw_mcc(ours, theirs),
    }


def functional_matches(ours: csc_array, theirs: csc_array, half: int) -> Floats:
    """Return the correlation of each live latent of two SAEs with its best match in the other: float64 (live,).

    Args:
        ours, theirs: codes (T, n) and (T, n') of the same tokens.
        half: the first token of the second half; matches are chosen before it and scored from it on.
    """
    first, second = (ours[:half], theirs[:half]), (ours[half:], theirs[half:])
    of_ours, of_theirs = best_matches(*first)
    live = [fires(a) & fires(b) for a, b in zip(first, second, strict=True)]
    scored = (correlations(second[0], second[1][:, of_ours]), correlations(second[1], second[0][:, of_theirs]))
    return np.nan_to_num(np.concatenate([values[alive] for values, alive in zip(scored, live, strict=True)]))


def pw_mcc(ours: Dictionary, theirs: Dictionary) -> dict[str, float]:
    """Measure how nearly two dictionaries' atoms point the same ways.

    Returns:
        pw_mcc          mean |cosine| of atoms matched one to one so that it is highest (arXiv 2505.20254)
        pw_mcc_chance   the same of random atoms on the same supports: each atom's own values in a random order, with
                        random signs
        pw_mcc_ceiling  the highest that it could be if either dictionary stayed as it is and the other's atoms had the
                        best values that their supports allow; 1 where atoms are dense

    With fewer atoms on one side all of that side are matched. Time grows with the cube of the number of atoms.

    Raises:
        ValueError: the two are of different d_in.
    """
    if ours.d_in != theirs.d_in:
        raise ValueError(f"d_in={ours.d_in} of one dictionary must be the other's, {theirs.d_in}")
    generator = torch.Generator().manual_seed(_CHANCE_SEED)
    atoms, others = _atoms(ours), _atoms(theirs)
    random = [_shuffled(some, generator) for some in (atoms, others)]
    return {
        "pw_mcc": assigned_mean(_cosines(ours, atoms, theirs, others)),
        "pw_mcc_chance": assigned_mean(_cosines(ours, random[0], theirs, random[1])),
        "pw_mcc_ceiling": min(_reachable(ours, theirs), _reachable(theirs, ours)),
    }


def _summary(matches: Floats, suffix: str) -> dict[str, float | None]:
    known = len(matches) > 0
    shares = {name: float((matches > level).mean()) if known else None for name, level in LEVELS.items()}
    values = {"functional_match": float(matches.mean()) if known else None, **shares}
    return {name + suffix: value for name, value in values.items()}


def _half(windows: Tensor) -> int:
    """Return the first token of the window that begins nearest the middle. Raise ValueError for a single window."""
    starts = torch.nonzero(windows[1:] != windows[:-1]).flatten() + 1
    if not len(starts):
        raise ValueError("matches are chosen on one half of the windows and scored on the other: one window is too few")
    return int(starts[(2 * starts - len(windows)).abs().argmin()])


def _atoms(dictionary: Dictionary) -> Tensor:
    return dictionary.unit_values().detach().float().cpu()


def _shuffled(atoms: Tensor, generator: torch.Generator) -> Tensor:
    """Return each atom's entries in a random order, with random signs."""
    order = torch.rand(atoms.shape, generator=generator).argsort(dim=1)
    signs = torch.randint(0, 2, atoms.shape, generator=generator) * 2 - 1
    return atoms.gather(1, order) * signs


def _cosines(ours: Dictionary, atoms: Tensor, theirs: Dictionary, others: Tensor) -> Tensor:
    """Return |cosine| of atoms given by their entries on the supports of two dictionaries: (n, n')."""
    columns = _seen_from(ours, theirs, others).T
    parts = [_dense(ours, atoms, slice(first, first + size)) @ columns for first, size in _chunks(ours, theirs)]
    return torch.cat(parts).abs()


def _reachable(free: Dictionary, fixed: Dictionary) -> float:
    """Return the highest PW-MCC if the atoms of `free` had the best values on their supports for those of `fixed`.

    The best unit vector on a support has the cosine sqrt(sum of v^2 over the support) with a unit vector v.
    """
    if free.degree == free.d_in:
        return 1.0
    squares = _seen_from(free, fixed, _atoms(fixed)).square().T
    ones = torch.ones(free.values.shape)
    parts = [_dense(free, ones, slice(first, first + size)) @ squares for first, size in _chunks(free, fixed)]
    return assigned_mean(torch.cat(parts).clamp(0, 1).sqrt())


def _seen_from(ours: Dictionary, theirs: Dictionary, entries: Tensor) -> Tensor:
    """Return rows of `theirs` with these entries on its support, in the coordinates of our basis: (rows, d_in).

    Bases differ between seeds where they are trained.
    """
    rows = theirs.basis.out_of(_dense(theirs, entries).to(theirs.values))
    return ours.basis.into(rows.to(ours.values)).detach().float().cpu()


def _dense(dictionary: Dictionary, entries: Tensor, part: slice = slice(None)) -> Tensor:
    """Return rows of a dictionary with these entries on its support as dense vectors: (rows, d_in)."""
    support = None if dictionary.support is None else dictionary.support.cpu()[part]
    return densify(entries[part], support, dictionary.d_in)


def _chunks(ours: Dictionary, theirs: Dictionary) -> list[tuple[int, int]]:
    size = max(1, _CHUNK_VALUES // max(theirs.n_latents, ours.d_in))
    return [(first, size) for first in range(0, ours.n_latents, size)]
