"""Write a small GGUF file as llama.cpp's converter does: a random Llama, and its byte-level tokenizer."""

from __future__ import annotations

import json

import gguf
import numpy as np
import torch
import transformers as hf

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS = {"attn_q": 4, "attn_k": 2}


def random_llama(vocabulary, width=64):
    """Return a random Llama of three blocks, wide enough for the blocks of quantised weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = hf.LlamaConfig(vocab_size=vocabulary, intermediate_size=96, max_position_embeddings=64, **sizes)
    return hf.LlamaForCausalLM(config).eval()


def interleaved(weight, heads):
    """Order the rows of a query's or key's weight as llama.cpp's rotation wants them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_name(key):
    for theirs, ours in NAMES.items():
        block = f"blk.{key.split('.')[2]}." if key.startswith("model.layers.") else ""
        if key.removesuffix(".weight").endswith(theirs):
            return f"{block}{ours}"
    raise KeyError(key)


def write_gguf(path, model, tokenizer, architecture="llama", quantised=None, leave_out=()):
    """Write `model` and `tokenizer` to `path`.

    Args:
        quantised: the type of the linear weights; None for float32.
        leave_out: names of tensors that the file lacks.
    """
    writer = gguf.GGUFWriter(path, architecture)
    config = model.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for key, tensor in model.state_dict().items():
        name = gguf_name(key)
        data = tensor.numpy().astype(np.float32)
        if (heads := HEADS.get(name.split(".")[-1])) is not None:
            data = interleaved(data, heads)
        if name in leave_out:
            continue
        if quantised is None or data.ndim == 1:
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(data))
        else:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(data, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, tokenizer):
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if index == tokenizer.bos_token_id else 1 for _, index in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
