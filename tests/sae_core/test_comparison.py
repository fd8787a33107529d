"""Comparisons of SAEs against all pairs of latents one by one, and for pairs of SAEs whose answer is known."""

from __future__ import annotations

import random
from statistics import fmean, median
from types import SimpleNamespace

import pytest
import torch

from sae_core import comparison
from sae_core.activity import Activity
from sae_core.arms import Expander
from sae_core.comparison import best_cosines, best_jaccard, cosine_matches, novelty, unrelated_tokens
from sae_core.dictionary import DenseDictionary, SparseDictionary
from sae_core.kernels.reference import densify
from tests.sae_core.test_activity import fired_on, some_activity, some_support

M = 15


def pairs():
    """Pairs of equal and unequal n, with k=1 and k=n, dead latents, tokens on which nothing fires, a single window."""
    one = {"lengths": (37,), "windows": (2,)}
    return [
        (some_activity(seed=0), some_activity(n=11, k=2, seed=10)),
        (some_activity(k=1, seed=1), some_activity(n=50, k=7, seed=11, silent=0.0)),
        (some_activity(n=5, k=5, seed=2), some_activity(n=5, k=5, seed=12, silent=0.5)),
        (some_activity(n=80, silent=0.9, seed=3), some_activity(n=40, silent=0.9, seed=13)),
        (some_activity(seed=4, **one), some_activity(seed=14, **one)),
    ]


def slow_best(activity, reference):
    """The best Jaccard of each latent, over sets of tokens; None where it is dead."""
    sets, others = fired_on(activity), fired_on(reference)
    return [max(len(a & b) / len(a | b) for b in others) if a else None for a in sets]


@pytest.mark.parametrize("activity, reference", pairs())
@pytest.mark.parametrize("chunks", [(1, 1), (100, 3), (1 << 17, 1 << 22)])
def test_the_best_jaccard_is_that_found_over_all_pairs(activity, reference, chunks, monkeypatch):
    monkeypatch.setattr(comparison, "_CHUNK_PAIRS", chunks[0])
    monkeypatch.setattr(comparison, "_CHUNK_VALUES", chunks[1])
    found = [None if value != value else value for value in best_jaccard(activity, reference).tolist()]
    assert found == slow_best(activity, reference)  # both are the nearest double to the same fraction


def part_of(activity, keep):
    keep = torch.tensor(keep)
    return Activity(activity.latents[keep], activity.n_latents, activity.tokens[keep], activity.windows[keep])


@pytest.mark.parametrize("activity, reference", pairs())
@pytest.mark.parametrize("threshold", [0.1, 0.25])  # on so few tokens few latents are below 0.1
def test_novelty_follows_from_the_best_matches(activity, reference, threshold, monkeypatch):
    monkeypatch.setattr(comparison, "NOVEL_BELOW", threshold)
    found = novelty(activity, reference)
    best = [value for value in slow_best(activity, reference) if value is not None]
    assert found["novel_fraction"] == pytest.approx(fmean(value < threshold for value in best))
    assert found["median_best_jaccard"] == pytest.approx(median(best))
    latents = torch.stack([reference.latents[other] for other in unrelated_tokens(activity).tolist()])
    moved = Activity(latents, reference.n_latents, reference.tokens, reference.windows)
    null = [value for value in slow_best(activity, moved) if value is not None]
    assert found["novel_fraction_null"] == pytest.approx(fmean(value < threshold for value in null))
    parity = [w % 2 == 1 for w in activity.windows.tolist()]
    if len(set(parity)) == 1:
        assert found["split_half_agreement"] is None
        return
    halves = [[odd == which for odd in parity] for which in (False, True)]
    bests = [slow_best(part_of(activity, half), part_of(reference, half)) for half in halves]
    live = [(a, b) for a, b in zip(*bests, strict=True) if a is not None and b is not None]
    same = [(a < threshold) == (b < threshold) for a, b in live]
    assert found["split_half_agreement"] == pytest.approx(fmean(same))


def test_a_best_jaccard_of_one_tenth_is_a_match_and_a_lower_one_is_not():

    def pair(shared):
        ours, theirs = torch.full((200, 1), -1), torch.full((200, 1), -1)
        ours[: 60 + shared], theirs[60 : 120 + shared] = 0, 0
        where = torch.arange(200)
        return Activity(ours, 1, where, where // 20), Activity(theirs, 1, where, where // 20)

    a, b = pair(12)
    assert float(best_jaccard(a, b)[0]) == 12 / (72 + 72 - 12)
    a, b = pair(0)
    assert novelty(a, b)["novel_fraction"] == 1
    ours = torch.tensor([[0]] * 10 + [[-1]] * 10)
    theirs = torch.tensor([[0]] + [[-1]] * 19)
    where = torch.arange(20)
    tenth = Activity(ours, 1, where, where // 5), Activity(theirs, 1, where, where // 5)
    assert novelty(*tenth)["novel_fraction"] == 0
    ours[10] = 0
    assert novelty(Activity(ours, 1, where, where // 5), tenth[1])["novel_fraction"] == 1


def planted(seed, copied=0, of=None, n=60, windows=100, length=20, k=3):
    """Activity whose first `copied` latents fire where those of `of` do, the others at random."""
    g = torch.Generator().manual_seed(seed)
    count = windows * length
    latents = copied + torch.rand(count, n - copied, generator=g).topk(k).indices
    if of is not None:
        kept = torch.where(of.latents < copied, of.latents, -1)
        latents = torch.cat([kept, latents], 1)
    return Activity(latents, n, torch.arange(count), torch.arange(count) // length)


def test_an_sae_compared_with_itself_has_nothing_novel_but_on_other_text_everything():
    activity = planted(0)
    found = novelty(activity, activity)
    assert found["novel_fraction"] == 0 and found["median_best_jaccard"] == 1 and found["split_half_agreement"] == 1
    assert found["novel_fraction_null"] > 0.9


def test_latents_that_share_no_token_are_all_novel():
    where = torch.arange(40)
    a = Activity(where[:, None] % 2 * 3 - 1, 5, where, where // 4)  # latent 2 fires on odd tokens
    b = Activity(1 - where[:, None] % 2 * 2, 5, where, where // 4)  # latent 1 fires on even tokens
    found = novelty(a, b)
    assert found["novel_fraction"] == 1 and found["median_best_jaccard"] == 0 and found["split_half_agreement"] == 1
    dead = Activity(b.latents.clamp_max(-1), 5, b.tokens, b.windows)
    assert novelty(a, dead)["novel_fraction"] == 1


def test_planted_matches_are_found_and_the_null_loses_them():
    reference = planted(1)
    activity = planted(2, copied=20, of=reference)
    best = best_jaccard(activity, reference)
    assert (best[:20] == 1).all() and (best[20:] < 0.5).all()
    found = novelty(activity, reference)
    assert found["novel_fraction"] == pytest.approx(2 / 3, abs=0.1) and found["novel_fraction_null"] > 0.9


def test_matches_that_follow_from_rate_or_position_alone_are_in_the_null_too():
    """Latent 0 of each SAE fires on almost every token, latent 1 on each window's first: such matches mean nothing."""
    rng, rows = random.Random(0), []
    for sae in range(2):
        row = torch.full((400, 2), -1)
        row[[t for t in range(400) if rng.random() < 0.9], 0] = 0
        row[::20, 1] = 1
        rows.append(Activity(row, 2 + sae, torch.arange(400), torch.arange(400) // 20))
    found = novelty(*rows)
    assert found["novel_fraction"] == 0 and found["novel_fraction_null"] == 0


def test_dead_latents_alone_have_no_novelty():
    nothing = Activity(torch.full((8, 2), -1), 3, torch.arange(8), torch.arange(8) // 2)
    assert set(novelty(nothing, planted(0, windows=4, length=2)).values()) == {None}


def test_activities_of_different_texts_cannot_be_compared():
    a = some_activity()
    with pytest.raises(ValueError, match="tokens: the activity is of 37 and the reference of 36"):
        novelty(a, part_of(some_activity(), [True] * 36 + [False]))
    tokens = a.tokens.clone()
    tokens[5] += 1
    with pytest.raises(ValueError, match="tokens: .* differ at row 5"):
        novelty(a, Activity(a.latents, a.n_latents, tokens, a.windows))
    with pytest.raises(ValueError, match="windows: 4 and the reference's 5 differ at row 0"):
        novelty(a, Activity(a.latents, a.n_latents, a.tokens, a.windows + 1))


@pytest.mark.parametrize("lengths", [(4,) * 6, (4,) * 5, (9, 9, 2, 1), (7, 1, 12, 5, 9, 3), (8, 2, 2), (5,), (1,)])
def test_unrelated_tokens_are_at_the_same_place_of_another_window(lengths):
    activity = some_activity(lengths=lengths, windows=tuple(range(len(lengths))))
    partner = unrelated_tokens(activity).tolist()
    assert sorted(partner) == list(range(sum(lengths)))
    place = [(window, position) for window, length in enumerate(lengths) for position in range(length)]
    second = sorted(lengths)[-2] if len(lengths) > 1 else 0
    alone = max(lengths) - second  # number of positions that only one window has
    for token, other in enumerate(partner):
        (window, position), (window_of_other, position_of_other) = place[token], place[other]
        if position < second:
            assert position_of_other == position and window_of_other != window
        else:
            assert window_of_other == window and (other != token or alone == 1)
    if len(set(lengths)) == 1:
        shift = {(place[other][0] - place[token][0]) % len(lengths) for token, other in enumerate(partner)}
        assert shift == {len(lengths) // 2}  # windows are paired whole


def dictionaries():
    """Sparse dictionaries of several degrees, with equal atoms and an atom of zeros, and dense ones; in float64."""
    found = []
    for seed, (n, degree) in enumerate([(12, 1), (20, 4), (7, M)]):
        dictionary = SparseDictionary(M, some_support(n, degree, seed), torch.Generator().manual_seed(seed))
        dictionary.values.data[3] = 0
        found.append(dictionary.double())
    return [*found, *(DenseDictionary(M, n, torch.Generator().manual_seed(n)).double() for n in (1, 25))]


@pytest.mark.parametrize("dictionary", dictionaries())
@pytest.mark.parametrize("reference", dictionaries())
@pytest.mark.parametrize("chunk", [1, 60, 1 << 22])
def test_the_best_cosines_are_those_found_over_all_pairs(dictionary, reference, chunk, monkeypatch):
    monkeypatch.setattr(comparison, "_CHUNK_VALUES", chunk)
    ours, theirs = (densify(d.values.detach(), d.support, M).tolist() for d in (dictionary, reference))

    def cosine(a, b):
        norms = sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5
        return abs(sum(x * y for x, y in zip(a, b, strict=True))) / norms if norms else 0.0

    wanted = [max(cosine(a, b) for b in theirs) for a in ours]
    assert best_cosines(dictionary, reference).tolist() == pytest.approx(wanted, abs=1e-12)
    if dictionary is not reference:
        found = cosine_matches(dictionary, reference)
        assert found["mean_best"] == pytest.approx(fmean(wanted))
        assert found["matches"] == {str(c): pytest.approx(fmean(w >= c for w in wanted)) for c in (0.5, 0.7, 0.9)}


@pytest.mark.parametrize("chunk", [60, 1 << 22])
def test_atoms_of_different_bases_are_compared_in_the_neurons_space(chunk, monkeypatch):
    monkeypatch.setattr(comparison, "_CHUNK_VALUES", chunk)
    names = ["neurons", "reflections3_trained", "fourier"]
    found = [Expander(30, 4, 3, basis=name).build(M, seed).dictionary.double() for seed, name in enumerate(names)]
    for one in found:
        for other in [*found, DenseDictionary(M, 25, torch.Generator().manual_seed(0)).double()]:
            cosines = (one.dense_atoms() @ other.dense_atoms().T).abs()
            torch.testing.assert_close(best_cosines(one, other), cosines.amax(1).detach())
            torch.testing.assert_close(best_cosines(other, one), cosines.amax(0).detach())
    assert float(best_cosines(found[1], found[2]).max()) < 0.999


def test_cosines_of_equal_and_of_disjoint_dictionaries_are_1_and_0():
    a = DenseDictionary(M, 25, torch.Generator().manual_seed(0))
    flipped = DenseDictionary(M, 25, torch.Generator().manual_seed(0))
    flipped.values.data = -3 * a.values.data.flip(0)
    found = cosine_matches(a, flipped)
    assert found["mean_best"] == pytest.approx(1) and best_cosines(a, flipped).max() <= 1
    assert set(found["matches"].values()) == {1.0}
    supports = torch.tensor([[0, 1], [2, 5]]), torch.tensor([[3, 4, 9], [6, 7, 8]])
    disjoint = [SparseDictionary(M, rows, torch.Generator().manual_seed(1)) for rows in supports]
    assert cosine_matches(*disjoint) == {"mean_best": 0, "matches": {"0.5": 0, "0.7": 0, "0.9": 0}}
    with pytest.raises(ValueError, match="d_in=15 .* 16"):
        cosine_matches(a, DenseDictionary(16, 25, torch.Generator()))


def test_products_are_gathered_from_the_sparser_side(monkeypatch):
    """This takes d*n*n' multiply-adds in place of m*n*n'."""
    gathered = []

    def watched(support, *args, **kwargs):
        gathered.append(support.shape[1])
        return torch.nn.functional.embedding_bag(support, *args, **kwargs)

    monkeypatch.setattr(comparison, "F", SimpleNamespace(embedding_bag=watched))
    a, b = (SparseDictionary(M, some_support(40, d), torch.Generator().manual_seed(d)) for d in (2, 3))
    dense = DenseDictionary(M, 40, torch.Generator().manual_seed(0))
    for pair, degree in (((a, b), 2), ((b, a), 2), ((b, dense), 3), ((dense, b), 3)):
        cosine_matches(*pair)
        assert set(gathered) == {degree}
        gathered.clear()


def test_no_more_than_a_chunk_of_sparse_atoms_is_made_dense_at_once(monkeypatch):
    made = []

    def watched(values, support, d_in):
        dense = densify(values, support, d_in)
        if support is not None:
            made.append(dense.numel())
        return dense

    monkeypatch.setattr("sae_core.dictionary.densify", watched)
    monkeypatch.setattr(comparison, "_CHUNK_VALUES", 400)
    a, b = (SparseDictionary(M, some_support(40, d), torch.Generator().manual_seed(d)) for d in (2, 3))
    dense = DenseDictionary(M, 40, torch.Generator().manual_seed(0))
    for pair in ((a, b), (b, a), (a, dense), (dense, a)):
        cosine_matches(*pair)
    assert made and max(made) <= 400
