"""Find a causal LM on disk or on the hub, and read what its config says. No weights are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweep.store.hashes import remembered_hash

# Files of a model folder that change its results: weights, config, tokenizer.
_CONTENT = ("*.safetensors", "*.bin", "config.json", "tokenizer*", "*.model", "vocab.*", "merges.txt",
            "special_tokens_map.json", "added_tokens.json", "*.py")  # fmt: skip


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelError(ValueError):
    """The LM cannot be found, read or hooked; the message says what to do."""


class ModelNotHereError(ModelError):
    """A hub model is neither on this disk nor to be had: a sweep over several LMs goes on with the others."""


@dataclass(frozen=True)
class ModelConfig:
    """Which LM, and how to run it.

    Args:
        name: what people call it; labels figures.
        hub_id, revision: where it is on the hub; not needed when `path` is given.
        path: a folder in transformers layout; takes the place of the hub.
        window: tokens per context in every LM pass.
        dtype: float32, bfloat16 or float16.
        batch_size: windows per LM forward.
        blocks: module path of the list of blocks, for architectures not in `BLOCKS`.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: load weights that are not safetensors (a pickle can run code).
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    path: str | None = None
    window: int = 128
    dtype: str = "float32"
    batch_size: int = 16
    blocks: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ModelError(f"model.dtype={self.dtype} must be one of {', '.join(DTYPES)}")
        if self.window < 2:
            raise ModelError(f"model.window={self.window} must be at least 2 tokens")
        if self.batch_size < 1:
            raise ModelError(f"model.batch_size={self.batch_size} must be at least 1")


@dataclass(frozen=True)
class ModelInfo:
    """What is known of an LM before its weights are loaded."""

    folder: Path  # on this disk
    architecture: str  # transformers' model_type
    d_model: int
    n_layers: int
    context: int | None  # longest context, None if the config does not say


def find_model(config: ModelConfig) -> ModelInfo:
    """Locate the LM on disk (downloading it if it is a hub model and the network allows) and read its config.

    Raises:
        ModelError: not there, not readable, or a window longer than the model's context.
    """
    folder = _folder(config)
    from transformers import AutoConfig

    try:
        hf = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        hint = "; set model.trust_remote_code=true to run code that comes with it" if _has_code(folder) else ""
        raise ModelError(f"{folder} is not a model that transformers can read ({first_line(error)}){hint}") from None
    hf = hf.get_text_config()
    context = getattr(hf, "max_position_embeddings", None)
    if context and config.window > context:
        raise ModelError(f"model.window={config.window} must be in 2..{context} (the context of {config.name})")
    return ModelInfo(folder, hf.model_type, hf.hidden_size, hf.num_hidden_layers, context)


def check_layer(layer: int, info: ModelInfo, name: str) -> None:
    """Raise ModelError unless the LM has a block `layer`."""
    if not 0 <= layer < info.n_layers:
        raise ModelError(f"layer={layer} must be in 0..{info.n_layers - 1} (the blocks of {name})")


def model_hash(info: ModelInfo, cache_dir: Path) -> str:
    """sha256 over the files that determine tokens and logits, 16 hex digits: the same wherever the folder lies."""
    files = sorted({file for pattern in _CONTENT for file in info.folder.glob(pattern)})
    return remembered_hash(files, [f.name for f in files], cache_dir)


def _folder(config: ModelConfig) -> Path:
    if config.path:
        folder = Path(os.path.expanduser(config.path))
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.path={config.path} is not a model folder (no config.json in it)")
        return folder.resolve()
    if not config.hub_id:
        raise ModelError("model.path is not set: give the folder of a model in transformers layout")
    return _download(config, config.hub_id)


def _download(config: ModelConfig, hub_id: str) -> Path:
    """The hub's snapshot: from the local hub cache if it is there, else downloaded."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    patterns += ["*.bin"] if config.allow_pickle else []
    patterns += ["*.py"] if config.trust_remote_code else []
    where = f"{hub_id} at revision {config.revision}"
    ask: dict[str, Any] = {"repo_id": hub_id, "revision": config.revision, "allow_patterns": patterns}
    try:
        folder = Path(snapshot_download(**ask, local_files_only=True))
        if any(folder.glob("*.safetensors")) or config.allow_pickle:
            return folder
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError):
        pass
    try:
        HfApi().model_info(
            hub_id, revision=config.revision, timeout=10
        )  # one try: a download retries for half a minute
        return Path(snapshot_download(**ask))
    except GatedRepoError:
        raise ModelNotHereError(
            f"{where} is gated: accept its licence on the hub and set HF_TOKEN, or set model.path to a copy on disk"
        ) from None
    except Exception as error:  # the HTTP library's own kinds among them
        raise ModelNotHereError(
            f"{where} is not on this disk and cannot be downloaded ({type(error).__name__}): "
            "set model.path to a folder that holds it"
        ) from None


def _has_code(folder: Path) -> bool:
    return any(folder.glob("*.py"))


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
