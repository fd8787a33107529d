"""Enter an LM in the middle: run the blocks after a hook point without those before it.

The model's own forward pass runs, with the blocks up to the hook point replaced by stubs that compute nothing: the last
of them returns the activations to go on with. All that the model makes outside its blocks (masks, position embeddings,
rotary tables of each kind of layer) is therefore made by its own code. What one block hands to a later one beside the
residual stream would be missing, so a small pass finds out whether that happens, and such a model runs as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sweep.lm.blocks import stream_of
from sweep.lm.errors import first_line

Form = Callable[[torch.Tensor], Any]  # puts a hidden state into the form in which a block returns it


def form_of(output: Any) -> Form:
    """Return how to put a hidden state into the form of a block's output, as its only content."""
    if isinstance(output, (tuple, list)):
        kind, others = type(output), [None] * (len(output) - 1)
        return lambda hidden: kind([hidden, *others])
    return lambda hidden: hidden


@contextmanager
def entered(blocks: Iterable[nn.Module], forms: Sequence[Form], hidden: torch.Tensor) -> Iterator[None]:
    """Let the first blocks, one for each of `forms`, return `hidden` without computing while the context lasts."""
    below = list(blocks)[: len(forms)]
    own = [vars(block).get("forward") for block in below]  # one that is not its class's, but put in its place
    try:
        for block, form in zip(below, forms, strict=True):
            block.forward = lambda *_args, form=form, **_named: form(hidden)
        yield
    finally:
        for block, forward in zip(below, own, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


@contextmanager
def forms_noted(blocks: Iterable[nn.Module], layer: int) -> Iterator[list[Form]]:
    """Yield a list that gets the form of the output of each block up to `layer` when the model runs."""
    found: list[Form] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, output: found.append(form_of(output)))
        for block in list(blocks)[: layer + 1]
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def why_not_entered(whole: torch.Tensor, run_entered: Callable[[], torch.Tensor]) -> str | None:
    """Return why a model cannot be entered at a hook point, or None if it can.

    Args:
        whole: the logits of a whole pass with some activations put in place at the hook point.
        run_entered: returns the logits of the same pass, entered at the hook point with the same activations.
    """
    try:
        found = run_entered()
    except Exception as error:  # whatever the model's code raises for what the stubs do not give it
        return first_line(error)
    same = same_logits(whole, found)
    return None if same else "its later blocks use more of the earlier ones than the residual stream"


def same_logits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two passes of a model gave the same: to the last bit on a CPU."""
    if one.device.type == "cpu":
        return torch.equal(one, other)
    # A GPU's kernels need not give the same bits twice.
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3 * float(one.float().abs().max()))


def hidden_at(block: nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """Return the hidden state that the block returns when `run` is called."""
    seen: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _m, _i, output: seen.append(stream_of(output).clone()))
    try:
        run()
    finally:
        handle.remove()
    return seen[0]
