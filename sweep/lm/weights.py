"""Whether a checkpoint's weights are those that the model needs.

transformers fills a weight that the checkpoint lacks with random values, and says so in a warning only. Here it is an
error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.lm.errors import ModelError, a_few, first_line

# Buffers that older checkpoints hold and the models of today compute themselves. transformers ignores them for most
# architectures, but not for all.
_BUFFERS = re.compile(r"(^|\.)((attn|attention)\.(masked_)?bias|causal_mask|inv_freq|position_ids)$")
_WRAPPERS = {"_orig_mod.": "torch.compile's", "module.": "DataParallel's"}


def weight_shapes(folder: Path, allow_pickle: bool) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} of the weights in a model's folder. Only the headers of safetensors files are read.

    Raises:
        ModelError: there are no safetensors weights (and pickles are not allowed), or a file is not whole.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder, allow_pickle):
        try:
            shapes |= _shapes_in(file)
        except Exception as error:  # safetensors, torch and the operating system each raise their own kinds
            raise ModelError(f"{file} is not a whole file of weights ({first_line(error)}): copy it again") from None
    return shapes


def check_weights(loading: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelError unless the checkpoint in `folder` gave the model every weight and nothing else.

    Args:
        loading: what transformers returns for `output_loading_info=True`.
    """
    missing = sorted(loading["missing_keys"])
    unexpected = sorted(key for key in loading["unexpected_keys"] if not _BUFFERS.search(key))
    misshapen = sorted(
        f"{key} {tuple(theirs)} for {tuple(wanted)}" for key, theirs, wanted in loading["mismatched_keys"]
    )
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    found = "; ".join(f"{kind}: {a_few(keys)}" for kind, keys in kinds.items() if keys)
    if found:
        hint = _hint(unexpected)
        raise ModelError(f"the weights in {folder} are not those of the model in its config ({found}){hint}")


def unjoined(error: Exception, folder: Path) -> ModelError | None:
    """Return what to say of transformers' failure to make the model's weights out of the checkpoint's, or None.

    It joins the experts of a mixture into one weight, and does not say which of them it lacks.
    """
    if "conversion of the weights" not in str(error):
        return None
    return ModelError(
        f"the weights in {folder} cannot be joined into those of the model in its config: some are missing or of "
        "another shape (one of a mixture's experts, say)"
    )


def _hint(unexpected: list[str]) -> str:
    for prefix, whose in _WRAPPERS.items():
        if unexpected and all(key.startswith(prefix) for key in unexpected):
            return f"; the prefix {prefix} is {whose}: save the model without its wrapper"
    return ""


def _weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """Return the files that transformers would load. Raise ModelError if there are none."""
    for name in ("model.safetensors", *(["pytorch_model.bin"] if allow_pickle else [])):
        file, index = folder / name, folder / f"{name}.index.json"
        if file.is_file():
            return [file]
        if index.is_file():
            return [folder / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    allow = "" if allow_pickle else "; set model.allow_pickle=true to load pickled ones (a pickle can run code)"
    raise ModelError(f"{folder} holds no safetensors weights (model.safetensors, or its index and shards){allow}")


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".bin":
        import torch

        state = torch.load(file, map_location="meta", weights_only=True, mmap=True)
        return {key: tuple(value.shape) for key, value in state.items()}
    return _shapes_in_safetensors(file)


def _shapes_in_safetensors(file: Path) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} from the header of a safetensors file: eight bytes that give its length, and JSON.

    The library maps the whole file into memory for this, which a machine may not have room for.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size:
            raise ValueError(f"it has {size} bytes")
        header = json.loads(stream.read(length))
    entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
    wanted = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != wanted:
        raise ValueError(f"it has {size} bytes of {wanted}")
    return {key: tuple(entry["shape"]) for key, entry in entries.items()}
