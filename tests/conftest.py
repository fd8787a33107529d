"""Fixtures for many tests: small real models of each architecture on disk, a tokenizer, a text of many documents."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported; its interpreter then runs the GPU kernels on the CPU.
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

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # two test processes share two cores
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts its background jobs so, and the commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
VOCAB = 400  # tokens in the tokenizer's vocabulary
ARCHITECTURES = ("gpt_neox", "llama", "qwen2", "gpt2")


def random_model(architecture: str):
    """Return an untrained model of three blocks, the same on every call."""
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0}
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, **tokens}
    if architecture == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=64, **sizes))
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, max_position_embeddings=64, **sizes))
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, max_position_embeddings=64, **sizes))
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **tokens))


def teach(model, tokenizer, steps: int = 60) -> None:
    """Train the model a little on `some_text`, so that it costs it something when its activations are replaced."""
    ids = [i for text in some_text() for i in tokenizer(text)["input_ids"]]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 24, (16,), generator=generator).tolist()
        batch = torch.tensor([ids[start : start + 24] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.eval()


def some_text(n_documents: int = 120, seed: int = 0) -> list[str]:
    """Return documents of words, no two alike; a word mostly follows the one that stands before it in the list."""
    rng = random.Random(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "went", "home", "to", "eat", "fish", "with", "her"]

    def document() -> str:
        at = [rng.randrange(len(words))]
        for _ in range(rng.randint(20, 120) - 1):
            at.append((at[-1] + 1) % len(words) if rng.random() < 0.8 else rng.randrange(len(words)))
        return " ".join(words[i] for i in at)

    return [f"{document()} {i}." for i in range(n_documents)]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `some_text`."""
    return train_tokenizer(some_text(), Recipe(vocab_size=VOCAB, context=64))


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """{architecture: folder of a tiny trained model with its tokenizer, in transformers layout}."""
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        model = random_model(architecture)
        teach(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """A text file with the documents of `some_text`, for the corpus `text`."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n<|endoftext|>\n".join(some_text()))
    return file
