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
        blocks: the path of the LM's list of blocks in its transformers class, such as `model.layers` (Llama),
            `gpt_neox.layers` or `transformer.h` (GPT-2).
    """

    model: str | None = None
    layer: int | None = None
    context: int | None = None
    dataset: str | None = None
    bos: bool | None = None
    run: str | None = None
    blocks: str | None = None

    @property
    def hook_name(self) -> str | None:
        """The hook point in TransformerLens' names: `blocks.12.hook_resid_post`."""
        return None if self.layer is None else f"blocks.{self.layer}.hook_resid_post"

    @property
    def module(self) -> str | None:
        """The module whose output is read, below transformers' base model: `layers.12`, or `h.12` of a GPT-2.

        It is `layers.L`, as most LMs have it, where `blocks` is not known.
        """
        if self.layer is None:
            return None
        return f"{'layers' if self.blocks is None else self.blocks.partition('.')[2] or self.blocks}.{self.layer}"

    @property
    def full_module(self) -> str | None:
        """The same below the whole model, `model.layers.12`; None where `blocks` is not known."""
        return None if self.layer is None or self.blocks is None else f"{self.blocks}.{self.layer}"
