"""The direction of data: conf -> sweep -> sae_core; analysis reads records alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"sweep", "sae_core", "analysis", "conf", "hydra_plugins", "tests"}
ALLOWED = {
    "sae_core": {"sae_core"},
    "sweep": {"sweep", "sae_core"},
    "analysis": {"analysis", "sweep.store.records"},
    "hydra_plugins": {"hydra_plugins", "sweep"},
}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", ALLOWED)
def test_no_import_runs_the_other_way(package):
    found = list((ROOT / package).rglob("*.py"))
    assert found
    for file in found:
        for name in imported(file):
            if name.split(".")[0] in OURS:
                inside = any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package])
                assert inside, f"{file.relative_to(ROOT)} imports {name}"


def test_sae_core_needs_torch_and_numpy_and_little_else():
    outside = {name.split(".")[0] for f in (ROOT / "sae_core").rglob("*.py") for name in imported(f)} - OURS
    assert outside - set(sys.stdlib_module_names) == {"torch", "numpy", "safetensors", "triton"}


def test_the_run_store_is_standard_library_only():
    found = {name for file in ("store", "files") for name in imported(ROOT / f"sweep/{file}.py")}
    assert {name.split(".")[0] for name in found - {"sweep.store.files"}} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("module, unwanted", [
    ("analysis.__main__", "torch"), ("analysis.draw.shared", "torch"), ("analysis.read.load", "matplotlib"),
    ("sweep.store.records", "torch"), ("hydra_plugins.sae_sweeper.grid", "torch"), ("sae_core.io", "hydra"),
])  # fmt: skip
def test_what_a_module_does_not_load(module, unwanted):
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
