"""SAELens' format: `cfg.json` and `sae_weights.safetensors`, which its `SAE.load_from_disk` reads.

    ours                                its architecture
    topk, tied or with own weights      topk
    batch_topk                          jumprelu, as it saves BatchTopK SAEs itself
    mp, with atoms of any norm          matching_pursuit, which has neither encoder weights nor biases

Held against SAELens 6.54. It is not needed to write. What needs it, and keeps our sparse file as it is, is
`sae_core.formats.saelens`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from sae_core import io
from sae_core.formats.about import About, FormatError
from sae_core.formats.dense import Above, DenseForm, MatchingPursuit, Rule, TopK, dense_form
from sae_core.formats.reading import (
    ALL,
    Header,
    Source,
    check_shapes,
    layer_of_hook,
    number,
    read_config,
    shapes,
    tensors,
    text,
    whole,
)
from sae_core.formats.thresholds import gated
from sae_core.formats.writing import Exported, check_free, write_json, write_tensors
from sae_core.sae import SAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
BY_MODULE = False  # whether the library knows a hook point by the name of its folder
KEY = "d_sae"  # which only a config of this format has
_AVERAGE = "expected_average_only_in"  # activations were scaled to a mean norm of sqrt(d_in)
PURSUIT = "matching_pursuit"  # the architecture whose encoder is its decoder
_PARTS = {  # the architectures that can be read, with the vectors that each has
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
    PURSUIT: (),
}
_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}  # keys of versions before 6
_READ = {  # settings that change how an SAE is read, with the values that can be read; the first is the default
    "normalize_activations": ("none", _AVERAGE),
    "reshape_activations": ("none",),
    "finetuning_scaling_factor": (False, None),
    "activation_fn": ("relu", "topk"),
}
SPARSE = "expander"  # the architecture of our own class, `sae_core.formats.saelens`
VERSION = "6.54.12"  # whose layout it is; a config without it is read as one from before version 6, and loses its model


def save(sae: SAE, folder: str | Path, about: About) -> Exported:
    """Write `sae` so that `sae_lens.SAE.load_from_disk(folder)` has its codes and reconstructions.

    Raises:
        FormatError: SAELens has no class for its reading, or a file is there already.
    """
    form, folder = dense_form(sae), Path(folder)
    files = folder / WEIGHTS, folder / CONFIG
    check_free(files)
    write_tensors(files[0], _tensors(form))
    write_json(files[1], _config(form, about))
    return Exported(files, form.notes)


def save_sparse(sae: SAE, folder: str | Path, about: About) -> Exported:
    """Write `sae` as it is stored, so that `sae_lens.SAE.load_from_disk(folder)` reads it without dense atoms.

    That needs `import sae_core.formats.saelens` there, which registers the architecture. Every encoder can be written.

    Raises:
        FormatError: a file is there already.
        ValueError: no file of ours can hold the SAE (`sae_core.save`).
    """
    files = Path(folder) / WEIGHTS, Path(folder) / CONFIG
    check_free(files)
    tensors, stored = io.stored(sae)
    write_tensors(files[0], tensors)
    said = {"architecture": SPARSE, "stored": stored, "code_factor": 1.0}
    write_json(files[1], said | _shared(sae.dictionary.d_in, sae.n_latents, about))
    return Exported(files, (f"SAELens loads it after `import {__package__}.saelens`",))


def _tensors(form: DenseForm) -> dict[str, torch.Tensor]:
    tensors = {"W_dec": form.decoder, "b_dec": form.b_dec}
    if isinstance(form.rule, MatchingPursuit):
        return tensors
    tensors |= {"W_enc": form.encoder.T, "b_enc": form.b_enc}
    if isinstance(form.rule, Above):
        tensors["threshold"] = form.rule.threshold
    return tensors


def _config(form: DenseForm, about: About) -> dict[str, Any]:
    return {**_architecture(form), **_shared(form.d_in, form.n_latents, about)}


def _shared(d_in: int, n_latents: int, about: About) -> dict[str, Any]:
    """Return what every config says, whatever the architecture is."""
    return {
        "d_in": d_in,
        "d_sae": n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata(about),
    }


def metadata(about: About) -> dict[str, Any]:
    """Return what SAELens' config says of the LM, the hook point and the text, under its key `metadata`."""
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": about.model,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {},
        "hook_name": about.hook_name,
        "hook_head_index": None,
        "hf_hook_name": about.full_module,
        "context_size": about.context,
        "dataset_path": about.dataset,
        "prepend_bos": about.bos,
        "expander_sae_run": about.run,
    }


def _architecture(form: DenseForm) -> dict[str, Any]:
    """Return the class that reads codes by the form's rule, with the settings of its own."""
    match form.rule:
        case TopK(k):
            # Our atoms are of unit norm, so that codes need no other one.
            return {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
        case Above():
            return {"architecture": "jumprelu"}
        case MatchingPursuit(k, stop, distinct):
            # For ours, k picks of each token: neither a small residual nor an atom that comes again ends them.
            ends = {"residual_threshold": stop, "stop_on_duplicate_support": distinct}
            return {"architecture": PURSUIT, "max_iterations": k, **ends}


def describe(source: Source) -> Header:
    """Return what an SAE is that SAELens saved, of version 6 or before. Its weights are not read.

    Raises:
        FormatError: the files are no SAE that can be read here; the message says why.
    """
    config = _settings(source.config)
    d_in, n_latents = (whole(source.config, config, key) for key in ("d_in", "d_sae"))
    architecture = config["architecture"]
    if architecture not in _PARTS:
        raise FormatError(
            f"{source.config}: architecture={architecture} is none of {', '.join(_PARTS)}, which can be read"
        )
    _check_settings(source.config, config)
    found = shapes(source)
    sizes = {"W_dec": (n_latents, d_in), "b_dec": (d_in,)}
    sizes |= {} if architecture == PURSUIT else {"W_enc": (d_in, n_latents)}
    check_shapes(source, found, sizes | dict.fromkeys(_PARTS[architecture], (n_latents,)))
    k = whole(source.config, config, "k") if architecture == "topk" else None
    if k is not None and k > n_latents:
        raise FormatError(f"{source.config}: k={k} must be in 1..{n_latents} (d_sae)")
    about: dict[str, Any] = config["metadata"] if isinstance(config.get("metadata"), dict) else {}
    layer = layer_of_hook(source.config, text(about, "hook_name"))
    dataset, context = text(about, "dataset_path"), number(about, "context_size")
    reading = {
        "architecture": architecture,
        "k": k,
        "subtracts": config.get("apply_b_dec_to_input", True) is True,
        "rescales": architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False) is True,
    }
    if architecture == PURSUIT:
        reading["pursuit"] = _ends_of(source.config, config, d_in)
    return Header(
        d_in,
        n_latents,
        k,
        value_bits=found["W_dec"][1],
        file_bytes=source.weights.stat().st_size,
        reading=reading,
        normalised=config.get("normalize_activations") == _AVERAGE,
        about=About(text(about, "model_name"), layer, context, dataset),
        pursuit="mp" if architecture == PURSUIT else None,
    )


def read(source: Source, header: Header, latents: slice = ALL) -> DenseForm:
    """Return some latents in dense form. Raises FormatError where a value is not finite."""
    reading = header.reading
    axes = {"W_enc": 1, "W_dec": 0} | dict.fromkeys(_PARTS[reading["architecture"]], 0)
    found = tensors(source, axes, latents)
    decoder, b_dec = found["W_dec"], found["b_dec"]
    if ends := reading.get("pursuit"):  # b_dec is added at the end only where it is subtracted first
        b_dec = b_dec if reading["subtracts"] else torch.zeros_like(b_dec)
        return DenseForm(decoder, torch.zeros(len(decoder)), decoder, b_dec, MatchingPursuit(**ends), ())
    encoder = found["W_enc"].T
    rule: Rule
    match reading["architecture"]:
        case "topk":
            b_enc, rule = found["b_enc"], TopK(reading["k"])
        case "gated":
            encoder, b_enc, threshold = gated(encoder, found["b_gate"], found["b_mag"], found["r_mag"])
            rule = Above(threshold)
        case _:  # a standard one is a ReLU
            b_enc = found["b_enc"]
            rule = Above(found.get("threshold", torch.zeros_like(b_enc)))
    if reading["rescales"]:  # picks and codes are those of atoms of unit norm
        norms = decoder.norm(dim=1).clamp(min=1e-8)
        encoder, b_enc, decoder = encoder * norms[:, None], b_enc * norms, decoder / norms[:, None]
    if not reading["subtracts"]:  # z stays the same, and with it where it is above a threshold
        b_enc = b_enc + encoder @ b_dec
    return DenseForm(encoder, b_enc, decoder, b_dec, rule, ())


def _ends_of(path: Path, config: dict[str, Any], d_in: int) -> dict[str, Any]:
    """Return what ends a matching pursuit, with SAELens' defaults. Raise FormatError where it can be none."""
    most = config.get("max_iterations")
    stop, distinct = config.get("residual_threshold", 1e-2), config.get("stop_on_duplicate_support", True)
    if type(stop) not in (int, float) or not 0 <= stop < float("inf") or not isinstance(distinct, bool):
        raise FormatError(f"{path}: residual_threshold={stop} and stop_on_duplicate_support={distinct} end no pursuit")
    return {"k": d_in if most is None else whole(path, config, "max_iterations"), "stop": stop, "distinct": distinct}


def _settings(path: Path) -> dict[str, Any]:
    """Return a config with the keys of version 6."""
    config = read_config(path)
    about: dict[str, Any] = config["metadata"] if isinstance(config.get("metadata"), dict) else config
    version = about.get("sae_lens_version")
    if re.match(r"([6-9]|\d\d)\.", str(version)):
        return {"architecture": None, **config}
    renamed = {_RENAMED.get(key, key): value for key, value in config.items()}
    kwargs = renamed.get("activation_fn_kwargs")
    if renamed.get("activation_fn") == "topk" and isinstance(kwargs, dict):
        renamed |= {"architecture": "topk", "k": kwargs.get("k")}
    normalised = renamed.get("normalize_activations")
    if normalised is None or isinstance(normalised, bool):
        renamed["normalize_activations"] = _AVERAGE if normalised else "none"
    return {"architecture": "standard", "metadata": renamed, **renamed}


def _check_settings(path: Path, config: dict[str, Any]) -> None:
    """Raise FormatError for a setting under which the SAE would be read in another way than here."""
    for key, values in _READ.items():
        if config.get(key, values[0]) not in values:
            raise FormatError(f"{path}: {key}={config[key]} cannot be read here, only {' or '.join(map(str, values))}")
