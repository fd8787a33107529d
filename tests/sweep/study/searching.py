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
from sweep.plan.plan import Planned
from sweep.store.records import COMPLETE, FAILED, SCHEMA, write_record
from sweep.study import search as searching
from sweep.study.cells import Cells
from sweep.study.config import SearchConfig
from sweep.study.controller import Controller, controller
from sweep.study.opening import open_study
from sweep.study.space import space_from
from sweep.study.storage import quiet
from sweep.study.trials import Asking


def ce_recovered(job) -> float:
    axes = job.axes
    return 1 - 1 / (axes["d"] + 1) - 0.002 * axes["k"] - 0.1 * abs(math.log10(job.spec.train.lr) + 3)


def settle(run: Planned, launch: str, error: str | None = None) -> None:
    """The record that the run's training would leave."""
    job = run.job
    record = {
        "schema": SCHEMA, "run_id": job.spec.run_id, "status": FAILED if error else COMPLETE, "axes": job.axes,
        "labels": {**job.labels, "sweep": launch}, "timings": {"total": 0.1},
        "storage": {"artifact_bytes": 8 * job.axes["d"] * job.axes["n"],
                    "learned_decoder_values": job.axes["d"] * job.axes["n"]},
        "metrics": {"ce_recovered": ce_recovered(job), "delta_ce": 0.1, "fvu": 0.5},
        **({"error": error} if error else {}),
    }  # fmt: skip
    write_record(job.runs_dir, record)


class Bench:
    """A user's settings; each `search` is a launch of its own."""

    def __init__(self, folder, model, text):
        self.folder, self.runs = folder, folder / "runs"
        self.fixed = ["model=local", f"model.path={model}", "corpus=text", f"corpus.path={text}", "model.window=24",
                      "corpus.train_tokens=800", "eval.windows=10", "n=64", "k=4", "layer=1", "train.steps=100",
                      f"runs_dir={self.runs}", f"cache_dir={folder / 'cache'}", "tracker.mode=disabled"]  # fmt: skip
        self.launched: list[str] = []  # run ids, in order

    def train(self, runs: Sequence[Planned], shown: int, total: int | None) -> dict[str, str]:
        for run in runs:
            self.launched.append(run.job.spec.run_id)
            settle(run, "here")
        return {}

    @contextmanager
    def search(self, *arguments: str, train: Callable | None = None, batch: int = 1, as_: Controller | None = None,
               **config):  # fmt: skip
        """The search, ready to start, as a controller of its own or `as_` one that is there."""
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
        """Search to the end; the study's trials."""
        with self.search(*arguments, **settings) as to_do:
            searching.search(to_do)
            return to_do.asking.study.get_trials()


@cache
def _composer() -> tuple[ConfigLoader, Composer]:
    """Half a second's work of Hydra's, once."""
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader, Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


def slowly(bench: Bench, seconds: float) -> Callable:
    """Training that takes a while, to be killed in."""

    def train(runs, shown, total):
        time.sleep(seconds)
        return bench.train(runs, shown, total)

    return train


def completed(trials) -> list[tuple]:
    """(params, values) of every complete trial, in order."""
    return [(t.params, t.values) for t in trials if t.state.name == "COMPLETE"]
