"""dictionary_learning's format: `config.json` and `ae.pt`, which its `utils.load_dictionary` reads.

    ours                                its class
    topk, tied or with own weights      AutoEncoderTopK
    batch_topk                          BatchTopKSAE

`ae.pt` is a pickle of tensors alone, as the library demands; torch reads it with `weights_only=True`.

Held against dictionary-learning 0.1.0. It is not needed to write.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sae_core.files import replacing
from sae_core.formats.about import About, FormatError
from sae_core.formats.dense import MatchingPursuit, TopK, dense_form
from sae_core.formats.writing import Exported, check_free, write_json
from sae_core.sae import SAE

WEIGHTS, CONFIG = "ae.pt", "config.json"
BY_MODULE = False  # whether the library knows a hook point by the name of its folder
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
    by_topk = isinstance(form.rule, TopK)
    files = folder / WEIGHTS, folder / CONFIG
    check_free(files)
    tensors = {
        "encoder.weight": form.encoder.contiguous(),
        "encoder.bias": form.b_enc,
        "decoder.weight": form.decoder.T.contiguous(),
        "b_dec": form.b_dec,
        "k": torch.tensor(sae.k, dtype=torch.int),
        "threshold": torch.tensor(_NO_THRESHOLD if isinstance(form.rule, TopK) else form.rule.threshold),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(files[0]) as temporary:
        torch.save(tensors, temporary)
    trainer = {
        "trainer_class": "TopKTrainer" if by_topk else "BatchTopKTrainer",
        "dict_class": "AutoEncoderTopK" if by_topk else "BatchTopKSAE",
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
