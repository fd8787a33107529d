"""A run store and a cache that several people share: what one writes others may read, and what is not theirs stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from sae_core import io
from sae_core.arms import DenseTied
from tests.sweep.world import ROOT, World

NOBODY = 65534
# Root may read everything; without these capabilities it is a user like any other.
AS_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    world.common = [*world.common, "train.steps=20"]
    return world


def colleague(world, *arguments):
    """Launch as somebody who may read only what the files' modes say; return (exit code, stdout and stderr)."""
    command = [sys.executable, "-m", "sweep", *world.arguments(*arguments)]
    if os.geteuid() == 0:
        command = [*AS_A_USER, *command]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    return ended.returncode, ended.stdout + ended.stderr


def take_away(path):
    """Make a file unreadable to `colleague`."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("this machine has no setpriv to drop root's right to read everything")
        os.chown(path, NOBODY, NOBODY)
    path.chmod(0o000)


def state_of(folder):
    """Return the names and times of all files in a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("umask", [0o002, 0o027])
def test_the_files_of_an_sae_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        io.save(DenseTied(16, 4).build(8, 0, 1.0), tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
    assert len(list(tmp_path.iterdir())) == 2


def test_every_file_of_a_launch_may_be_read_by_others(world):
    before = os.umask(0o022)
    try:
        code, _, err = world.sweep("-m", "d=3", "eval.contexts=2", disabled=False)
    finally:
        os.umask(before)
    assert code == 0, err
    files = [path for path in world.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"sae.safetensors", "record.json", "contexts.jsonl.gz", "manifest.json"} <= {path.name for path in files}
    assert [path for path in files if not path.stat().st_mode & 0o004] == []


def test_what_may_not_be_read_is_said_and_stays(world):
    assert world.sweep("sae=pruned_retuned")[0] == 0  # with the dense SAE that it starts from
    dense, pruned = sorted(world.records(), key=lambda record: "source" in record)
    store, cache = world.runs, world.folder / "cache"
    for file, arguments, said in [
        (store / pruned["run_id"] / "record.json", ["sae=pruned_retuned"], "record.json cannot be read (Permission"),
        (store / dense["run_id"] / "sae.safetensors", ["sae=pruned_retuned", "d=2"], "sae.safetensors cannot be read"),
        (next(cache.glob("*/shard-*")), ["d=5"], "shard-00000.bin cannot be read (Permission"),
        (next(cache.glob("*/manifest.json")), ["d=5"], "manifest.json cannot be read (Permission"),
    ]:
        mode, owner = file.stat().st_mode, file.stat().st_uid
        take_away(file)
        before = {**state_of(store / dense["run_id"]), **state_of(store / pruned["run_id"]), **state_of(cache)}
        code, out = colleague(world, *arguments)
        assert code == 1 and said in out and "Traceback" not in out, out
        after = {**state_of(store / dense["run_id"]), **state_of(store / pruned["run_id"]), **state_of(cache)}
        assert {path: after.get(path) for path in before} == before
        assert not list(world.folder.rglob("*.damaged"))
        os.chown(file, owner, -1)
        file.chmod(mode)
    code, out = colleague(world, "sae=pruned_retuned")
    assert code == 0 and "skipped: done" in out
