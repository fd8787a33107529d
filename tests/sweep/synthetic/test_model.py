"""Samples of a synthetic model: what the settings promise, and that a sample is the same whoever makes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.lm.errors import ModelError
from sweep.synthetic.config import SyntheticConfig, held_out_samples, train_samples
from sweep.synthetic.features import zipf
from sweep.synthetic.measure import held_out
from sweep.synthetic.model import SyntheticModel

SMALL = SyntheticConfig(d_in=32, n_features=80, roots=4, branching=3, depth=2, window=64, max_prob=0.3, min_prob=0.02)
PLAIN = replace(SMALL, roots=0, correlation_rank=0)


def many(config, windows=200):
    """The activations of features on many samples."""
    model = SyntheticModel(config)
    return model, torch.cat([model.activations(window) for window in range(windows)])


def test_features_without_trees_fire_as_often_as_zipfs_law_says():
    _, found = many(PLAIN)
    rates, wanted = (found > 0).double().mean(0), zipf(PLAIN).double()
    assert torch.allclose(wanted[[0, -1]], torch.tensor([0.3, 0.02]).double())
    error = (wanted * (1 - wanted) / len(found)).sqrt()
    assert float(((rates - wanted) / error).abs().max()) < 5
    assert wanted[8] - wanted[-1] == pytest.approx(
        float((wanted[0] - wanted[-1]) * (1 / 3 - 80**-0.5) / (1 - 80**-0.5))
    )


def test_activations_have_the_means_and_spreads_of_their_features():
    model, found = many(PLAIN)
    for feature in (0, 5, 40):
        fired = found[:, feature][found[:, feature] > 0].double()
        spread, mean = float(model.features.spreads[feature]), float(model.features.means[feature])
        assert float(fired.mean()) == pytest.approx(mean, abs=5 * spread / len(fired) ** 0.5 + 1e-6)
        assert float(fired.std()) == pytest.approx(spread, rel=0.2)
    assert model.features.means[[0, -1]].tolist() == [5.0, 4.0]


def test_children_fire_only_with_their_parents_one_at_a_time_and_as_strongly():
    model, found = many(SMALL)
    parents = model.features.parents
    children = (parents >= 0).nonzero()[:, 0]
    assert (parents[:4] == -1).all() and len(children) == 4 * 3 + 4 * 9
    fires = found > 0
    assert not (fires[:, children] & ~fires[:, parents[children]]).any()
    for parent in parents[children].unique():
        siblings = (parents == parent).nonzero()[:, 0]
        assert len(siblings) == 3 and fires[:, siblings].any() and int(fires[:, siblings].sum(1).max()) == 1
    child = int(children[0])
    of_parent = found[:, parents[child]] / model.features.means[parents[child]]
    own = (found[:, child] / of_parent)[fires[:, child]]
    assert float(own.mean()) == pytest.approx(float(model.features.means[child]), rel=0.1)


def test_children_may_fire_together_where_they_do_not_exclude_each_other():
    model, found = many(replace(SMALL, exclusive=False))
    siblings = (model.features.parents == 0).nonzero()[:, 0]
    assert int((found[:, siblings] > 0).sum(1).max()) > 1
    rates, wanted = (found > 0).double().mean(0), zipf(SMALL).double()
    assert float((rates / wanted - 1).abs().max()) < 0.35  # a child's candidates make up for its parent's silence


def test_firings_are_correlated_as_the_copula_says():
    config = replace(PLAIN, correlation_rank=2, correlation_scale=0.6, max_prob=0.4, min_prob=0.3)
    model, found = many(config, 300)
    shared = model.features.shared
    expected = (shared @ shared.T).flatten()
    off = ~torch.eye(len(shared), dtype=torch.bool).flatten()
    seen = torch.corrcoef((found > 0).double().T).flatten()
    assert float(torch.corrcoef(torch.stack([expected[off].double(), seen[off]]))[0, 1]) > 0.95
    total = shared.square().sum(1) + model.features.own.square()
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
    _, alone = many(PLAIN, 300)
    assert float(torch.corrcoef((alone > 0).double().T).flatten()[off].abs().max()) < 0.05


def test_vectors_are_unit_sparse_where_asked_and_more_nearly_orthogonal_than_drawn():
    drawn = SyntheticModel(replace(SMALL, orthogonal_steps=0)).features.vectors
    made = SyntheticModel(replace(SMALL, orthogonal_steps=300, orthogonal_lr=1e-2)).features.vectors
    off = ~torch.eye(80, dtype=torch.bool)
    assert torch.allclose(made.norm(dim=1), torch.ones(80)) and torch.allclose(drawn.norm(dim=1), torch.ones(80))
    assert (made @ made.T)[off].square().sum() < 0.8 * (drawn @ drawn.T)[off].square().sum()
    sparse = SyntheticModel(replace(SMALL, feature_degree=5, orthogonal_steps=50, orthogonal_lr=1e-2)).features.vectors
    assert ((sparse != 0).sum(1) <= 5).all() and torch.allclose(sparse.norm(dim=1), torch.ones(80))
    assert len(sparse.abs().topk(5).indices.unique()) == 32


def test_the_overlap_gradient_is_autograds():
    from sweep.synthetic.features import _overlap_gradient

    vectors = torch.randn(20, 8, requires_grad=True)
    products = vectors @ vectors.T
    off = products - torch.diag(products.diag())
    (off.square().sum() + 20 * (products.diag() - 1).square().sum()).backward()
    expected = vectors.grad.clone()
    _overlap_gradient(vectors, torch.ones(20, 8))
    assert torch.allclose(vectors.grad, expected, atol=1e-4)


def test_a_sample_is_the_same_in_whatever_batch_it_is_made():
    model, windows = SyntheticModel(SMALL), train_samples(SMALL, 300)
    tokens = torch.from_numpy(windows.tokens)
    together = model.capture(tokens, [0])[0]
    assert together.shape == (5, 64, 32)
    for row in (3, 0):
        assert torch.equal(SyntheticModel(SMALL).capture(tokens[row : row + 1], [0])[0][0], together[row])
    assert torch.equal(model.capture(tokens[4:, :44], [0])[0], together[4:, :44])  # cut to its real samples
    assert windows.n_tokens == 300 and windows.lengths.tolist() == [64, 64, 64, 64, 44]


def test_no_held_out_sample_is_trained_on_and_the_held_out_set_is_what_it_is_made_of():
    windows = held_out_samples(SMALL, 6)
    assert not np.isin(windows.tokens, train_samples(SMALL, 100_000).tokens).any()
    model = SyntheticModel(SMALL)
    found = held_out(model, windows)
    assert torch.allclose(found.h, model.capture(torch.from_numpy(windows.tokens), [0])[0].flatten(0, 1))
    table = found.firings.table(torch.arange(80))
    assert table.shape == (6 * 64, 80)
    by_hand = torch.cat([model.activations(int(row[0]) // 64) > 0 for row in windows.tokens])
    assert torch.equal(table, by_hand)
    assert torch.equal(found.firings.part(100, 300).table(torch.tensor([3, 1])), by_hand[100:300, [3, 1]])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_in", 1),
        ("n_features", 0),
        ("feature_degree", 0),
        ("feature_degree", 33),
        ("exponent", 0.0),
        ("max_prob", 1.5),
        ("min_prob", 0.0),
        ("branching", 1),
        ("std", -1.0),
        ("bias", float("nan")),
        ("seed", -1),
        ("correlation_rank", -1),
    ],
)
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ModelError, match=f"{key}={value}"):
        replace(SMALL, **{key: value})


def test_the_models_name_is_not_part_of_its_digest_and_all_else_is():
    assert replace(SMALL, name="other").digest == SMALL.digest == replace(SMALL, batch_size=7).digest
    others = {replace(SMALL, **change).digest for change in ({"seed": 1}, {"bias": 0.0}, {"feature_degree": 3})}
    assert len(others | {SMALL.digest}) == 4


def test_rates_and_norms_are_those_of_sae_lens():
    synthetic = pytest.importorskip("sae_lens.synthetic", reason="extra bench is not installed")
    config = replace(SMALL, n_features=200, roots=8, correlation_rank=4, orthogonal_steps=0)
    theirs = synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=200,
            hidden_dim=32,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.3, min_prob=0.02),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=8,
                branching_factor=3,
                max_depth=2,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            correlation=synthetic.LowRankCorrelationConfig(rank=4, correlation_scale=0.1),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            bias=0.5,
            seed=42,
        )
    )
    h, a = theirs.sample_with_features(20_000)
    model, found = many(config, 320)
    ours = model.samples(found)
    for part in (slice(0, 8), slice(8, 32), slice(32, 104), slice(104, 200)):
        assert float((found[:, part] > 0).double().mean()) == pytest.approx(
            float((a[:, part] > 0).double().mean()), rel=0.05
        )
    assert float(found[found > 0].mean()) == pytest.approx(float(a[a > 0].mean()), rel=0.03)
    assert float(ours.norm(dim=1).mean()) == pytest.approx(float(h.norm(dim=1).mean()), rel=0.08)
