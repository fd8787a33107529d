"""Our sparse file as an SAE of SAELens: it is loaded as it is, and its atoms are never made dense.

    from sae_core.formats.saelens import load
    sae = load("runs/ID")  # an sae_lens.SAE
    sae.save_model("my-sae")  # from there SAELens' own SAE.load_from_disk reads it, once this module is imported

Importing this module registers the architecture `expander` with SAELens, and needs it: the module is for code that
uses SAELens anyway. To write and to read SAELens' own architectures needs no SAELens (`saelens_files`).

Held against SAELens 6.54 (extra `bench`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from sae_core import io
from sae_core.dense_codes import decode_dense, encode_dense
from sae_core.encoders import ByPursuit, OwnTopK, inner_encoder
from sae_core.formats.about import About
from sae_core.formats.own import about_of
from sae_core.formats.saelens_files import SPARSE as ARCHITECTURE
from sae_core.formats.saelens_files import metadata
from sae_core.inference import ENCODER, infer_by
from sae_core.io_checks import check_says, packed_tensors
from sae_core.kronecker import KroneckerTopK
from sae_core.sae import SAE

try:
    from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class  # pyright: ignore
    from sae_lens.saes.sae import SAE as LensSAE  # pyright: ignore
    from sae_lens.saes.sae import SAEConfig as LensConfig  # pyright: ignore
    from sae_lens.saes.sae import SAEMetadata  # pyright: ignore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"sae_core.formats.saelens needs SAELens (pip install 'sae-lens>=6.54'): {error}", name=error.name
    ) from None

_FIXED = {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}


@dataclass
class ExpanderSAEConfig(LensConfig):  # pyright: ignore[reportUntypedBaseClass]
    """SAELens' config of an SAE of ours.

    Args:
        stored: what our own `cfg.json` says (`sae_core.io`), which makes the SAE together with its tensors.
        code_factor: what our codes are multiplied with: 1, or 1/s after `fold_W_dec_norm`.

    Raises:
        ValueError: a setting of SAELens' asks for another reading than our SAEs have.
    """

    stored: dict[str, Any] = field(default_factory=dict[str, Any])
    code_factor: float = 1.0

    @classmethod
    def architecture(cls) -> str:
        return ARCHITECTURE

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in _FIXED.items():
            if getattr(self, key) != value:
                raise ValueError(f"{key}={getattr(self, key)} must be {value} in an SAE of architecture {ARCHITECTURE}")


class ExpanderSAE(LensSAE):  # pyright: ignore[reportUntypedBaseClass]
    """An SAE of ours behind the interface of SAELens' SAEs: its atoms stay sparse, and it is not trained.

    Codes are ours, found by the SAE's own encoder, a pursuit as well: `encode` gives a matrix (..., d_sae) with zeros,
    as SAELens wants it, and that is all of this size that is made. Their gradient by the input is that of one product
    for one-shot encoders; a pursuit's codes have none. That of `decode` reaches every latent. `hook_sae_acts_pre` does
    not fire: pre-activations of all latents are never in memory.

    `dtype` is that of inputs, codes and outputs. The SAE itself stays in float32, or in float64 where it is that.

    `W_dec`, `W_enc` and the biases are made when they are asked for, in the units of the input, and each time anew: to
    change them changes nothing. `state_dict` holds what our file does.
    """

    def initialize_weights(self) -> None:
        """Wait for the weights, which `load_state_dict` or `of` brings."""
        self.__dict__["_ours"] = (
            None  # not a submodule: HookedRootModule.setup gives each one a name, and ours have one
        )

    @property
    def ours(self) -> SAE:
        """The SAE itself. Raises ValueError before it has weights."""
        if self.__dict__["_ours"] is None:
            raise ValueError(
                f"this SAE of architecture {ARCHITECTURE} has no weights yet: load them, or make it by of()"
            )
        return cast(SAE, self.__dict__["_ours"])

    @classmethod
    def of(cls, sae: SAE, about: About | None = None) -> ExpanderSAE:
        """Return a copy of `sae` as an SAE of SAELens.

        Args:
            about: the LM, the hook point and the text, for SAELens' metadata.
        """
        made = cls(_config(sae, about or About()))
        made.hold(copy.deepcopy(sae))
        return made

    def hold(self, sae: SAE) -> None:
        """Be `sae` from now on, which nobody trains any more."""
        self.__dict__["_ours"] = sae.eval().requires_grad_(False)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[Any]:
        """Yield the parameters of the SAE itself."""
        yield from self.ours.named_parameters(prefix, recurse, remove_duplicate)

    def _apply(self, fn: Any, recurse: bool = True) -> ExpanderSAE:
        """Move the SAE itself too, which is how torch's `to` and its like do it; it stays in float32 at least."""
        super()._apply(fn, recurse)
        if self.__dict__["_ours"] is not None:
            moved = fn(self.ours.scale)
            self.ours.to(moved.device, torch.promote_types(moved.dtype, torch.float32))
        return self

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the codes (..., d_sae) of x (..., d_in)."""
        h = self.hook_sae_input(self.reshape_fn_in(x.to(self.dtype)))
        codes = encode_dense(self.ours, h.reshape(-1, h.shape[-1]), self.dtype)
        if self.cfg.code_factor != 1:
            codes = codes * self.cfg.code_factor
        return self.hook_sae_acts_post(codes.view(*h.shape[:-1], -1))

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction (..., d_in) of codes (..., d_sae), whichever of them are not 0."""
        codes = feature_acts.reshape(-1, feature_acts.shape[-1])
        if self.cfg.code_factor != 1:
            codes = codes / self.cfg.code_factor
        found = decode_dense(self.ours, codes).view(*feature_acts.shape[:-1], -1)
        return self.reshape_fn_out(self.hook_sae_recons(found), self.d_head)

    @property
    def b_dec(self) -> torch.Tensor:
        """The bias in the units of the input (d_in,)."""
        return (self.ours.b_dec / self.ours.scale).to(self.dtype)

    @property
    @torch.no_grad()
    def W_dec(self) -> torch.Tensor:
        """What a code of 1 of each latent adds to the reconstruction, made dense now: (d_sae, d_in)."""
        sae = self.ours
        rows = sae.dictionary.dense_atoms()
        if always_on := sae.dictionary.always_on:
            kept = torch.eye(always_on, sae.dictionary.d_in, dtype=rows.dtype, device=rows.device)
            rows = torch.cat((rows, sae.dictionary.basis.out_of(kept)))
        return (rows / (sae.scale * self.cfg.code_factor)).to(self.dtype)

    @property
    @torch.no_grad()
    def W_enc(self) -> torch.Tensor:
        """The encoder's weights, made dense now: (d_in, d_sae); a pursuit begins with the products of these.

        Raises NotImplementedError where latents have no weights each of its own, as in a `kron`.
        """
        sae = self.ours
        encoder, factor = inner_encoder(sae.encoder), sae.scale * self.cfg.code_factor
        if isinstance(encoder, KroneckerTopK):
            raise NotImplementedError(
                "latents of KronSAE's encoder are products of pre-latents, so that it has no W_enc"
            )
        if isinstance(encoder, OwnTopK):
            return (sae.dictionary.basis.out_of(encoder.rows()) * factor).T.to(self.dtype)
        return (self.W_dec * factor**2).T

    @property
    def b_enc(self) -> torch.Tensor:
        """The encoder's biases in the units of codes (d_sae,). Raises AttributeError where it has none each."""
        encoder = inner_encoder(self.ours.encoder)
        if isinstance(encoder, (ByPursuit, KroneckerTopK)):
            raise AttributeError("this encoder has no bias for each latent")
        always_on = encoder.b_enc.new_zeros(self.ours.dictionary.always_on)
        return (torch.cat((encoder.b_enc, always_on)) * self.cfg.code_factor).to(self.dtype)

    def get_W_dec_norm(self) -> torch.Tensor:
        """Return the norms of the rows of `W_dec`, which is not made for that: (d_sae,)."""
        sae = self.ours
        norms = sae.dictionary.unit_values().norm(dim=1)
        always_on = norms.new_ones(sae.dictionary.always_on)
        return (torch.cat((norms, always_on)) / (sae.scale * self.cfg.code_factor)).to(self.dtype)

    def fold_and_get_W_dec_norm(self) -> torch.Tensor:
        """Measure codes in the units of the input, so that `W_dec` are the unit atoms; return the norms before.

        It is a factor for all codes, which changes neither picks nor reconstructions, also of a pursuit's.
        """
        norms = self.get_W_dec_norm()
        self.cfg.code_factor = 1 / float(self.ours.scale)
        return norms

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Be an SAE for activations that have not been multiplied by `scaling_factor` beforehand."""
        self.ours.scale.mul_(scaling_factor)

    def fold_activation_whitening(self, *_: Any, **__: Any) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError("a whitening cannot be folded into sparse atoms: they would be dense")

    def state_dict(self, *_: Any, destination: Any = None, prefix: str = "", **__: Any) -> Any:
        """Return the tensors that our file holds, and say in `cfg.stored` what its config does.

        Raises ValueError where no file of ours can hold the SAE (`sae_core.save`).
        """
        tensors, self.cfg.stored = io.stored(self.ours)
        found: dict[str, torch.Tensor] = {} if destination is None else destination
        found.update({prefix + name: tensor for name, tensor in tensors.items()})
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take the tensors of a file of ours, with the config of `cfg.stored`. Raises SAEFileError where they differ.

        SAELens' loader makes all tensors floats; bytes become bytes again, which is exact.
        """
        config, where = self.cfg.stored, Path(f"{ARCHITECTURE} SAE")
        check_says(config, where)
        packed = packed_tensors(config)
        tensors = {key: value.to(torch.uint8 if key in packed else torch.float32) for key, value in state_dict.items()}
        self.hold(io.from_stored(tensors, config, where))
        return super().load_state_dict({}, strict=False)


def load(
    folder: str | Path,
    device: str = "cpu",
    inference: str = ENCODER,
    about: About | None = None,
    keep_packed: bool = False,
) -> ExpanderSAE:
    """Read the SAE that `sae_core.save` wrote as an SAE of SAELens.

    Args:
        folder: a run's folder, or any that was given to `save`.
        inference: the way to read codes (`sae_core.infer_by`); `refit` can be used and not be saved.
        about: the LM, the hook point and the text; what the file of a run says of them unless given.
        keep_packed: whether values of 8 or fewer bits stay packed in memory (`sae_core.load`); they cannot be saved.

    Raises the errors of `sae_core.load` and `sae_core.infer_by`.
    """
    found = infer_by(io.load(folder, keep_packed=keep_packed), inference)
    if about is None:
        said = json.loads((Path(folder) / io.CONFIG_FILE).read_text()).get("about")
        about = about_of(said if isinstance(said, dict) else {})
    sae = ExpanderSAE(_config(found, about))
    sae.hold(found)
    return sae.to(device)


def disk_loader(
    path: str | Path, device: str = "cpu", cfg_overrides: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read our file for SAELens' own method: `SAE.load_from_disk(folder, converter=disk_loader)`.

    Raises the errors of `sae_core.load`.
    """
    sae = load(path, device)
    tensors = sae.state_dict()
    return sae.cfg.to_dict() | (cfg_overrides or {}), tensors


def _config(sae: SAE, about: About) -> ExpanderSAEConfig:
    return ExpanderSAEConfig(
        sae.dictionary.d_in,
        sae.n_latents,
        dtype=str(sae.b_dec.dtype).removeprefix("torch."),
        device=str(sae.b_dec.device),
        metadata=SAEMetadata(**metadata(about)),
    )


if ARCHITECTURE not in SAE_CLASS_REGISTRY:
    register_sae_class(ARCHITECTURE, ExpanderSAE, ExpanderSAEConfig)
