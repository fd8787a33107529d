"""Small random LMs of many architectures: three blocks, d_model 32, a hundred tokens."""

from __future__ import annotations

import torch
import transformers as hf

TOKENS = 100
BLOCKS, D_MODEL = 3, 32
SIZES = {
    "vocab_size": TOKENS,
    "hidden_size": D_MODEL,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
_HEADS = {**GROUPED, "head_dim": 8}
_OLD = {"vocab_size": TOKENS, "n_embd": D_MODEL, "n_layer": BLOCKS, "n_head": 4, "n_positions": 64}
_OLD |= {"bos_token_id": 0, "eos_token_id": 0}
_OPT = {"vocab_size": TOKENS, "hidden_size": D_MODEL, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
_OPT |= {"ffn_dim": 64, "max_position_embeddings": 64}
_VISION = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 64}
_VISION |= {"image_size": 28, "patch_size": 14}


def _gemma3_with_vision():
    image = {"image_token_index": 98, "image_token_id": 98, "boi_token_index": 97, "eoi_token_index": 96}
    text = hf.Gemma3TextConfig(**_HEADS).to_dict()
    return hf.Gemma3Config(text_config=text, vision_config=_VISION, mm_tokens_per_image=4, **image)


# Every one of these is captured and patched as any other.
ZOO = {
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "llama_tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**_HEADS),
    "gpt2": lambda: hf.GPT2Config(**_OLD),
    "gemma2": lambda: hf.Gemma2Config(**_HEADS),
    "gemma3": lambda: hf.Gemma3TextConfig(**_HEADS),
    "gemma3_with_vision": _gemma3_with_vision,
    "mistral": lambda: hf.MistralConfig(**GROUPED),
    "mixtral": lambda: hf.MixtralConfig(**GROUPED, num_local_experts=4),
    "phi3": lambda: hf.Phi3Config(**GROUPED),
    "opt": lambda: hf.OPTConfig(**_OPT, word_embed_proj_dim=D_MODEL),
    "opt_projected": lambda: hf.OPTConfig(**_OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "bloom": lambda: hf.BloomConfig(vocab_size=TOKENS, hidden_size=D_MODEL, n_layer=BLOCKS, n_head=4),
    "falcon": lambda: hf.FalconConfig(**{k: v for k, v in SIZES.items() if k != "intermediate_size"}),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED),
    "gptj": lambda: hf.GPTJConfig(**_OLD, rotary_dim=4),
    "stablelm": lambda: hf.StableLmConfig(**GROUPED),
    "openai-gpt": lambda: hf.OpenAIGPTConfig(**_OLD),  # its blocks return a list
    "xglm": lambda: hf.XGLMConfig(
        vocab_size=TOKENS, d_model=D_MODEL, num_layers=BLOCKS, attention_heads=4, ffn_dim=64, max_position_embeddings=64
    ),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=TOKENS, hidden_size=D_MODEL, num_hidden_layers=BLOCKS, state_size=4, pad_token_id=1
    ),
}
# Architectures of which transformers' hidden state after the last block is not the block's own output: a final norm, or
# a projection, comes between. These two have neither there.
WITHOUT_A_FINAL_NORM = {"openai-gpt", "mamba"}


def random_lm(architecture: str):
    """Return a random causal LM of an architecture in `ZOO`, the same on every call."""
    return random_of(ZOO[architecture]())


def random_of(config):
    """Return a random causal LM of a config, the same on every call."""
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config).eval()
