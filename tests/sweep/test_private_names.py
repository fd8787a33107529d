"""The private names of other libraries that the sweep uses are still there, and still do what they did.

A failure names the library, its version and the name: see `sweep.private_names` for what the name is needed for.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from sweep.private_names import (
    apply_overrides,
    fake_tensor_mode,
    grammar_functions,
    result_or_error,
    set_trial_attribute,
    storage_of,
)

ROOT = Path(__file__).parents[2]
NAMES = [
    ("hydra-core", "hydra._internal.config_loader_impl", "ConfigLoaderImpl._apply_overrides_to_config"),
    ("hydra-core", "hydra._internal.grammar.functions", "Functions.register"),
    ("hydra-core", "hydra.core.utils", "JobReturn._return_value"),
    ("torch", "torch._subclasses.fake_tensor", "FakeTensorMode"),
    ("submitit", "submitit.core.core", "InfoWatcher._make_command"),
]


def moved(distribution, name):
    return f"{distribution} {version(distribution)} has no {name}: adapt sweep/private_names.py, or pin the version"


@pytest.mark.parametrize("distribution, module, name", NAMES)
def test_a_private_name_is_where_it_was(distribution, module, name):
    try:
        found = import_module(module)
    except ImportError:
        pytest.fail(moved(distribution, module))
    for part in name.split("."):
        assert hasattr(found, part), moved(distribution, f"{module}.{name}")
        found = getattr(found, part)


def test_hydra_applies_overrides_to_a_composed_config():
    cfg = OmegaConf.create({"d": 3, "train": {"steps": 100}})
    apply_overrides(OverridesParser.create().parse_overrides(["d=7", "train.steps=5", "+k=4"]), cfg)
    assert cfg == {"d": 7, "train": {"steps": 5}, "k": 4}, moved("hydra-core", "_apply_overrides_to_config as it was")


def test_a_function_of_hydras_grammar_can_be_replaced():
    functions = grammar_functions(interval=lambda start, end: f"{start} to {end}")
    (override,) = OverridesParser(functions).parse_overrides(["d=interval(3,60)"])
    assert override.value() == "3 to 60", moved("hydra-core", "Functions.functions as it was")
    with pytest.raises(ValueError, match="nonsense: Hydra's grammar has no function of that name"):
        grammar_functions(nonsense=len)


def test_a_fake_tensor_has_a_shape_and_takes_no_memory():
    with fake_tensor_mode():
        product = torch.empty(10**7, 10**6) @ torch.ones(10**6)
    assert product.shape == (10**7,), moved("torch", "FakeTensorMode as it was")


def test_the_error_of_a_hydra_job_is_returned_and_not_raised(capsys):
    error = ValueError("no luck")
    ended = JobReturn(status=JobStatus.FAILED)
    ended.return_value = error
    assert result_or_error(ended) is error, moved("hydra-core", "JobReturn._return_value as it was")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("frozen", [False, True])
def test_an_attribute_of_any_trial_can_be_set(frozen):
    study = optuna.create_study()
    trial = study.ask()
    assert hasattr(study, "_storage"), moved("optuna", "Study._storage")
    for each in (trial, study.trials[0]):
        assert hasattr(each, "_trial_id"), moved("optuna", f"{type(each).__name__}._trial_id")
    set_trial_attribute(study, study.trials[0] if frozen else trial, "owner", "us")
    assert study.trials[0].user_attrs == {"owner": "us"}
    assert isinstance(storage_of(study), optuna.storages.BaseStorage)


def test_submitit_asks_the_watcher_s_command_for_the_states_of_jobs():
    from sweep.workers.squeue import SqueueWatcher

    class Watcher(SqueueWatcher):
        asked = 0

        def _make_command(self):
            command = super()._make_command()
            Watcher.asked += 1
            return command and ["printf", "7_0|COMPLETED\n7_1|RUNNING\n"]

    watcher = Watcher()
    for job in ("7_0", "7_1", "7_2"):
        watcher.register_job(job)
    states = {job: watcher.get_state(job) for job in watcher.jobs}
    assert Watcher.asked, moved("submitit", "InfoWatcher._make_command as it was")
    assert states == {"7_0": "COMPLETED", "7_1": "RUNNING", "7_2": "GONE"}
    assert [watcher.is_done(job, mode="cache") for job in watcher.jobs] == [True, False, True]


def test_nothing_is_asked_of_slurm_when_all_jobs_have_ended():
    from sweep.workers.squeue import SqueueWatcher

    class Watcher(SqueueWatcher):
        def _make_command(self):
            self.commands = [*getattr(self, "commands", []), super()._make_command()]
            return self.commands[-1] and ["printf", "7|COMPLETED\n"]

    watcher = Watcher()
    watcher.register_job("7")
    watcher.update()
    watcher.update()
    assert [bool(command) for command in watcher.commands] == [True, False]


@pytest.mark.parametrize("package", ["sweep", "hydra_plugins"])
def test_private_names_of_other_libraries_are_used_in_one_module_only(package):
    """A private name is a module, a thing in it, or an attribute of an object other than `self`."""
    for file in (ROOT / package).rglob("*.py"):
        if file != ROOT / "sweep" / "private_names.py":
            tree = ast.parse(file.read_text())
            found = [*private_imports(tree), *private_attributes(tree)]
            assert not found, f"{file.relative_to(ROOT)} uses {', '.join(found)}: move it to sweep/private_names.py"


def private_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("sweep", "sae_core", "__")):
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.module}: {part}" for part in parts if part.startswith("_"))


def private_attributes(tree):
    """Yield `a._b` unless a is `self` or `cls`, or `_b` is a NamedTuple's own method or `os._exit`."""
    public = {"_replace", "_asdict", "_fields", "_make", "_exit"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr in public:
            continue
        of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if re.match(r"_[a-z]", node.attr) and not of_self:
            yield ast.unparse(node)


def test_neither_optuna_nor_submitit_is_loaded_by_the_module_itself():
    code = "import sys, sweep.private_names; sys.exit(bool({'optuna', 'submitit', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
