"""A user's machine in small: a real tiny LM on disk, real processes of `python -m sweep`, a real run store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from sweep.store.records import iterate_records

ROOT = Path(__file__).parents[2]
SMALL = [
    "corpus=text", "corpus.train_tokens=800", "model.window=24", "eval.windows=10", "n=64", "k=4", "d=3", "layer=1",
    "train.steps=100", "train.batch_size=32", "threads=1",
]  # fmt: skip


class World:
    def __init__(self, folder, model, text):
        self.folder = folder
        self.runs = folder / "runs"
        self.common = ["model=local", f"model.path={model}", f"corpus.path={text}", *SMALL,
                       f"runs_dir={self.runs}", f"cache_dir={folder / 'cache'}", "hydra/launcher=basic"]  # fmt: skip

    def arguments(self, *arguments, disabled=True):
        """`arguments` and the world's own where they say nothing else, flags first."""
        tracker = ["tracker.mode=disabled"] if disabled else []
        flags = [a for a in arguments if a.startswith("-")]
        rest = [a for a in arguments if not a.startswith("-")]
        keys = {a.split("=")[0] for a in rest}
        return [*flags, *(a for a in [*self.common, *tracker] if a.split("=")[0] not in keys), *rest]

    def start(self, *arguments, disabled=True, happens="", root=ROOT):
        """`happens`: "WHERE N WHAT" as `tests.sweep.killed` takes them; `root`: the sources' folder."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
        environment.pop("HYDRA_FULL_ERROR", None)
        program = ["tests.sweep.killed", *happens.split()] if happens else ["sweep"]
        command = [sys.executable, "-m", *program, *self.arguments(*arguments, disabled=disabled)]
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def sweep(self, *arguments, **settings):
        process = self.start(*arguments, **settings)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def records(self):
        return [record for _, record in iterate_records(self.runs)]

    def until(self, pattern, process, seconds=90):
        deadline = time.monotonic() + seconds
        while not list(self.folder.glob(pattern)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{pattern} did not appear"
            time.sleep(0.01)
