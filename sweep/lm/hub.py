"""An LM of the Hugging Face hub: the copy on this disk if there is one, else a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweep.lm.errors import ModelNotHereError


def hub_folder(hub_id: str, revision: str | None, allow_pickle: bool, trust_remote_code: bool) -> Path:
    """Return the folder of the hub's snapshot: from the local hub cache if it is there, else downloaded.

    Args:
        allow_pickle: take weights that are not safetensors too.
        trust_remote_code: take the Python code that comes with the model too.

    Raises:
        ModelNotHereError: the snapshot is not on this disk and cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    patterns += ["*.bin"] if allow_pickle else []
    patterns += ["*.py"] if trust_remote_code else []
    where = f"{hub_id} at revision {revision}"
    ask: dict[str, Any] = {"repo_id": hub_id, "revision": revision, "allow_patterns": patterns}
    try:
        folder = Path(snapshot_download(**ask, local_files_only=True))
        if any(folder.glob("*.safetensors")) or allow_pickle:
            return folder
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError):
        pass
    try:
        # Ask once whether the hub answers: a download would retry for half a minute.
        HfApi().model_info(hub_id, revision=revision, timeout=10)
        return Path(snapshot_download(**ask))
    except GatedRepoError:
        raise ModelNotHereError(
            f"{where} is gated: accept its licence on the hub and set HF_TOKEN, or set model.path to a copy on disk"
        ) from None
    except Exception as error:  # the HTTP library raises its own kinds
        raise ModelNotHereError(
            f"{where} is not on this disk and cannot be downloaded ({type(error).__name__}): "
            "set model.path to a folder that holds it"
        ) from None
