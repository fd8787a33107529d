"""What `cfg.json` of a saved SAE may say, and which tensors `sae.safetensors` then has to hold."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch

from sae_core.bases import BASES, BASIS_BITS, NEURONS, basis_name, basis_shape
from sae_core.codebook import ENTRIES, bits_a_value
from sae_core.kronecker import Heads
from sae_core.packing import packed_bytes
from sae_core.pursuit.solvers import canonical
from sae_core.rounding import STORED_GRIDS
from sae_core.sizes import bits_per_atom, bits_per_index
from sae_core.supports import SUPPORTS
from sae_core.trellis import STATE_BITS, STEP_BITS

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
FORMATS = range(1, 12)
FORMAT, WITH_BASIS, WITH_RANKS, WITH_FEW_BITS, WITH_THRESHOLD, DENSE_KINDS, WITH_HEADS, WITH_RULE = FORMATS[:8]
WITH_ENCODER_BITS, WITH_NORMS, WITH_TRELLIS = FORMATS[8:]
DENSE_IN_A_BASIS = DENSE_KINDS, WITH_ENCODER_BITS, WITH_TRELLIS
RULES = THRESHOLD, GAIN = "threshold", "gain"  # also the names of their tensors
OLDEST_SUPPORT = "expander"  # the only support that there was when files named none


class SAEFileError(ValueError):
    """The error of a folder that does not hold an SAE that this version can read."""


def check_config(config: Any, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Raise SAEFileError unless the config is complete and says the shapes that the tensors have."""
    check_says(config, file)
    packed = packed_tensors(config)
    for name, shape in _expected_shapes(config).items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise SAEFileError(f"{file} asks for {name} of shape {shape}, which {WEIGHTS_FILE} does not hold")
        dtype = tensors[name].dtype
        if not (dtype == torch.uint8 if name in packed else dtype.is_floating_point):
            raise SAEFileError(f"{file} asks for another {name} than {dtype}, which {WEIGHTS_FILE} holds")


def check_says(config: Any, file: Path) -> None:
    """Raise SAEFileError unless the config is complete and what it says goes together, whatever the tensors are."""
    _check_sizes(config, file)
    _check_kinds(config, file)
    _check_encoder(config, file)
    _check_basis(config, file)
    _check_sources(config, file)


def _check_sizes(config: Any, file: Path) -> None:
    if not isinstance(config, dict) or config.get("format") not in FORMATS:
        raise SAEFileError(f"{file} is not an SAE config of a format among {', '.join(map(str, FORMATS))}")
    for key in ("d_in", "n_latents", "degree", "k"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise SAEFileError(f"{file}: {key}={config.get(key)} must be a whole number, 1 at least")


def _check_kinds(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says how dictionary and encoder are made, of kinds that go together."""
    sparse, tied, seed = config.get("sparse"), config.get("tied"), config.get("support_seed")
    well_typed = isinstance(sparse, bool) and isinstance(tied, bool) and isinstance(config.get("scale"), float)
    if not well_typed or not (seed is None or _is_seed(seed)) or (sparse and "support_sha256" not in config):
        raise SAEFileError(f"{file}: sparse, tied, scale, support_seed and support_sha256 do not make an SAE")
    if not (config.get("values_seed") is None or _is_seed(config["values_seed"])):
        raise SAEFileError(f"{file}: values_seed={config['values_seed']} must be a whole number, 0 at least")
    frozen, bits = config.get("frozen", False), config.get("value_bits", 32)  # missing in older files
    few, width = config["format"] == WITH_FEW_BITS, config.get("codebook")
    either = config["format"] in (WITH_THRESHOLD, *DENSE_IN_A_BASIS)
    known = bits in (32, *STORED_GRIDS) and ((bits < 4) == few or either)
    if width is not None:
        of_format = few or config["format"] in (WITH_THRESHOLD, DENSE_KINDS)
        fits = of_format and not sparse and type(width) is int and width > 0
        known = fits and bits == bits_a_value(config["n_latents"], config["d_in"], width)
    if config["format"] == WITH_TRELLIS or "trellis" in config:
        known = known and _are_paths(config)
    if frozen not in (False, sparse) or (frozen and (seed is None or bits != 32)) or not known:
        raise SAEFileError(f"{file}: frozen={frozen} and value_bits={bits} do not make an SAE")
    if seed is not None and config.get("support_name", OLDEST_SUPPORT) not in list(SUPPORTS):
        raise SAEFileError(f"{file}: support_name={config['support_name']} is none that this version knows")


def _are_paths(config: dict[str, Any]) -> bool:
    """Tell whether a config says that dense atoms are paths through the trellis that this version has."""
    whole = config["tied"] and not config["sparse"] and config["degree"] == config["d_in"]
    bits = config.get("value_bits")
    of_this_version = config["format"] == WITH_TRELLIS and config.get("trellis") == STATE_BITS
    return whole and of_this_version and bits in STEP_BITS and config["d_in"] * bits >= STATE_BITS


def _is_seed(found: Any) -> bool:
    return type(found) is int and found >= 0


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
    said = batch_topk is True or atoms is not None
    fits = (
        said
        if config["format"] == WITH_THRESHOLD
        else not said or (config["format"] in (*DENSE_IN_A_BASIS, WITH_HEADS) and not atoms)
    )
    if not isinstance(batch_topk, bool) or not fits or (batch_topk and pursuit):
        raise SAEFileError(f"{file}: batch_topk={batch_topk} does not go with its format and pursuit={pursuit}")
    if atoms is not None and not (type(atoms) is int and atoms >= config["n_latents"] and config.get("support_name")):
        raise SAEFileError(
            f"{file}: support_atoms={atoms} must be at least {config['n_latents']} (n) that a seed draws"
        )
    _check_heads(config, file)
    _check_rule(config, file)
    _check_encoder_bits(config, file)
    prefixes = config.get("prefixes", [])
    if not (isinstance(prefixes, list) and all(type(size) is int for size in prefixes)):
        raise SAEFileError(f"{file}: prefixes={prefixes} must be numbers of latents")


def _check_heads(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says how latents share an encoder's rows where its format asks for that."""
    heads, has_heads = config.get("heads"), config["format"] == WITH_HEADS
    if heads is None and not has_heads:
        return
    sizes = heads if isinstance(heads, list) else []
    whole = len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes)
    fits = whole and has_heads and config["n_latents"] % Heads(*sizes).latents == 0
    if not fits or config["sparse"] or config["tied"] or config.get("value_bits", 32) < 32:
        raise SAEFileError(f"{file}: heads={heads} do not make an SAE of so many latents")


def _check_rule(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says which latents fire where its format asks for that."""
    rule, ends = config.get("rule"), config.get("ends")
    if config["format"] == WITH_NORMS:
        plain = config["tied"] and not config["sparse"] and config.get("value_bits", 32) == 32
        if not (plain and rule == GAIN and config.get("pursuit") == "mp" and _are_ends(ends)):
            raise SAEFileError(f"{file}: rule={rule}, pursuit={config.get('pursuit')} and ends={ends} make no pursuit")
        return
    if ends is not None:
        raise SAEFileError(f"{file}: ends={ends} does not go with its format")
    if config["format"] == WITH_ENCODER_BITS and (rule is None or (rule in RULES and not config["batch_topk"])):
        return
    plain = not (config["tied"] or config["sparse"] or config.get("value_bits", 32) != 32)
    if (rule in RULES and plain) is not (config["format"] == WITH_RULE) or (rule is not None and rule not in RULES):
        raise SAEFileError(f"{file}: rule={rule} does not go with its format, an encoder without weights or such atoms")


def _are_ends(ends: Any) -> bool:
    """Tell whether something says when a `NormedPursuit` ends."""
    if not isinstance(ends, dict) or set(ends) != {"most", "stop", "distinct"}:
        return False
    stop = ends["stop"]
    known = type(ends["most"]) is int and ends["most"] > 0 and isinstance(ends["distinct"], bool)
    return known and type(stop) in (int, float) and 0 <= stop < math.inf


def _check_encoder_bits(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config says the bits of an encoder's own weights just where its format asks it."""
    bits, asked = config.get("encoder_bits"), config["format"] == WITH_ENCODER_BITS
    known = not isinstance(bits, bool) and bits in (32, *STORED_GRIDS)
    whole = not config["tied"] and not config["sparse"] and config["degree"] == config["d_in"]
    if not (known and whole if asked else bits is None):
        raise SAEFileError(f"{file}: encoder_bits={bits} does not go with its format, encoder and atoms")


def _check_basis(config: dict[str, Any], file: Path) -> None:
    """Raise SAEFileError unless the config names a known basis of its atoms, or is of a format that names none."""
    if not names_basis(config):
        return
    basis, always_on = config.get("basis"), config.get("always_on")
    dense = config["format"] in DENSE_IN_A_BASIS
    most = config["d_in"] - config["degree"]
    fits = type(always_on) is int and 0 <= always_on <= (min(most, 0) if dense else most) and config["sparse"] != dense
    if not (fits and isinstance(basis, dict) and _is_known(basis, config["d_in"])):
        raise SAEFileError(f"{file}: basis={basis} and always_on={always_on} do not make an SAE")


def names_basis(config: dict[str, Any]) -> bool:
    """Tell whether a config says what its basis is; the others have that of the neurons."""
    return config["format"] in (WITH_BASIS, WITH_RANKS, *DENSE_IN_A_BASIS) or (
        config["format"] in (WITH_FEW_BITS, WITH_THRESHOLD) and "basis" in config
    )


def has_ranks(config: dict[str, Any]) -> bool:
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
        return basis["value_bits"] in (32, BASIS_BITS) and (_is_seed(basis["seed"]) if seeded else True)
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
            if has_ranks(config)
            else packed_bytes(count, bits_per_index(d_in)),
        )
    if tokens := config.get("source_tokens"):
        shapes["sources"] = (packed_bytes(n_latents, bits_per_index(tokens)),)
    rows = Heads(*config["heads"]).rows(n_latents) if "heads" in config else n_latents
    shapes |= {} if config.get("pursuit") else {"b_enc": (rows,)}
    encoder_bits = config.get("encoder_bits", 32)
    if encoder_bits < 32:
        shapes |= {"encoder_weight": (packed_bytes(rows * d_in, encoder_bits),), "encoder_scale": (rows,)}
    elif not config["tied"]:
        shapes["encoder_weight"] = (rows, d_in)
    shapes |= {"threshold": (1,)} if config.get("batch_topk") else {}
    shapes |= {config["rule"]: (n_latents,)} if config.get("rule") else {}
    if names_basis(config) and (shape := basis_shape(config["basis"]["name"], d_in)):
        bits = config["basis"]["value_bits"]
        shapes["basis"] = shape if bits == 32 else (packed_bytes(math.prod(shape), bits),)
    return shapes


def packed_tensors(config: dict[str, Any]) -> set[str]:
    """Return the names of the tensors that are packed whole numbers (uint8), not floats."""
    basis_bits = config["basis"]["value_bits"] if names_basis(config) else 32
    values_packed, rows_packed = (config.get(key, 32) < 32 for key in ("value_bits", "encoder_bits"))
    packed = {"support": True, "sources": True, "chosen": True, "values": values_packed, "basis": basis_bits < 32}
    packed["encoder_weight"] = rows_packed
    return {name for name, is_packed in packed.items() if is_packed}


def support_digest(support: torch.Tensor) -> str:
    """Return the sha256 of a support's indices as little-endian int64, in hex digits."""
    return hashlib.sha256(support.cpu().numpy().astype("<i8").tobytes()).hexdigest()
