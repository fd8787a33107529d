"""Other libraries' SAEs: one file for each library.

A library's file has `save(sae, folder, about)`, which writes an SAE of ours so that the library itself loads it. What
all of them hold, two dense matrices and a rule for which latents fire, is `dense.DenseForm`.
"""

from __future__ import annotations

from pathlib import Path

from sae_core.formats import dictionary_learning, saelens, sparsify
from sae_core.formats.about import About, FormatError
from sae_core.formats.writing import Exported
from sae_core.sae import SAE

__all__ = ["FORMATS", "About", "Exported", "FormatError", "export", "format_name"]

FORMATS = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}


def export(sae: SAE, format: str, folder: str | Path, about: About | None = None) -> Exported:
    """Write `sae` into a folder in the format of another library, which is not needed for it.

    Args:
        sae: the SAE, with its scale; read it in another way first (`infer_by`) to write that reading.
        format: a key of FORMATS.
        about: what the other library's config should say of the LM, the hook point and the text.

    Returns:
        The files, and sentences on where the library's reading differs from ours by its definition.

    Raises:
        FormatError: the format is unknown or cannot hold the SAE, or a file is there already.
    """
    return FORMATS[format_name(format)].save(sae, folder, about or About())


def format_name(format: str) -> str:
    """Return the name of a format. Raises FormatError where none has it."""
    if format not in FORMATS:
        raise FormatError(f"format={format} must be {', '.join(FORMATS)}")
    return format
