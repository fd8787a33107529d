"""Which features latents stand for: planted answers, and every figure computed a second way by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_core.arms import DenseTied, Expander
from sae_core.dictionary import DenseDictionary
from sae_core.ground_truth import (
    Firings,
    absorption,
    best_matches,
    cofirings,
    cosine_measures,
    feature_measures,
    scores,
)

N_FEATURES, N_LATENTS, K, SAMPLES = 12, 20, 4, 400
NO_PARENTS = torch.full((N_FEATURES,), -1)


def firings_of(table):
    """The firings that a bool table (samples, features) shows."""
    sample, feature = table.nonzero(as_tuple=True)
    return Firings(sample, feature, *table.shape)


def latents_of(table):
    """The latents that a bool table (samples, latents) shows, as rows padded with -1."""
    rows = torch.full((len(table), max(1, int(table.sum(1).max()))), -1)
    for sample, row in enumerate(table):
        fired = row.nonzero()[:, 0]
        rows[sample, : len(fired)] = fired
    return rows


def drawn(seed, samples=SAMPLES):
    g = torch.Generator().manual_seed(seed)
    features = torch.rand(samples, N_FEATURES, generator=g) < 0.2
    latents = torch.rand(samples, N_LATENTS, generator=g) < 0.15
    return features, latents


def f1(a, b):
    return 2 * int((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def test_counts_matches_and_scores_are_those_of_plain_loops():
    features, latents = drawn(0)
    counts = cofirings(latents_of(latents), N_LATENTS, firings_of(features))
    for latent in range(N_LATENTS):
        for feature in range(N_FEATURES):
            assert int(counts.together[latent, feature]) == int((latents[:, latent] & features[:, feature]).sum())
    of_latent, of_feature = best_matches(counts)
    table = np.array([[f1(latents[:, i], features[:, j]) for j in range(N_FEATURES)] for i in range(N_LATENTS)])
    assert table[np.arange(N_LATENTS), of_latent] == pytest.approx(table.max(1))
    assert table[of_feature, np.arange(N_FEATURES)] == pytest.approx(table.max(0))
    found = scores(counts, torch.arange(N_LATENTS), of_latent)
    for latent, feature in enumerate(of_latent.tolist()):
        a, b = latents[:, latent], features[:, feature]
        assert float(found.precision[latent]) == pytest.approx(int((a & b).sum()) / int(a.sum()))
        assert float(found.recall[latent]) == pytest.approx(int((a & b).sum()) / int(b.sum()))
        assert float(found.f1[latent]) == pytest.approx(f1(a, b))


def test_tables_are_counted_in_pieces(monkeypatch):
    features, latents = drawn(1)
    whole = cofirings(latents_of(latents), N_LATENTS, firings_of(features))
    matches = best_matches(whole)
    monkeypatch.setattr("sae_core.ground_truth._CHUNK_VALUES", 30)
    pieces = cofirings(latents_of(latents), N_LATENTS, firings_of(features))
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], pieces[:3], strict=True))
    again = best_matches(pieces)
    table = np.array([[f1(latents[:, i], features[:, j]) for j in range(N_FEATURES)] for i in range(N_LATENTS)])
    for feature in range(N_FEATURES):  # ties may go to another latent
        assert table[again[1][feature], feature] == pytest.approx(table[matches[1][feature], feature])
    assert torch.equal(matches[0], again[0])


def test_latents_that_are_the_features_score_one_and_permuted_ones_score_chance():
    features, _ = drawn(2, 4000)
    latents = torch.zeros(4000, N_LATENTS, dtype=torch.bool)
    latents[:, :N_FEATURES] = features
    found = feature_measures(latents_of(latents), N_LATENTS, firings_of(features), NO_PARENTS)
    for name in ("feature_f1", "coverage"):
        assert found[name] == 1
    assert found["latent_f1"] == found["latent_precision"] == found["latent_recall"] == N_FEATURES / N_LATENTS
    assert found["uniqueness"] == N_FEATURES / N_LATENTS
    moved = latents[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    caught = feature_measures(latents_of(moved), N_LATENTS, firings_of(features), NO_PARENTS)
    assert caught["coverage"] == 0
    assert caught["feature_f1"] == pytest.approx(found["feature_f1_chance"], abs=0.03)
    assert caught["latent_f1"] == pytest.approx(caught["latent_f1_chance"], abs=0.03)
    assert found["feature_f1_chance"] == pytest.approx(0.2, abs=0.03)  # what fires on a fifth of all samples each


def test_matches_are_scored_on_samples_they_were_not_chosen_on():
    """Of many latents that fire by chance, the best looks good on the samples on which it was found to be."""
    g = torch.Generator().manual_seed(3)
    features = torch.rand(60, 4, generator=g) < 0.1
    latents = torch.rand(60, 3000, generator=g) < 0.1
    firings, rows = firings_of(features), latents_of(latents)
    counts = cofirings(rows, 3000, firings)
    _, of_feature = best_matches(counts)
    at_first_sight = float(scores(counts, of_feature, torch.arange(4)).f1.mean())
    honest = feature_measures(rows, 3000, firings, torch.full((4,), -1))["feature_f1"]
    assert at_first_sight > 0.5 > 0.3 > honest


def test_features_and_latents_that_never_fire():
    features, latents = drawn(4)
    features[:, 0] = False
    latents[:, 0] = False
    found = feature_measures(latents_of(latents), N_LATENTS, firings_of(features), NO_PARENTS)
    assert all(value is None or 0 <= value <= 1 for key, value in found.items() if key != "absorbed_pairs")
    nothing = feature_measures(torch.full((SAMPLES, K), -1), N_LATENTS, firings_of(features), NO_PARENTS)
    assert nothing["feature_f1"] == nothing["latent_f1"] == nothing["uniqueness"] == 0
    empty = firings_of(torch.zeros(SAMPLES, N_FEATURES, dtype=torch.bool))
    assert feature_measures(latents_of(latents), N_LATENTS, empty, NO_PARENTS)["feature_f1"] == 0


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_absorption_is_the_share_of_a_childs_samples_on_which_the_parents_latent_is_silent(share):
    g = torch.Generator().manual_seed(5)
    samples = 20_000
    parent = torch.rand(samples, generator=g) < 0.3
    child = parent & (torch.rand(samples, generator=g) < 0.4)
    other = torch.rand(samples, generator=g) < 0.2  # a root of no child
    absorbed = child & (torch.rand(samples, generator=g) < share)
    missed = parent & ~child & (torch.rand(samples, generator=g) < 0.1)
    latents = torch.stack([parent & ~absorbed & ~missed, child, other], 1)
    features = torch.stack([parent, other, child], 1)
    parents = torch.tensor([-1, -1, 0])
    found = feature_measures(latents_of(latents), 3, firings_of(features), parents)
    assert found["absorbed_pairs"] == 1
    half = samples // 2
    expected = int((absorbed & child)[half:].sum()) / int(child[half:].sum())
    assert found["absorption"] == pytest.approx(expected)
    assert found["parent_missed"] == pytest.approx(int(missed[half:].sum()) / int((parent & ~child)[half:].sum()))


def test_there_is_no_absorption_without_parents_that_are_found():
    features, latents = drawn(6)
    of_feature, firings, rows = torch.zeros(N_FEATURES, dtype=torch.int64), firings_of(features), latents_of(latents)
    chosen = cofirings(rows[: SAMPLES // 2], N_LATENTS, firings.part(0, SAMPLES // 2))
    none = absorption(rows, chosen, firings, NO_PARENTS, of_feature)
    assert none == {"absorption": None, "parent_missed": None, "absorbed_pairs": 0}
    parents = NO_PARENTS.clone()
    parents[3:] = 0
    assert absorption(rows, chosen, firings, parents, of_feature) == none


def test_the_cosines_of_an_sae_whose_atoms_are_the_features():
    features = torch.nn.functional.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)))
    dictionary = DenseDictionary(16, 30, torch.Generator().manual_seed(1))
    with torch.no_grad():
        dictionary.values.copy_(-2 * features.flip(0))  # order, sign and length of atoms do not matter
    found = cosine_measures(dictionary, features)
    assert found["mcc"] == pytest.approx(1) and found["mcc_ceiling"] == 1 and found["cosine_uniqueness"] == 1
    random = cosine_measures(DenseTied(30, 4).build(16, seed=3).dictionary, features)
    assert random["mcc"] < 0.7


def test_no_values_reach_further_than_the_ceiling_and_the_best_values_reach_it():
    features = torch.nn.functional.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)))
    sae = Expander(30, 3, 4).build(16, seed=0)
    drawn_values = cosine_measures(sae.dictionary, features)
    assert drawn_values["mcc"] < drawn_values["mcc_ceiling"] < 0.8
    support = sae.dictionary.support
    reach = torch.stack([features[:, rows].norm(dim=1) for rows in support])
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(reach.numpy(), maximize=True)
    with torch.no_grad():
        for atom, feature in zip(rows, columns, strict=True):
            sae.dictionary.values[atom] = features[feature, support[atom]]
    best = cosine_measures(sae.dictionary, features)
    assert best["mcc_ceiling"] == pytest.approx(drawn_values["mcc_ceiling"])
    assert best["mcc"] == pytest.approx(best["mcc_ceiling"], abs=1e-5)


@pytest.mark.parametrize("basis", ["reflections3", "fourier"])
def test_cosines_are_those_of_the_atoms_in_the_neurons_space(basis):
    features = torch.nn.functional.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)))
    dictionary = Expander(30, 3, 4, basis=basis).build(16, seed=0).dictionary
    dense = DenseDictionary(16, 30, torch.Generator())
    plain = Expander(30, 3, 4).build(16, seed=0).dictionary
    with torch.no_grad():
        dense.values.copy_(dictionary.dense_atoms())
        turned = dictionary.basis.into(features)
    found = cosine_measures(dictionary, features)
    assert found["mcc"] == pytest.approx(cosine_measures(dense, features)["mcc"], abs=1e-6)
    assert found["mcc"] < found["mcc_ceiling"] < 0.8
    assert found == pytest.approx(cosine_measures(plain, turned), abs=1e-6)


def test_the_figures_are_those_of_sae_lens_on_the_same_sae_and_data():
    evals = pytest.importorskip("sae_lens.synthetic.evals", reason="extra bench is not installed")
    g = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(60, 24, generator=g))
    activations = torch.rand(500, 60, generator=g) * (torch.rand(500, 60, generator=g) < 0.1)
    for sae in (DenseTied(40, 5).build(24, seed=0), Expander(40, 4, 5).build(24, seed=0)):
        atoms = sae.dictionary.unit_values().detach()
        if sae.dictionary.support is not None:
            atoms = torch.zeros(40, 24).scatter_(1, sae.dictionary.support, atoms)
        ours = cosine_measures(sae.dictionary, features)
        assert ours["mcc"] == pytest.approx(evals.mean_correlation_coefficient(atoms, features), abs=1e-6)
        assert ours["cosine_uniqueness"] == pytest.approx(evals.feature_uniqueness(atoms, features))
        with torch.no_grad():
            codes, indices = sae.encode(activations @ features)
        dense = torch.zeros(500, 40).scatter_(1, indices, codes)
        theirs = evals.compute_classification_metrics(dense, activations, atoms, features)
        latents = indices.masked_fill(codes == 0, -1)
        counts = cofirings(latents, 40, firings_of(activations > 0))
        found = scores(counts, torch.arange(40), (atoms @ features.T).abs().argmax(1))
        assert float(found.precision.mean()) == pytest.approx(theirs.precision, abs=1e-6)
        assert float(found.recall.mean()) == pytest.approx(theirs.recall, abs=1e-6)
        assert float(found.f1.mean()) == pytest.approx(theirs.f1_score, abs=1e-6)
