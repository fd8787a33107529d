"""Where a run's curves and figures go besides its record: Weights & Biases, or nowhere.

Names are those of `sweep.store.metric_names`. Whatever a session of W&B is for (a run's start, going on after a kill, one
more measurement, an upload later), it sends the whole of the run, less what the server has already: so each is
complete, and none says anything twice. A tracker that fails says so once and is silent from then on; it never takes a
run with it.
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
from sweep.store.metric_names import CURVES, PREFIXES, RUN_ID, SIZES, STATUS, STEP, of_inference
from sweep.store.records import RECORD, SENT, Record, read_curve
from sweep.train.state import Progress

MODES = ("offline", "online", "disabled")
_INIT, _FINISH = 20.0, 60.0  # seconds that an online session may take to begin, and to send what is left at its end


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

    def summary(self, record: Record) -> None: ...

    def artifact(self, folder: Path, name: str) -> None: ...

    def finish(self, failed: bool) -> None: ...


class NoTracker:
    """Keeps nothing."""

    def curve(self, progress: Progress) -> None: ...

    def summary(self, record: Record) -> None: ...

    def artifact(self, folder: Path, name: str) -> None: ...

    def finish(self, failed: bool) -> None: ...


class WandbTracker:
    """A session of a run's W&B run, its files under `folder`.

    Args:
        folder: the run's own; what its `curve.jsonl` has from earlier sessions is sent first.
        mode: offline or online.
        record: the run's, finished or not.
        config: where to; its mode counts for nothing.

    Raises:
        wandb.Error: online, no session can be had; there is none of this run in this process then, offline either.
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
            name=record.get("title"),
            group=labels["sweep"],
            job_type=labels["arm"],
            tags=[*config.tags, labels["model"], labels["arm"]],
            config={
                **labels,
                **record["axes"],
                **{key: record["sizes"][key] for key in SIZES},
                "settings": record.get("config"),  # the whole resolved config
                "spec": record["spec"],
                "versions": record["versions"],
            },
            reinit="create_new",  # each run of a serial sweep is its own, whatever became of the one before
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                silent=True, console="off", x_disable_stats=True, x_disable_meta=True,
                x_save_requirements=False,  # listing every package took most of a tracked run's cost
                init_timeout=_INIT, finish_timeout=_FINISH, finish_timeout_raises=True,
            ),
        )  # fmt: skip
        self._run.define_metric(STEP, hidden=True)  # an axis, no curve
        self._run.define_metric("train/*", step_metric=STEP)
        self._folder = folder
        self._known = self._run.starting_step  # reports that the server has
        self._sent: int | None = None  # reports so far; None: nothing of the earlier ones yet
        self._record: Record | None = None

    @property
    def files(self) -> Path:
        """The session's own folder."""
        return Path(self._run.dir).parent

    def curve(self, progress: Progress) -> None:
        if self._sent is None:
            self._send([report for report in read_curve(self._folder) if report["step"] < progress.step])
        self._send([progress._asdict()])

    def summary(self, record: Record) -> None:
        if self._sent is None:
            self._send(read_curve(self._folder) or _recorded(record))
        flat = {name: value for part, prefix in PREFIXES.items() for name, value in _flat(record.get(part, {}), prefix)}
        for name, measured in record.get("inference", {}).items():
            for part in ("metrics", "cost"):
                flat.update({of_inference(name, key): value for key, value in measured.get(part, {}).items()})
        self._run.summary.update({**flat, STATUS: record["status"], RUN_ID: record["run_id"]})
        file = Path(self._run.dir) / RECORD  # `python -m analysis --wandb` reads it back
        file.write_text(json.dumps(record))
        self._run.save(file, base_path=file.parent, policy="now")
        self._record = record

    def artifact(self, folder: Path, name: str) -> None:
        import wandb

        artifact = wandb.Artifact(name, type="sae")
        for file in ("sae.safetensors", "cfg.json"):
            artifact.add_file(str(folder / file))
        self._run.log_artifact(artifact)

    def finish(self, failed: bool) -> None:
        url = self._run.url
        self._run.finish(exit_code=1 if failed else 0)
        if url is not None and self._record is not None:  # online, and whole
            write_json(self._folder / SENT, {"url": url, "record": short_hash(self._record)})

    def _send(self, reports: list[dict[str, Any]]) -> None:
        first = self._sent or 0
        for step, report in enumerate(reports, start=first):
            if step >= self._known:
                values = {name: report[key] for name, key in CURVES.items() if key in report}
                self._run.log(values, step=step)
        self._sent = first + len(reports)


def _remove_earlier(folder: Path) -> None:
    """Sessions of this run that were cut off: the one that begins has all of theirs."""
    for left in (folder / "wandb").glob("offline-run-*"):
        shutil.rmtree(left, ignore_errors=True)


def _recorded(record: Record) -> list[dict[str, Any]]:
    """The reports that a record itself keeps, thinned, where a run has no `curve.jsonl`."""
    curves = record.get("curves") or {}
    return [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]


def _flat(nested: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every entry that is neither a list nor missing, parts of the path with / between."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None and not isinstance(value, list):
            yield prefix + key, value


class Guarded:
    """Forwards to `make()`'s tracker until something fails; then says why, and drops the rest."""

    def __init__(self, make: Callable[[], Tracker], say: Callable[[str], None]):
        self._say = say
        self._inner: Tracker = NoTracker()
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker does, the run's own record matters more
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
