"""Find a causal LM on disk or on the Hugging Face hub and read its config. No weights are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweep.lm.errors import ModelError, ModelNotHereError, a_few, first_line
from sweep.lm.gguf import GGUF_NAME, converted
from sweep.lm.hub import hub_folder
from sweep.lm.outline import Subject, remembered_outline
from sweep.store.hashes import remembered_hash, short_hash

# Files of a model folder that change its results: weights, config, tokenizer.
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("tokenizer*", "*.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_CONTENT = (*_WEIGHTS, "config.json", *_TOKENIZER, "*.py")


AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelConfig:
    """The settings that say which LM to use and how to run it.

    Args:
        name: the LM's name for people; it labels figures.
        hub_id, revision: the LM's place on the hub; not needed if `path` is given.
        path: a folder in transformers layout, or a GGUF file (or a folder that holds one), used in place of the hub.
        package: a GGUF file that a Python package brings, as PACKAGE/FILE; used in place of the hub where it is
            installed.
        window: tokens per window in every LM pass.
        dtype: float32, bfloat16 or float16; or auto, which `sweep.jobs.build` replaces by what `sweep.lm.dtype` finds.
        auto_dtype: whether `dtype` was found so; the record then says what that changes of the LM's cross-entropy.
        batch_size: windows per forward pass of the LM.
        blocks: module path of the list of blocks, for models whose blocks `sweep.lm.blocks` cannot tell.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: load weights that are not safetensors (a pickle can run code).
        outlier_norm: a token whose activation is longer than this many medians of its layer is no ordinary one, nor is
            a special token (`sweep.lm.ordinary`); None for an LM all of whose tokens are ordinary.

    Raises:
        ModelError: the dtype is unknown, the window shorter than 2 tokens, the batch size below 1, or outlier_norm not
            above 1.
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
    package: str | None = None
    outlier_norm: float | None = None
    auto_dtype: bool = False

    def __post_init__(self):
        if self.dtype not in (AUTO, *DTYPES):
            raise ModelError(f"model.dtype={self.dtype} must be one of {', '.join((AUTO, *DTYPES))}")
        if self.window < 2:
            raise ModelError(f"model.window={self.window} must be at least 2 tokens")
        if self.batch_size < 1:
            raise ModelError(f"model.batch_size={self.batch_size} must be at least 1")
        if self.outlier_norm is not None and not 1 < self.outlier_norm < float("inf"):
            raise ModelError(f"model.outlier_norm={self.outlier_norm} must be above 1 and finite, or null for no limit")

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
    vocabulary: int | None = None  # token ids that it can embed; None if that is known only once it is loaded
    gguf: Path | None = None  # the GGUF file that `folder` was converted from


def find_model(config: ModelConfig, cache_dir: Path | None = None) -> ModelInfo:
    """Find the LM on disk, read its config, and find out whether it can be used; its weights are not loaded.

    A hub model that is not on disk is downloaded, and a GGUF file converted, once.

    Args:
        cache_dir: the cache's folder, which keeps the converted model, and remembers that the LM can be used.

    Raises:
        ModelError: the LM is not there or cannot be used, or model.window is longer than its context.
        ModelNotHereError: a hub model is not on this disk and cannot be downloaded.
    """
    folder, gguf = _place(config, cache_dir)
    hf = _hf_config(config, folder)
    text = _text_config(hf, folder)
    context = getattr(text, "max_position_embeddings", None)
    if context and config.window > context:
        raise ModelError(f"model.window={config.window} must be in 2..{context} (the context of {config.name})")
    d_model, n_layers = (_size(text, key, folder) for key in ("hidden_size", "num_hidden_layers"))
    info = ModelInfo(folder, text.model_type, d_model, n_layers, context, gguf=gguf)
    return replace(info, vocabulary=_vocabulary(config, info, hf, cache_dir))


def check_layer(layer: int, info: ModelInfo, name: str) -> None:
    """Raise ModelError unless the LM has a block `layer`."""
    if not 0 <= layer < info.n_layers:
        raise ModelError(f"layer={layer} must be in 0..{info.n_layers - 1} (the blocks of {name})")


def check_tokens(tokens: np.ndarray, info: ModelInfo, tokenizer: Any) -> None:
    """Raise ModelError if a token id (of any shape) is one that the LM cannot embed."""
    largest = int(tokens.max(initial=0))
    if info.vocabulary is not None and largest >= info.vocabulary:
        raise ModelError(
            f"token id {largest} must be in 0..{info.vocabulary - 1}: the tokenizer in {info.folder} has "
            f"{len(tokenizer)} tokens, and the LM's embedding {info.vocabulary} rows"
        )


def model_hash(info: ModelInfo, cache_dir: Path) -> str:
    """Return 16 hex digits of the sha256 over the files that determine tokens and logits, wherever they lie.

    A model that was converted from a GGUF file is known by that file: what it is converted to may change with
    transformers' version.
    """
    if info.gguf is not None:
        return remembered_hash([info.gguf], [GGUF_NAME], cache_dir)
    files = sorted({file for pattern in _CONTENT for file in info.folder.glob(pattern)})
    return remembered_hash(files, [f.name for f in files], cache_dir)


def _place(config: ModelConfig, cache_dir: Path | None) -> tuple[Path, Path | None]:
    """Return the model's folder in transformers layout, and the GGUF file that it was converted from, if any."""
    given = _given_path(config.path) if config.path else _package_file(config.package)
    if given is None:
        return _from_hub(config), None
    if given.is_dir():
        return given, None
    if cache_dir is None:
        raise ModelError(f"{given} is a GGUF file: it needs a cache_dir to be converted in")
    return converted(given, cache_dir), given


def _given_path(path: str) -> Path:
    """Return the folder in transformers layout, or the GGUF file, that model.path means."""
    given = Path(os.path.expanduser(path)).resolve()
    if given.is_file() or (given / "config.json").is_file():
        return given
    files = sorted(given.glob("*.gguf"))
    if len(files) > 1:
        names = a_few([file.name for file in files])
        raise ModelError(f"model.path={path} holds {len(files)} GGUF files ({names}): give the file itself")
    if not files:
        raise ModelError(f"model.path={path} is not a model folder (no config.json in it) and not a GGUF file")
    return files[0]


def _package_file(package: str | None) -> Path | None:
    """Return the file PACKAGE/FILE of an installed Python package, which is not imported; None if it is not there."""
    if package is None:
        return None
    name, _, file = package.partition("/")
    spec = find_spec(name)
    folders = (spec and spec.submodule_search_locations) or []
    return next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)


def _from_hub(config: ModelConfig) -> Path:
    if not config.hub_id:
        raise ModelError("model.path is not set: give the folder of a model in transformers layout, or a GGUF file")
    try:
        return hub_folder(config.hub_id, config.revision, config.allow_pickle, config.trust_remote_code)
    except ModelNotHereError as error:
        if config.package is None:
            raise
        name = config.package.partition("/")[0].replace("_", "-")
        raise ModelNotHereError(f"{error}, or install the package {name} that holds it (make smollm2)") from None


def _hf_config(config: ModelConfig, folder: Path) -> Any:
    """Return the config that transformers reads in a model's folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # code that comes with a model raises its own kinds
        hint = "; set model.trust_remote_code=true to run code that comes with it" if _has_code(folder) else ""
        raise ModelError(f"{folder} is not a model that transformers can read ({first_line(error)}){hint}") from None


def _text_config(hf: Any, folder: Path) -> Any:
    """Return the part of the config that is about text. Raise ModelError for an encoder with a decoder."""
    if getattr(hf, "is_encoder_decoder", False):
        raise ModelError(f"{folder} holds an encoder and a decoder (model_type {hf.model_type}), and no causal LM")
    try:
        return hf.get_text_config(decoder=True)
    except ValueError as error:
        raise ModelError(f"{folder} holds no one causal LM ({first_line(error)})") from None


def _size(text: Any, key: str, folder: Path) -> int:
    value = getattr(text, key, None)
    if not isinstance(value, int):
        raise ModelError(f"{folder} holds no causal LM: its config (model_type {text.model_type}) gives no {key}")
    return value


def _vocabulary(config: ModelConfig, info: ModelInfo, hf: Any, cache_dir: Path | None) -> int | None:
    """Return how many token ids the LM can embed; raise ModelError if the LM cannot be used."""
    settings = (config.blocks, config.allow_pickle, config.trust_remote_code)
    subject = Subject(info.folder, hf, info.architecture, info.d_model, info.n_layers, info.context, *settings)
    memo = None
    if cache_dir is not None:
        key = short_hash(model_hash(info, cache_dir), settings, version("transformers"), torch.__version__)
        memo = cache_dir / "models" / f"outline-{key}.json"
    return remembered_outline(subject, memo).vocabulary


def _has_code(folder: Path) -> bool:
    """Return whether Python code comes with the model."""
    return any(folder.glob("*.py"))
