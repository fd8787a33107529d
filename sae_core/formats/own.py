"""Our own format, `cfg.json` and `sae.safetensors` (`sae_core.io`), as one that `sae=imported` reads."""

from __future__ import annotations

from typing import Any

import torch

from sae_core import io
from sae_core.bases import NEURONS
from sae_core.formats.about import About, FormatError
from sae_core.formats.reading import Header, Source, number, read_config, shapes, text
from sae_core.io_checks import DENSE_KINDS, check_config, names_basis
from sae_core.kronecker import Heads
from sae_core.sae import SAE
from sae_core.storage import AS_INDICES, FROM_SEED, NO_SUPPORT, Layout

WEIGHTS, CONFIG = io.WEIGHTS_FILE, io.CONFIG_FILE
KEY = "n_latents"  # which only a config of this format has


def describe(source: Source) -> Header:
    """Return what an SAE is that `sae_core.io.save` wrote. Its weights are not read.

    Raises:
        SAEFileError: the config makes no SAE, or the weights are not those that it asks for.
        FormatError: the weights cannot be read.
    """
    config = read_config(source.config)
    kinds = {8: torch.uint8, 16: torch.float16}
    held = shapes(source)
    empty = {
        name: torch.empty(shape, dtype=kinds.get(bits, torch.float32), device="meta")
        for name, (shape, bits) in held.items()
    }
    check_config(config, empty, source.config)
    stored = _layout(config, source)
    about = config.get("about")
    return Header(
        stored.d_in,
        stored.n_latents,
        config["k"],
        round(stored.value_bits),
        source.weights.stat().st_size,
        {"format": "own", "config": {key: value for key, value in config.items() if key != "about"}},
        normalised=False,
        about=about_of(about if isinstance(about, dict) else {}),
        layout=stored,
    )


def load(source: Source) -> SAE:
    """Return the SAE. Raises FormatError where the two files do not lie beside each other under their own names."""
    if source.weights.name != WEIGHTS or source.weights.parent != source.config.parent:
        raise FormatError(f"{source.weights} must be called {WEIGHTS}, and lie beside its {CONFIG}")
    return io.load(source.weights.parent)


def _layout(config: dict[str, Any], source: Source) -> Layout:
    """Return what a file stores, by its config."""
    sparse, codebook, frozen = config["sparse"], config.get("codebook", 0), config.get("frozen", False)
    d_in, basis = config["d_in"], config["basis"] if names_basis(config) else {}
    return Layout(
        d_in,
        config["n_latents"],
        config["degree"] if sparse or config["format"] == DENSE_KINDS else d_in,
        support=NO_SUPPORT if not sparse else AS_INDICES if config.get("support_seed") is None else FROM_SEED,
        value_bits=0 if frozen else config.get("value_bits", 32),
        own_encoder=not config["tied"],
        encoder_bits=config.get("encoder_bits", 32),
        heads=Heads(*config["heads"]) if "heads" in config else None,
        pursuit=config.get("pursuit"),
        basis=basis.get("name", NEURONS),
        basis_bits=basis.get("value_bits", 32),
        source_tokens=config.get("source_tokens", 0),
        codebook=codebook,
        batch_topk=config.get("batch_topk", False),
        rule=config.get("rule", ""),
        file_bytes=source.weights.stat().st_size,
        prefixes=tuple(config.get("prefixes", ())),
    )


def about_of(said: dict[str, Any]) -> About:
    """Return the LM, the place in it and the text that a run wrote into its config, under the key `about`."""
    spec, labels = (part if isinstance(part := said.get(key), dict) else {} for key in ("spec", "labels"))
    where = spec.get("activations")
    where = where if isinstance(where, dict) else {}
    bos = text(where, "bos")
    return About(
        text(labels, "model"),
        number(where, "layer"),
        number(where, "window"),
        text(labels, "corpus"),
        None if bos is None else bos == "window",
    )
