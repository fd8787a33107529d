"""Each measure of activity against a plain count over tokens and latents, and against values known by hand."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from statistics import fmean, pstdev

import pytest
import torch

from sae_core import activity as module
from sae_core.activity import (
    LOG10_EDGES,
    NEAR_DEAD_RATE,
    Activity,
    activity_measures,
    activity_of,
    collisions,
    split_half_reliability,
    support_measures,
    token_entropies,
)
from sae_core.dictionary import DenseDictionary, SparseDictionary

LENGTHS = (7, 1, 12, 5, 9, 3)
WINDOWS = (4, 1, 0, 9, 3, 6)  # windows may have any numbers, in any order
M = 15
KEYS = {
    "tokens",
    "dead_fraction",
    "near_dead_fraction",
    "near_dead_rate",
    "firing_rate_quantiles",
    "firing_rate_histogram",
    "token_entropy",
    "split_half_reliability",
    "collisions",
}


def some_activity(n=30, k=4, seed=0, lengths=LENGTHS, windows=WINDOWS, silent=0.2, vocabulary=6):
    """Activity in which few latents fire often and many seldom, so that there are ties and dead latents.

    A code is 0 with probability `silent`.
    """
    rng = random.Random(seed)
    count = sum(lengths)
    by_rank = sorted(range(n), key=lambda j: rng.random())
    rows = [sorted(by_rank, key=lambda j: rng.expovariate(1 / (1 + by_rank.index(j) ** 2)))[:k] for _ in range(count)]
    codes = torch.tensor([[0.0 if rng.random() < silent else rng.gauss(0.5, 1) for _ in range(k)] for _ in rows])
    text = random.Random(count)  # the text is the same for all seeds
    tokens = torch.tensor([text.randrange(vocabulary) for _ in rows])
    window_of_token = torch.tensor([w for w, length in zip(windows, lengths, strict=True) for _ in range(length)])
    return activity_of(codes, torch.tensor(rows), n, tokens, window_of_token)


def cases():
    return [
        some_activity(),
        some_activity(k=1, seed=1),
        some_activity(n=5, k=5, seed=2, silent=0.5),
        some_activity(n=80, silent=0.9, seed=3),  # most latents are dead, and nothing fires on some tokens
        some_activity(lengths=(37,), windows=(2,), seed=4),
    ]


def fired_on(activity):
    """The set of tokens on which each latent fires, in a list."""
    found = [set() for _ in range(activity.n_latents)]
    for token, row in enumerate(activity.latents.tolist()):
        for latent in row:
            if latent >= 0:
                found[latent].add(token)
    return found


def mean(values):
    values = list(values)
    return fmean(values) if values else None


@pytest.mark.parametrize("activity", cases())
def test_firing_rates_and_dead_latents_are_those_counted_one_by_one(activity):
    sets, count = fired_on(activity), len(activity.tokens)
    rates = [len(s) / count for s in sets]
    found = activity_measures(activity, None)
    assert set(found) == KEYS and found["collisions"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["tokens"] == count
    assert found["dead_fraction"] == pytest.approx(mean(not s for s in sets))
    assert found["near_dead_rate"] == NEAR_DEAD_RATE
    ordered = sorted(rates)
    for q, value in found["firing_rate_quantiles"].items():
        at = float(q) * (len(ordered) - 1)
        low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
        assert value == pytest.approx(low + (high - low) * (at - math.floor(at)))
    edges, bins = found["firing_rate_histogram"].values()
    assert edges == list(LOG10_EDGES) and len(bins) == len(edges) - 1 and edges[0] == -5 and edges[-1] == 0
    for low, high, number in zip(edges, edges[1:], bins, strict=False):
        wanted = sum(low <= math.log10(r) < high or (high == 0 and r == 1) for r in rates if r > 0)
        assert number == wanted


def test_near_dead_latents_fire_but_below_the_rate():
    count = 4000
    latents = torch.full((count, 3), -1)
    latents[:, 0] = 0  # latent 0 always fires
    latents[:4, 1] = 1  # latent 1 fires at the rate itself
    latents[-3:, 2] = 2  # latent 2 fires below it, and latents 3 and 4 never
    zeros = torch.zeros(count, dtype=torch.int64)
    found = activity_measures(Activity(latents, 5, zeros, zeros), None)
    assert 4 / count == NEAR_DEAD_RATE
    assert found["near_dead_fraction"] == pytest.approx(1 / 5) and found["dead_fraction"] == pytest.approx(2 / 5)
    assert found["firing_rate_histogram"]["counts"] == [0] * 7 + [1] + [1] + [0] * 10 + [1]


def test_rates_below_the_lowest_edge_are_counted_in_the_first_bin():
    latents = torch.full((200_000, 1), -1)
    latents[0] = 0
    zeros = torch.zeros(200_000, dtype=torch.int64)
    assert activity_measures(Activity(latents, 2, zeros, zeros), None)["firing_rate_histogram"]["counts"][0] == 1


@pytest.mark.parametrize("activity", cases())
def test_the_token_entropy_of_each_latent_is_that_of_its_firings(activity):
    found, live = token_entropies(activity), []
    for latent, firings in enumerate(fired_on(activity)):
        seen = Counter(int(activity.tokens[t]) for t in firings)
        wanted = -sum(c / len(firings) * math.log2(c / len(firings)) for c in seen.values())
        assert (found[latent].isnan() and not firings) or found[latent] == pytest.approx(wanted, abs=1e-12)
        live += [wanted] if firings else []
    assert activity_measures(activity, None)["token_entropy"] == pytest.approx(fmean(live))


def slow_reliability(activity):
    parity = activity.windows.tolist()
    halves = [[sum(parity[t] % 2 == odd for t in firings) for firings in fired_on(activity)] for odd in (0, 1)]

    def rank(values, value):
        return sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2

    a, b = ([rank(half, value) for value in half] for half in halves)
    if pstdev(a) == 0 or pstdev(b) == 0:
        return None
    r = fmean((x - fmean(a)) * (y - fmean(b)) for x, y in zip(a, b, strict=True)) / (pstdev(a) * pstdev(b))
    return 2 * r / (1 + abs(r))


@pytest.mark.parametrize("activity", cases())
def test_split_half_reliability_is_that_of_plain_ranks(activity):
    wanted = slow_reliability(activity)
    assert split_half_reliability(activity) == (None if wanted is None else pytest.approx(wanted))


def activity_from(rows, n=4, windows=None):
    """The activity with given latents on each token; every token is a window of its own unless windows are given."""
    rows = torch.tensor(rows)
    windows = torch.arange(len(rows)) if windows is None else torch.tensor(windows)
    return Activity(rows, n, torch.zeros(len(rows), dtype=torch.int64), windows)


def test_split_half_reliability_has_the_values_known_by_hand():
    assert split_half_reliability(activity_from([[0, 1], [0, 1], [0, -1], [0, -1]])) == pytest.approx(1)
    assert split_half_reliability(activity_from([[0], [1]], n=2)) == pytest.approx(-1)  # they take turns
    # counts 2, 1, 0, 0 and 1, 2, 0, 0: ranks 4, 3, 1.5, 1.5 and 3, 4, 1.5, 1.5, so r = 7/9
    swapped = activity_from([[0, 1], [0, 1], [0, -1], [1, -1]], windows=[0, 1, 2, 3])
    assert split_half_reliability(swapped) == pytest.approx(2 * (7 / 9) / (1 + 7 / 9))
    assert split_half_reliability(activity_from([[0], [0]], windows=[2, 4])) is None  # there is no odd window
    assert split_half_reliability(activity_from([[0, 1], [0, 1]], n=2)) is None  # all latents fire equally often


def some_support(n, degree, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, M, generator=g).topk(degree).indices.sort(1).values


@pytest.mark.parametrize("activity", cases())
@pytest.mark.parametrize("degree", [1, 3, M])
def test_collisions_are_those_of_each_token_counted_one_by_one(activity, degree, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", 5 * M * degree)  # there are several chunks, the last one short
    support = some_support(activity.n_latents, degree)
    shares = []
    for row in activity.latents.tolist():
        rows = [r for latent in row if latent >= 0 for r in support[latent].tolist()]
        shares += [1 - len(set(rows)) / len(rows)] if rows else []
    assert collisions(activity, support) == pytest.approx(fmean(shares))
    assert activity_measures(activity, support)["collisions"] == pytest.approx(fmean(shares))


def test_measures_of_latents_that_never_fire_are_none():
    found = activity_measures(activity_from([[-1, -1], [-1, -1]]), some_support(4, 2))
    assert found["dead_fraction"] == 1 and found["near_dead_fraction"] == 0
    assert found["token_entropy"] is found["split_half_reliability"] is found["collisions"] is None
    assert not any(found["firing_rate_histogram"]["counts"])


def test_a_code_of_zero_is_no_firing_and_a_negative_one_is():
    codes = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    activity = activity_of(codes, torch.tensor([[0, 1], [2, 1]]), 3, torch.tensor([5, 5]), torch.tensor([0, 0]))
    assert activity.latents.tolist() == [[0, -1], [2, -1]] and activity.counts().tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("latents", [[0], [4]], r"latents 0\.\.4 must be in -1\.\.3"),
        ("latents", [[-2], [0]], r"latents -2\.\.0"),
        ("latents", [[0, 1], [2, 2]], "twice"),
        ("latents", torch.zeros(0, 2), "both at least 1"),
        ("tokens", [1, 2, 3], "tokens of shape"),
        ("tokens", [1, -2], "tokens: -2"),
        ("windows", [[0], [0]], "windows of shape"),
    ],
)
def test_bad_input_is_an_error_that_names_it(key, value, message):
    good = {"latents": torch.tensor([[0], [3]]), "tokens": torch.tensor([1, 2]), "windows": torch.tensor([0, 0])}
    Activity(n_latents=4, **good)
    bad = torch.as_tensor(value).to(torch.int64)
    with pytest.raises(ValueError, match=message):
        Activity(n_latents=4, **{**good, key: bad})


def test_a_window_whose_tokens_do_not_lie_together_is_an_error():
    with pytest.raises(ValueError, match="lie together"):
        activity_from([[0], [0], [0]], windows=[0, 1, 0])


def dictionary_on(support):
    return SparseDictionary(M, support, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n, degree", [(2, 1), (12, 3), (40, 2), (9, M)])
def test_measures_of_supports_are_those_found_over_all_pairs(n, degree):
    support = some_support(n, degree)
    rows = [set(atom.tolist()) for atom in support]
    distinct = len({frozenset(atom) for atom in rows})
    overlaps = [len(a & b) / degree for a, b in itertools.combinations(rows, 2)]
    wanted = {"distinct_fraction": distinct / n, "mean_overlap": fmean(overlaps)}
    assert support_measures(dictionary_on(support)) == pytest.approx(wanted)


def test_measures_of_supports_have_the_values_known_by_hand():
    found = support_measures(dictionary_on(torch.tensor([[0, 1], [0, 1], [1, 2]])))
    assert found["distinct_fraction"] == pytest.approx(2 / 3)
    assert found["mean_overlap"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert support_measures(dictionary_on(torch.tensor([[0, 1]])))["mean_overlap"] is None
    assert support_measures(DenseDictionary(M, 4, torch.Generator())) is None
