"""Find a causal LM on disk or on the Hugging Face hub and read its config. No weights are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweep.store.hashes import remembered_hash

# Files of a model folder that change its results: weights, config, tokenizer.
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("tokenizer*", "*.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_CONTENT = (*_WEIGHTS, "config.json", *_TOKENIZER, "*.py")


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelError(ValueError):
    """The LM cannot be found, read or hooked; the message says what to do."""


class ModelNotHereError(ModelError):
    """A hub model is not on this disk and cannot be downloaded; a sweep over several LMs goes on with the others."""


@dataclass(frozen=True)
class ModelConfig:
    """The settings that say which LM to use and how to run it.

    Args:
        name: the LM's name for people; it labels figures.
        hub_id, revision: the LM's place on the hub; not needed if `path` is given.
        path: a folder in transformers layout, used in place of the hub.
        window: tokens per window in every LM pass.
        dtype: float32, bfloat16 or float16.
        batch_size: windows per forward pass of the LM.
        blocks: module path of the list of blocks, for architectures that are not in `sweep.lm.model.BLOCKS`.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: load weights that are not safetensors (a pickle can run code).

    Raises:
        ModelError: the dtype is unknown, the window shorter than 2 tokens, or the batch size below 1.
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

    @property
    def label(self) -> str:
        """The LM's name in figures and records: `name`, or the folder's name of a local model."""
        if self.name != "local" or not self.path:
            return self.name
        folder = Path(self.path).name
        if folder in ("", "..", "~"):  # a path that does not say what the folder is called
            folder = Path(os.path.expanduser(self.path)).resolve().name
        return folder or self.name


@dataclass(frozen=True)
class ModelInfo:
    """The facts about an LM that are known before its weights are loaded."""

    folder: Path  # the model's folder on this disk
    architecture: str  # transformers' model_type
    d_model: int
    n_layers: int
    context: int | None  # the longest context in tokens; None if the config does not say


def find_model(config: ModelConfig) -> ModelInfo:
    """Find the LM on disk and read its config; a hub model that is not on disk is downloaded.

    Raises:
        ModelError: the LM is not there or cannot be read, or model.window is longer than its context.
        ModelNotHereError: a hub model is not on this disk and cannot be downloaded.
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
    """Return 16 hex digits of the sha256 over the files that determine tokens and logits, wherever the folder lies."""
    files = sorted({file for pattern in _CONTENT for file in info.folder.glob(pattern)})
    return remembered_hash(files, [f.name for f in files], cache_dir)


def _folder(config: ModelConfig) -> Path:
    """Return the model's folder on this disk, downloading a hub model that is not there."""
    if config.path:
        folder = Path(os.path.expanduser(config.path))
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.path={config.path} is not a model folder (no config.json in it)")
        return folder.resolve()
    if not config.hub_id:
        raise ModelError("model.path is not set: give the folder of a model in transformers layout")
    return _download(config, config.hub_id)


def _download(config: ModelConfig, hub_id: str) -> Path:
    """Return the folder of the hub's snapshot: from the local hub cache if it is there, else downloaded."""
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
        # Ask once whether the hub answers: a download would retry for half a minute.
        HfApi().model_info(hub_id, revision=config.revision, timeout=10)
        return Path(snapshot_download(**ask))
    except GatedRepoError:
        raise ModelNotHereError(
            f"{where} is gated: accept its licence on the hub and set HF_TOKEN, or set model.path to a copy on disk"
        ) from None
    except Exception as error:  # the HTTP library raises its own kinds
        raise ModelNotHereError(
            f"{where} is not on this disk and cannot be downloaded ({type(error).__name__}): "
            "set model.path to a folder that holds it"
        ) from None


def _has_code(folder: Path) -> bool:
    """Return whether Python code comes with the model."""
    return any(folder.glob("*.py"))


def first_line(error: BaseException) -> str:
    """Return the error's kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
