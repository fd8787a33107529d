"""What an SAE is of: the LM, the place in it and the text, which other libraries' configs name each in its own way."""

from __future__ import annotations

from dataclasses import dataclass


class FormatError(ValueError):
    """The error of an SAE that a library cannot hold, or of files that hold none."""


@dataclass(frozen=True)
class About:
    """The LM, place and text of an SAE; None where it is not known.

    Args:
        model: the LM's name, such as its id on the hub.
        layer: the block after which the residual stream is read, from 0.
        context: tokens of a window.
        dataset: the name of the text.
        bos: whether each window begins with the tokenizer's BOS token.
        run: the id of the run that trained the SAE.
    """

    model: str | None = None
    layer: int | None = None
    context: int | None = None
    dataset: str | None = None
    bos: bool | None = None
    run: str | None = None

    @property
    def hook_name(self) -> str | None:
        """The hook point in TransformerLens' names: `blocks.12.hook_resid_post`."""
        return None if self.layer is None else f"blocks.{self.layer}.hook_resid_post"

    @property
    def module(self) -> str | None:
        """The module whose output is read, below transformers' base model as most LMs have it: `layers.12`."""
        return None if self.layer is None else f"layers.{self.layer}"
