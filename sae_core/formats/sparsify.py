"""sparsify's format: `cfg.json` and `sae.safetensors`, which its `SparseCoder.load_from_disk` reads.

It reads codes by TopK alone. It knows the hook point by the name of the folder, `layers.12`: so a folder is named that
way, and `config.json` beside it says the LM, the text and the window, where `SparseCoder.load_many` and SAELens' loader
of sparsify's SAEs look for them.

Held against sparsify (eai-sparsify) 1.3.3. It is not needed to write.
"""

from __future__ import annotations

from pathlib import Path

from sae_core.formats.about import About, FormatError
from sae_core.formats.dense import Above, TopK, dense_form
from sae_core.formats.writing import Exported, check_free, write_json, write_tensors
from sae_core.sae import SAE

WEIGHTS, CONFIG, OF_ALL = "sae.safetensors", "cfg.json", "config.json"
BY_MODULE = True  # whether the library knows a hook point by the name of its folder


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
