"""The recipe of the embedded LM: its sizes, its tokenizer and its text. `train.py` turns the recipe into weights.

Architecture: GPT-NeoX (Pythia's) through transformers; text: the Python standard library, see `sweep.corpus.stdlib`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from sweep.corpus.documents import Document
from sweep.corpus.stdlib import StdlibCorpus

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """Every number that determines the weights.

    The learning rate warms up, stays, and falls linearly to zero over the last `decay_fraction` of the steps.
    """

    vocab_size: int = 4096
    d_model: int = 256
    n_layers: int = 4
    n_heads: int = 4
    context: int = 256  # tokens per window
    batch_size: int = 16  # windows per step
    tokens: int = 12_000_000  # training tokens
    muon_lr: float = 4e-3  # for the matrices inside the blocks
    adam_lr: float = 2e-3  # for all other parameters
    weight_decay: float = 0.1
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    seed: int = 0

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.tokens // (self.batch_size * self.context)

    def lr_scale(self, step: int) -> float:
        """Return the factor in (0, 1] by which both learning rates are multiplied at `step`."""
        decay_steps = max(1, int(self.decay_fraction * self.steps))
        return min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / decay_steps)


def split_documents() -> tuple[list[Document], list[Document]]:
    """Return the (training, held-out) files of the running interpreter's standard library, by name."""
    documents = sorted(StdlibCorpus().documents(), key=lambda d: d.name)
    return [d for d in documents if not d.held_out], [d for d in documents if d.held_out]


def train_tokenizer(texts: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. Any text survives a round trip through it, so bits per byte are defined."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def encode_documents(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[np.ndarray]:
    """Return the token ids of each document as uint16 (tokens,), opened by the end-of-text token."""
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([tokenizer.bos_token_id, *ids], dtype=np.uint16) for ids in encoded]


def batches(encoded: list[np.ndarray], recipe: Recipe, first_step: int):
    """Yield (step, windows) of shape (batch_size, context + 1) from `first_step` on.

    Each epoch shuffles the files, joins them and cuts windows at a random offset. An epoch's windows depend on the seed
    and the epoch alone, so a resumed training sees the same data as one that was never interrupted.
    """
    step = 0
    for epoch in range(10**9):
        rng = np.random.default_rng([recipe.seed, epoch])
        stream = np.concatenate([encoded[i] for i in rng.permutation(len(encoded))])
        stream = stream[rng.integers(recipe.context) :]
        n_windows = (len(stream) - 1) // recipe.context
        starts = rng.permutation(n_windows) * recipe.context
        for rows in np.split(starts, range(recipe.batch_size, n_windows, recipe.batch_size)):
            if len(rows) < recipe.batch_size or step >= recipe.steps:
                break
            if step >= first_step:
                yield step, np.stack([stream[s : s + recipe.context + 1] for s in rows]).astype(np.int64)
            step += 1
        if step >= recipe.steps:
            return


def new_model(recipe: Recipe) -> GPTNeoXForCausalLM:
    """Return an untrained GPT-NeoX of the recipe's sizes; the caller seeds torch first."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.d_model,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            intermediate_size=4 * recipe.d_model,
            max_position_embeddings=recipe.context,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            use_parallel_residual=True,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
