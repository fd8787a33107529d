"""The embedded LM in the two forms in which SAELens runs an LM with SAEs in it, with nothing from a hub."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweep.embedded import WEIGHTS


def embedded() -> tuple[Any, Any]:
    """The embedded LM and its tokenizer, as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(WEIGHTS)


def bridge() -> Any:
    """It behind TransformerLens 3's bridge, which keeps transformers' own model."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge  # type: ignore[import-not-found]

    model, tokenizer = embedded()
    return SAETransformerBridge.boot_transformers(str(WEIGHTS), hf_model=model, tokenizer=tokenizer, device="cpu")


def hooked() -> Any:
    """It as a HookedSAETransformer.

    `from_pretrained` asks a hub for the config of a name that it knows, so that config and weights are given here; it
    is TransformerLens' own function that turns the weights.
    """
    from sae_lens import HookedSAETransformer  # type: ignore[import-not-found]
    from transformer_lens import HookedTransformerConfig  # type: ignore[import-not-found]
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights  # type: ignore[import-not-found]

    model, tokenizer = embedded()
    of = model.config
    d_head = of.hidden_size // of.num_attention_heads
    config = HookedTransformerConfig(
        n_layers=of.num_hidden_layers,
        d_model=of.hidden_size,
        n_ctx=of.max_position_embeddings,
        d_head=d_head,
        n_heads=of.num_attention_heads,
        d_mlp=of.intermediate_size,
        act_fn=of.hidden_act,
        d_vocab=of.vocab_size,
        eps=of.layer_norm_eps,
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=round(of.rope_parameters["partial_rotary_factor"] * d_head),
        rotary_adjacent_pairs=False,
        parallel_attn_mlp=of.use_parallel_residual,
        device="cpu",
    )
    made = HookedSAETransformer(config, tokenizer=tokenizer)
    made.load_state_dict(convert_neox_weights(model, config), strict=False)
    return made.eval().requires_grad_(False)
