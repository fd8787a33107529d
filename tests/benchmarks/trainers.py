"""SAEs of the embedded LM that SAELens and sparsify train themselves, each by its own runner on the LM's activations.

SAELens    `LanguageModelSAETrainingRunner` on the LM as a HookedSAETransformer; activations are scaled to a mean norm
           of sqrt(d_in) while it trains, and it folds the factor into the weights that it saves
sparsify   `Trainer` on transformers' own LM
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sweep.corpus.documents import Corpus
from sweep.corpus.stdlib import StdlibCorpus
from sweep.corpus.windows import WindowConfig, held_out_windows, train_windows
from tests.benchmarks.lens_lm import embedded, hooked

WINDOW, LAYER, BATCH = 128, 1, 512


class Sizes(NamedTuple):
    """What is trained, and for how long."""

    n_latents: int = 1024
    k: int = 32
    tokens: int = 300_000  # each once


class Trained(NamedTuple):
    """An SAE that a library has trained and saved, and the library's own reading of it."""

    library: str
    architecture: str
    folder: Path
    forward: Callable[[torch.Tensor], torch.Tensor]  # h (tokens, d_in) to its reconstruction, by the library


def text(corpus: Corpus | None = None, tokens: int = Sizes().tokens) -> torch.Tensor:
    """Whole windows of the training side of a corpus, the standard library's source unless given: (windows, WINDOW)."""
    _, tokenizer = embedded()
    found = train_windows(corpus or StdlibCorpus(), tokenizer, WindowConfig(WINDOW), tokens)
    return torch.from_numpy(found.tokens[found.lengths == WINDOW])


def held_out(corpus: Corpus | None = None, windows: int = 50) -> torch.Tensor:
    """The windows that `eval.windows` measures on: (windows, WINDOW)."""
    _, tokenizer = embedded()
    return torch.from_numpy(held_out_windows(corpus or StdlibCorpus(), tokenizer, WindowConfig(WINDOW), windows).tokens)


def by_sae_lens(architecture: str, folder: Path, sizes: Sizes, windows: torch.Tensor) -> Trained:
    """Let SAELens train an SAE, save it and load it again."""
    import sae_lens  # type: ignore[import-not-found]
    from datasets import Dataset  # type: ignore[import-not-found]
    from sae_lens.config import LoggingConfig  # type: ignore[import-not-found]
    from sae_lens.registry import get_sae_training_class  # type: ignore[import-not-found]

    config = get_sae_training_class(architecture)[1]
    runner = sae_lens.LanguageModelSAERunnerConfig(
        sae=config(d_in=256, d_sae=sizes.n_latents, **_OWN[architecture](sizes), **_COMMON),
        model_name="embedded",
        hook_name=f"blocks.{LAYER}.hook_resid_post",
        dataset_path="stdlib",
        streaming=False,
        is_dataset_tokenized=True,
        prepend_bos=False,
        context_size=WINDOW,
        training_tokens=sizes.tokens,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=16,
        n_batches_in_buffer=16,
        n_batches_for_norm_estimate=20,
        lr=1e-3,
        lr_decay_steps=sizes.tokens // BATCH // 5,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(folder),
        verbose=False,
    )
    dataset = Dataset.from_dict({"tokens": windows.tolist()})
    sae_lens.LanguageModelSAETrainingRunner(runner, override_dataset=dataset, override_model=hooked()).run()
    return Trained("saelens", architecture, folder, loaded_by_sae_lens(folder))


_COMMON = {"normalize_activations": "expected_average_only_in"}
_OWN: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "standard": lambda sizes: {"l1_coefficient": 2.0},
    "gated": lambda sizes: {"l1_coefficient": 2.0},
    "jumprelu": lambda sizes: {"l0_coefficient": 2.0, "jumprelu_bandwidth": 0.1, "jumprelu_init_threshold": 0.1},
    "topk": lambda sizes: {"k": sizes.k},
    "batchtopk": lambda sizes: {"k": sizes.k},
    "matryoshka_batchtopk": lambda sizes: {
        "k": sizes.k,
        "matryoshka_widths": [sizes.n_latents // 8, sizes.n_latents // 2, sizes.n_latents],
    },
    "matching_pursuit": lambda sizes: {"max_iterations": sizes.k, "decoder_init_norm": 1.0},
}


def loaded_by_sae_lens(folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of an SAE that SAELens loads."""
    import sae_lens  # type: ignore[import-not-found]

    return torch.no_grad()(sae_lens.SAE.load_from_disk(folder))


def by_sparsify(architecture: str, folder: Path, sizes: Sizes, windows: torch.Tensor) -> Trained:
    """Let sparsify train an SAE and save it."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # type: ignore[import-not-found]

    rows = Dataset.from_dict({"input_ids": windows.tolist()}).with_format("torch")
    coder = SparseCoderConfig(num_latents=sizes.n_latents, k=sizes.k, multi_topk=architecture == "multi_topk")
    config = TrainConfig(
        coder,
        BATCH // WINDOW,
        layers=[LAYER],
        log_to_wandb=False,
        save_dir=str(folder.parent),
        run_name=folder.name,
        lr=2e-3,
    )
    model, _ = embedded()
    with redirect_stdout(io.StringIO()):
        Trainer(config, rows, model).fit()
    saved = folder / f"layers.{LAYER}"
    return Trained("sparsify", architecture, saved, loaded_by_sparsify(saved))


def loaded_by_sparsify(folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The reconstruction by an SAE that sparsify loads."""
    from sparsify import SparseCoder  # type: ignore[import-not-found]

    sae = SparseCoder.load_from_disk(folder)

    @torch.no_grad()
    def forward(h: torch.Tensor) -> torch.Tensor:
        found = sae.encode(h)
        return sae.decode(found.top_acts, found.top_indices)

    return forward


LOADERS = {"saelens": loaded_by_sae_lens, "sparsify": loaded_by_sparsify}
GALLERY = [*((by_sae_lens, architecture) for architecture in _OWN), (by_sparsify, "topk"), (by_sparsify, "multi_topk")]
