"""What the writers of all formats share: no file is overwritten, and each appears by rename."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from sae_core.files import replacing
from sae_core.formats.about import FormatError


class Exported(NamedTuple):
    """What an export wrote, and what to know of it."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]  # sentences: where the other library's reading differs from ours, by its definition


def check_free(paths: Iterable[Path]) -> None:
    """Raise FormatError where one of the files is there already."""
    for path in paths:
        if path.exists():
            raise FormatError(f"{path} is there already, and is not overwritten")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file of contiguous tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
