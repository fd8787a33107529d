"""Two controllers share one study in a real PostgreSQL server, which `make test-postgres` starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.sweep.world import World

URL = os.environ.get("SWEEP_POSTGRES_URL", "")
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not URL, reason="no PostgreSQL for tests: make test-postgres starts one"),
]
SPACE = ["d=interval(2,16)", "train.lr=tag(log,interval(1e-4,1e-2))"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


@pytest.fixture(autouse=True)
def quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def search_arguments(study, n_trials):
    sweeper = {"storage": URL, "study_name": study, "n_trials": n_trials, "sampler": "random", "batch": 1}
    settings = [f"hydra.sweeper.{key}={value}" for key, value in sweeper.items()]
    return ["-m", "hydra/sweeper=optuna_frontier", *settings, *SPACE]


def trial_states(study):
    return [trial.state for trial in optuna.load_study(study_name=study, storage=URL).trials]


def kill_server():
    os.kill(int(Path(os.environ["SWEEP_POSTGRES_PID"]).read_text().split()[0]), signal.SIGKILL)


def start_server():
    subprocess.run([os.environ["SWEEP_POSTGRES_START"]], check=True, timeout=60)


def test_two_controllers_that_start_on_an_empty_database_share_the_trials(world):
    controllers = [world.start(*search_arguments("together", 8)) for _ in range(2)]
    outputs = [controller.communicate(timeout=240) for controller in controllers]
    assert [controller.returncode for controller in controllers] == [0, 0], outputs
    trials = optuna.load_study(study_name="together", storage=URL).trials
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(done) == 8 and not [trial for trial in trials if not trial.state.is_finished()]
    assert len({trial.user_attrs["owner"] for trial in done}) == 2
    records = {record["run_id"] for record in world.records() if record["status"] == "complete"}
    assert {trial.user_attrs["run_id"] for trial in done} == records


def test_a_killed_server_ends_both_controllers_with_one_line_and_the_same_command_goes_on(world):
    target = 12
    controllers = [world.start(*search_arguments("killed", target)) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(world.records()) < 2:
        assert time.monotonic() < deadline and all(c.poll() is None for c in controllers)
        time.sleep(0.1)
    kill_server()
    try:
        outputs = [controller.communicate(timeout=120) for controller in controllers]
    finally:
        start_server()
    for controller, (_, err) in zip(controllers, outputs, strict=True):
        last = err.strip().splitlines()[-1]
        assert controller.returncode == 1 and "Traceback" not in err and last.startswith("error: "), err
        assert err.count("error: ") == 1 and "sqlalche.me" not in err, err
    assert 1 <= trial_states("killed").count(TrialState.COMPLETE) < target
    code, _, err = world.sweep(*search_arguments("killed", target))
    assert code == 0, err
    states = trial_states("killed")
    assert states.count(TrialState.COMPLETE) == target and all(state.is_finished() for state in states)
