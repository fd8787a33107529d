"""Where a run's curves and figures go besides its record: Weights & Biases, or nowhere.

Names are those of `sweep.metric_names`. A tracker that fails says so once and is silent
from then on; it never takes a run with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sweep.metric_names import CURVES, PREFIXES, RUN_ID, STATUS, STEP, of_inference
from sweep.train import Progress

MODES = ("offline", "online", "disabled")


@dataclass(frozen=True)
class TrackerConfig:
    """Weights & Biases: mode is offline, online or disabled."""

    mode: str = "offline"
    project: str = "expander-sae"
    entity: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"tracker.mode={self.mode} must be one of {', '.join(MODES)}")


class Tracker(Protocol):
    """One run's tracker. Calls come from one thread, in this order: curve*, summary, artifact?, finish."""

    def curve(self, progress: Progress) -> None: ...

    def summary(self, record: dict[str, Any]) -> None: ...

    def artifact(self, folder: Path, name: str) -> None: ...

    def finish(self, failed: bool) -> None: ...


class NoTracker:
    """Keeps nothing."""

    def curve(self, progress: Progress) -> None: ...

    def summary(self, record: dict[str, Any]) -> None: ...

    def artifact(self, folder: Path, name: str) -> None: ...

    def finish(self, failed: bool) -> None: ...


class WandbTracker:
    """One Weights & Biases run per SAE, its files under `folder`."""

    def __init__(self, folder: Path, mode: str, project: str, entity: str | None, settings: dict[str, Any]):
        import wandb

        # reinit: each run of a serial sweep is its own W&B run, whatever became of the one before.
        self._run = wandb.init(
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            project=project,
            entity=entity,
            reinit="create_new",
            # Listing every installed package took most of a tracked run's cost; `versions` has those that count.
            settings=wandb.Settings(
                silent=True, console="off", x_disable_stats=True, x_disable_meta=True, x_save_requirements=False
            ),
            **settings,
        )
        self._run.define_metric(STEP)
        self._run.define_metric("train/*", step_metric=STEP)

    def curve(self, progress: Progress) -> None:
        self._run.log({name: getattr(progress, field) for name, field in CURVES.items()})

    def summary(self, record: dict[str, Any]) -> None:
        flat = {name: value for part, prefix in PREFIXES.items() for name, value in _flat(record.get(part, {}), prefix)}
        for name, measured in record.get("inference", {}).items():
            for part in ("metrics", "cost"):
                flat.update({of_inference(name, key): value for key, value in measured.get(part, {}).items()})
        self._run.summary.update({**flat, STATUS: record["status"], RUN_ID: record["run_id"]})

    def artifact(self, folder: Path, name: str) -> None:
        import wandb

        artifact = wandb.Artifact(name, type="sae")
        for file in ("sae.safetensors", "cfg.json"):
            artifact.add_file(str(folder / file))
        self._run.log_artifact(artifact)

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def _flat(nested: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every entry that is neither a list nor missing, parts of the path with / between."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None and not isinstance(value, list):
            yield prefix + key, value


class Guarded:
    """Forwards to `make()`'s tracker until something fails; then warns once and drops the rest."""

    def __init__(self, make):
        self._inner: Tracker = NoTracker()
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker does, the run's own record matters more
            self._inner = NoTracker()
            print(f"warning: tracking stopped for this run ({type(error).__name__}: {error})", file=sys.stderr)

    def curve(self, progress: Progress) -> None:
        self._call(lambda: self._inner.curve(progress))

    def summary(self, record: dict[str, Any]) -> None:
        self._call(lambda: self._inner.summary(record))

    def artifact(self, folder: Path, name: str) -> None:
        self._call(lambda: self._inner.artifact(folder, name))

    def finish(self, failed: bool) -> None:
        self._call(lambda: self._inner.finish(failed))
