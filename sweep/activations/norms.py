"""What an activation entry's manifest and a run's record say of the norms of the captured tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sweep.lm.ordinary import OrdinaryTokens, OutlierRule, is_special


class Norms(NamedTuple):
    """The norms at one layer of all captured tokens, those included that the entry leaves out."""

    outlier_norm: float  # how many medians the norm of an ordinary token has at most
    special_ids: tuple[int, ...]  # token ids that are never ordinary
    median: float  # of the tokens that are not special
    largest: float
    captured: int  # tokens
    special: int  # tokens of the special ids
    outliers: int  # other tokens that are longer than outlier_norm medians

    @property
    def ordinary(self) -> OrdinaryTokens:
        """The definition of an ordinary token at this layer."""
        return OutlierRule(self.outlier_norm, self.special_ids).at(self.median)

    def in_words(self) -> str | None:
        """Return how many tokens are not ordinary and how large they are; None where all are."""
        if not self.special + self.outliers:
            return None
        return (
            f"{self.special + self.outliers:,} of {self.captured:,} tokens are not ordinary: {self.special:,} special, "
            f"{self.outliers:,} longer than {self.outlier_norm:g} medians; the longest has "
            f"{self.largest / self.median:.1f} medians, {self.largest:.4g} against {self.median:.4g}"
        )


def judged(rule: OutlierRule, tokens: Tensor, lengths: Tensor) -> Norms:
    """Return what is known of the norms of captured tokens.

    Args:
        tokens: their ids (tokens,).
        lengths: the norms of their activations (tokens,).

    Raises:
        ValueError: all tokens are special ones.
    """
    special = is_special(tokens, rule.special_ids)
    if bool(special.all()):
        raise ValueError(f"all {len(tokens)} tokens of the training text are special ones")
    median = float(np.median(lengths[~special].numpy()))
    ordinary = rule.at(median).among(tokens, lengths)
    return Norms(
        **asdict(rule),
        median=median,
        largest=float(lengths.max()),
        captured=len(tokens),
        special=int(special.sum()),
        outliers=int((~ordinary & ~special).sum()),
    )


def norms_from(found: Mapping[str, Any] | None) -> Norms | None:
    """Return the norms that a manifest or record holds as plain values; None where it holds none."""
    return None if found is None else Norms(**{**found, "special_ids": tuple(found["special_ids"])})
