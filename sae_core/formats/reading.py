"""What the readers of all formats share: files are checked before anything is made of them, and nothing in them is run.

Every error is a FormatError of one line that names the file.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from sae_core.formats.about import About, FormatError
from sae_core.storage import Layout

ALL = slice(None)  # of an SAE's latents
LONGEST_CONFIG = 10_000_000  # bytes
_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


class Source(NamedTuple):
    """The files of an SAE of another library."""

    format: str
    weights: Path
    config: Path
    allow_pickle: bool = False


class Header(NamedTuple):
    """What is known of an SAE before its weights are read."""

    d_in: int
    n_latents: int
    k: int | None  # where it is read by TopK
    value_bits: int  # of a value in the file
    file_bytes: int
    reading: Mapping[str, Any]  # all that says how the weights are read, as plain values
    normalised: bool  # whether it is meant for activations whose mean norm is sqrt(d_in)
    about: About
    layout: Layout | None = None  # what the file stores, where it is ours
    pursuit: str | None = None  # the pursuit that it is read by, so that it has no encoder


def read_config(path: Path) -> dict[str, Any]:
    """Return a JSON config. Raise FormatError where it is none."""
    try:
        if path.stat().st_size > LONGEST_CONFIG:
            raise FormatError(f"{path} is larger than any config ({path.stat().st_size:,} bytes)")
        config = json.loads(path.read_text())
    except FormatError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FormatError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not readable JSON: {_line(error)}") from None
    if not isinstance(config, dict):
        raise FormatError(f"{path} is not a JSON object")
    return config


def shapes(source: Source) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return {tensor: (shape, bits of a value)} of the weights. Raise FormatError where they cannot be read."""
    if source.weights.suffix == ".safetensors":
        try:
            with open(source.weights, "rb"), safe_open(source.weights, "pt") as file:
                names = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {name: (tuple(part.get_shape()), _bits(part.get_dtype())) for name, part in names.items()}
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise FormatError(f"{source.weights} is missing") from None
        except SafetensorError as error:
            raise FormatError(f"{source.weights} is no readable safetensors file: {_line(error)}") from None
    return {name: (tuple(each.shape), 8 * each.element_size()) for name, each in _pickled(source).items()}


def tensors(source: Source, axes: Mapping[str, int], latents: slice = ALL) -> dict[str, torch.Tensor]:
    """Return the weights of some latents in float32; no others come into memory.

    Args:
        axes: the axis along which latents lie, of each tensor that has one; other tensors are returned whole.

    Raises:
        FormatError: the weights cannot be read, or a value that is returned is not finite.
    """
    if source.weights.suffix == ".safetensors":
        shapes(source)  # names what is wrong
        with safe_open(source.weights, "pt") as file:
            found = {name: _part(file, name, axes, latents) for name in file.keys()}  # noqa: SIM118
    else:
        found = {name: tensor[_along(axes, name, latents)] for name, tensor in _pickled(source).items()}
    for name, tensor in found.items():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
        ):
            raise FormatError(f"{source.weights}: {name} has values that are not finite")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def _part(file: Any, name: str, axes: Mapping[str, int], latents: slice) -> torch.Tensor:
    return (
        file.get_tensor(name)
        if latents == ALL or name not in axes
        else file.get_slice(name)[_along(axes, name, latents)]
    )


def _along(axes: Mapping[str, int], name: str, latents: slice) -> tuple[slice, ...]:
    """Return the index that takes some latents out of a tensor."""
    return (*[ALL] * axes[name], latents) if name in axes else ()


def _pickled(source: Source) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of torch's. Anything else than tensors is read only where pickles are allowed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles, which are refused or were allowed
            found = _loaded(source)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FormatError(f"{source.weights} is missing") from None
    except pickle.UnpicklingError:
        raise FormatError(
            f"{source.weights} holds more than tensors, and reading it could run code: sae.allow_pickle=true reads it"
        ) from None
    except Exception as error:  # whatever a damaged archive makes of torch's reader
        raise FormatError(f"{source.weights} is no readable file of torch's: {_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise FormatError(f"{source.weights} holds no state dict of tensors")
    return found


def _loaded(source: Source) -> Any:
    """Return what a file of torch's holds; tensors of its zip format stay on disk until they are looked at."""
    return torch.load(
        source.weights, "cpu", weights_only=not source.allow_pickle, mmap=zipfile.is_zipfile(source.weights)
    )


def check_shapes(source: Source, found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise FormatError for a tensor that is missing or of another shape."""
    for name, shape in expected.items():
        if name not in found:
            raise FormatError(f"{source.weights} holds no {name}; it holds {', '.join(sorted(found)) or 'nothing'}")
        if found[name][0] != shape:
            raise FormatError(f"{source.weights}: {name} of shape {found[name][0]} must be {shape}")


def whole(path: Path, config: Mapping[str, Any], key: str) -> int:
    """Return a positive whole number of a config. Raise FormatError where it is none."""
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise FormatError(f"{path}: {key}={value} must be a whole number of at least 1")
    return value


def text(config: Mapping[str, Any], key: str) -> str | None:
    """Return a text of a config, None where it is no text."""
    return config[key] if isinstance(config.get(key), str) else None


def number(config: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number of a config, None where it is none."""
    return config[key] if type(config.get(key)) is int else None


def layer_of_hook(path: Path, hook: str | None) -> int | None:
    """Return the block after which a hook point of TransformerLens reads the residual stream; None where none is named.

    Before block L is after block L - 1. Raises FormatError for any other place.
    """
    if hook is None:
        return None
    found = _HOOK.fullmatch(hook)
    layer = -1 if found is None else int(found[1]) - (found[2] == "pre")
    if layer < 0:
        raise FormatError(
            f"{path}: hook point {hook} is not the residual stream after a block (blocks.3.hook_resid_post)"
        )
    return layer


def content_hash(source: Source, header: Header) -> str:
    """Return a hash of what an SAE is: its weights, and how they are read. It does not depend on where it lies."""
    stat = source.weights.stat()
    weights = _file_hash(source.weights.resolve(), stat.st_size, stat.st_mtime_ns)
    read = json.dumps([header.reading, header.normalised], sort_keys=True)
    return hashlib.sha256(f"{weights} {read}".encode()).hexdigest()[:32]


@lru_cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Return the sha256 of a file; size and time of change say when a hash that is known still holds."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bits(dtype: str) -> int:
    return int(re.sub(r"\D", "", dtype.split("_")[0]) or 8)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
