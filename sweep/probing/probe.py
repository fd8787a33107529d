"""The score of sparse probing, as SAEBench defines it (arXiv 2503.09532, section on sparse probing).

Of all columns (latents, or coordinates of an activation) the K whose means over the two classes differ most are chosen
on the training items. A logistic regression with L2 penalty is fitted on these columns, and its accuracy on the test
items is the score. Both classes are equally frequent, so that .5 is chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import sparse

Values = np.ndarray | sparse.csr_matrix  # (items, columns)

BEST = (1, 2, 5)  # columns that a probe may use
SEEDS = 5  # draws of the items that a probe is trained and tested on
EACH = 500  # items of each class in training, and in the test, at most


def drawn(labels: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which items are trained on and which are tested on, two int arrays; both classes are equally frequent.

    A seed draws bootstrap samples (with replacement) of at most EACH items of a class from the fixed training and test
    sides, so that the scores of several seeds spread as those of other texts would.

    Args:
        labels, test: bool (items,).

    Raises:
        ValueError: a side lacks a class.
    """
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for side in (~test, test):
        classes = [np.flatnonzero(side & (labels == label)) for label in (False, True)]
        count = min(EACH, *(len(items) for items in classes))
        if count < 2:
            raise ValueError("a side of the set has fewer than two items of a class")
        chosen.append(np.concatenate([rng.choice(items, count) for items in classes]))
    return chosen[0], chosen[1]


def best_columns(values: Values, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` columns of values (items, columns) whose means over the two classes differ most."""
    means = [np.asarray(values[np.flatnonzero(labels == label)].mean(0)).ravel() for label in (False, True)]
    return np.argsort(-np.abs(means[1] - means[0]), kind="stable")[:count]


def accuracy(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the accuracy on test items of a logistic regression with L2 penalty (C = 1) on training items."""
    from sklearn.exceptions import ConvergenceWarning  # here because it takes a while to load
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that has not converged is a worse probe
        probe = LogisticRegression(max_iter=1000).fit(train, train_labels)
    return float((probe.predict(test) == test_labels).mean())


def scores(values: Values, labels: np.ndarray, test: np.ndarray, best: Sequence[int] = BEST) -> dict[str, list[float]]:
    """Return {number of columns: the accuracy of each seed}.

    Args:
        values: (items, columns), dense or sparse.
        labels, test: bool (items,).
    """
    found: dict[str, list[float]] = {str(count): [] for count in best}
    for seed in range(SEEDS):
        train, tested = drawn(labels, test, seed)
        ours, theirs = values[train], values[tested]
        columns = best_columns(ours, labels[train], max(best))
        for count in best:
            few, few_tested = (_dense(part[:, columns[:count]]) for part in (ours, theirs))
            found[str(count)].append(accuracy(few, labels[train], few_tested, labels[tested]))
    return found


def _dense(values: Values) -> np.ndarray:
    return values.toarray() if sparse.issparse(values) else values  # type: ignore[union-attr,return-value]
