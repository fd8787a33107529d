"""What an imported SAE's files say it is of, held against the LM and the layer that it is to be measured on."""

from __future__ import annotations

from sae_core.arms import Arm, Imported
from sweep.lm.find import ModelConfig, ModelInfo


def check_origin(arm: Arm, model: ModelConfig, info: ModelInfo, layer: int) -> None:
    """Raise ValueError where an imported SAE names another layer, or another LM, than the job does.

    LMs are compared by the last part of their names, without regard to case: `EleutherAI/pythia-70m` is `pythia-70m`.
    """
    if not isinstance(arm, Imported):
        return
    about = arm.about
    if about.layer is not None and about.layer != layer:
        raise ValueError(f"layer={layer} must be {about.layer}, the layer that sae.path={arm.path} is of")
    names = (model.hub_id, model.name, model.label, info.folder.name)
    ours = {_last(name) for name in names if name}
    if arm.check_model and about.model is not None and _last(about.model) not in ours:
        raise ValueError(
            f"sae.path={arm.path} is of the LM {about.model}, and not of {model.label}; where both are the same, "
            "sae.check_model=false measures it"
        )


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
