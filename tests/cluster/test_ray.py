"""A multirun on a Ray cluster that was started before, from another folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sweep.world import ROOT, World

RAY = Path(sys.executable).with_name("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not RAY.exists(), reason="Ray is not installed: pip install 'expander-sae-sweep[ray]'"),
]


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address of a running Ray cluster on this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps its token there
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch = Path("/tmp") / f"sweep-ray-{port}"  # short, because Ray's sockets allow no long paths
    settings = [f"--port={port}", "--num-cpus=3", "--include-dashboard=false", f"--temp-dir={scratch}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cluster = subprocess.Popen([RAY, "start", "--head", "--block", *settings], cwd=tmp_path, **quiet)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([RAY, "status", f"--address=127.0.0.1:{port}"], capture_output=True).returncode:
            assert time.monotonic() < deadline and cluster.poll() is None, "Ray did not start"
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        cluster.send_signal(signal.SIGTERM)  # Ray then stops its daemons
        cluster.wait(30)
        shutil.rmtree(scratch, ignore_errors=True)


def test_relative_paths_keep_their_meaning_on_a_cluster_started_elsewhere(tmp_path, address, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    cluster = f"hydra.launcher.ray.init.address={address}"
    runs = f"runs_dir={os.path.relpath(world.runs, ROOT)}"
    code, _, err = world.sweep("-m", "d=2,3", runs, "hydra/launcher=ray", cluster, "launch.workers=2")
    assert code == 0 and "Traceback" not in err, err
    assert [record["status"] for record in world.records()] == ["complete"] * 2
    code, _, err = world.sweep("-m", "d=2,3,4", runs, "hydra/launcher=ray", cluster)
    assert code == 1 and "launch.workers must be given" in err
