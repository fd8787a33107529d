"""Other libraries' SAEs: one file for each library, and `own` for files of ours.

A library's file has `save(sae, folder, about)`, which writes an SAE of ours so that the library itself loads it, and
`describe` and `read`, which read an SAE of the library's. What all of them hold, two dense matrices and a rule for
which latents fire, is `dense.DenseForm`. None of the libraries is needed.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sae_core.formats.about import About, FormatError
from sae_core.formats.blocks import Block, blocks, codes_of, read
from sae_core.formats.names import FORMATS, READERS
from sae_core.formats.reading import Header, Source, read_config
from sae_core.formats.writing import Exported
from sae_core.sae import SAE

__all__ = [
    "FORMATS",
    "READERS",
    "About",
    "Block",
    "Exported",
    "FormatError",
    "blocks",
    "codes_of",
    "describe",
    "export",
    "find",
    "format_name",
    "load",
    "read",
]


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


def format_name(format: str, formats: Collection[str] = FORMATS) -> str:
    """Return the name of a format. Raises FormatError where none among `formats` has it."""
    if format not in formats:
        raise FormatError(f"format={format} must be {', '.join(formats)}")
    return format


def load(
    path: str | Path,
    format: str | None = None,
    k: int = 32,
    mean_norm: float | None = None,
    allow_pickle: bool = False,
) -> SAE:
    """Read an SAE that another library saved, or one of ours, in evaluation mode.

    Its reconstructions are the library's own; its codes are the library's times the norm of each latent's atom.

    Args:
        path: the folder, or the file of the weights, with the config beside it.
        format: a key of READERS; found out by the files unless given.
        k: the latents of readings that use exactly so many (`sae_core.infer_by`), where it does not say k itself.
        mean_norm: the mean norm of the activations that it is used on, where it is meant for activations of mean norm
            sqrt(d_in) (SAELens' `expected_average_only_in`).
        allow_pickle: run what a pickle holds beside tensors.

    Raises:
        FormatError: the files are no SAE that can be read here, or `mean_norm` is needed.
    """
    source = find(path, format, allow_pickle)
    header = describe(source)
    if header.normalised and mean_norm is None:
        raise FormatError(f"{source.config}: it is meant for normalised activations, which needs their mean_norm")
    scale = header.d_in**0.5 / mean_norm if header.normalised and mean_norm else 1.0
    return read(source, header, k, scale)


def find(path: str | Path, format: str | None = None, allow_pickle: bool = False) -> Source:
    """Return the files of an SAE; the arguments are those of `load`.

    Raises:
        FormatError: no library's files are there, or the format is unknown.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FormatError(f"{path} is not there")
    folder = path if path.is_dir() else path.parent
    names = READERS if format is None else (format_name(format, READERS),)
    for name in names:
        weights, config = path if path.is_file() else folder / READERS[name].WEIGHTS, folder / READERS[name].CONFIG
        if (weights.exists() and config.exists() and _is_of(name, path, config)) or format is not None:
            return Source(name, weights, config, allow_pickle)
    expected = "; ".join(f"{name}: {READERS[name].WEIGHTS} and {READERS[name].CONFIG}" for name in names)
    raise FormatError(f"{path} holds no SAE that can be read ({expected})")


def _is_of(name: str, path: Path, config: Path) -> bool:
    """Tell whether a config beside weights is of the format; SAELens, sparsify and we all call it `cfg.json`."""
    module = READERS[name]
    if path.is_file() and path.suffix != Path(module.WEIGHTS).suffix:
        return False
    return module.KEY in read_config(config)


def describe(source: Source) -> Header:
    """Return what an SAE is, without its weights. Raises FormatError where it cannot be read here."""
    return READERS[source.format].describe(source)
