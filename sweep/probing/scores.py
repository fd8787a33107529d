"""The scores of an SAE's codes, and of the activations that they are codes of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae_core.encoders import joined
from sae_core.sae import SAE
from sweep.probing.probe import BEST, Values, scores
from sweep.probing.sets import EACH_TOKEN, LAST_TOKEN, Family, ProbeSet

_BATCH = 2048  # tokens that are encoded together

Hidden = Callable[[slice], Tensor]  # the activations of some windows (windows, length, d_in)
Scores = dict[str, dict[str, list[float]]]  # {set: {number of columns: the accuracy of each seed}}


class Items:
    """The items of a family at a hook point.

    Args:
        family: the labelled windows.
        hidden: returns their activations.
        measured: bool (windows, length), the tokens that count; the others, attention sinks and padding, are left out.
            Where the last token stands for a text, that is the last one that counts.
    """

    def __init__(self, family: Family, hidden: Hidden, measured: np.ndarray):
        self.family = family
        real = family.windows.mask()
        if family.pooling == LAST_TOKEN:
            after = (real & measured)[:, ::-1].cumsum(1)[:, ::-1]  # measured tokens from here on
            measured = measured & (after == 1)
        self._kept = measured[real]  # bool (real tokens,)
        self.h = hidden(slice(None))[torch.from_numpy(real & measured)].float()  # (measured tokens, d_in)
        self._window = np.nonzero(real)[0][self._kept]

    def pooled(self, values: Values) -> Values:
        """Return the values of items (items, columns) from those of measured tokens (measured tokens, columns).

        An item without a measured token has the values 0.
        """
        if self.family.pooling == EACH_TOKEN:
            return values
        count = len(self.family.windows.tokens)
        sizes = np.bincount(self._window, minlength=count).clip(1)
        rows = (1 / sizes[self._window], (self._window, np.arange(len(self._window))))
        return sparse.csr_matrix(rows, shape=(count, len(self._window))) @ values

    def of(self, one: ProbeSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (rows of `pooled`, labels, test) of the set's items that are measured."""
        if self.family.pooling != EACH_TOKEN:
            return one.items, one.labels, one.test
        place = np.cumsum(self._kept) - 1
        kept = self._kept[one.items]
        return place[one.items[kept]], one.labels[kept], one.test[kept]


@torch.inference_mode()
def code_scores(reader: SAE, items: Items) -> Scores:
    """Return the scores of an SAE's codes, found by its encoder."""
    parts = [reader.encode(h.to(reader.b_dec.device)) for h in items.h.split(_BATCH)]
    values, columns = (part.cpu().numpy() for part in joined(parts))
    starts = np.arange(len(values) + 1) * values.shape[1]
    shape = (len(values), reader.n_latents)
    return _scores(items, sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape=shape), BEST)


def raw_scores(items: Items) -> Scores:
    """Return the scores of the activations themselves: of their best coordinates, and of all (the key "all")."""
    h = items.h.numpy()
    few, everything = _scores(items, h, BEST), _scores(items, h, (h.shape[1],))
    return {name: {**few[name], "all": everything[name][str(h.shape[1])]} for name in few}


def _scores(items: Items, values: Values, best: tuple[int, ...]) -> Scores:
    pooled = items.pooled(values)
    found: Scores = {}
    for one in items.family.sets:
        rows, labels, test = items.of(one)
        found[one.name] = scores(pooled[rows], labels, test, best)
    return found
