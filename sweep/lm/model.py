"""Load a causal LM, capture a hook point, run the LM with the hook point replaced.

The hook point of layer L is the residual stream after block L, counted from 0 (TransformerLens'
`blocks.L.hook_resid_post`). Nothing here knows about SAEs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from sweep.lm.find import DTYPES, ModelConfig, ModelError, ModelInfo, first_line

# Module path of the list of blocks, by transformers' model_type.
BLOCKS = {
    "gpt_neox": "gpt_neox.layers",
    "llama": "model.layers",
    "qwen2": "model.layers",
    "gpt2": "transformer.h",
}


def load_tokenizer(config: ModelConfig, info: ModelInfo):
    """The LM's own tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(info.folder, trust_remote_code=config.trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{info.folder} holds no tokenizer that can be read ({first_line(error)})") from None


class LM:
    """A frozen causal LM and its list of blocks."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList, d_model: int, device: torch.device):
        self.model, self.blocks, self.d_model, self.device = model, blocks, d_model, device

    @torch.inference_mode()
    def capture(self, tokens: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """Residual stream after each of `layers` for tokens (windows, length): {layer: (windows, length, d_model)}.

        The forward pass ends at the deepest layer asked for.
        """
        captured: dict[int, torch.Tensor] = {}
        deepest = max(layers)

        def keep(layer: int, hidden: torch.Tensor) -> None:
            captured[layer] = hidden.clone()
            if layer == deepest:
                raise _Enough

        with self._hooked({layer: (lambda h, at=layer: keep(at, h)) for layer in layers}), suppress(_Enough):
            self._forward(tokens)
        return captured

    @torch.inference_mode()
    def logits(
        self, tokens: torch.Tensor, layer: int, edit: Callable[[torch.Tensor], torch.Tensor | None]
    ) -> torch.Tensor:
        """Logits (windows, length, vocabulary) with the hook point replaced by what `edit` gives, if not None."""
        with self._hooked({layer: edit}):
            return self._forward(tokens).logits

    def _forward(self, tokens: torch.Tensor):
        return self.model(input_ids=tokens.to(self.device), use_cache=False)

    @contextmanager
    def _hooked(self, edits: dict[int, Callable[[torch.Tensor], Any]]) -> Iterator[None]:
        def hook(edit, output):
            # A block returns its hidden state alone or first in a tuple, depending on the architecture.
            hidden = output[0] if isinstance(output, tuple) else output
            new = edit(hidden)
            if new is None:
                return None
            new = new.to(hidden.dtype)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles = [
            self.blocks[layer].register_forward_hook(lambda _m, _i, output, edit=edit: hook(edit, output))
            for layer, edit in edits.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Enough(Exception):
    """Ends a forward pass whose remaining blocks nobody needs."""


def next_token_losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of tokens[:, 1:] under logits (windows, length, vocabulary): (windows, length - 1)."""
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1)


def load_lm(config: ModelConfig, info: ModelInfo, device: torch.device) -> LM:
    """Load the weights of the LM that `find_model` found.

    Raises:
        ModelError: no safetensors weights (and pickles not allowed), unknown architecture, wrong model.blocks.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the run's own line says what is going on
    if not config.allow_pickle and not any(info.folder.glob("*.safetensors")):
        raise ModelError(
            f"{info.folder} holds no safetensors weights; set model.allow_pickle=true to load pickled ones "
            "(a pickle can run code)"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            info.folder,
            dtype=DTYPES[config.dtype],
            use_safetensors=None if config.allow_pickle else True,
            trust_remote_code=config.trust_remote_code,
        )
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        raise ModelError(f"{info.folder}: the weights cannot be loaded ({first_line(error)})") from None
    module = cast(nn.Module, model).eval().requires_grad_(False).to(device)
    return LM(module, find_blocks(module, config.blocks, info), info.d_model, device)


def find_blocks(model: nn.Module, blocks: str | None, info: ModelInfo) -> nn.ModuleList:
    """The list of blocks: at `blocks` if given, else where `BLOCKS` says."""
    path = blocks or BLOCKS.get(info.architecture)
    candidates = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == info.n_layers]
    if path is None:
        raise ModelError(
            f"architecture {info.architecture} is unknown: give the module path of its list of blocks as "
            f"model.blocks=...; lists of {info.n_layers} modules in it: {', '.join(candidates) or 'none'}"
        )
    found: nn.Module | None = dict(model.named_modules()).get(path)
    if not isinstance(found, nn.ModuleList) or len(found) != info.n_layers:
        raise ModelError(
            f"model.blocks={path} is not a list of {info.n_layers} blocks; such lists: "
            f"{', '.join(candidates) or 'none'}"
        )
    return found
