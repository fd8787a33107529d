"""An SAE on disk: `sae.safetensors` (what it stores, nothing else) and `cfg.json` (how to read it).

A support that a seed regenerates is not written; `cfg.json` keeps its name, the seed and a digest of the support, and
loading checks that the regenerated support has this digest. Any other support is written as one number for each atom,
its rank among all sets of so many rows (`sae_core.packing`). Values of fewer than 32 bits are packed too, and those of
a frozen dictionary, which the seed regenerates, are not written. Files appear by rename, so a half-written one never
has the final name.

`format` in `cfg.json` is the oldest that says all, so that older versions read what they can and refuse the rest:
    1  atoms are dense, or sparse in the neurons' own basis on a support that a seed draws
    2  the basis is another, or some coordinates are always on: `cfg.json` names both
    3  the support is written as ranks; files of the formats 1 and 2 have indices of ceil(log2 m) bits each in its place
    4  values have fewer than 4 bits, or atoms are pieces out of a codebook; `cfg.json` names a basis as in the formats
       1 to 3, and a support is ranks as in 3
    5  the encoder is BatchTopK, and `threshold` is stored, or a seed draws the support of more atoms, of which the SAE
       has the first (`support_atoms`); atoms may be dense, and else are as in format 3
    6  atoms are dense in the first coordinates of a basis, or are activations, with the number of each in its pool
    7  atoms are dense, and the encoder has weights of its own and, as `rule` says, a value for each latent: `threshold`
       of a JumpReLU, or `gain` of a TopK with ReLU
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae_core.bases import BASES, BASIS_BITS, NEURONS, Basis, Neurons, basis_name, basis_shape, make_basis
from sae_core.codebook import ENTRIES, CodebookDictionary, bits_a_value
from sae_core.dictionary import (
    ActivationDictionary,
    DenseDictionary,
    Dictionary,
    Drawn,
    FrozenDictionary,
    SparseDictionary,
    drawn_support,
)
from sae_core.encoders import (
    BatchTopK,
    ByPursuit,
    Encoder,
    JumpReLU,
    OwnTopK,
    PositiveTopK,
    Refitted,
    TiedTopK,
    inner_encoder,
)
from sae_core.files import replacing
from sae_core.packing import (
    pack_sources,
    pack_support,
    pack_values,
    packed_bytes,
    unpack_indices,
    unpack_sources,
    unpack_support,
    unpack_values,
)
from sae_core.pursuit.solvers import canonical
from sae_core.rounding import STORED_GRIDS
from sae_core.sae import SAE
from sae_core.sizes import bits_per_atom, bits_per_index
from sae_core.supports import SUPPORTS

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
FORMAT, WITH_BASIS, WITH_RANKS, WITH_FEW_BITS, WITH_THRESHOLD, DENSE_KINDS, WITH_RULE = FORMATS = 1, 2, 3, 4, 5, 6, 7
RULES = THRESHOLD, GAIN = "threshold", "gain"  # also the names of their tensors
OLDEST_SUPPORT = "expander"  # the only support that there was when files named none


class SAEFileError(ValueError):
    """The error of a folder that does not hold an SAE that this version can read."""


def save(sae: SAE, folder: str | Path, about: dict[str, Any] | None = None) -> int:
    """Write `sae` into `folder`; return the size of `sae.safetensors` in bytes (the record's `artifact_bytes`).

    Args:
        about: anything else that `cfg.json` should say (model, hook point, ...), under the key "about".

    Raises:
        ValueError: the codes of `sae` are refitted (`infer_by(sae, "refit")`): save the SAE itself. Or its values are
            still trained to be rounded: end that first (`sae_core.keep_rounded`).
    """
    if sae.dictionary.rounded_to is not None:
        raise ValueError("the values of this SAE are still trained to be rounded: call sae_core.keep_rounded first")
    if isinstance(sae.encoder, Refitted):
        raise ValueError("this is a reading of an SAE by refit, which a file cannot hold: save the SAE itself")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors_to_write(sae).items()}
    with replacing(folder / WEIGHTS_FILE) as path:
        save_file(tensors, path)
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(_config_to_write(sae, about or {}), indent=1))
    return (folder / WEIGHTS_FILE).stat().st_size


def _tensors_to_write(sae: SAE) -> dict[str, torch.Tensor]:
    """Return what `sae` stores, by its name in `sae.safetensors`: nothing that a seed regenerates."""
    dictionary, encoder = sae.dictionary, sae.encoder
    tensors: dict[str, torch.Tensor] = {"b_dec": sae.b_dec}
    if isinstance(dictionary, CodebookDictionary):
        tensors |= {"codebook": dictionary.codebook, "chosen": dictionary.chosen.to(torch.uint8)}
    elif not isinstance(dictionary, FrozenDictionary):
        tensors["values"] = pack_values(dictionary.values, dictionary.value_bits)
    if isinstance(encoder, BatchTopK):
        tensors["threshold"] = encoder.threshold.float().view(1)
    if isinstance(encoder, JumpReLU):
        tensors[THRESHOLD] = encoder.threshold.float()
    if isinstance(encoder, PositiveTopK):
        tensors[GAIN] = encoder.gain.float()
    inner = inner_encoder(encoder)
    if isinstance(inner, (TiedTopK, OwnTopK)):
        tensors["b_enc"] = inner.b_enc
    if isinstance(inner, OwnTopK):
        tensors["encoder_weight"] = inner.weight
    if dictionary.basis.stored is not None:
        tensors["basis"] = pack_values(dictionary.basis.stored, dictionary.basis.value_bits)
    if isinstance(dictionary, ActivationDictionary):
        tensors["sources"] = pack_sources(dictionary.sources, dictionary.tokens)
    if _writes_support(dictionary):
        assert dictionary.support is not None
        tensors["support"] = pack_support(dictionary.support, dictionary.d_in)
    return tensors


def _writes_support(dictionary: Dictionary) -> bool:
    return dictionary.support is not None and dictionary.drawn is None


def _config_to_write(sae: SAE, about: dict[str, Any]) -> dict[str, Any]:
    """Return what `cfg.json` says: the sizes, how the tensors are packed, and what regenerates the support."""
    dictionary = sae.dictionary
    config: dict[str, Any] = {
        "format": FORMAT,
        "d_in": dictionary.d_in,
        "n_latents": dictionary.n_latents,
        "degree": dictionary.degree,
        "k": sae.k,
        "scale": float(sae.scale),
        "sparse": dictionary.support is not None,
        "frozen": isinstance(dictionary, FrozenDictionary),
        "value_bits": dictionary.value_bits,
        "tied": sae.tied,
        "pursuit": sae.encoder.name if isinstance(sae.encoder, ByPursuit) else None,
        "about": about,
    }
    if dictionary.support is not None:
        config["support_name"], config["support_seed"], atoms = dictionary.drawn or (None, None, None)
        config |= {} if atoms is None else {"support_atoms": atoms}
        config["support_sha256"] = support_digest(dictionary.support)
    if isinstance(dictionary, FrozenDictionary):
        config["values_seed"] = dictionary.values_seed
    basis, ranks, dense_kind = dictionary.basis, _writes_support(dictionary), _is_dense_kind(dictionary)
    with_threshold = isinstance(sae.encoder, BatchTopK) or "support_atoms" in config
    in_a_basis = ranks or dense_kind or not isinstance(basis, Neurons) or dictionary.always_on
    if in_a_basis or (with_threshold and dictionary.support is not None):
        about_basis = {"name": str(basis.name), "seed": basis.seed, "value_bits": basis.value_bits}
        config |= {"basis": about_basis, "always_on": dictionary.always_on}
        config["format"] = WITH_RANKS if ranks else WITH_BASIS
    if isinstance(dictionary, CodebookDictionary):
        config |= {"format": WITH_FEW_BITS, "codebook": dictionary.codebook.shape[1]}
    elif dictionary.value_bits < 4:
        config["format"] = WITH_FEW_BITS
    if with_threshold:
        config |= {"format": WITH_THRESHOLD, "batch_topk": isinstance(sae.encoder, BatchTopK)}
    if dense_kind:
        config["format"] = DENSE_KINDS
    if isinstance(dictionary, ActivationDictionary):
        config["source_tokens"] = dictionary.tokens
    if isinstance(sae.encoder, (JumpReLU, PositiveTopK)):
        rule = THRESHOLD if isinstance(sae.encoder, JumpReLU) else GAIN
        config |= {"format": WITH_RULE, "rule": rule}
    if sae.prefixes:  # nothing that a reader needs, so that older versions read the file
        config["prefixes"] = list(sae.prefixes)
    return config


def _is_dense_kind(dictionary: Dictionary) -> bool:
    """Tell whether atoms without a support are other than dense ones in the neurons' basis that were trained."""
    activations = isinstance(dictionary, ActivationDictionary)
    in_a_basis = dictionary.rows < dictionary.d_in or not isinstance(dictionary.basis, Neurons)
    return dictionary.support is None and (activations or in_a_basis)


def load(folder: str | Path, device: str | torch.device = "cpu", backend: str = "auto") -> SAE:
    """Read the SAE that `save` wrote, in evaluation mode; its reconstructions are bit-identical to the saved one's.

    Args:
        folder: the folder that was given to `save`.
        backend: the kernels that compute, see `sae_core.kernels.dispatch`.

    Raises:
        SAEFileError: a file is missing or damaged, or the regenerated support is not the saved one's.
        OSError: a file is there and cannot be read, for want of permission say; that does not make it damaged.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        with open(folder / WEIGHTS_FILE, "rb"):  # safetensors has an error of its own for what may not be read
            tensors = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, SafetensorError) as error:
        raise SAEFileError(f"{folder} holds no readable SAE: {error}") from None
    _check_config(config, tensors, folder / CONFIG_FILE)
    dictionary = _load_dictionary(config, tensors, folder)
    try:
        encoder, prefixes = _load_encoder(config, tensors, dictionary), tuple(config.get("prefixes", ()))
        sae = SAE(dictionary, encoder, config["k"], config["scale"], backend, prefixes)
    except ValueError as error:  # a size or scale that no SAE can have
        raise SAEFileError(f"{folder / CONFIG_FILE}: {error}") from None
    sae.b_dec.data = tensors["b_dec"]
    return sae.to(device).eval()


def _load_encoder(config: dict[str, Any], tensors: dict[str, torch.Tensor], dictionary: Dictionary) -> Encoder:
    if config.get("pursuit"):
        return ByPursuit(config["pursuit"])
    if config["tied"]:
        encoder = TiedTopK(dictionary)
    else:
        encoder = OwnTopK(dictionary, "random", torch.Generator())
        encoder.weight.data = tensors["encoder_weight"]
    encoder.b_enc.data = tensors["b_enc"]
    if rule := config.get("rule"):
        assert isinstance(encoder, OwnTopK), "_check_encoder demands weights of its own"
        return JumpReLU(encoder, tensors[rule]) if rule == THRESHOLD else PositiveTopK(encoder, tensors[rule])
    if not config.get("batch_topk"):
        return encoder
    encoder = BatchTopK(encoder)
    encoder.threshold.copy_(tensors["threshold"][0])
    return encoder


def _check_config(config: Any, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Raise SAEFileError unless the config is complete and says the shapes that the tensors have."""
    _check_sizes(config, file)
    _check_kinds(config, file)
    _check_encoder(config, file)
    _check_basis(config, file)
    _check_sources(config, file)
    packed = _packed_tensors(config)
    for name, shape in _expected_shapes(config).items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise SAEFileError(f"{file} asks for {name} of shape {shape}, which {WEIGHTS_FILE} does not hold")
        if (tensors[name].dtype == torch.uint8) != (name in packed):
            raise SAEFileError(f"{file} asks for another {name} than {tensors[name].dtype}, which {WEIGHTS_FILE} holds")


def _check_sizes(config: Any, file: Path) -> None:
    if not isinstance(config, dict) or config.get("format") not in FORMATS:
        raise SAEFileError(f"{file} is not an SAE config of a format among {', '.join(map(str, FORMATS))}")
    for key in ("d_in", "n_latents", "degree", "k"):
        if type(config.get(key)) is not int:
            raise SAEFileError(f"{file}: {key}={config.get(key)} must be a whole number")


def _check_kinds(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says how dictionary and encoder are made, of kinds that go together."""
    sparse, tied, seed = config.get("sparse"), config.get("tied"), config.get("support_seed")
    well_typed = isinstance(sparse, bool) and isinstance(tied, bool) and isinstance(config.get("scale"), float)
    if not well_typed or not (seed is None or type(seed) is int) or (sparse and "support_sha256" not in config):
        raise SAEFileError(f"{file}: sparse, tied, scale, support_seed and support_sha256 do not make an SAE")
    if not (config.get("values_seed") is None or type(config["values_seed"]) is int):
        raise SAEFileError(f"{file}: values_seed={config['values_seed']} must be a whole number")
    frozen, bits = config.get("frozen", False), config.get("value_bits", 32)  # missing in older files
    few, width = config["format"] == WITH_FEW_BITS, config.get("codebook")
    known = bits in (32, *STORED_GRIDS) and ((bits < 4) == few or config["format"] in (WITH_THRESHOLD, DENSE_KINDS))
    if width is not None:
        fits = few and not sparse and type(width) is int and width > 0
        known = fits and bits == bits_a_value(config["n_latents"], config["d_in"], width)
    if frozen not in (False, sparse) or (frozen and (seed is None or bits != 32)) or not known:
        raise SAEFileError(f"{file}: frozen={frozen} and value_bits={bits} do not make an SAE")
    if seed is not None and config.get("support_name", OLDEST_SUPPORT) not in SUPPORTS:
        raise SAEFileError(f"{file}: support_name={config['support_name']} is none that this version knows")


def _check_encoder(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config names an encoder and prefixes that there can be, and format 5 where needed.

    A pursuit must be a known one, for an encoder without weights.
    """
    pursuit = config.get("pursuit")  # missing in files that are older than pursuits
    try:
        known = pursuit is None or (config["tied"] and bool(canonical(pursuit)))
    except (TypeError, ValueError):
        known = False
    if not known:
        raise SAEFileError(f"{file}: pursuit={pursuit} is none that this version knows")
    batch_topk, atoms = config.get("batch_topk", False), config.get("support_atoms")  # missing in other formats
    newest = config["format"] == WITH_THRESHOLD
    if not isinstance(batch_topk, bool) or newest is not (batch_topk or atoms is not None) or (batch_topk and pursuit):
        raise SAEFileError(f"{file}: batch_topk={batch_topk} does not go with its format and pursuit={pursuit}")
    if atoms is not None and not (type(atoms) is int and atoms >= config["n_latents"] and config.get("support_name")):
        raise SAEFileError(
            f"{file}: support_atoms={atoms} must be at least {config['n_latents']} (n) that a seed draws"
        )
    rule = config.get("rule")
    plain = not (config["tied"] or config["sparse"] or config.get("value_bits", 32) != 32)
    if (rule in RULES and plain) is not (config["format"] == WITH_RULE) or (rule is not None and rule not in RULES):
        raise SAEFileError(f"{file}: rule={rule} does not go with its format, an encoder without weights or such atoms")
    prefixes = config.get("prefixes", [])
    if not (isinstance(prefixes, list) and all(type(size) is int for size in prefixes)):
        raise SAEFileError(f"{file}: prefixes={prefixes} must be numbers of latents")


def _check_basis(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config names a known basis of its atoms, or is of a format that names none."""
    if not _names_basis(config):
        return
    basis, always_on, dense = config.get("basis"), config.get("always_on"), config["format"] == DENSE_KINDS
    most = config["d_in"] - config["degree"]
    fits = type(always_on) is int and 0 <= always_on <= (min(most, 0) if dense else most) and config["sparse"] != dense
    if not (fits and isinstance(basis, dict) and _is_known(basis, config["d_in"])):
        raise SAEFileError(f"{file}: basis={basis} and always_on={always_on} do not make an SAE")


def _names_basis(config: dict[str, Any]) -> bool:
    """Tell whether a config says what its basis is; the others have that of the neurons."""
    return config["format"] in (WITH_BASIS, WITH_RANKS, DENSE_KINDS) or (
        config["format"] in (WITH_FEW_BITS, WITH_THRESHOLD) and "basis" in config
    )


def _has_ranks(config: dict[str, Any]) -> bool:
    """Tell whether a support that is written is written as ranks."""
    return config["format"] >= WITH_RANKS


def _check_sources(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says of how many activations dense atoms are some, or nothing of it."""
    tokens = config.get("source_tokens")
    if tokens is None:
        return
    whole = config["format"] == DENSE_KINDS and config["degree"] == config["d_in"] and type(tokens) is int
    if not (whole and tokens > 0 and config["basis"]["name"] == NEURONS):
        raise SAEFileError(f"{file}: source_tokens={tokens} makes no SAE whose atoms are activations")


def _is_known(basis: dict[str, Any], d_in: int) -> bool:
    """Tell whether a basis can be made of what a config says of it."""
    try:
        basis_shape(basis["name"], d_in)
        seeded = BASES[basis_name(basis["name"]).kind].needs_seed
        return basis["value_bits"] in (32, BASIS_BITS) and (type(basis["seed"]) is int if seeded else True)
    except (KeyError, TypeError, ValueError):
        return False


def _expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a config asks for, by name."""
    d_in, n_latents, sparse = config["d_in"], config["n_latents"], config["sparse"]
    frozen, bits = config.get("frozen", False), config.get("value_bits", 32)
    count = n_latents * (config["degree"] if sparse or config["format"] == DENSE_KINDS else d_in)
    shapes: dict[str, tuple[int, ...]] = {"b_dec": (d_in,)}
    if width := config.get("codebook"):
        shapes |= {"codebook": (ENTRIES, width), "chosen": (n_latents, -(-d_in // width))}
    elif not frozen:
        shapes["values"] = (n_latents, count // max(1, n_latents)) if bits == 32 else (packed_bytes(count, bits),)
    if sparse and config.get("support_seed") is None:
        shapes["support"] = (
            packed_bytes(n_latents, bits_per_atom(d_in, config["degree"]))
            if _has_ranks(config)
            else packed_bytes(count, bits_per_index(d_in)),
        )
    if tokens := config.get("source_tokens"):
        shapes["sources"] = (packed_bytes(n_latents, bits_per_index(tokens)),)
    shapes |= {} if config.get("pursuit") else {"b_enc": (n_latents,)}
    shapes |= {} if config["tied"] else {"encoder_weight": (n_latents, d_in)}
    shapes |= {"threshold": (1,)} if config.get("batch_topk") else {}
    shapes |= {config["rule"]: (n_latents,)} if config.get("rule") else {}
    if _names_basis(config) and (shape := basis_shape(config["basis"]["name"], d_in)):
        bits = config["basis"]["value_bits"]
        shapes["basis"] = shape if bits == 32 else (packed_bytes(math.prod(shape), bits),)
    return shapes


def _packed_tensors(config: dict[str, Any]) -> set[str]:
    """Return the names of the tensors that are packed whole numbers (uint8), not floats."""
    basis_bits = config["basis"]["value_bits"] if _names_basis(config) else 32
    values_packed = config.get("value_bits", 32) < 32
    packed = {"support": True, "sources": True, "chosen": True, "values": values_packed, "basis": basis_bits < 32}
    return {name for name, is_packed in packed.items() if is_packed}


def _load_dictionary(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Dictionary:
    if config.get("codebook"):
        return CodebookDictionary(tensors["codebook"], tensors["chosen"], config["d_in"])
    dictionary = _load_sparse(config, tensors, folder) if config["sparse"] else _load_dense(config, tensors)
    dictionary.value_bits = config.get("value_bits", 32)
    if dictionary.value_bits < 32:
        shape = config["n_latents"], dictionary.degree
        try:
            dictionary.values.data = unpack_values(tensors["values"], dictionary.value_bits, shape)
        except ValueError as error:
            raise SAEFileError(f"{folder}: the values are damaged: {error}") from None
    elif "values" in tensors:
        dictionary.values.data = tensors["values"]
    return dictionary


def _load_dense(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Dictionary:
    d_in, n_latents = config["d_in"], config["n_latents"]
    if tokens := config.get("source_tokens"):
        dictionary = ActivationDictionary(d_in, n_latents, torch.Generator(), tokens)
        dictionary.sources = unpack_sources(tensors["sources"], tokens, n_latents)
        return dictionary
    rank = config["degree"] if config["format"] == DENSE_KINDS else None
    return DenseDictionary(d_in, n_latents, torch.Generator(), rank, _load_basis(config, tensors))


def _load_sparse(config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Dictionary:
    d_in, n_latents, degree = config["d_in"], config["n_latents"], config["degree"]
    drawn, always_on = None, config.get("always_on", 0)
    if config.get("support_seed") is not None:
        name, atoms = config.get("support_name", OLDEST_SUPPORT), config.get("support_atoms")
        drawn = Drawn(name, config["support_seed"], atoms)
        support = drawn_support(drawn, d_in, n_latents, degree, always_on)
    else:
        unpack = unpack_support if _has_ranks(config) else unpack_indices
        support = unpack(tensors["support"], d_in, n_latents, degree)
    if support_digest(support) != config["support_sha256"]:
        raise SAEFileError(f"{folder}: the support does not match its digest")
    basis = _load_basis(config, tensors)
    if config.get("frozen", False):
        assert drawn is not None, "_check_kinds demands a seed"
        values_seed = config.get("values_seed")  # older files have one seed for both
        return FrozenDictionary(d_in, support, drawn, basis, always_on, values_seed)
    return SparseDictionary(d_in, support, torch.Generator(), drawn, basis, always_on)


def _load_basis(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Basis:
    if not _names_basis(config):
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


def support_digest(support: torch.Tensor) -> str:
    """Return the sha256 of a support's indices as little-endian int64, in hex digits."""
    return hashlib.sha256(support.cpu().numpy().astype("<i8").tobytes()).hexdigest()
