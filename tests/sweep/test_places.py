"""Launches whose folders have names that Hydra, OmegaConf, SQLAlchemy or a shell would take for something else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from sweep.jobs.overrides import as_one_text, quoted
from sweep.store.records import iterate_records
from tests.sweep.world import ROOT, World

NAME = "~a=b,c(d)[e]';&$f{g} ü${h}%20#i:j\"\\k"


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    """Return a world in a folder of that name, with its text in it too."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "text.txt").write_text(text_file.read_text())
    world = World(folder, model_folders["gpt_neox"], "")
    named = {"runs_dir": "runs", "cache_dir": folder / "cache", "corpus.path": folder / "text.txt"}
    common = [argument for argument in world.common if argument.split("=")[0] not in named]
    world.common = [*common, "train.steps=20", *(f"{key}={quoted(str(value))}" for key, value in named.items())]
    return world


def launched(world, *arguments):
    """Launch with the world's folder as the working directory; return (exit code, stdout and stderr)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(world.folder)}
    environment.pop("HYDRA_FULL_ERROR", None)
    command = [sys.executable, "-m", "sweep", *world.arguments(*arguments)]
    ended = subprocess.run(command, cwd=world.folder, env=environment, capture_output=True, text=True, timeout=240)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_grid_in_any_folder(world, launcher):
    if launcher == "submitit_local":
        pytest.importorskip("submitit")
    code, said = launched(world, "-m", "d=2,3", f"hydra/launcher={launcher}", "launch.workers=2")
    assert code == 0 and "lost" not in said, said
    assert len(world.records()) == 2


def test_one_run_and_a_search_in_any_folder(world):
    runs = f"runs_dir={quoted(str(world.runs))}"
    code, said = launched(world, runs)
    assert code == 0 and len(world.records()) == 1, said
    # Hydra resolves a sweeper's settings twice, so what the first error says to type has to be typed.
    storage = f"hydra.sweeper.storage={quoted(f'sqlite:///{world.folder}/study.db')}"
    search = ["-m", "hydra/sweeper=optuna_frontier", "hydra.sweeper.n_trials=1", "d=3,4", runs]
    code, said = launched(world, *search, storage)
    assert code == 1 and f"quote it: {as_one_text(storage)}" in said
    code, said = launched(world, *search, storage.replace("${", "\\\\${"))
    assert code == 0 and (world.folder / "study.db").is_file(), said


def test_a_leading_tilde_is_the_home_for_all_that_a_launch_writes(world):
    code, said = launched(world, "-m", "d=2", 'runs_dir="~/store"', "hydra/launcher=basic")
    assert code == 0, said
    assert len(list(iterate_records(world.folder / "store"))) == 1
    assert len(list(world.folder.glob("store/launches/*/launch.json"))) == 1 and not (world.folder / "~").exists()


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_launcher_that_is_not_installed_ends_with_how_to_install_it(world):
    code, said = launched(world, "-m", "d=2", "hydra/launcher=ray")
    assert code == 1 and said.splitlines() == ["error: this launcher is not installed: pip install -e '.[ray]'"]
