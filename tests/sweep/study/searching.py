"""A search in this process whose runs are settled by a formula: everything is real but the training.

The CE recovered of a run follows from its d, k and learning rate, so that searches can be compared trial by trial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache

from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sweep.jobs.compose import Composer
from sweep.plan.footprint import planned_storage
from sweep.plan.plan import Planned
from sweep.store.records import COMPLETE, DROPPED, FAILED, SCHEMA, write_record
from sweep.study import search as searching
from sweep.study.cells import Cells
from sweep.study.config import SearchConfig
from sweep.study.controller import Controller, controller
from sweep.study.opening import open_study
from sweep.study.space import space_from
from sweep.study.storage import quiet
from sweep.study.trials import Asking

TEXT = ["corpus=text", "corpus.train_tokens=800", "model.window=24", "eval.windows=10"]
SAE = ["n=64", "k=4", "layer=1", "train.steps=100"]
SPACE = ("d=interval(2,30)", "train.lr=tag(log,interval(1e-4,1e-2))")  # what most tests search


def ce_recovered(job) -> float:
    """Return the CE recovered that a run shall have, by a formula."""
    axes = job.axes
    return 1 - 1 / (axes["d"] + 1) - 0.002 * axes["k"] - 0.1 * abs(math.log10(job.spec.train.lr) + 3)


def settle(
    run: Planned, launch: str, error: str | None = None, stopped: dict | None = None, curve: Sequence = ()
) -> None:
    """Write the record that the run's training would leave: a complete one, or a failed one with `error`.

    Args:
        stopped: the step at which the run was dropped and why, as records have it.
        curve: (step, FVU) of each report.
    """
    job = run.job
    values = job.axes["d"] * job.axes["n"]
    record = {
        "schema": SCHEMA,
        "run_id": job.spec.run_id,
        "status": FAILED if error else DROPPED if stopped else COMPLETE,
        "spec": job.spec.as_json(),
        "axes": job.axes,
        "labels": {**job.labels, "sweep": launch},
        "timings": {"total": 0.1},
        "storage": {"artifact_bytes": planned_storage(job).artifact_bytes, "learned_decoder_values": values},
        "metrics": {"ce_recovered": ce_recovered(job), "delta_ce": 0.1, "fvu": 0.5},
        "curves": {
            "tokens": [step * job.spec.train.batch_size for step, _ in curve],
            "fvu": [fvu for _, fvu in curve],
        },
    }
    ending = {"error": error} if error else {"dropped": stopped} if stopped else {}
    write_record(job.runs_dir, record | ending)


class Bench:
    """A user's settings and run store; each `search` is a launch of its own."""

    def __init__(self, folder, model, text):
        self.folder, self.runs = folder, folder / "runs"
        sources = ["model=local", f"model.path={model}", f"corpus.path={text}", "tracker.mode=disabled"]
        places = [f"runs_dir={self.runs}", f"cache_dir={folder / 'cache'}"]
        self.fixed = [*sources, *TEXT, *SAE, *places]
        self.launched: list[str] = []  # run ids, in order

    def train(self, runs: Sequence[Planned], shown: int, total: int | None) -> dict[str, str]:
        """Settle the runs by the formula, in place of `sweep.workers.start.launch`."""
        for run in runs:
            self.launched.append(run.job.spec.run_id)
            settle(run, "here")
        return {}

    @contextmanager
    def search(
        self,
        *arguments: str,
        train: Callable | None = None,
        batch: int = 1,
        as_: Controller | None = None,
        **config,
    ):
        """Make a search, ready to start, as a controller of its own or `as_` one that is there."""
        quiet()
        settings = SearchConfig(**config)
        keys = {argument.split("=")[0] for argument in arguments}
        fixed = [argument for argument in self.fixed if argument.split("=")[0] not in keys]
        loader, compose = _composer()
        space = space_from({}, [*fixed, *arguments], loader)
        study = open_study(settings, space, compose(space.fixed))
        with nullcontext(as_) if as_ else controller(self.runs) as own:
            cells = Cells(settings, space, compose, "here")
            yield searching.Search(Asking(study, settings, space, own), cells, train or self.train, batch)

    def done(self, *arguments: str, **settings):
        """Search to the end; return the study's trials."""
        with self.search(*arguments, **settings) as to_do:
            searching.search(to_do)
            return to_do.asking.study.get_trials()


@cache
def _composer() -> tuple[ConfigLoader, Composer]:
    """Return Hydra's config loader and our composer, which take half a second to make."""
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader, Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


def with_another_store(bench: Bench, name: str) -> Bench:
    """Return a bench with the same settings and another run store."""
    model, text = (next(a.split("=")[1] for a in bench.fixed if a.startswith(k)) for k in ("model.path", "corpus.path"))
    return Bench(bench.folder / name, model, text)


def slowly(bench: Bench, seconds: float) -> Callable:
    """Return a training that takes a while, so that the search can be killed in it."""

    def train(runs, shown, total):
        time.sleep(seconds)
        return bench.train(runs, shown, total)

    return train


def completed(trials) -> list[tuple]:
    """Return (params, values) of every complete trial, in order."""
    return [(t.params, t.values) for t in trials if t.state.name == "COMPLETE"]
