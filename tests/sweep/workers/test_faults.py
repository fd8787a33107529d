"""Whatever happens to a sweep, the same command completes it: each run once, as if nothing had happened.

Real processes that are killed or find a full disk at exact points (`tests.sweep.killed`) are compared with a sweep that
nothing happened to.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager

import pytest
import torch

import sweep.train.loop as train_module
from sweep.activations.cache import CacheKey, open_pool
from sweep.activations.local_copy import copy_to_local_disk
from sweep.launch import main
from sweep.run import loaded as shared
from sweep.store.records import read_record
from tests.sweep.killed import BALLAST, fill
from tests.sweep.world import ROOT, World

ALL = ["-m", "sae=expander,dense_tied", "seed=0,1", "train.steps=300", "train.checkpoint_every=100"]
TWO = ["-m", "sae=expander,dense_tied", "seed=0", "train.steps=300", "train.checkpoint_every=100"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model_folders, text_file):
    """Return a world in which four runs were carried out, one after the other in one process."""
    world = World(tmp_path_factory.mktemp("undisturbed"), model_folders["gpt_neox"], text_file)
    launched(world, *ALL)
    assert len(world.records()) == 4
    return world


@pytest.fixture
def world(tmp_path, undisturbed):
    """Return a world with a run store of its own and the undisturbed one's activations."""
    world = World(tmp_path, None, None)
    world.common = [a.replace(str(undisturbed.runs), str(world.runs)) for a in undisturbed.common]
    return world


def launched(world, *arguments, expected=0, **settings):
    """Launch, check that the exit code is `expected` and that there is no traceback, and return (stdout, stderr)."""
    code, out, err = world.sweep(*arguments, **settings)
    print(f"--- {code}\n{out}\n{err}")
    assert code == expected, err
    assert "Traceback" not in out + err
    return out, err


def as_if_undisturbed(world, undisturbed, count, trained_once=True):
    """Check that `count` runs are complete, with the results of the runs that nothing happened to."""
    records = world.records()
    assert [record and record["status"] for record in records] == ["complete"] * count
    for record in records:
        straight = read_record(undisturbed.runs, record["run_id"])
        assert record["metrics"] == straight["metrics"] and record["storage"] == straight["storage"]
        folders = [w.runs / record["run_id"] for w in (world, undisturbed)]
        weights = [folder.joinpath("sae.safetensors").read_bytes() for folder in folders]
        assert weights[0] == weights[1]
        assert not list(folders[0].glob("checkpoint.pt")) and not list(folders[0].glob(".*"))
        if trained_once:
            assert trainings(folders[0]) == 1


def trainings(folder):
    """Return how often the run in `folder` began to train."""
    return (folder / "run.log").read_text().count(" training ")


def holding(world, process, pattern="runs/*/checkpoint.pt"):
    """Wait for a file of `pattern`; return (pid, run folder) of the process that works on that run."""
    world.until(pattern, process)
    folder = next(iter(world.folder.glob(pattern))).parent
    return json.loads((folder / "progress.json").read_text())["pid"], folder


def test_killed_at_four_points_of_one_sweep_after_another(world, undisturbed):
    here = [f"cache_dir={world.folder / 'cache'}", *TWO]
    points = [
        "sweep.activations.writer:EntryWriter.finish 1",
        "sweep.train.loop:train_step 150",
        "sweep.measures.measures:measure_together 1",
        "replace:record.json 1",
    ]
    for where in points:
        assert world.sweep(*here, happens=f"{where} kill")[0] == -signal.SIGKILL
        assert world.records() == []
    folder = next(world.runs.glob("*/lock")).parent
    assert trainings(folder) == 3  # once from the start, twice from the checkpoint
    out, err = launched(world, *here)
    assert "[2/2]" in err
    as_if_undisturbed(world, undisturbed, 2, trained_once=False)
    assert sorted(map(trainings, (folder, *other(world, folder)))) == [1, 4]
    steps = [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert min(steps[3:]) > 100, steps  # every time from the last checkpoint
    assert not list((world.folder / "cache").glob("*.writing-*"))


def other(world, folder):
    """Return the folders of the other runs."""
    return [lock.parent for lock in world.runs.glob("*/lock") if lock.parent != folder]


def test_one_of_two_workers_is_killed_and_the_launch_ends_all_the_same(world, undisturbed):
    process = world.start(*JOBLIB, *ALL)
    pid, folder = holding(world, process)
    assert pid != process.pid
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    print(out, err)
    assert process.returncode == 0 and "Traceback" not in out + err
    assert "a worker was lost (TerminatedWorkerError)" in err and "the others go on" in err
    as_if_undisturbed(world, undisturbed, 4, trained_once=False)
    assert trainings(folder) == 2


@pytest.fixture
def here(monkeypatch, capsys):
    """Return a function that launches in this process, for faults that need no process of their own.

    What earlier launches in this process have read is forgotten first.
    """
    threads = torch.get_num_threads()

    def launch(world, *arguments, expected=0):
        shared._pool.cache_clear()
        monkeypatch.setattr(sys, "argv", ["sweep", *world.arguments(*arguments)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        monkeypatch.setenv("COLUMNS", "140")
        for name in ("HYDRA_FULL_ERROR", "EXPANDER_SWEEP_TRACES"):
            monkeypatch.delenv(name, raising=False)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        with capsys.disabled():
            print(f"--- {code}\n{out}\n{err}") if os.environ.get("SHOW") else None
        assert code == expected and "Traceback" not in out + err, err
        return out, err

    yield launch
    torch.set_num_threads(threads)


@contextmanager
def small_disk(folder, size):
    """Mount a disk of `size` at `folder`; skip the test if this user may not."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"no disk of its own can be mounted: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_the_controller_is_killed_and_its_workers_and_a_new_launch_share_the_rest(world, undisturbed):
    process = world.start(*JOBLIB, *ALL)
    holding(world, process)
    process.kill()
    out, err = launched(world, *ALL)
    assert out.count("skipped: done") < 4  # the old workers end the runs that they had in hand
    as_if_undisturbed(world, undisturbed, 4)  # and no run was trained twice
    process.communicate(timeout=30)  # returns when the last old worker has closed its output


def test_the_same_sweep_twice_at_once_trains_each_run_once(world, undisturbed):
    processes = [world.start(*JOBLIB, *ALL), world.start(*ALL)]
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0 and "Traceback" not in out + err, err
        assert out.count(" complete ") == 4
    as_if_undisturbed(world, undisturbed, 4)


def test_a_full_disk_under_the_run_store_costs_no_checkpoint_and_no_result(world, undisturbed):
    with small_disk(world.runs, "2m"):
        full = f"sweep.train.state:TrainingState.save 2 fill={world.runs}"
        out, err = launched(world, *TWO, disabled=False, expected=1, happens=full)
        lines = [line for line in out.splitlines() if line.startswith(("failed: ", "not finished: "))]
        assert len(lines) == 2 and all("checkpoint.pt cannot be written: 0 bytes are free" in line for line in lines)
        assert err.count("tracking stopped for this run") <= 2
        (checkpoint,) = world.runs.glob("*/checkpoint.pt")
        assert torch.load(checkpoint, weights_only=True)["step"] == 100
        # A run is recorded as failed, or not at all.
        assert all(record["status"] == "failed" for record in world.records())
        (world.runs / BALLAST).unlink()
        out, err = launched(world, *TWO)
        assert "[2/2]" in err
        as_if_undisturbed(world, undisturbed, 2, trained_once=False)
        first = json.loads((checkpoint.parent / "curve.jsonl").read_text().splitlines()[-1])
        assert first["step"] == 300


def test_a_disk_that_is_full_from_the_start_is_one_line(world, here):
    with small_disk(world.runs, "64k"):
        fill(world.runs)
        out, err = here(world, *TWO, expected=1)
        assert out == "" and err.count("\n") == 1 and "No space left on device" in err


def test_a_full_disk_under_the_activations_is_one_line_and_leaves_nothing_that_looks_whole(
    world, undisturbed, here, monkeypatch
):
    with small_disk(world.folder / "cache", "300k") as cache:
        elsewhere = [f"cache_dir={cache}", *TWO]
        fill(cache)
        out, err = here(world, *elsewhere, expected=1)
        assert err.startswith("error: ") and err.count("\n") == 1 and f"cache_dir={cache}" in err, err
        (cache / BALLAST).unlink()
        real = os.posix_fallocate
        with monkeypatch.context() as patch:  # another program seems to take what was free when the sweep looked
            patch.setattr(os, "posix_fallocate", lambda *args: (fill(cache), real(*args)))
            out, err = here(world, *elsewhere, expected=1)
        assert out.count(f"cache_dir={cache}: writing the activations failed (No space left on device)") == 1
        assert out.count(f"cache_dir={cache}: the activations need ") == 1  # the second run
        assert not list(cache.glob("*/shard*")) and len(world.records()) == 2
        (cache / BALLAST).unlink()
        here(world, *elsewhere)
        as_if_undisturbed(world, undisturbed, 2, trained_once=False)


def test_damaged_files_are_made_again(world, undisturbed, here):
    shutil.copytree(undisturbed.runs, world.runs)
    cache = world.folder / "cache"
    shutil.copytree(undisturbed.folder / "cache", cache)
    elsewhere = [f"cache_dir={cache}", *ALL]
    files = sorted(world.runs.glob("*/record.json"))
    for file, text in zip(files, [files[0].read_text()[:-300], '{"run_id": 3}', ""], strict=False):
        file.write_text(text)
    (shard,) = cache.glob("*/shard-*.bin")
    manifest = shard.with_name("manifest.json")
    for file, change in ((shard, flipped), (shard, torn), (manifest, torn), (manifest, other_digit)):
        change(file)
        out, err = here(world, *elsewhere)
        assert out.count("skipped: done") == 1 and "[3/3]" in err
        as_if_undisturbed(world, undisturbed, 4, trained_once=False)
        for record in files[:3]:
            record.unlink()
    logs = [file.with_name("run.log").read_text() for file in files]
    assert sum(log.count("; made again") for log in logs) == 4


def flipped(file):
    """Flip one bit of a value in the second half of the file."""
    data = bytearray(file.read_bytes())
    places = range(len(data) // 2, len(data) - 4)
    data[next(i for i in places if len(set(data[i - 2 : i + 4])) > 4)] ^= 1  # padding is all zeros or all Z
    file.write_bytes(data)


def torn(file):
    """Keep the file's first half only."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_digit(file):
    """Change a number of the manifest, which stays valid JSON."""
    manifest = json.loads(file.read_text())
    manifest["mean"][0] += 1e-3
    file.write_text(json.dumps(manifest))


def emptied(file):
    """Leave no byte in the file."""
    file.write_bytes(b"")


@pytest.mark.parametrize("change", [flipped, torn, emptied])
def test_a_damaged_checkpoint_costs_its_training_only(world, undisturbed, here, change, monkeypatch):
    one = [*TWO, "sae=expander"]
    calls = iter(range(10**6))
    real = train_module.train_step

    def interrupted(*args):
        if next(calls) == 150:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "train_step", interrupted)
        here(world, *one, expected=130)
    (checkpoint,) = world.runs.glob("*/checkpoint.pt")
    change(checkpoint)
    (checkpoint.parent / "progress.json").write_text("[1")  # torn as well
    here(world, *one)
    as_if_undisturbed(world, undisturbed, 1, trained_once=False)
    assert "starting over" in (checkpoint.parent / "run.log").read_text()


def test_a_damaged_sae_that_another_run_starts_from_is_trained_again(world, here):
    arguments = ["-m", "sae=pruned_retuned", "d=3", "train.steps=100"]
    here(world, *arguments)
    (dependent,) = [r for r in world.records() if "source" in r]
    weights = world.runs / dependent["run_id"] / "sae.safetensors"
    straight, source = weights.read_bytes(), world.runs / dependent["source"]["run_id"]
    (weights.parent / "record.json").unlink()
    flipped(source / "sae.safetensors")
    out, err = here(world, *arguments, expected=1)
    assert "the same command trains it again" in out
    here(world, *arguments)
    again = read_record(world.runs, dependent["run_id"])
    assert again["metrics"] == dependent["metrics"] and weights.read_bytes() == straight
    assert trainings(source) == 2


def test_shares_give_the_same_results_and_one_that_fails_leaves_the_others(world, undisturbed, here):
    assert world.sweep("launch.share=3", *ALL, happens="sweep.train.loop:train_step 250 kill")[0] == -signal.SIGKILL
    assert len(list(world.runs.glob("*/checkpoint.pt"))) == 2  # the two of one seed, at step 125
    here(world, "launch.share=3", *ALL)
    as_if_undisturbed(world, undisturbed, 4, trained_once=False)
    wild = ["train.lr=3e-4,1e30", "train.grad_clip=1e30", "train.lr_final=0", "sae=expander,dense_tied"]
    out, err = here(world, "-m", "launch.share=4", "train.steps=100", *wild, expected=1)
    assert out.count("the loss became") == 2 and out.count(" complete ") == 2


def test_a_copy_on_a_local_disk_is_made_once_and_again_where_it_is_damaged(world, undisturbed, here):
    local, cache = world.folder / "local", world.folder / "cache"
    shutil.copytree(undisturbed.folder / "cache", cache)
    staged = [f"cache.local={local}", f"cache_dir={cache}", *TWO]
    here(world, *staged)
    as_if_undisturbed(world, undisturbed, 2)
    (copy,), (original,) = local.glob("*/shard-*.bin"), cache.glob("*/shard-*.bin")
    for damaged in ([copy], [copy, original]):
        shutil.rmtree(world.runs)
        for shard in damaged:
            flipped(shard)
        here(world, *staged)
        as_if_undisturbed(world, undisturbed, 2)
        assert copy.read_bytes() == original.read_bytes()
    shutil.rmtree(world.runs)
    with small_disk(world.folder / "full", "40k") as full:
        out, err = here(world, *staged, f"cache.local={full}", expected=1)
        assert out.count(f"cache.local={full}: the activations need") == 2
        assert not list(full.glob("*/manifest.json"))


def test_two_workers_make_one_local_copy(tmp_path, undisturbed):
    cache = undisturbed.folder / "cache"
    (entry,) = (file.parent for file in cache.glob("*/manifest.json"))
    key = CacheKey(**json.loads((entry / "manifest.json").read_text())["key"])
    fork = multiprocessing.get_context("fork")
    copies = fork.Value("i", 0)

    def copy():
        def count():
            with copies.get_lock():
                copies.value += 1
            time.sleep(0.2)

        copy_to_local_disk(cache, key, tmp_path / "local", count)

    processes = [fork.Process(target=copy) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert copies.value == 1 and open_pool(tmp_path / "local", key) is not None


def copied_sources(folder):
    """Copy the project's sources to `folder`, where a test can change them; return `folder`."""
    for part in ("sae_core", "sweep", "conf", "hydra_plugins", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def change_code(root):
    with open(root / "sae_core" / "metrics.py", "a") as source:
        source.write("# another comment\n")


def test_code_that_changed_between_launches_is_noted(world, undisturbed):
    root = copied_sources(world.folder / "sources")
    assert world.sweep(*TWO, happens="sweep.train.loop:train_step 450 kill", root=root)[0] == -signal.SIGKILL
    (first,) = world.records()
    then = first["versions"]["code"]
    change_code(root)
    out, err = launched(world, *TWO, root=root)
    as_if_undisturbed(world, undisturbed, 2, trained_once=False)
    (second,) = (record for record in world.records() if record["run_id"] != first["run_id"])
    now = second["versions"]["code"]
    assert now != then and second["versions"]["trained_by"] == [then, now] and "trained_by" not in first["versions"]
    assert "skipped: done" in out
    assert f"note: 1 of 2 complete runs were made by code {then} (now {now}); they stay as they are" in out


@pytest.mark.slow
def test_code_that_changed_in_the_middle_of_a_launch_is_noted(world, undisturbed):
    root = copied_sources(world.folder / "sources")
    process = world.start(*JOBLIB, *TWO, root=root)
    world.until("runs/launches/*/work-0.json", process)
    change_code(root)  # the controller has begun, its workers have not
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "Traceback" not in out + err
    (launch,) = world.runs.glob("launches/*/launch.json")
    controller = json.loads(launch.read_text())["code"]
    (code,) = {record["versions"]["code"] for record in world.records()}
    assert code != controller
    assert f"note: 2 of 2 complete runs were made by code {code} (now {controller})" in out
    as_if_undisturbed(world, undisturbed, 2)


@pytest.mark.slow
def test_a_run_that_kills_every_worker_costs_no_other_run(world, undisturbed):
    root = copied_sources(world.folder / "sources")
    stages = root / "sweep" / "run" / "stages.py"
    condition = 'job.title.startswith("dense_tied") and job.spec.seed == 0'
    deadly = f"    if {condition}:\n        import os\n        os.kill(os.getpid(), 9)\n"
    before = '    log(folder, f"training {job.title}")\n'
    assert before in stages.read_text()
    stages.write_text(stages.read_text().replace(before, before + deadly))
    out, err = launched(world, *JOBLIB, *ALL, expected=1, root=root)
    assert out.count(" complete ") == 3 and out.count("not finished: ") == 1
    assert "dense_tied d=32 k=4 n=64 L1 s0: its worker was lost (TerminatedWorkerError)" in out
    launched(world, *ALL)
    as_if_undisturbed(world, undisturbed, 4, trained_once=False)
