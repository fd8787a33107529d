"""A synthetic model, which makes samples by number. It takes the place of an LM where activations are captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sweep.store.hashes import short_hash
from sweep.synthetic.config import SyntheticConfig
from sweep.synthetic.features import draw_features


class SyntheticModel:
    """A model drawn from its settings.

    Attributes:
        features: what it is made of.
        d_model: dimensions of a sample, by the name that an LM has for it.
    """

    def __init__(self, config: SyntheticConfig):
        self.config, self.features = config, draw_features(config)
        self.d_model = config.d_in

    @torch.no_grad()
    def activations(self, window: int) -> Tensor:
        """Return how strongly each feature fires on the samples of a window, float32 (samples, n_features)."""
        f = self.features
        g = torch.Generator().manual_seed(int(short_hash(self.config.seed, window), 16) % 2**63)
        own = torch.randn(self.config.window, self.config.n_features, generator=g)
        shared = torch.randn(self.config.window, self.config.correlation_rank, generator=g)
        candidates = torch.addmm(own.mul_(f.own), shared, f.shared.T) > f.thresholds
        sample, feature = candidates.nonzero(as_tuple=True)
        strength = f.means[feature] + f.spreads[feature] * torch.randn(len(feature), generator=g)
        found = torch.zeros(self.config.window, self.config.n_features)
        found[sample, feature] = strength.relu()
        for level in f.levels:
            self._apply_trees(found, level, g)
        return found

    def samples(self, activations: Tensor) -> Tensor:
        """Return the samples (samples, d_in) in which features fire so."""
        return torch.addmm(self.features.bias, activations, self.features.vectors)

    @torch.no_grad()
    def capture(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Return the samples of these numbers at the one layer: {0: (windows, length, d_in)}; see `LM.capture`."""
        assert tuple(layers) == (0,), "a synthetic model has a single layer"
        length = self.config.window
        made = [self.samples(self.activations(int(row[0]) // length))[row % length] for row in tokens.cpu()]
        return {0: torch.stack(made)}

    def _apply_trees(self, found: Tensor, level: Tensor, g: torch.Generator) -> None:
        """Let the features of a level fire only where their parents do, as strongly as these, and exclude siblings."""
        parents = self.features.parents[level]
        found[:, level] *= found[:, parents] / self.features.means[parents]
        if not self.config.exclusive:
            return
        # The children of a parent lie side by side, and only the last parent's may be too few to fill a row.
        branching = self.config.branching
        rows = -(-len(level) // branching)
        drawn = torch.rand(len(found), rows * branching, generator=g)
        drawn[:, : len(level)].masked_fill_(found[:, level] == 0, -1.0)
        drawn[:, len(level) :] = -1.0
        by_parent = drawn.view(len(found), rows, branching)
        winner = (by_parent == by_parent.amax(-1, keepdim=True)).view(len(found), -1)[:, : len(level)]
        found[:, level] *= winner
