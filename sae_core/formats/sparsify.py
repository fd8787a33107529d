"""sparsify's format: `cfg.json` and `sae.safetensors`, which its `SparseCoder.load_from_disk` reads.

It reads codes by TopK alone. It knows the hook point by the name of the folder, `layers.12`: so a folder is named that
way, and `config.json` beside it says the LM, the text and the window, where `SparseCoder.load_many` and SAELens' loader
of sparsify's SAEs look for them.

Held against sparsify (eai-sparsify) 1.3.3. It is not needed to write.
"""

from __future__ import annotations

import re
from pathlib import Path

from sae_core.formats.about import About, FormatError
from sae_core.formats.dense import Above, DenseForm, TopK, dense_form
from sae_core.formats.reading import (
    ALL,
    Header,
    Source,
    check_shapes,
    number,
    read_config,
    shapes,
    tensors,
    text,
    whole,
)
from sae_core.formats.writing import Exported, check_free, write_json, write_tensors
from sae_core.sae import SAE

WEIGHTS, CONFIG, OF_ALL = "sae.safetensors", "cfg.json", "config.json"
BY_MODULE = True  # whether the library knows a hook point by the name of its folder
KEY = "expansion_factor"  # which only a config of this format has
_AXES = {"encoder.weight": 0, "encoder.bias": 0, "W_dec": 0}  # along which latents lie


def save(sae: SAE, folder: str | Path, about: About) -> Exported:
    """Write `sae` so that `sparsify.SparseCoder.load_from_disk(folder)` has its codes and reconstructions.

    Raises:
        FormatError: it is not read by TopK, or a file is there already.
    """
    form, folder = dense_form(sae), Path(folder)
    if not isinstance(form.rule, TopK):
        reading = "a threshold" if isinstance(form.rule, Above) else "matching pursuit"
        raise FormatError(
            f"sparsify reads codes by TopK, not by {reading}; nearest is topk (inference=topk), or format=saelens, "
            f"which has {reading}"
        )
    files = folder / WEIGHTS, folder / CONFIG
    check_free(files)
    tensors = {"encoder.weight": form.encoder, "encoder.bias": form.b_enc, "W_dec": form.decoder, "b_dec": form.b_dec}
    write_tensors(files[0], tensors)
    config = {
        "activation": "topk",
        "expansion_factor": form.n_latents // form.d_in,
        "normalize_decoder": False,  # W_dec has the scale in it; SAELens' loader subtracts b_dec only where this is so
        "num_latents": form.n_latents,  # where it is 0, the factor above counts
        "k": form.rule.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": form.d_in,
    }
    write_json(files[1], config)
    if folder.name != about.module:
        named = () if about.module is None else (f"sparsify knows a hook point by its folder's name, {about.module}",)
        return Exported(files, form.notes + named)
    of_all = folder.parent / OF_ALL
    if of_all.exists():  # another layer's export, or not ours
        return Exported(files, form.notes)
    write_json(of_all, {"model": about.model, "dataset": about.dataset, "ctx_len": about.context})
    return Exported((*files, of_all), form.notes)


def describe(source: Source) -> Header:
    """Return what an SAE is that sparsify saved. Its weights are not read.

    Raises:
        FormatError: the files are no SAE that can be read here; the message says why.
    """
    config = read_config(source.config)
    for key, wanted in (("activation", "topk"), ("transcode", False), ("skip_connection", False), ("signed", False)):
        if config.get(key, wanted) != wanted:
            raise FormatError(f"{source.config}: {key}={config[key]} cannot be read here, only {wanted}")
    d_in, k = whole(source.config, config, "d_in"), whole(source.config, config, "k")
    n_latents = number(config, "num_latents") or d_in * whole(source.config, config, "expansion_factor")
    if k > n_latents:
        raise FormatError(f"{source.config}: k={k} must be in 1..{n_latents} (num_latents)")
    found, matrix = shapes(source), (n_latents, d_in)
    sizes = {"encoder.weight": matrix, "encoder.bias": (n_latents,), "W_dec": matrix, "b_dec": (d_in,)}
    check_shapes(source, found, sizes)
    beside = source.config.parent.resolve().parent / OF_ALL
    run = read_config(beside) if beside.is_file() else {}
    about = About(text(run, "model"), _layer(source), number(run, "ctx_len"), text(run, "dataset"))
    return Header(d_in, n_latents, k, found["W_dec"][1], source.weights.stat().st_size, {"k": k}, False, about)


def read(source: Source, header: Header, latents: slice = ALL) -> DenseForm:
    """Return some latents in dense form. Raises FormatError where a value is not finite."""
    found = tensors(source, _AXES, latents)
    weights = found["encoder.weight"], found["encoder.bias"], found["W_dec"], found["b_dec"]
    return DenseForm(*weights, TopK(header.reading["k"]), ())


def _layer(source: Source) -> int | None:
    """Return the layer that the folder's name says, `layers.12` or `h.12`; None where it is no module's name."""
    name = source.config.resolve().parent.name
    if found := re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)[._](\d+)", name):
        return int(found[1])
    if re.search(r"(?:layers|h|blocks)[._]\d+[._]", name):
        raise FormatError(f"{source.config}: hook point {name} is not the residual stream after a block (layers.3)")
    return None
