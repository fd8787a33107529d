"""An SAE on disk: `sae.safetensors` (what it stores, nothing else) and `cfg.json` (how to read it).

A support that a seed regenerates is not written; `cfg.json` keeps the seed and a digest of the support, and
loading checks one against the other. Any other support is written as packed indices of ceil(log2 m) bits each.
Files appear by rename, so a half-written one never has the final name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae_core.dictionary import DenseDictionary, Dictionary, SparseDictionary
from sae_core.encoders import ByPursuit, Encoder, OwnTopK, Refitted, TiedTopK
from sae_core.pursuit.solvers import canonical
from sae_core.sae import SAE
from sae_core.storage import bits_per_index
from sae_core.supports import expander_support

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
FORMAT = 1


class SAEFileError(ValueError):
    """The folder does not hold an SAE that this version can read."""


def save(sae: SAE, folder: str | Path, about: dict[str, Any] | None = None) -> int:
    """Write `sae` into `folder`; return the size of `sae.safetensors` in bytes (the record's `artifact_bytes`).

    Args:
        about: what else `cfg.json` should say (model, hook point, ...), under the key "about".

    Raises:
        ValueError: `sae` is a reading of an SAE by `refit` (`sae_core.inference`): save the SAE itself.
    """
    if isinstance(sae.encoder, Refitted):
        raise ValueError("this is a reading of an SAE by refit: save the SAE itself")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = sae.dictionary
    tensors: dict[str, torch.Tensor] = {"values": dictionary.values, "b_dec": sae.b_dec}
    config: dict[str, Any] = {
        "format": FORMAT,
        "d_in": dictionary.d_in,
        "n_latents": dictionary.n_latents,
        "degree": dictionary.degree,
        "k": sae.k,
        "scale": float(sae.scale),
        "sparse": dictionary.support is not None,
        "tied": sae.tied,
        "pursuit": sae.encoder.name if isinstance(sae.encoder, ByPursuit) else None,
        "about": about or {},
    }
    if isinstance(sae.encoder, (TiedTopK, OwnTopK)):
        tensors["b_enc"] = sae.encoder.b_enc
    if isinstance(sae.encoder, OwnTopK):
        tensors["encoder_weight"] = sae.encoder.weight
    if dictionary.support is not None:
        config["support_seed"] = dictionary.support_seed
        config["support_sha256"] = support_digest(dictionary.support)
        if dictionary.support_seed is None:
            tensors["support"] = pack_support(dictionary.support, dictionary.d_in)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with _replacing(folder / WEIGHTS_FILE) as path:
        save_file(tensors, path)
    with _replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=1))
    return (folder / WEIGHTS_FILE).stat().st_size


def load(folder: str | Path, device: str | torch.device = "cpu", backend: str = "auto") -> SAE:
    """Read the SAE that `save` wrote; reconstructions are bit-identical to the saved one's.

    Raises:
        SAEFileError: a file is missing or damaged, or the regenerated support is not the saved one's.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise SAEFileError(f"{folder} holds no readable SAE: {error}") from None
    _check_config(config, tensors, folder / CONFIG_FILE)
    dictionary = _load_dictionary(config, tensors, folder)
    sae = SAE(dictionary, _load_encoder(config, tensors, dictionary), config["k"], config["scale"], backend)
    sae.b_dec.data = tensors["b_dec"]
    return sae.to(device)


def _load_encoder(config: dict[str, Any], tensors: dict[str, torch.Tensor], dictionary: Dictionary) -> Encoder:
    if config.get("pursuit"):
        return ByPursuit(config["pursuit"])
    if config["tied"]:
        encoder = TiedTopK(dictionary)
    else:
        encoder = OwnTopK(dictionary, "random", torch.Generator())
        encoder.weight.data = tensors["encoder_weight"]
    encoder.b_enc.data = tensors["b_enc"]
    return encoder


def _check_config(config: Any, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Raise SAEFileError unless the config is complete and says the shapes that the tensors have."""
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SAEFileError(f"{file} is not an SAE config of format {FORMAT}")
    for key in ("d_in", "n_latents", "degree", "k"):
        if type(config.get(key)) is not int:
            raise SAEFileError(f"{file}: {key}={config.get(key)} must be a whole number")
    sparse, tied, seed = config.get("sparse"), config.get("tied"), config.get("support_seed")
    well_typed = isinstance(sparse, bool) and isinstance(tied, bool) and isinstance(config.get("scale"), float)
    if not well_typed or not (seed is None or type(seed) is int) or (sparse and "support_sha256" not in config):
        raise SAEFileError(f"{file}: sparse, tied, scale, support_seed and support_sha256 do not make an SAE")
    d_in, n_latents = config["d_in"], config["n_latents"]
    pursuit = config.get("pursuit")  # missing in files written before there were any
    try:
        known = pursuit is None or (tied and bool(canonical(pursuit)))
    except (TypeError, ValueError):
        known = False
    if not known:
        raise SAEFileError(f"{file}: pursuit={pursuit} is none that this version knows")
    shapes = {"values": (n_latents, config["degree"] if sparse else d_in), "b_dec": (d_in,)}
    shapes |= {} if pursuit else {"b_enc": (n_latents,)}
    shapes |= {} if tied else {"encoder_weight": (n_latents, d_in)}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise SAEFileError(f"{file}: {name} should be of shape {shape}, and is not in {WEIGHTS_FILE}")
    if sparse and seed is None and "support" not in tensors:
        raise SAEFileError(f"{file}: neither a support nor a seed to draw it from")


def _load_dictionary(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Dictionary:
    d_in, n_latents, degree = config["d_in"], config["n_latents"], config["degree"]
    if not config["sparse"]:
        dictionary: Dictionary = DenseDictionary(d_in, n_latents, torch.Generator())
    else:
        seed = config["support_seed"]
        if seed is not None:
            support = expander_support(d_in, n_latents, degree, seed)
        else:
            support = unpack_support(tensors["support"], d_in, n_latents, degree)
        if support_digest(support) != config["support_sha256"]:
            raise SAEFileError(f"{folder}: the support does not match its digest")
        dictionary = SparseDictionary(d_in, support, torch.Generator(), seed)
    dictionary.values.data = tensors["values"]
    return dictionary


def support_digest(support: torch.Tensor) -> str:
    """sha256 of the indices as little-endian int64."""
    return hashlib.sha256(support.cpu().numpy().astype("<i8").tobytes()).hexdigest()


def pack_support(support: torch.Tensor, d_in: int) -> torch.Tensor:
    """Indices as ceil(log2 d_in) bits each, most significant bit first: uint8 (ceil(n*d*bits / 8),)."""
    width = bits_per_index(d_in)
    flat = support.cpu().numpy().reshape(-1, 1)
    bits = (flat >> np.arange(width - 1, -1, -1)) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8)))


def unpack_support(packed: torch.Tensor, d_in: int, n_latents: int, degree: int) -> torch.Tensor:
    """Inverse of `pack_support`: int64 (n_latents, degree)."""
    width = bits_per_index(d_in)
    bits = np.unpackbits(packed.numpy(), count=n_latents * degree * width).reshape(-1, width)
    indices = bits.astype(np.int64) @ (1 << np.arange(width - 1, -1, -1))
    return torch.from_numpy(indices.reshape(n_latents, degree))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
