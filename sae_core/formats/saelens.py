"""SAELens' format: `cfg.json` and `sae_weights.safetensors`, which its `SAE.load_from_disk` reads.

    ours                                its architecture
    topk, tied or with own weights      topk
    batch_topk                          jumprelu, as it saves BatchTopK SAEs itself
    mp                                  matching_pursuit, which has neither encoder weights nor biases

Held against SAELens 6.54. It is not needed to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_core.formats.about import About
from sae_core.formats.dense import Above, DenseForm, MatchingPursuit, TopK, dense_form
from sae_core.formats.writing import Exported, check_free, write_json, write_tensors
from sae_core.sae import SAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
BY_MODULE = False  # whether the library knows a hook point by the name of its folder
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


def _tensors(form: DenseForm) -> dict[str, torch.Tensor]:
    tensors = {"W_dec": form.decoder, "b_dec": form.b_dec}
    if isinstance(form.rule, MatchingPursuit):
        return tensors
    tensors |= {"W_enc": form.encoder.T, "b_enc": form.b_enc}
    if isinstance(form.rule, Above):
        tensors["threshold"] = torch.full_like(form.b_enc, form.rule.threshold)
    return tensors


def _config(form: DenseForm, about: About) -> dict[str, Any]:
    return {
        **_architecture(form),
        "d_in": form.d_in,
        "d_sae": form.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": about.model,
            "model_class_name": "HookedTransformer",
            "model_from_pretrained_kwargs": {},
            "hook_name": about.hook_name,
            "hook_head_index": None,
            "hf_hook_name": None if about.module is None else f"model.{about.module}",
            "context_size": about.context,
            "dataset_path": about.dataset,
            "prepend_bos": about.bos,
            "expander_sae_run": about.run,
        },
    }


def _architecture(form: DenseForm) -> dict[str, Any]:
    """Return the class that reads codes by the form's rule, with the settings of its own."""
    match form.rule:
        case TopK(k):
            # Our atoms are of unit norm, so that codes need no other one.
            return {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
        case Above():
            return {"architecture": "jumprelu"}
        case MatchingPursuit(k):
            # k picks of each token: neither a small residual nor an atom that comes again ends them.
            ends = {"residual_threshold": 0.0, "stop_on_duplicate_support": False}
            return {"architecture": "matching_pursuit", "max_iterations": k, **ends}
