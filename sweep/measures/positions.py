"""Which tokens an SAE or an ablation replaces when the LM runs; reconstruction is measured on the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sweep.lm.ordinary import OrdinaryTokens, norms_of

# The mask policies, as records name them.
ALL_TOKENS = "all_tokens"  # every real token, beginning-of-sequence tokens included, as the paper does
ORDINARY_TOKENS = "ordinary_tokens"  # the LM's own activations stay at all others

EVERY_TOKEN_IS_ORDINARY = OrdinaryTokens((), float("inf"))


@dataclass(frozen=True)
class Positions:
    """The choice of tokens at one layer.

    Args:
        ordinary: which tokens are ordinary; None where this is not known, which older activation entries do not say.
        all_tokens: measure every real token, ordinary or not.
    """

    ordinary: OrdinaryTokens | None = EVERY_TOKEN_IS_ORDINARY
    all_tokens: bool = True

    def __post_init__(self):
        assert self.all_tokens or self.ordinary is not None, "nobody knows which tokens to measure"

    @property
    def mask_policy(self) -> str:
        """The choice in the words of records."""
        return ALL_TOKENS if self.all_tokens else ORDINARY_TOKENS

    def among(self, tokens: Tensor, real: Tensor, hidden: Tensor) -> tuple[Tensor, int | None]:
        """Choose among the tokens of a batch of windows.

        Args:
            tokens: token ids (windows, length).
            real: bool (windows, length), False at padding.
            hidden: the layer's activations as the LM makes them (windows, length, d_model).

        Returns:
            (bool (windows, length) of measured tokens, how many real tokens are not ordinary or None if not known).
        """
        if self.ordinary is None:
            return real, None
        ordinary = real & self.ordinary.among(tokens, norms_of(hidden))
        return real if self.all_tokens else ordinary, int(real.sum() - ordinary.sum())


ALL = Positions()  # every real token of an LM all of whose tokens are ordinary
