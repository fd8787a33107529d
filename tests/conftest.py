"""Small real things: models of each architecture saved to disk, a tokenizer, a text of many documents."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before Triton is imported: its interpreter then runs the GPU kernels here
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sweep.embedded.recipe import Recipe, train_tokenizer  # noqa: E402

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # two at a time have two cores
VOCAB = 400
ARCHITECTURES = ("gpt_neox", "llama", "qwen2", "gpt2")


def random_model(architecture: str):
    torch.manual_seed(0)
    shared = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0}
    sized = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, **shared}
    if architecture == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=64, **sized))
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, max_position_embeddings=64, **sized))
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, max_position_embeddings=64, **sized))
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **shared))


def some_text(n_documents: int = 120, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "went", "home", "to", "eat", "fish", "with", "her"]
    return [" ".join(rng.choices(words, k=rng.randint(20, 120))) + f" {i}." for i in range(n_documents)]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(some_text(), Recipe(vocab_size=VOCAB, context=64))


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        random_model(architecture).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n<|endoftext|>\n".join(some_text()))
    return file
