"""An SAE compared with a reference SAE: its novel latents, and the atoms that have a match.

A latent is novel where it fires like none of the reference's; an atom is matched where one of the reference's points
the same way. Novelty is the paper's (section Measures): the share of latents whose best activation-Jaccard match in a
dense SAE is below 0.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.activity import Activity, mean_or_none
from sae_core.dictionary import Dictionary

NOVEL_BELOW = 0.1  # a latent with a lower best Jaccard is novel
COSINES = (0.5, 0.7, 0.9)  # an atom counts as matched from such a cosine on
_CHUNK_PAIRS = 1 << 17  # pairs of latents that are counted at once: their table should stay in the cache
_CHUNK_VALUES = 1 << 22  # co-firings that are counted, or products that are formed, at once

_Ints = npt.NDArray[np.int64]


def novelty(activity: Activity, reference: Activity) -> dict[str, float | None]:
    """Measure how many live latents have no match among the reference's, and how far to trust that.

    Returns:
        novel_fraction        share of live latents with best Jaccard below 0.1
        novel_fraction_null   the same with the reference's firings on other text (`unrelated_tokens`), which is what
                              firing rates alone lead to: the further `novel_fraction` lies below this, the more the
                              matches mean
        median_best_jaccard   median over live latents
        split_half_agreement  of the latents that are live both in windows of even number and in those of odd number,
                              the share that is novel in both halves or in neither

        Each is None where there are no such latents.

    Raises:
        ValueError: the two are not of the same tokens in the same windows.
    """
    _check_same_text(activity, reference)
    best = best_jaccard(activity, reference)
    live = ~best.isnan()
    partner = unrelated_tokens(activity)
    moved = Activity(reference.latents[partner], reference.n_latents, reference.tokens, reference.windows)
    return {
        "novel_fraction": mean_or_none(best[live] < NOVEL_BELOW),
        "novel_fraction_null": mean_or_none(best_jaccard(activity, moved)[live] < NOVEL_BELOW),
        "median_best_jaccard": float(best[live].quantile(0.5)) if bool(live.any()) else None,
        "split_half_agreement": _split_half_agreement(activity, reference),
    }


def best_jaccard(activity: Activity, reference: Activity) -> Tensor:
    """Return max over the reference's latents j of |A_i & B_j| / |A_i | B_j|, for each latent i.

    A_i and B_j are the tokens on which i and j fire. The result is float64 (n_latents,), NaN where a latent is dead.
    The count is sparse: T * k * k_reference co-firings, whatever n. It is done in numpy on one core, because so many
    short steps cost many times as much where torch's threads share their cores with others.
    """
    n, columns = activity.n_latents, reference.n_latents + 1
    token, latent = (found.cpu().numpy() for found in activity.firings())
    order = latent.argsort(kind="stable")
    token, rows = token[order], latent[order] * columns
    # An empty place in the reference's latents counts as one more latent, which is left out at the end.
    others = torch.where(reference.latents < 0, reference.n_latents, reference.latents).cpu().numpy()
    counts, other_counts = activity.counts().cpu().numpy(), reference.counts().cpu().numpy()
    ends = [0, *counts.cumsum().tolist()]
    size = max(1, _CHUNK_PAIRS // columns)
    best = np.full(n, np.nan)
    for first in range(0, n, size):
        last = min(n, first + size)
        part = slice(ends[first], ends[last])
        shared = _co_firings(rows[part] - first * columns, token[part], others, (last - first) * columns)
        shared = shared.reshape(-1, columns)[:, :-1]
        best[first:last] = (shared / np.maximum(counts[first:last, None] + other_counts - shared, 1)).max(1)
    best[counts == 0] = np.nan
    return torch.from_numpy(best).to(activity.latents.device)


def _co_firings(rows: _Ints, token: _Ints, others: _Ints, cells: int) -> _Ints:
    """Count how often each (latent, latent of the reference) fires together, as a flat table: int64 (cells,).

    Args:
        rows: (firings,), where in the flat table the row of the latent that fires begins.
        token: (firings,), the token on which it fires.
        others: (T, k), the latents of the reference on each token.
    """
    table = np.zeros(cells, dtype=np.int64)
    size = max(1, _CHUNK_VALUES // others.shape[1])  # unless activity is very dense, one chunk holds all of it
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        table += np.bincount((rows[part, None] + others[token[part]]).ravel(), minlength=cells)
    return table


def unrelated_tokens(activity: Activity) -> Tensor:
    """Return for each token one from unrelated text, each token used once: a permutation, int64 (T,).

    A token is paired with the one at the same position of another window: of the windows long enough to have that
    position, the window that is half of their number further on, cyclically. Windows of one length are paired whole. A
    reference permuted in this way keeps every firing rate, all that follows from a token's position, and runs of tokens
    within windows (a run breaks only where a shorter window ends); but it fires on text that the latents never saw.
    Positions that only the longest window has are rotated by half among themselves; if there is one such position, it
    stays.
    """
    starts = activity.window_starts()
    lengths = F.pad(starts, (0, 1), value=len(activity.tokens)).diff()
    position = torch.arange(len(activity.tokens), device=starts.device) - starts.repeat_interleave(lengths)
    second = int(lengths.sort(descending=True).values[1]) if len(lengths) > 1 else 0
    group = position.clamp_max(second)  # positions from `second` on belong to one window alone
    order = group.argsort(stable=True)
    sizes = group.bincount()
    firsts, size = (sizes.cumsum(0) - sizes)[group[order]], sizes[group[order]]
    rank = torch.arange(len(order), device=order.device) - firsts
    partner = torch.empty_like(order)
    partner[order] = order[firsts + (rank + size // 2) % size]
    return partner


def cosine_matches(dictionary: Dictionary, reference: Dictionary) -> dict[str, float | dict[str, float]]:
    """Measure how well atoms are matched by the reference's, by `best_cosines`.

    Returns:
        mean_best  mean of the best cosine over atoms
        matches    "0.5", "0.7", "0.9" -> share of atoms whose best cosine is at least that

    Raises:
        ValueError: the two are of different d_in.
    """
    best = best_cosines(dictionary, reference).double()
    return {
        "mean_best": float(best.mean()),
        "matches": {str(c): float((best >= c).double().mean()) for c in COSINES},
    }


@torch.no_grad()
def best_cosines(dictionary: Dictionary, reference: Dictionary) -> Tensor:
    """Return max over the reference's atoms v_j of |<w_i, v_j>| for each atom w_i: (n_latents,); 0 for a zero atom.

    Raises:
        ValueError: the two are of different d_in.
    """
    if dictionary.d_in != reference.d_in:
        raise ValueError(f"d_in={dictionary.d_in} of the dictionary must be the reference's, {reference.d_in}")
    if reference.degree < dictionary.degree:  # products are gathered from the sparser side
        best = torch.cat([products.amax(0) for products in _products(reference, dictionary)])
    else:
        best = torch.stack([products.amax(1) for products in _products(dictionary, reference)]).amax(0)
    return best.clamp_max(1)  # rounding can make it slightly more than 1


def assigned_mean(similarity: Tensor) -> float:
    """Return the highest mean similarity of rows and columns matched one to one; a square table takes n^3 steps."""
    values = similarity.double().numpy()
    return float(values[linear_sum_assignment(values, maximize=True)].mean())


def _products(dictionary: Dictionary, other: Dictionary):
    """Yield |<w_i, v_j>| of all atoms with a chunk of the atoms of `other` at a time: (n_latents, chunk).

    Those of `other` are taken into the basis of `dictionary`, where its atoms are sparse.
    """
    atoms, support = dictionary.unit_values(), dictionary.support
    size = max(1, _CHUNK_VALUES // max(dictionary.n_latents, dictionary.d_in))
    for first in range(0, other.n_latents, size):
        some = dictionary.coordinates(other.dense_atoms(slice(first, first + size)).to(atoms))
        if support is None:
            yield (atoms @ some.T).abs_()
        else:
            yield F.embedding_bag(support, some.T.contiguous(), mode="sum", per_sample_weights=atoms).abs_()


def _split_half_agreement(activity: Activity, reference: Activity) -> float | None:
    """Return `split_half_agreement` of `novelty`; None where all windows are of one parity."""
    odd = activity.windows % 2 == 1
    if bool(odd.all()) or not bool(odd.any()):
        return None
    a, b = (best_jaccard(activity.part(half), reference.part(half)) for half in (~odd, odd))
    both = ~(a.isnan() | b.isnan())
    return mean_or_none((a < NOVEL_BELOW)[both] == (b < NOVEL_BELOW)[both])


def _check_same_text(activity: Activity, reference: Activity) -> None:
    """Raise ValueError, with the first difference, unless both are of the same tokens in the same windows."""
    for name in ("tokens", "windows"):
        ours, theirs = getattr(activity, name), getattr(reference, name)
        if len(ours) != len(theirs):
            raise ValueError(f"{name}: the activity is of {len(ours)} and the reference of {len(theirs)} tokens")
        differ = torch.nonzero(ours != theirs)
        if len(differ):
            at = int(differ[0])
            raise ValueError(f"{name}: {int(ours[at])} and the reference's {int(theirs[at])} differ at row {at}")
