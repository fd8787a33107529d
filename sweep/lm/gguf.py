"""Turn a GGUF file, the one-file format of llama.cpp, into a model folder in transformers layout, once.

Quantised weights are written as float32, which holds each of their values exactly: four bytes a parameter. The reading
is transformers' own.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError

from sweep.lm.errors import ModelError, first_line
from sweep.lm.weights import check_weights
from sweep.store.files import temporary_name
from sweep.store.hashes import remembered_hash
from sweep.store.human_size import human_size

GGUF_NAME = "model.gguf"  # stands for the file in its hash, so that its own name does not matter
_LAYOUT = 1  # of what is written; a new number has every file converted again
_SMALL_FILES = 20 * 2**20  # bytes left for the tokenizer


def converted(file: Path, cache_dir: Path) -> Path:
    """Return the folder `cache_dir`/models/gguf-... that holds the model of a GGUF file, converting it if need be.

    Two processes that need the same file: one converts, the other waits. The folder appears whole or not at all.

    Raises:
        ModelError: the package gguf is not installed, the file is no GGUF file that transformers reads, or the disk is
            too small.
    """
    _check_magic(file)
    key = remembered_hash([file], [GGUF_NAME], cache_dir)
    folder = cache_dir / "models" / f"gguf-{key}-{_LAYOUT}"
    if folder.is_dir():
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if not folder.is_dir():
            _convert(file, folder)
    return folder.resolve()


def _check_magic(file: Path) -> None:
    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is neither a model folder nor a GGUF file")


def _convert(file: Path, folder: Path) -> None:
    """Write the model of `file` to `folder`. The caller holds the lock."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a conversion that was killed
        shutil.rmtree(left, ignore_errors=True)
    _check_disk(file, folder.parent)
    print(f"converting {file} once, to {folder}", file=sys.stderr, flush=True)
    temporary = folder.with_name(temporary_name(folder.name))
    try:
        for part in _read(file):
            part.save_pretrained(temporary)
        for weights in temporary.glob("*.safetensors"):  # written for their owner alone; a cache may be shared
            weights.chmod((temporary / "config.json").stat().st_mode)
        temporary.rename(folder)
    except SafetensorError as error:
        raise ModelError(f"{folder} cannot be written ({first_line(error)})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_disk(file: Path, folder: Path) -> None:
    """Raise ModelError if `folder`'s disk cannot hold the converted model, or if `file` is no whole GGUF file."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ModelError(f"{file} is a GGUF file: reading it needs the extra gguf (pip install 'gguf>=0.17')") from None
    try:
        parameters = sum(math.prod(int(n) for n in tensor.shape) for tensor in GGUFReader(file).tensors)
    except Exception as error:  # the reader raises what numpy raises
        raise ModelError(f"{file} is not a whole GGUF file ({first_line(error)}): copy it again") from None
    needed, free = 4 * parameters + _SMALL_FILES, shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"converting {file} takes {human_size(needed)} in {folder}, which has {human_size(free)} free: "
            "set cache_dir to a folder on a larger disk"
        )


def _read(file: Path) -> tuple[Any, Any]:
    """Return the model of a GGUF file, in float32 and without a trace of its quantisation, and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        with redirect_stderr(io.StringIO()):  # one progress bar cannot be turned off
            config = AutoConfig.from_pretrained(**place)
            with torch.device("meta"):
                outline = AutoModelForCausalLM.from_config(config)
            model, loading = _filled(outline, file)
            tokenizer = AutoTokenizer.from_pretrained(**place)
    except Exception as error:
        raise ModelError(f"{file} is a GGUF file that transformers cannot read ({first_line(error)})") from None
    check_weights(loading, file)
    return model, tokenizer


def _filled(outline: Any, file: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model with the file's weights, and transformers' account of which it found.

    `from_pretrained(gguf_file=...)` would do the same, and demand a package (accelerate) that it does not use.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=outline, torch_dtype=torch.float32)
    return type(outline).from_pretrained(
        None,
        config=outline.config,
        state_dict=read["tensors"],
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
