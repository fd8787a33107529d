"""Several controllers of one study: dead ones, live ones, and those of other run stores.

Training is a formula (`tests.sweep.study.searching`).
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal

import pytest
from optuna.trial import TrialState

from sweep.study import search as searching
from sweep.study import storage as keeping
from sweep.study.controller import Owner, controller
from sweep.study.report import print_results
from tests.sweep.study.searching import SPACE, completed, slowly, with_another_store

fork = multiprocessing.get_context("fork")


def killed(bench, call, *arguments, **settings):
    """Search in a process that is killed at its call number `call` of the storage; return whether it got that far.

    It is killed after an odd call and before an even one.
    """

    def search_until_killed():
        calls, patiently = itertools.count(), keeping._patiently

        def counting(url, action, **options):
            number = next(calls)
            if number != call:
                return patiently(url, action, **options)
            if call % 2:
                patiently(url, action, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        keeping._patiently = counting
        bench.done(*arguments, **settings)

    process = fork.Process(target=search_until_killed)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _search_and_exit(bench, arguments, settings, seconds=0.01):
    try:
        bench.done(*arguments, train=slowly(bench, seconds), **settings)
    finally:
        os._exit(0)


def test_killed_anywhere_again_and_again_it_ends_as_if_undisturbed(bench, each_storage):
    target, kills = (6, 3) if "sqlite" in each_storage else (12, 6)  # past TPE's random start
    settings = {"n_trials": target, "seed": 1}
    undisturbed = with_another_store(bench, "straight").done(*SPACE, **settings)
    settings["storage"], rng = each_storage, random.Random(0)
    assert sum(killed(bench, rng.randint(10, 120), *SPACE, **settings) for _ in range(kills)) >= kills / 2
    trials = bench.done(*SPACE, **settings)
    assert completed(trials) == completed(undisturbed)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert any("retry_of" in trial.user_attrs for trial in trials)


@pytest.mark.parametrize("after", ["enqueue", "ask", "mark", "train"])
def test_killed_at_each_point_of_asking_no_draw_is_lost(bench, storage, after, monkeypatch):
    """The points are those between which a trial changes hands."""
    undisturbed = with_another_store(bench, "straight").done(*SPACE, n_trials=3)
    bench.done(*SPACE, n_trials=1, storage=storage)
    with pytest.raises(KeyboardInterrupt), bench.search(*SPACE, n_trials=3, storage=storage) as to_do:
        study = to_do.asking.study

        def dies(*args, **kwargs):
            raise KeyboardInterrupt

        # A dead process releases nothing.
        monkeypatch.setattr(searching, "release", lambda *args: True)
        if after == "enqueue":
            monkeypatch.setattr(study, "ask", dies)
        elif after == "ask":
            monkeypatch.setattr(to_do.cells.__class__, "planned", dies)
        elif after == "mark":
            monkeypatch.setattr(searching, "preflight", dies)
        else:
            object.__setattr__(to_do, "launch", lambda *args: [bench.train(*args), dies()])
        searching.search(to_do)
    monkeypatch.undo()
    assert completed(bench.done(*SPACE, n_trials=3, storage=storage)) == completed(undisturbed)


def test_a_trial_half_drawn_is_drawn_again_whole(bench, storage, monkeypatch):
    undisturbed = with_another_store(bench, "straight").done(*SPACE, n_trials=2)
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        monkeypatch.setattr(searching, "release", lambda *args: True)  # a dead process releases nothing
        half = dict(list(to_do.asking.space.distributions.items())[:1])
        with pytest.raises(KeyError):  # `ask` gets one of two parameters, and planning wants both
            asking = to_do.asking._replace(space=to_do.asking.space._replace(distributions=half))
            searching.search(searching.Search(asking, to_do.cells, bench.train, 1))
    monkeypatch.undo()
    trials = bench.done(*SPACE, n_trials=2, storage=storage)
    assert completed(trials) == completed(undisturbed) and len(trials) == 3


def test_a_dead_controllers_finished_run_is_its_trials_result(bench, storage):
    with bench.search(*SPACE, n_trials=1, storage=storage) as to_do:
        batch = []
        searching._fill(to_do, batch)
        bench.train([asked.run for asked in batch], 0, None)
    (trial,) = bench.done(*SPACE, n_trials=1, storage=storage)
    assert trial.state == TrialState.COMPLETE and len(bench.launched) == 1


def test_a_dead_controllers_trial_is_freed_and_its_values_tried_again(bench, storage):
    with bench.search(*SPACE, n_trials=1, storage=storage) as to_do:
        searching._fill(to_do, [])
    dead, retry = bench.done(*SPACE, n_trials=1, storage=storage)
    assert dead.state == TrialState.FAIL and str(os.getpid()) in dead.user_attrs["freed"]
    assert retry.state == TrialState.COMPLETE and retry.params == dead.params
    assert retry.user_attrs["retry_of"] == 0 and retry.user_attrs["draw"] == dead.user_attrs["draw"]


def test_a_live_controllers_trial_is_left_alone_and_waited_for(bench, storage):
    with bench.search(*SPACE, n_trials=2, storage=storage) as theirs:
        batch = []
        searching._fill(theirs, batch)
        process = fork.Process(target=_search_and_exit, args=(bench, SPACE, {"n_trials": 2, "storage": storage}))
        process.start()
        process.join(2.5)
        trials = theirs.asking.study.get_trials()
        assert process.is_alive() and [t.state.name for t in trials] == ["RUNNING", "COMPLETE"]
    process.join(20)  # this controller is gone: the other takes its trial over
    trials = bench.done(*SPACE, n_trials=2, storage=storage)
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[0].params


def test_a_trial_of_another_run_store_is_left_alone_and_counted(bench, storage, capsys):
    far = with_another_store(bench, "far")
    with far.search(*SPACE, n_trials=2, storage=storage) as theirs:
        searching._fill(theirs, [])
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        searching.search(to_do)
        trials = to_do.asking.study.get_trials()
        assert [t.state.name for t in trials] == ["RUNNING", "COMPLETE"]
        assert to_do.asking.controller.owner(trials[0].user_attrs) == Owner.UNKNOWN
        print_results(to_do)
    assert "1 trial(s) of another run store count as running, the first 0 of" in capsys.readouterr().out


def test_of_two_run_stores_that_ask_at_once_the_later_trial_is_one_too_many(bench, storage):
    """Between run stores there is no lock: both count the trials, then both ask for one."""
    far = with_another_store(bench, "far")
    with (
        far.search(*SPACE, n_trials=1, storage=storage) as theirs,
        bench.search(*SPACE, n_trials=1, storage=storage) as us,
    ):
        first = searching.next_trial(theirs.asking)
        second = searching.next_trial(us.asking)
        assert not searching.one_too_many(theirs.asking, first) and searching.one_too_many(us.asking, second)


def test_a_trial_drawn_twice_is_given_back(bench, storage):
    with bench.search("d=2,3", n_trials=9, storage=storage, batch=2) as theirs:
        batch = []
        searching._fill(theirs, batch)
        assert len(batch) == 2
        with controller(bench.runs) as own, bench.search("d=2,3", n_trials=9, storage=storage, as_=own) as us:
            mine = []
            searching._fill(us, mine)
            assert mine == []
            assert "is training it" in us.asking.study.get_trials()[-1].user_attrs["given_back"]


def test_two_controllers_do_the_trials_asked_for_together(bench, each_storage):
    settings = {"n_trials": 12, "storage": each_storage, "sampler": "random"}
    # Trials of a fifth of a second: shorter ones may all be done before the second controller has started.
    processes = [fork.Process(target=_search_and_exit, args=(bench, SPACE, settings, 0.2)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    trials = bench.done(*SPACE, **settings)
    assert bench.launched == []  # all was done
    assert len(completed(trials)) == 12 and len(trials) == 12
    assert len({trial.user_attrs["owner"] for trial in trials}) == 2
    assert len({trial.user_attrs["draw"] for trial in trials}) == 12


def test_interrupted_trials_wait_for_the_next_controller(bench, storage):
    def train(runs, shown, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.done(*SPACE, n_trials=2, storage=storage, train=train, batch=2)
    with bench.search(*SPACE, n_trials=2, storage=storage) as to_do:
        assert [t.state.name for t in to_do.asking.study.get_trials()] == ["FAIL", "FAIL", "WAITING", "WAITING"]
        assert len(list((bench.runs / "controllers").glob("*.lock"))) == 1  # our own
    assert len(completed(bench.done(*SPACE, n_trials=2, storage=storage))) == 2


def test_a_killed_holder_is_dead_and_a_living_one_is_not(tmp_path):
    with controller(tmp_path) as own:
        ready, done = fork.Event(), fork.Event()
        pipe, end = fork.Pipe()

        def hold():
            with controller(tmp_path) as theirs:
                end.send(theirs.marks)
                ready.set()
                done.wait(30)

        process = fork.Process(target=hold)
        process.start()
        ready.wait(10)
        marks = pipe.recv()
        assert own.owner(marks) == Owner.LIVE and own.owner(own.marks) == Owner.US
        assert own.owner({**marks, "store": "elsewhere"}) == own.owner({}) == Owner.UNKNOWN
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert own.owner(marks) == Owner.DEAD
