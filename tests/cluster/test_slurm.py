"""A multirun through sbatch on a real Slurm of one node: `make test-slurm` starts it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.sweep.world import World

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
        reason="no Slurm answers: make test-slurm starts one",
    ),
]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.array_parallelism=3"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


def test_x(world):
    import time

    t = time.time()
    print(world.sweep("-m", "d=2,3,4,5", *SLURM))
    print(time.time() - t)
    subprocess.run(
        f"ls -R {world.folder}/runs/launches; cat {world.folder}/runs/launches/*/submitit/*/*.err;  cat {world.folder}/runs/launches/*/submitit/*.sh",
        shell=True,
    )
