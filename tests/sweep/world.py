"""A small stand-in for a user's machine: a real tiny LM on disk, real `python -m sweep` processes, a real run store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_module

from sweep.store.records import iterate_records

ROOT = Path(__file__).parents[2]
TEXT = ["corpus=text", "corpus.train_tokens=800", "model.window=24", "eval.windows=10"]
SAE = ["n=64", "k=4", "d=3", "layer=1", "train.steps=100", "train.batch_size=32"]
SMALL = [*TEXT, *SAE, "threads=1"]


def composed(*overrides):
    """Return the config that `python -m sweep` would compose of `overrides`."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=[*overrides])


class World:
    """A folder with a run store and a cache, and the settings that all launches in it share."""

    def __init__(self, folder, model, text):
        self.folder = folder
        self.runs = folder / "runs"
        sources = ["model=local", f"model.path={model}", f"corpus.path={text}"]
        places = [f"runs_dir={self.runs}", f"cache_dir={folder / 'cache'}"]
        self.common = [*sources, *SMALL, *places, "hydra/launcher=basic"]

    def arguments(self, *arguments, disabled=True):
        """Return `arguments`, flags first, and the world's own settings for the keys that they leave out."""
        tracker = ["tracker.mode=disabled"] if disabled else []
        flags = [a for a in arguments if a.startswith("-")]
        rest = [a for a in arguments if not a.startswith("-")]
        keys = {a.split("=")[0] for a in rest}
        return [*flags, *(a for a in [*self.common, *tracker] if a.split("=")[0] not in keys), *rest]

    def start(self, *arguments, disabled=True, happens="", root=ROOT):
        """Start a process of `python -m sweep`.

        Args:
            disabled: track nothing.
            happens: "WHERE N WHAT" as `tests.sweep.killed` takes them.
            root: the folder of the sources.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
        environment.pop("HYDRA_FULL_ERROR", None)
        program = ["tests.sweep.killed", *happens.split()] if happens else ["sweep"]
        command = [sys.executable, "-m", *program, *self.arguments(*arguments, disabled=disabled)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True, **output)

    def sweep(self, *arguments, **settings):
        """Run `python -m sweep` to its end; return (exit code, stdout, stderr)."""
        process = self.start(*arguments, **settings)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def records(self):
        """Return the records of all runs."""
        return [record for _, record in iterate_records(self.runs)]

    def until(self, pattern, process, seconds=90):
        """Wait until a file of `pattern` appears, while `process` is at work."""
        deadline = time.monotonic() + seconds
        while not list(self.folder.glob(pattern)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{pattern} did not appear"
            time.sleep(0.01)
