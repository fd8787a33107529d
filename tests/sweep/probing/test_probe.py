"""The score of sparse probing: planted answers, and the same computed by plain scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sweep.probing.probe import EACH, SEEDS, best_columns, drawn, scores


def planted(items=800, columns=40, seed=0):
    """Values of which column 7 tells the class, column 3 tells it half of the time, and the others know nothing."""
    rng = np.random.default_rng(seed)
    labels, test = rng.random(items) < 0.4, rng.random(items) < 0.5
    values = rng.random((items, columns)).astype(np.float32) * (rng.random((items, columns)) < 0.3)
    values[:, 7] = labels * 3.0
    values[:, 3] = np.where(rng.random(items) < 0.5, labels, rng.random(items) < 0.5)
    return values, labels, test


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_column_that_tells_the_class_is_found_and_scores_one(kind):
    values, labels, test = planted()
    assert best_columns(kind(values), labels, 2).tolist() == [7, 3]
    found = scores(kind(values), labels, test)
    assert set(found) == {"1", "2", "5"} and all(len(of) == SEEDS for of in found.values())
    assert all(value == 1 for of in found.values() for value in of)


def test_values_that_know_nothing_score_chance():
    values, labels, test = planted(3000)
    values[:, [3, 7]] = 0
    found = scores(values, labels, test)
    assert np.mean(found["5"]) == pytest.approx(0.5, abs=0.04)


def test_scores_are_those_of_plain_scikit_learn():
    values, labels, test = planted(seed=3)
    values[:, 7] = 0
    found = scores(sparse.csr_matrix(values), labels, test, (2,))["2"]
    for seed, ours in enumerate(found):
        train, tested = drawn(labels, test, seed)
        apart = np.abs(values[train][labels[train]].mean(0) - values[train][~labels[train]].mean(0))
        columns = np.argsort(-apart, kind="stable")[:2]
        probe = LogisticRegression(max_iter=1000).fit(values[np.ix_(train, columns)], labels[train])
        assert ours == pytest.approx(probe.score(values[np.ix_(tested, columns)], labels[tested]))
    assert 0.6 < np.mean(found) < 0.95


def test_draws_are_balanced_and_keep_the_sides_apart():
    _, labels, test = planted(5000)
    for seed in range(3):
        train, tested = drawn(labels, test, seed)
        assert not test[train].any() and test[tested].all()
        assert labels[train].mean() == labels[tested].mean() == 0.5 and len(train) == len(tested) == 2 * EACH
    assert not np.array_equal(drawn(labels, test, 0)[0], drawn(labels, test, 1)[0])
    assert np.array_equal(drawn(labels, test, 0)[0], drawn(labels, test, 0)[0])
    with pytest.raises(ValueError, match="fewer than two items"):
        drawn(np.ones(10, dtype=bool), np.arange(10) < 5, 0)
