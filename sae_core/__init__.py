"""Sparse dictionaries and the sparse autoencoders (SAEs) built on them.

`import sae_core` offers what a training loop or an analysis of one's own needs:

    the arms             Expander(n_latents=4096, degree=7, k=32).build(d_in=512, seed=0) makes an untrained SAE;
                         `sae_core.arms` says what each of the other arms makes
    SAE                  an SAE: `residual`, `encode`, `decode`, and all that a torch module has
    reconstruction_loss  the loss that training minimises
    keep_rounded         ends the training of an SAE whose values are rounded while they are trained (`FewBits`)
    matryoshka_loss      ... of an SAE of nested prefixes
    save, load           write an SAE into a folder, read it back; SAEFileError where the folder holds none
    pack                 an SAE of few bits for inference, its atoms packed in memory, as load(..., keep_packed=True)
    infer_by             the same SAE with its codes found in another way, such as "omp"
    omp, gomp            codes of any targets on a dictionary: orthogonal matching pursuit, one or several atoms a step
    matching_pursuit     ... by matching pursuit: `mp_refit`, or with refit=False `mp`
    niht, cosamp         ... by iterative thresholding

Everything else is imported from the submodule that defines it. A name is loaded when it is first used, because
importing torch takes seconds; `import sae_core` by itself loads the standard library alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_core.arms import (
        ITDA,
        PCA,
        Banded,
        Clustered,
        Compressed,
        DenseLowRank,
        DenseMatched,
        DenseMatchedOwn,
        DenseRandInit,
        DenseTied,
        DenseWarmTied,
        Dynamic,
        Expander,
        ExpanderBalanced,
        FewBits,
        FrozenRandom,
        Imported,
        Kron,
        Prefix,
        ProductQuantised,
        PrunedRetuned,
        Quantised,
        SoftFrozen,
        TrellisCoded,
    )
    from sae_core.inference import infer_by
    from sae_core.io import SAEFileError, load, save
    from sae_core.losses import matryoshka_loss, reconstruction_loss
    from sae_core.packed import pack
    from sae_core.pursuit.batched import cosamp, gomp, matching_pursuit, niht, omp
    from sae_core.quantised import keep_rounded
    from sae_core.sae import SAE

__all__ = [
    "ITDA",
    "PCA",
    "SAE",
    "Banded",
    "Clustered",
    "Compressed",
    "DenseLowRank",
    "DenseMatched",
    "DenseMatchedOwn",
    "DenseRandInit",
    "DenseTied",
    "DenseWarmTied",
    "Dynamic",
    "Expander",
    "ExpanderBalanced",
    "FewBits",
    "FrozenRandom",
    "Imported",
    "Kron",
    "Prefix",
    "ProductQuantised",
    "PrunedRetuned",
    "Quantised",
    "SAEFileError",
    "SoftFrozen",
    "TrellisCoded",
    "cosamp",
    "gomp",
    "infer_by",
    "keep_rounded",
    "load",
    "matching_pursuit",
    "matryoshka_loss",
    "niht",
    "omp",
    "pack",
    "reconstruction_loss",
    "save",
]

_ARMS = "sae_core.arms"  # defines every name that has no other module here
_MODULES = {
    "SAE": "sae_core.sae",
    "infer_by": "sae_core.inference",
    "keep_rounded": "sae_core.quantised",
    "pack": "sae_core.packed",
    **dict.fromkeys(("matryoshka_loss", "reconstruction_loss"), "sae_core.losses"),
    **dict.fromkeys(("SAEFileError", "load", "save"), "sae_core.io"),
    **dict.fromkeys(("cosamp", "gomp", "matching_pursuit", "niht", "omp"), "sae_core.pursuit.batched"),
}


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` from its module when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES.get(name, _ARMS)), name)
    globals()[name] = found  # from now on an ordinary attribute
    return found


def __dir__() -> list[str]:
    """List the names of `__all__` also before they are loaded."""
    return sorted({*globals(), *__all__})
