"""dictionary_learning's format: `config.json` and `ae.pt`, which its `utils.load_dictionary` reads.

    ours                                its class
    topk, tied or with own weights      AutoEncoderTopK
    batch_topk                          BatchTopKSAE
    thresholds of each latent's own     JumpReluAutoEncoder

`ae.pt` is a pickle of tensors alone, as the library demands; torch reads it with `weights_only=True`.

Held against dictionary-learning 0.1.0. It is not needed to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from sae_core.files import replacing
from sae_core.formats.about import About, FormatError
from sae_core.formats.dense import Above, DenseForm, MatchingPursuit, TopK, dense_form
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
from sae_core.formats.thresholds import gated
from sae_core.formats.writing import Exported, check_free, write_json
from sae_core.sae import SAE

WEIGHTS, CONFIG = "ae.pt", "config.json"
BY_MODULE = False  # whether the library knows a hook point by the name of its folder
KEY = "trainer"  # which only a config of this format has


class _Class(NamedTuple):
    """How one of the library's classes names what it holds; matrices named `X.weight` are those of a linear layer."""

    encoder: str
    decoder: str
    b_dec: str
    vectors: tuple[str, ...]  # of n_latents each; the first is b_enc, unless it is gated
    subtracts: bool = True  # b_dec, before it encodes
    by_topk: bool = False
    one_threshold: bool = False  # for all latents


_LINEAR = ("encoder.weight", "decoder.weight")
_CLASSES = {
    "AutoEncoder": _Class(*_LINEAR, "bias", ("encoder.bias",)),
    "AutoEncoderNew": _Class(*_LINEAR, "decoder.bias", ("encoder.bias",), subtracts=False),
    "GatedAutoEncoder": _Class(*_LINEAR, "decoder_bias", ("gate_bias", "mag_bias", "r_mag")),
    "AutoEncoderTopK": _Class(*_LINEAR, "b_dec", ("encoder.bias",), by_topk=True),
    "BatchTopKSAE": _Class(*_LINEAR, "b_dec", ("encoder.bias",), one_threshold=True),
    "MatryoshkaBatchTopKSAE": _Class("W_enc", "W_dec", "b_dec", ("b_enc",), one_threshold=True),
    "JumpReluAutoEncoder": _Class("W_enc", "W_dec", "b_dec", ("b_enc", "threshold"), subtracts=False),
}
_NO_THRESHOLD = -1.0  # what AutoEncoderTopK stores where it has learned none


def save(sae: SAE, folder: str | Path, about: About) -> Exported:
    """Write `sae` so that `dictionary_learning.utils.load_dictionary(folder, device)` has its codes.

    Raises:
        FormatError: the library has no class for its reading, or a file is there already.
    """
    form, folder = dense_form(sae), Path(folder)
    if isinstance(form.rule, MatchingPursuit):
        raise FormatError(
            "dictionary_learning has no pursuit; nearest is topk (inference=topk), or format=saelens, which has mp"
        )
    files = folder / WEIGHTS, folder / CONFIG
    check_free(files)
    dict_class, trainer_class, tensors = _tensors(form, sae.k)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(files[0]) as temporary:
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    trainer = {
        "trainer_class": trainer_class,
        "dict_class": dict_class,
        "activation_dim": form.d_in,
        "dict_size": form.n_latents,
        "k": sae.k,
        "layer": about.layer,
        "lm_name": about.model,
        "submodule_name": None if about.layer is None else f"resid_post_layer_{about.layer}",
        "expander_sae_run": about.run,
    }
    buffer = {"d_submodule": form.d_in, "io": "out", "ctx_len": about.context, "dataset": about.dataset}
    write_json(files[1], {"trainer": trainer, "buffer": buffer})
    return Exported(files, form.notes)


def _tensors(form: DenseForm, k: int) -> tuple[str, str, dict[str, torch.Tensor]]:
    """Return the library's class, the trainer that makes such, and the state of the class."""
    if isinstance(form.rule, Above) and len(form.rule.threshold.unique()) > 1:
        b_enc = form.b_enc - form.encoder @ form.b_dec  # this class does not subtract b_dec before it encodes
        matrices = {"W_enc": form.encoder.T, "W_dec": form.decoder}
        biases = {"b_enc": b_enc, "b_dec": form.b_dec, "threshold": form.rule.threshold}
        return "JumpReluAutoEncoder", "JumpReluTrainer", matrices | biases
    threshold = form.rule.threshold[0] if isinstance(form.rule, Above) else torch.tensor(_NO_THRESHOLD)
    tensors = {
        "encoder.weight": form.encoder,
        "encoder.bias": form.b_enc,
        "decoder.weight": form.decoder.T,
        "b_dec": form.b_dec,
        "k": torch.tensor(k, dtype=torch.int),
        "threshold": threshold,
    }
    if isinstance(form.rule, TopK):
        return "AutoEncoderTopK", "TopKTrainer", tensors
    return "BatchTopKSAE", "BatchTopKTrainer", tensors


def describe(source: Source) -> Header:
    """Return what an SAE is that dictionary_learning saved. Its weights are looked at only for their shapes.

    Raises:
        FormatError: the files are no SAE that can be read here; the message says why.
    """
    config = read_config(source.config)
    trainer, buffer = (part if isinstance(part := config.get(key), dict) else {} for key in ("trainer", "buffer"))
    dict_class = trainer.get("dict_class")
    if dict_class not in _CLASSES:
        raise FormatError(
            f"{source.config}: dict_class={dict_class} is none of {', '.join(_CLASSES)}, which can be read"
        )
    d_in, n_latents = (whole(source.config, trainer, key) for key in ("activation_dim", "dict_size"))
    kind, found = _CLASSES[dict_class], shapes(source)
    across, along = (d_in, n_latents), (n_latents, d_in)
    named = {kind.encoder: along, kind.decoder: across} if "." in kind.encoder else {"W_enc": across, "W_dec": along}
    check_shapes(source, found, named | {kind.b_dec: (d_in,)} | dict.fromkeys(kind.vectors, (n_latents,)))
    if kind.one_threshold:
        check_shapes(source, found, {"threshold": ()})
    k = whole(source.config, trainer, "k") if kind.by_topk else None
    if k is not None and k > n_latents:
        raise FormatError(f"{source.config}: k={k} must be in 1..{n_latents} (dict_size)")
    place = text(trainer, "submodule_name")
    if place is not None and "resid" not in place:
        raise FormatError(f"{source.config}: submodule_name={place} is not the residual stream after a block")
    about = About(
        text(trainer, "lm_name"), number(trainer, "layer"), number(buffer, "ctx_len"), text(buffer, "dataset")
    )
    size, bits = source.weights.stat().st_size, found[kind.decoder][1]
    return Header(d_in, n_latents, k, bits, size, {"dict_class": dict_class, "k": k}, False, about)


def read(source: Source, header: Header, latents: slice = ALL) -> DenseForm:
    """Return some latents in dense form. Raises FormatError where a value is not finite."""
    kind = _CLASSES[header.reading["dict_class"]]
    linear = int("." in kind.encoder)
    axes = {kind.encoder: 1 - linear, kind.decoder: linear} | dict.fromkeys(kind.vectors, 0)
    found = tensors(source, axes, latents)
    encoder, decoder, b_dec = found[kind.encoder], found[kind.decoder], found[kind.b_dec]
    encoder, decoder = (encoder, decoder.T) if "." in kind.encoder else (encoder.T, decoder)
    if kind.by_topk:
        return DenseForm(encoder, found[kind.vectors[0]], decoder, b_dec, TopK(header.reading["k"]), ())
    if "r_mag" in kind.vectors:
        encoder, b_enc, threshold = gated(encoder, found["gate_bias"], found["mag_bias"], found["r_mag"])
    else:
        b_enc = found[kind.vectors[0]]
        threshold = found["threshold"].expand(len(b_enc)) if "threshold" in found else torch.zeros_like(b_enc)
    if not kind.subtracts:
        b_enc = b_enc + encoder @ b_dec
    return DenseForm(encoder, b_enc, decoder, b_dec, Above(threshold), ())
