"""Each measure against a plain count over tokens and latents, and against values known by hand."""

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
WINDOWS = (4, 1, 0, 9, 3, 6)  # any numbers, in any order
M = 15
KEYS = {
    "tokens", "dead_fraction", "near_dead_fraction", "near_dead_rate", "firing_rate_quantiles",
    "firing_rate_histogram", "token_entropy", "split_half_reliability", "collisions",
}  # fmt: skip


def some_activity(n=30, k=4, seed=0, lengths=LENGTHS, windows=WINDOWS, silent=0.2, vocabulary=6):
    """Few latents often and many seldom (so ties and dead ones), and codes that are 0 with probability `silent`."""
    rng = random.Random(seed)
    count = sum(lengths)
    often = sorted(range(n), key=lambda j: rng.random())
    rows = [sorted(often, key=lambda j: rng.expovariate(1 / (1 + often.index(j) ** 2)))[:k] for _ in range(count)]
    codes = torch.tensor([[0.0 if rng.random() < silent else rng.gauss(0.5, 1) for _ in range(k)] for _ in rows])
    text = random.Random(count)  # the same for all seeds
    tokens = torch.tensor([text.randrange(vocabulary) for _ in rows])
    of = torch.tensor([w for w, length in zip(windows, lengths, strict=True) for _ in range(length)])
    return activity_of(codes, torch.tensor(rows), n, tokens, of)


def cases():
    return [
        some_activity(),
        some_activity(k=1, seed=1),
        some_activity(n=5, k=5, seed=2, silent=0.5),
        some_activity(n=80, silent=0.9, seed=3),  # most latents dead, some tokens without any
        some_activity(lengths=(37,), windows=(2,), seed=4),
    ]


def fired_on(activity):
    """The tokens on which each latent fires: a list of sets."""
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
def test_rates_and_dead_latents_are_counts(activity):
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
    latents[:, 0] = 0  # always
    latents[:4, 1] = 1  # at the rate itself
    latents[-3:, 2] = 2  # below; 3 and 4 never
    where = torch.zeros(count, dtype=torch.int64)
    found = activity_measures(Activity(latents, 5, where, where), None)
    assert 4 / count == NEAR_DEAD_RATE
    assert found["near_dead_fraction"] == pytest.approx(1 / 5) and found["dead_fraction"] == pytest.approx(2 / 5)
    assert found["firing_rate_histogram"]["counts"] == [0] * 7 + [1] + [1] + [0] * 10 + [1]


def test_rates_below_the_lowest_edge_are_counted_with_it():
    latents = torch.full((200_000, 1), -1)
    latents[0] = 0
    where = torch.zeros(200_000, dtype=torch.int64)
    assert activity_measures(Activity(latents, 2, where, where), None)["firing_rate_histogram"]["counts"][0] == 1


@pytest.mark.parametrize("activity", cases())
def test_token_entropy_of_each_latent(activity):
    found, live = token_entropies(activity), []
    for latent, where in enumerate(fired_on(activity)):
        seen = Counter(int(activity.tokens[t]) for t in where)
        wanted = -sum(c / len(where) * math.log2(c / len(where)) for c in seen.values())
        assert (found[latent].isnan() and not where) or found[latent] == pytest.approx(wanted, abs=1e-12)
        live += [wanted] if where else []
    assert activity_measures(activity, None)["token_entropy"] == pytest.approx(fmean(live))


def slow_reliability(activity):
    parity = activity.windows.tolist()
    halves = [[sum(parity[t] % 2 == odd for t in where) for where in fired_on(activity)] for odd in (0, 1)]

    def rank(values, value):
        return sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2

    a, b = ([rank(half, value) for value in half] for half in halves)
    if pstdev(a) == 0 or pstdev(b) == 0:
        return None
    r = fmean((x - fmean(a)) * (y - fmean(b)) for x, y in zip(a, b, strict=True)) / (pstdev(a) * pstdev(b))
    return 2 * r / (1 + abs(r))


@pytest.mark.parametrize("activity", cases())
def test_split_half_reliability_by_plain_ranks(activity):
    wanted = slow_reliability(activity)
    assert split_half_reliability(activity) == (None if wanted is None else pytest.approx(wanted))


def of_pairs(rows, n=4, windows=None):
    rows = torch.tensor(rows)
    windows = torch.arange(len(rows)) if windows is None else torch.tensor(windows)
    return Activity(rows, n, torch.zeros(len(rows), dtype=torch.int64), windows)


def test_split_half_reliability_by_hand():
    assert split_half_reliability(of_pairs([[0, 1], [0, 1], [0, -1], [0, -1]])) == pytest.approx(1)
    assert split_half_reliability(of_pairs([[0], [1]], n=2)) == pytest.approx(-1)  # each rests where the other fires
    # counts 2, 1, 0, 0 and 1, 2, 0, 0: ranks 4, 3, 1.5, 1.5 and 3, 4, 1.5, 1.5, so r = 7/9
    swapped = of_pairs([[0, 1], [0, 1], [0, -1], [1, -1]], windows=[0, 1, 2, 3])
    assert split_half_reliability(swapped) == pytest.approx(2 * (7 / 9) / (1 + 7 / 9))
    assert split_half_reliability(of_pairs([[0], [0]], windows=[2, 4])) is None  # no odd window
    assert split_half_reliability(of_pairs([[0, 1], [0, 1]], n=2)) is None  # no difference to be reliable about


def some_support(n, degree, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, M, generator=g).topk(degree).indices.sort(1).values


@pytest.mark.parametrize("activity", cases())
@pytest.mark.parametrize("degree", [1, 3, M])
def test_collisions_of_each_token(activity, degree, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", 5 * M * degree)  # several chunks, the last one short
    support = some_support(activity.n_latents, degree)
    shares = []
    for row in activity.latents.tolist():
        rows = [r for latent in row if latent >= 0 for r in support[latent].tolist()]
        shares += [1 - len(set(rows)) / len(rows)] if rows else []
    assert collisions(activity, support) == pytest.approx(fmean(shares))
    assert activity_measures(activity, support)["collisions"] == pytest.approx(fmean(shares))


def test_where_nothing_fires_nothing_is_claimed():
    found = activity_measures(of_pairs([[-1, -1], [-1, -1]]), some_support(4, 2))
    assert found["dead_fraction"] == 1 and found["near_dead_fraction"] == 0
    assert found["token_entropy"] is found["split_half_reliability"] is found["collisions"] is None
    assert not any(found["firing_rate_histogram"]["counts"])


def test_a_code_of_zero_is_no_firing_and_a_negative_one_is():
    codes = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    activity = activity_of(codes, torch.tensor([[0, 1], [2, 1]]), 3, torch.tensor([5, 5]), torch.tensor([0, 0]))
    assert activity.latents.tolist() == [[0, -1], [2, -1]] and activity.counts().tolist() == [1, 0, 1]


@pytest.mark.parametrize("what, message", [
    ({"latents": torch.tensor([[0], [4]])}, r"latents 0\.\.4 must be in -1\.\.3"),
    ({"latents": torch.tensor([[-2], [0]])}, r"latents -2\.\.0"),
    ({"latents": torch.tensor([[0, 1], [2, 2]])}, "twice"),
    ({"latents": torch.zeros(0, 2, dtype=torch.int64)}, "both at least 1"),
    ({"tokens": torch.tensor([1, 2, 3])}, "tokens of shape"),
    ({"tokens": torch.tensor([1, -2])}, "tokens: -2"),
    ({"windows": torch.tensor([[0], [0]])}, "windows of shape"),
])  # fmt: skip
def test_bad_input_is_named(what, message):
    good = {"latents": torch.tensor([[0], [3]]), "tokens": torch.tensor([1, 2]), "windows": torch.tensor([0, 0])}
    Activity(n_latents=4, **good)
    with pytest.raises(ValueError, match=message):
        Activity(n_latents=4, **{**good, **what})


def test_a_window_that_is_entered_again_is_an_error():
    with pytest.raises(ValueError, match="lie together"):
        of_pairs([[0], [0], [0]], windows=[0, 1, 0])


def sparse(support):
    return SparseDictionary(M, support, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n, degree", [(2, 1), (12, 3), (40, 2), (9, M)])
def test_supports_against_all_pairs(n, degree):
    support = some_support(n, degree)
    rows = [set(atom.tolist()) for atom in support]
    assert support_measures(sparse(support)) == pytest.approx({
        "distinct_fraction": len({frozenset(atom) for atom in rows}) / n,
        "mean_overlap": fmean(len(a & b) / degree for a, b in itertools.combinations(rows, 2)),
    })  # fmt: skip


def test_supports_by_hand():
    found = support_measures(sparse(torch.tensor([[0, 1], [0, 1], [1, 2]])))
    assert found["distinct_fraction"] == pytest.approx(2 / 3)
    assert found["mean_overlap"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert support_measures(sparse(torch.tensor([[0, 1]])))["mean_overlap"] is None
    assert support_measures(DenseDictionary(M, 4, torch.Generator())) is None
