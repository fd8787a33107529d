"""Trackers show a run's curves and numbers outside its record: in Weights & Biases (W&B), or nowhere.

Names are those of `sweep.store.metric_names`. A run may have several W&B sessions: at its start, when it goes on after
a kill, for one more measurement, for an upload later. Each session sends the whole run except what the server has
already, so the run is complete after every session and nothing is there twice. A tracker that fails reports that once
and does nothing from then on; it never ends a run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sweep.store.files import write_json
from sweep.store.hashes import short_hash
from sweep.store.metric_names import (
    CURVES,
    PREFIXES,
    RUN_ID,
    SIZES,
    STATUS,
    STEP,
    inference_measure_name,
    probing_means,
    stability_means,
)
from sweep.store.records import RECORD, SENT, Record, read_curve
from sweep.train.state import Progress

MODES = ("offline", "online", "disabled")
_TAG, _NAME = 64, 128  # characters that a tag, or a name of a run, a group or a job type, may have
_INIT, _FINISH = 20.0, 60.0  # seconds that an online session may take to begin, and at its end to send what is left


@dataclass(frozen=True)
class TrackerConfig:
    """The settings of Weights & Biases.

    Args:
        mode: offline (written to disk, to be sent later), online or disabled.
        project, entity: where runs go; without an entity, to the account's own.
        tags: tags of every run, beside its model and arm.

    Raises:
        ValueError: the mode is none of the three.
    """

    mode: str = "offline"
    project: str = "expander-sae"
    entity: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"tracker.mode={self.mode} must be one of {', '.join(MODES)}")


class Tracker(Protocol):
    """The tracker of one run.

    Calls come from one thread and in this order: `curve` any number of times, `summary`, perhaps `artifact`, `finish`.
    """

    def curve(self, progress: Progress) -> None:
        """Log one report of the training."""
        ...

    def summary(self, record: Record) -> None:
        """Log what the run's record holds."""
        ...

    def artifact(self, folder: Path, name: str) -> None:
        """Keep the SAE in the run's folder as an artifact called `name`."""
        ...

    def finish(self, failed: bool) -> None:
        """End the session; `failed` marks the run as failed."""
        ...


class NoTracker:
    """A tracker that keeps nothing."""

    def curve(self, progress: Progress) -> None: ...

    def summary(self, record: Record) -> None: ...

    def artifact(self, folder: Path, name: str) -> None: ...

    def finish(self, failed: bool) -> None: ...


class WandbTracker:
    """One session with Weights & Biases for one run; its files lie under the run's folder.

    Args:
        folder: the run's folder; the reports that its `curve.jsonl` has from earlier sessions are sent first.
        mode: offline or online.
        config: the project, entity and tags; its own mode is not used.
        record: the run's record, finished or not.

    Raises:
        wandb.Error: an online session cannot begin. This process can then begin no session of this run any more, not
            even an offline one.
    """

    def __init__(self, folder: Path, mode: str, config: TrackerConfig, record: Record):
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))
        if mode == "offline":
            _remove_earlier(folder)
        labels = record["labels"]
        self._run = wandb.init(
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            project=config.project,
            entity=config.entity,
            id=record["run_id"],
            name=_cut(record.get("title", ""), _NAME) or None,
            group=_cut(labels["sweep"], _NAME),
            job_type=_cut(labels["arm"], _NAME),
            tags=[_cut(tag, _TAG) for tag in (*config.tags, labels["model"], labels["arm"]) if tag],
            config=_config(record),
            reinit="create_new",  # several runs in one process stay apart, even if an earlier one was not finished
            resume="allow" if mode == "online" else None,
            settings=_session_settings(),
        )
        self._run.define_metric(STEP, hidden=True)  # the x axis needs no plot of its own
        self._run.define_metric("train/*", step_metric=STEP)
        self._folder = folder
        self._known = self._run.starting_step  # number of reports that the server has already
        self._sent: int | None = None  # number of reports passed on so far; None until the earlier ones have been
        self._record: Record | None = None  # the last record passed on

    @property
    def files(self) -> Path:
        """The folder of the session's files."""
        return Path(self._run.dir).parent

    def curve(self, progress: Progress) -> None:
        """Log one report; before the first one, log the reports of earlier sessions."""
        if self._sent is None:
            self._send([report for report in read_curve(self._folder) if report["step"] < progress.step])
        self._send([progress._asdict()])

    def summary(self, record: Record) -> None:
        """Log the record's numbers under the names of `sweep.store.metric_names`, and the record itself as a file."""
        if self._sent is None:
            self._send(read_curve(self._folder) or _reports_in(record))
        flat = {name: value for part, prefix in PREFIXES.items() for name, value in _flat(record.get(part, {}), prefix)}
        for name, measured in record.get("inference", {}).items():
            for part in ("metrics", "cost"):
                named = {inference_measure_name(name, key): value for key, value in measured.get(part, {}).items()}
                flat.update(named)
        flat |= probing_means(record.get("probing", {})) | stability_means(record.get("stability", {}))
        self._run.summary.update({**flat, STATUS: record["status"], RUN_ID: record["run_id"]})
        file = Path(self._run.dir) / RECORD  # `python -m analysis --wandb` reads this file
        file.write_text(json.dumps(record))
        self._run.save(file, base_path=file.parent, policy="now")
        self._record = record

    def artifact(self, folder: Path, name: str) -> None:
        """Log the SAE's two files in `folder` as a W&B artifact of type `sae`."""
        import wandb

        artifact = wandb.Artifact(name, type="sae")
        for file in ("sae.safetensors", "cfg.json"):
            artifact.add_file(str(folder / file))
        self._run.log_artifact(artifact)

    def finish(self, failed: bool) -> None:
        """End the session; after an online one that sent a record, write the run's address to SENT.

        Raises:
            TimeoutError: not everything could be sent in time.
        """
        url = self._run.url
        self._run.finish(exit_code=1 if failed else 0)
        if url is not None and self._record is not None:  # the run is online, and all of it
            write_json(self._folder / SENT, {"url": url, "record": short_hash(self._record)})

    def _send(self, reports: list[dict[str, Any]]) -> None:
        """Log the next reports of the training, except those that the server has already."""
        first = self._sent or 0
        for step, report in enumerate(reports, start=first):
            if step >= self._known:
                values = {name: report[key] for name, key in CURVES.items() if key in report}
                self._run.log(values, step=step)
        self._sent = first + len(reports)


def _cut(text: str, most: int) -> str:
    """Return `text` in at most so many characters; one that is cut ends in a hash, so that it stays distinct."""
    return text if len(text) <= most else f"{text[: most - 9]}-{short_hash(text)[:8]}"


def _config(record: Record) -> dict[str, Any]:
    """Return the run's W&B config: what runs are grouped and filtered by, and below it all of the run's settings."""
    sizes = {key: record["sizes"][key] for key in SIZES}
    below = {"settings": record.get("config"), "spec": record["spec"], "versions": record["versions"]}
    return {**record["labels"], **record["axes"], **sizes, **below}


def _session_settings() -> Any:
    """Return the settings of a W&B session: it prints nothing, collects nothing by itself, and gives up in time."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,  # listing every package took most of a tracked run's cost
        init_timeout=_INIT,
        finish_timeout=_FINISH,
        finish_timeout_raises=True,
    )


def _remove_earlier(folder: Path) -> None:
    """Remove the run's earlier offline sessions; the one that begins logs all that they had."""
    for left in (folder / "wandb").glob("offline-run-*"):
        shutil.rmtree(left, ignore_errors=True)


def _reports_in(record: Record) -> list[dict[str, Any]]:
    """Return the thinned reports that a record keeps in its `curves`, for a run without `curve.jsonl`."""
    curves = record.get("curves") or {}
    return [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]


def _flat(nested: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every entry that is neither a list nor None; `/` stands between the parts of a path."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None and not isinstance(value, list):
            yield prefix + key, value


class FailsafeTracker:
    """A tracker that forwards to another one until something fails, then says why and does nothing any more.

    Args:
        make: makes the tracker to forward to.
        say: is called with the reason, once, when something fails.
    """

    def __init__(self, make: Callable[[], Tracker], say: Callable[[str], None]):
        self._say = say
        self._inner: Tracker = NoTracker()
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # no failure of a tracker may end the run
            self._inner = NoTracker()
            self._say(f"tracking stopped ({type(error).__name__}: {' '.join(str(error).split())})")

    def curve(self, progress: Progress) -> None:
        self._call(lambda: self._inner.curve(progress))

    def summary(self, record: Record) -> None:
        self._call(lambda: self._inner.summary(record))

    def artifact(self, folder: Path, name: str) -> None:
        self._call(lambda: self._inner.artifact(folder, name))

    def finish(self, failed: bool) -> None:
        self._call(lambda: self._inner.finish(failed))
