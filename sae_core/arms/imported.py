"""An SAE that is there already, of another library or of ours, measured like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from sae_core.arms.base import Arm, Sizes, Start
from sae_core.formats import About, Block, blocks, describe, find, read
from sae_core.formats.reading import Header, Source, content_hash
from sae_core.hashed import changes_no_result
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class Imported(Arm):
    """An SAE of SAELens, sparsify or dictionary_learning, or one of our files, read from disk and not trained.

    A run of it is named by what the files hold, not by where they lie.

    Args:
        k: the latents of readings that use exactly so many, such as `omp`. An SAE of TopK says k itself.
        path: the folder, or the file of the weights, with the config beside it.
        format: saelens, sparsify, dictionary_learning or sae_core; found out by the files unless given.
        allow_pickle: run what a pickle holds beside tensors.
        check_model: whether the LM that the files name must be the one that it is measured on.
        content: the hash of what the files hold; found out unless given.

    Raises:
        FormatError: the files are no SAE that can be read, or `content` is not theirs.
    """

    k: int
    path: str = changes_no_result("")
    format: str | None = changes_no_result(None)
    allow_pickle: bool = changes_no_result(False)
    check_model: bool = changes_no_result(True)
    content: str = field(default="")
    name = "imported"
    by_gradient = False
    can_be_quantised = False

    def __post_init__(self):
        if not self.path:
            raise ValueError("sae.path must name the folder of an SAE")
        found = content_hash(self.source, self.header)
        if self.content not in ("", found):
            raise ValueError(f"sae.path={self.path} holds another SAE than sae.content={self.content} says")
        object.__setattr__(self, "content", found)
        if self.header.k is not None:
            object.__setattr__(self, "k", self.header.k)

    @cached_property
    def source(self) -> Source:
        """The files."""
        return find(self.path, self.format, self.allow_pickle)

    @cached_property
    def header(self) -> Header:
        """What the files say before the weights are read."""
        return describe(self.source)

    @property
    def about(self) -> About:
        """The LM, layer and text that the files name."""
        return self.header.about

    def sizes(self, d_in: int) -> Sizes:
        header = self.header
        if header.d_in != d_in:
            raise ValueError(f"sae.path={self.path} has d_in={header.d_in}, and the LM's activations {d_in}")
        if not 1 <= self.k <= header.n_latents:
            raise ValueError(f"k={self.k} must be in 1..{header.n_latents} (n, the latents of sae.path={self.path})")
        return Sizes(header.n_latents, header.layout.degree if header.layout else d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        header = self.header
        if header.layout is not None:
            self.sizes(d_in)
            return header.layout
        rule = "threshold" if header.k is None and not header.pursuit else "gain"
        own = {"own_encoder": not header.pursuit, "pursuit": header.pursuit, "rule": rule}
        layout = super().layout(d_in)._replace(value_bits=header.value_bits, **own)
        return layout._replace(file_bytes=header.file_bytes)

    def make(self, start: Start) -> SAE:
        """Read the SAE. The scale counts only where it is meant for normalised activations."""
        self.sizes(start.d_in)
        return read(self.source, self.header, self.k, self.scale_from(start.scale))

    def blocks(self, scale: float) -> Iterator[Block]:
        """Yield the SAE a few latents at a time; `scale` is that of `Start`."""
        return blocks(self.source, self.header, self.k, self.scale_from(scale))

    def scale_from(self, scale: float) -> float:
        """Return what activations are multiplied with, given the scale that brings them to mean norm sqrt(d_in)."""
        return scale if self.header.normalised else 1.0
