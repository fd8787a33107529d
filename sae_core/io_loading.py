"""The SAE that tensors and `cfg.json` of `sae_core.io` say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_core.bases import Basis, Neurons, make_basis
from sae_core.codebook import CodebookDictionary
from sae_core.dictionary import (
    ActivationDictionary,
    DenseDictionary,
    Dictionary,
    Drawn,
    FrozenDictionary,
    SparseDictionary,
    drawn_support,
)
from sae_core.encoders import BatchTopK, ByPursuit, Encoder, JumpReLU, NormedPursuit, OwnTopK, PositiveTopK, TiedTopK
from sae_core.io_checks import (
    CONFIG_FILE,
    DENSE_KINDS,
    GAIN,
    OLDEST_SUPPORT,
    THRESHOLD,
    SAEFileError,
    check_config,
    has_ranks,
    names_basis,
    support_digest,
)
from sae_core.kronecker import Heads, KroneckerTopK
from sae_core.packed import PackedDictionary, PackedTopK, packed_paths
from sae_core.packing import (
    align_rows,
    byte_table,
    fits_in_a_byte,
    unpack_indices,
    unpack_sources,
    unpack_steps,
    unpack_support,
    unpack_values,
)
from sae_core.sae import SAE
from sae_core.trellis import TrellisDictionary


def from_stored(
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    folder: Path,
    backend: str = "auto",
    keep_packed: bool = False,
) -> SAE:
    """Make the SAE that `stored` says, in evaluation mode; it may share memory with the tensors.

    Args:
        folder: the folder that errors name.
        backend, keep_packed: see `sae_core.load`.

    Raises:
        SAEFileError: tensors and config make no SAE, or the regenerated support is not the saved one's.
    """
    check_config(config, tensors, folder / CONFIG_FILE)
    dictionary = _load_dictionary(config, tensors, folder, keep_packed)
    try:
        encoder = _load_encoder(config, tensors, dictionary, folder, keep_packed)
        sae = SAE(dictionary, encoder, config["k"], config["scale"], backend, tuple(config.get("prefixes", ())))
    except ValueError as error:  # a size or scale that no SAE can have
        raise SAEFileError(f"{folder / CONFIG_FILE}: {error}") from None
    sae.b_dec.data = tensors["b_dec"]
    return sae.eval()


def _load_encoder(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    dictionary: Dictionary,
    folder: Path,
    keep_packed: bool,
) -> Encoder:
    if ends := config.get("ends"):
        return NormedPursuit(tensors[GAIN], **ends)
    if config.get("pursuit"):
        return ByPursuit(config["pursuit"])
    if config["tied"]:
        encoder = TiedTopK(dictionary)
        encoder.b_enc.data = tensors["b_enc"]
    elif heads := config.get("heads"):
        encoder = KroneckerTopK(dictionary.d_in, dictionary.n_latents, Heads(*heads), torch.Generator())
        encoder.weight.data, encoder.b_enc.data = tensors["encoder_weight"], tensors["b_enc"]
    else:
        encoder = _load_own(config, tensors, folder, keep_packed)
    if rule := config.get("rule"):
        assert isinstance(encoder, OwnTopK), "_check_encoder demands weights of its own"
        return JumpReLU(encoder, tensors[rule]) if rule == THRESHOLD else PositiveTopK(encoder, tensors[rule])
    if not config.get("batch_topk"):
        return encoder
    encoder = BatchTopK(encoder)
    encoder.threshold.copy_(tensors["threshold"][0])
    return encoder


def _load_own(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path, keep_packed: bool) -> OwnTopK:
    bits, shape = config.get("encoder_bits", 32), (config["n_latents"], config["d_in"])
    if bits == 32:
        return OwnTopK(tensors["encoder_weight"], tensors["b_enc"])
    with _naming_damage(folder):
        if keep_packed and fits_in_a_byte(bits):
            packed = align_rows(tensors["encoder_weight"], bits, shape)
            return PackedTopK(packed, tensors["b_enc"], tensors["encoder_scale"], shape[1], bits)
        weight = unpack_values(tensors["encoder_weight"], bits, shape)
    encoder = OwnTopK(weight, tensors["b_enc"])
    encoder.weight_bits, encoder.row_scale = bits, nn.Parameter(tensors["encoder_scale"])
    return encoder


def _load_dictionary(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path, keep_packed: bool
) -> Dictionary:
    if config.get("trellis"):
        return _load_paths(config, tensors, keep_packed)
    if keep_packed and (config.get("codebook") or fits_in_a_byte(config.get("value_bits", 32))):
        return _load_packed(config, tensors, folder)
    if config.get("codebook"):
        basis = _load_basis(config, tensors)
        return CodebookDictionary(tensors["codebook"], tensors["chosen"], config["d_in"], basis)
    dictionary = _load_sparse(config, tensors, folder) if config["sparse"] else _load_dense(config, tensors)
    dictionary.value_bits = config.get("value_bits", 32)
    if dictionary.value_bits < 32:
        shape = config["n_latents"], dictionary.degree
        with _naming_damage(folder):
            dictionary.values.data = unpack_values(tensors["values"], dictionary.value_bits, shape)
    elif "values" in tensors:
        dictionary.values.data = tensors["values"]
    return dictionary


def _load_paths(config: dict[str, Any], tensors: dict[str, torch.Tensor], keep_packed: bool) -> Dictionary:
    bits, basis = config["value_bits"], _load_basis(config, tensors)
    steps = unpack_steps(tensors["values"], bits, (config["n_latents"], config["d_in"]))
    return packed_paths(steps, bits, basis) if keep_packed else TrellisDictionary(steps, bits, basis)


def _load_packed(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> PackedDictionary:
    d_in, bits, basis = config["d_in"], config["value_bits"], _load_basis(config, tensors)
    if config.get("codebook"):
        return PackedDictionary(tensors["chosen"], tensors["codebook"], d_in, d_in, None, None, basis, 0, bits)
    degree = config["degree"] if config["sparse"] or config["format"] == DENSE_KINDS else d_in
    support, drawn = _load_support(config, tensors, folder) if config["sparse"] else (None, None)
    with _naming_damage(folder):
        packed = align_rows(tensors["values"], bits, (config["n_latents"], degree))
    about = support, drawn, basis, config.get("always_on", 0), bits
    return PackedDictionary(packed, byte_table(bits), d_in, degree, *about)


@contextmanager
def _naming_damage(folder: Path) -> Iterator[None]:
    """Turn the ValueError of values that cannot be unpacked into the error of their file."""
    try:
        yield
    except ValueError as error:
        raise SAEFileError(f"{folder}: the values are damaged: {error}") from None


def _load_dense(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Dictionary:
    d_in, n_latents = config["d_in"], config["n_latents"]
    if tokens := config.get("source_tokens"):
        dictionary = ActivationDictionary(d_in, n_latents, torch.Generator(), tokens)
        dictionary.sources = unpack_sources(tensors["sources"], tokens, n_latents)
        return dictionary
    rank = config["degree"] if config["format"] == DENSE_KINDS else None
    return DenseDictionary(d_in, n_latents, torch.Generator(), rank, _load_basis(config, tensors))


def _load_support(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path
) -> tuple[torch.Tensor, Drawn | None]:
    d_in, n_latents, degree = config["d_in"], config["n_latents"], config["degree"]
    drawn = None
    if config.get("support_seed") is not None:
        name, atoms = config.get("support_name", OLDEST_SUPPORT), config.get("support_atoms")
        drawn = Drawn(name, config["support_seed"], atoms)
        support = drawn_support(drawn, d_in, n_latents, degree, config.get("always_on", 0))
    else:
        unpack = unpack_support if has_ranks(config) else unpack_indices
        support = unpack(tensors["support"], d_in, n_latents, degree)
    if support_digest(support) != config["support_sha256"]:
        raise SAEFileError(f"{folder}: the support does not match its digest")
    return support, drawn


def _load_sparse(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Dictionary:
    support, drawn = _load_support(config, tensors, folder)
    d_in, basis, always_on = config["d_in"], _load_basis(config, tensors), config.get("always_on", 0)
    if config.get("frozen", False):
        assert drawn is not None, "_check_kinds demands a seed"
        values_seed = config.get("values_seed")  # older files have one seed for both
        return FrozenDictionary(d_in, support, drawn, basis, always_on, values_seed)
    return SparseDictionary(d_in, support, torch.Generator(), drawn, basis, always_on)


def _load_basis(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Basis:
    if not names_basis(config):
        return Neurons()
    about = config["basis"]
    basis = make_basis(about["name"], config["d_in"], about["seed"] or 0)
    if basis.stored is not None:
        whole, shape = about["value_bits"] < 32, tuple(basis.stored.shape)
        # The copy lies where a new tensor does: BLAS may round in another way on one that lies somewhere in a file.
        found = unpack_values(tensors["basis"], about["value_bits"], shape) if whole else tensors["basis"].clone()
        basis.stored.data = found
        basis.value_bits = about["value_bits"]
    return basis
