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
    6  atoms are dense in the first coordinates of a basis, or are activations, with the number of each in its pool, or
       are pieces out of a codebook in a basis that is named; the encoder may be BatchTopK, and values of few bits
    7  the encoder is that of KronSAE, with fewer rows than latents; `heads` has the sizes of a head; atoms are dense
       in the neurons' basis
    8  atoms are dense, and the encoder has weights of its own and, as `rule` says, a value for each latent: `threshold`
       of a JumpReLU, or `gain` of a TopK with ReLU
    9  atoms are dense, and they and the encoder's own weights are of few bits, or in a basis that is named; of fewer
       than 32 bits (`encoder_bits`) weights are whole numbers, with `encoder_scale` for each latent; the encoder may be
       BatchTopK or have a `rule` as in format 8
   10  atoms are dense, with a norm each (`gain`) that a matching pursuit looks at, and `ends` says when it ends
   11  atoms are dense in a basis that is named, and paths through a trellis (`sae_core.trellis`): `values` holds the
       steps, of `value_bits` bits each, and `trellis` says the bits of a state; the encoder may be BatchTopK
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae_core.bases import Neurons
from sae_core.codebook import CodebookDictionary
from sae_core.dictionary import ActivationDictionary, Dictionary, FrozenDictionary
from sae_core.encoders import (
    BatchTopK,
    ByPursuit,
    JumpReLU,
    NormedPursuit,
    OwnTopK,
    PositiveTopK,
    Refitted,
    inner_encoder,
)
from sae_core.files import replacing
from sae_core.io_checks import (
    CONFIG_FILE,
    DENSE_KINDS,
    FORMAT,
    GAIN,
    THRESHOLD,
    WEIGHTS_FILE,
    WITH_BASIS,
    WITH_ENCODER_BITS,
    WITH_FEW_BITS,
    WITH_HEADS,
    WITH_NORMS,
    WITH_RANKS,
    WITH_RULE,
    WITH_THRESHOLD,
    WITH_TRELLIS,
    SAEFileError,
    support_digest,
)
from sae_core.io_loading import from_stored
from sae_core.kronecker import KroneckerTopK
from sae_core.packed import is_packed
from sae_core.packing import pack_sources, pack_steps, pack_support, pack_values
from sae_core.sae import SAE
from sae_core.trellis import STATE_BITS, TrellisDictionary


def save(sae: SAE, folder: str | Path, about: dict[str, Any] | None = None) -> int:
    """Write `sae` into `folder`; return the size of `sae.safetensors` in bytes (the record's `artifact_bytes`).

    Args:
        about: anything else that `cfg.json` should say (model, hook point, ...), under the key "about".

    Raises:
        ValueError: the codes of `sae` are refitted (`infer_by(sae, "refit")`): save the SAE itself. Or its values are
            still trained to be rounded: end that first (`sae_core.keep_rounded`). Or its atoms stay packed.
    """
    tensors, config = stored(sae, about)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as path:
        save_file(tensors, path)
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=1))
    return (folder / WEIGHTS_FILE).stat().st_size


def stored(sae: SAE, about: dict[str, Any] | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what `save` writes: the tensors of `sae.safetensors` by name, on the CPU, and what `cfg.json` says.

    Raises the errors of `save`.
    """
    if sae.dictionary.rounded_to is not None:
        raise ValueError("the values of this SAE are still trained to be rounded: call sae_core.keep_rounded first")
    if isinstance(sae.encoder, Refitted):
        raise ValueError("this is a reading of an SAE by refit, which a file cannot hold: save the SAE itself")
    if is_packed(sae):
        raise ValueError("the atoms of this SAE are packed for inference: copy the file that it was loaded from")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors_to_write(sae).items()}
    return tensors, _config_to_write(sae, about or {})


def _tensors_to_write(sae: SAE) -> dict[str, torch.Tensor]:
    """Return what `sae` stores, by its name in `sae.safetensors`: nothing that a seed regenerates."""
    dictionary, encoder = sae.dictionary, sae.encoder
    tensors: dict[str, torch.Tensor] = {"b_dec": sae.b_dec}
    if isinstance(dictionary, CodebookDictionary):
        tensors |= {"codebook": dictionary.codebook, "chosen": dictionary.chosen.to(torch.uint8)}
    elif isinstance(dictionary, TrellisDictionary):
        tensors["values"] = pack_steps(dictionary.steps, int(dictionary.value_bits))
    elif not isinstance(dictionary, FrozenDictionary):
        tensors["values"] = pack_values(dictionary.values, dictionary.value_bits)
    if isinstance(encoder, BatchTopK):
        tensors["threshold"] = encoder.threshold.float().view(1)
    if isinstance(encoder, JumpReLU):
        tensors[THRESHOLD] = encoder.threshold.float()
    if isinstance(encoder, (PositiveTopK, NormedPursuit)):
        tensors[GAIN] = encoder.gain.float()
    inner = inner_encoder(encoder)
    if not isinstance(inner, ByPursuit):
        tensors["b_enc"] = inner.b_enc
    if isinstance(inner, KroneckerTopK):
        tensors["encoder_weight"] = inner.weight
    if isinstance(inner, OwnTopK):
        tensors["encoder_weight"] = pack_values(inner.weight, inner.weight_bits)
        tensors |= {} if inner.row_scale is None else {"encoder_scale": inner.row_scale}
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
    about_basis = {"name": str(basis.name), "seed": basis.seed, "value_bits": basis.value_bits}
    with_threshold = isinstance(sae.encoder, BatchTopK) or "support_atoms" in config
    in_a_basis = ranks or dense_kind or not isinstance(basis, Neurons) or dictionary.always_on
    if in_a_basis or (with_threshold and dictionary.support is not None):
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
    inner = inner_encoder(sae.encoder)
    if isinstance(inner, KroneckerTopK):
        config |= {"format": WITH_HEADS, "heads": list(inner.heads), "batch_topk": isinstance(sae.encoder, BatchTopK)}
    if isinstance(sae.encoder, NormedPursuit):
        ends = {"most": sae.encoder.most, "stop": sae.encoder.stop, "distinct": sae.encoder.distinct}
        config |= {"format": WITH_NORMS, "rule": GAIN, "ends": ends}
    if isinstance(sae.encoder, (JumpReLU, PositiveTopK)):
        rule = THRESHOLD if isinstance(sae.encoder, JumpReLU) else GAIN
        config |= {"format": WITH_RULE, "rule": rule}
    if isinstance(inner, OwnTopK) and (dense_kind or min(inner.weight_bits, dictionary.value_bits) < 32):
        config |= {"format": WITH_ENCODER_BITS, "basis": about_basis, "always_on": 0}
        config |= {"encoder_bits": inner.weight_bits, "batch_topk": isinstance(sae.encoder, BatchTopK)}
    if isinstance(dictionary, TrellisDictionary):
        config |= {"format": WITH_TRELLIS, "trellis": STATE_BITS, "basis": about_basis, "always_on": 0}
        config["batch_topk"] = isinstance(sae.encoder, BatchTopK)
    if sae.prefixes:  # nothing that a reader needs, so that older versions read the file
        config["prefixes"] = list(sae.prefixes)
    return config


def _is_dense_kind(dictionary: Dictionary) -> bool:
    """Tell whether atoms without a support are other than dense ones in the neurons' basis that were trained."""
    activations = isinstance(dictionary, ActivationDictionary)
    in_a_basis = dictionary.rows < dictionary.d_in or not isinstance(dictionary.basis, Neurons)
    return dictionary.support is None and (activations or in_a_basis)


def load(
    folder: str | Path, device: str | torch.device = "cpu", backend: str = "auto", keep_packed: bool = False
) -> SAE:
    """Read the SAE that `save` wrote, in evaluation mode; its reconstructions are bit-identical to the saved one's.

    Args:
        folder: the folder that was given to `save`.
        backend: the kernels that compute, see `sae_core.kernels.dispatch`.
        keep_packed: whether values of 8 or fewer bits stay packed in memory (`sae_core.packed`). Such an SAE is for
            inference; one of longer values is loaded as ever.

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
    return from_stored(tensors, config, folder, backend, keep_packed).to(device)
