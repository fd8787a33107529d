"""Load a causal LM, capture its activations at a hook point, and run it with the hook point's activations replaced.

The hook point of layer L is the residual stream after block L, counted from 0 (TransformerLens'
`blocks.L.hook_resid_post`). This module knows nothing about SAEs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from sweep.lm.blocks import check_candidates, find_blocks, probe_tokens, stream_of
from sweep.lm.causal import check_causal
from sweep.lm.enter import Form, entered, forms_noted, hidden_at, same_logits, why_not_entered
from sweep.lm.errors import ModelError, first_line
from sweep.lm.find import DTYPES, ModelConfig, ModelInfo
from sweep.lm.outline import embedding_rows
from sweep.lm.products import multiply_by_onednn
from sweep.lm.weights import check_weights, unjoined, weight_shapes


def load_tokenizer(config: ModelConfig, info: ModelInfo):
    """Load the LM's own tokenizer. Raise ModelError if there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(info.folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # tokenizers raise kinds of their own
        raise ModelError(f"{info.folder} holds no tokenizer that can be read ({first_line(error)})") from None


class LM:
    """A frozen causal LM and its list of blocks.

    Args:
        path: the module path of the list of blocks.
        probe: two windows of token ids (2, length) that the model can embed, for small passes that find out how it can
            be run.
    """

    def __init__(self, model: nn.Module, path: str, d_model: int, device: torch.device, probe: torch.Tensor):
        self.model, self.path, self.d_model, self.device = model, path, d_model, device
        self.blocks = cast(nn.ModuleList, model.get_submodule(path))
        self._probe = probe
        self._entrances: dict[int, _Entrance] = {}

    @torch.inference_mode()
    def capture(self, tokens: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return the residual stream after each of `layers`: {layer: (windows, length, d_model)}.

        The forward pass ends at the deepest of the layers.

        Args:
            tokens: token ids (windows, length).
        """
        captured: dict[int, torch.Tensor] = {}
        deepest = max(layers)

        def keep(layer: int, hidden: torch.Tensor) -> None:
            captured[layer] = hidden.clone()
            if layer == deepest:
                raise _PassEnded

        with self._hooked({layer: (lambda h, at=layer: keep(at, h)) for layer in layers}), suppress(_PassEnded):
            self._forward(tokens)
        return captured

    @torch.inference_mode()
    def logits(
        self, tokens: torch.Tensor, layer: int, edit: Callable[[torch.Tensor], torch.Tensor | None]
    ) -> torch.Tensor:
        """Return the logits (windows, length, vocabulary) when `edit` replaces the hook point's activations.

        Args:
            tokens: token ids (windows, length).
            edit: is given the activations (windows, length, d_model) and returns those to go on with, or None to leave
                them as they are.
        """
        with self._hooked({layer: edit}):
            return self._forward(tokens).logits

    @torch.inference_mode()
    def logits_from(self, tokens: torch.Tensor, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (windows, length, vocabulary) of `logits` with an edit that returns `hidden`.

        Only the blocks after the hook point run, where the LM can be entered there.

        Args:
            tokens: token ids (windows, length).
            hidden: the activations at the hook point (windows, length, d_model).
        """
        entrance = self._entrance(layer)
        if entrance.why_not is not None:
            return self.logits(tokens, layer, lambda _: hidden)
        with entered(self.blocks, entrance.forms, hidden.to(self.device, entrance.dtype)):
            return self._forward(tokens).logits

    def why_whole(self, layer: int) -> str | None:
        """Return why `logits_from` runs the whole LM for this layer; None where it does not."""
        return self._entrance(layer).why_not

    def uses_tokens(self, layer: int) -> bool:
        """Tell whether the logits of `logits_from` may depend on more than `hidden` in this layer: on the token ids."""
        return self._entrance(layer).uses_tokens

    @torch.inference_mode()
    def _entrance(self, layer: int) -> _Entrance:
        """Return how to enter the LM after block `layer`. A small pass finds it out, once."""
        if layer not in self._entrances:
            tokens = self._probe
            with forms_noted(self.blocks, layer) as forms:
                hidden = hidden_at(self.blocks[layer], lambda: self._forward(tokens))
            other = hidden.roll(1, dims=1)  # not what the blocks below give, so that nothing agrees by chance
            whole = self.logits(tokens, layer, lambda _: other)

            def run(ids: torch.Tensor) -> torch.Tensor:
                with entered(self.blocks, forms, other):
                    return self._forward(ids).logits

            why_not = why_not_entered(whole, lambda: run(tokens))
            uses_tokens = why_not is not None or not same_logits(whole, run(tokens.flip(0, 1)))
            self._entrances[layer] = _Entrance(forms, hidden.dtype, why_not, uses_tokens)
        return self._entrances[layer]

    def _forward(self, tokens: torch.Tensor):
        """Run the model on token ids (windows, length)."""
        return self.model(input_ids=tokens.to(self.device), use_cache=False)

    @contextmanager
    def _hooked(self, edits: dict[int, Callable[[torch.Tensor], Any]]) -> Iterator[None]:
        """Apply {layer: edit} to the blocks' outputs while the context lasts; an edit's None changes nothing."""

        def hook(edit, output):
            # A block returns its hidden state alone or first in a tuple, depending on the architecture.
            hidden = stream_of(output)
            new = edit(hidden)
            if new is None:
                return None
            new = new.to(hidden.dtype)
            return new if hidden is output else type(output)((new, *output[1:]))

        handles = [
            self.blocks[layer].register_forward_hook(lambda _m, _i, output, edit=edit: hook(edit, output))
            for layer, edit in edits.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Entrance(NamedTuple):
    """How the LM can be entered after a block."""

    forms: list[Form]  # the form of each skipped block's output
    dtype: torch.dtype  # of the residual stream
    why_not: str | None  # why it cannot be entered there; None if it can
    uses_tokens: bool  # the blocks after it may see the token ids in some other way than in the residual stream


class _PassEnded(Exception):
    """Raised in a forward pass to end it early, when nobody needs the remaining blocks."""


def load_lm(config: ModelConfig, info: ModelInfo, device: torch.device) -> LM:
    """Load the weights of the LM that `find_model` found.

    Raises:
        ModelError: the weights cannot be loaded or are not those of the model, model.blocks is wrong, no list of blocks
            returns a residual stream, or the model is not causal.
    """
    model = _loaded(config, info, device)
    rows = embedding_rows(model) or info.vocabulary
    if rows is None:
        raise ModelError(f"architecture {info.architecture} shows no embedding of token ids")
    tokens = probe_tokens(model.config, rows, info.context)
    check_candidates(model, info.n_layers, info.architecture, config.blocks)
    run = partial(_run, model, device)
    path = find_blocks(model, info.n_layers, info.d_model, config.blocks, tokens, run)
    lm = LM(model, path, info.d_model, device, tokens)
    last = info.n_layers - 1
    check_causal(lm.capture(tokens, [last])[last], info.architecture)
    return lm


def _loaded(config: ModelConfig, info: ModelInfo, device: torch.device) -> Any:
    """Return the model with its weights, frozen, on `device`."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the run's own line on the terminal shows what it is doing
    weight_shapes(info.folder, config.allow_pickle)
    try:
        model, loading = cast(Any, AutoModelForCausalLM).from_pretrained(
            info.folder,
            dtype=DTYPES[config.dtype],
            use_safetensors=None if config.allow_pickle else True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        said = f"{info.folder}: the weights cannot be loaded ({first_line(error)})"
        raise unjoined(error, info.folder) or ModelError(said) from None
    check_weights(loading, info.folder)
    model = model.eval().requires_grad_(False).to(device)
    multiply_by_onednn(model)
    return model


@torch.inference_mode()
def _run(model: Any, device: torch.device, tokens: torch.Tensor) -> None:
    """Pass token ids (windows, length) through the model. Raise ModelError if it cannot run on text alone."""
    try:
        model(input_ids=tokens.to(device), use_cache=False)
    except Exception as error:
        raise ModelError(f"the LM cannot run on text alone ({first_line(error)})") from None
