"""The imports that each part of the project may have: data flows conf -> sweep -> sae_core, analysis reads records."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"sweep", "sae_core", "analysis", "conf", "hydra_plugins", "tests"}
PACKAGES = {
    "sae_core": {"sae_core"},
    "sweep": {"sweep", "sae_core"},
    "analysis": {"analysis", "sweep.store"},
    "hydra_plugins": {"hydra_plugins", "sweep"},
}

# Each room with the rooms of its package that it may import. A room stands below all that it may import, so no two
# rooms import each other, directly or through others.
ROOMS = {
    "sweep": {
        "store": "",
        "machine": "",
        "corpus": "store",
        "lm": "store",
        "train": "store",
        "activations": "store corpus lm",
        "measures": "store corpus lm",
        "probing": "store corpus",
        "synthetic": "store corpus lm measures",
        "tracking": "store train",
        "embedded": "store machine corpus lm",
        "jobs": "store machine corpus lm train activations measures synthetic tracking",
        "run": "store machine corpus lm train activations measures probing synthetic tracking jobs",
        "plan": "store machine lm train activations measures jobs run",
        "workers": "store machine jobs run plan",
        "study": "store lm probing jobs run plan workers",
        "shrink": "store machine jobs run study",
    },
    "analysis": {
        "read": "",
        "tables": "read",
        "draw": "tables",
        "latex": "read tables",
        "page": "read tables draw",
        "dashboard": "read tables",
    },
}
# The files beside a package's rooms that rooms may import; all others are commands, which may import any room.
NEEDED_BY_ROOMS = {"sweep": {"private_names"}, "analysis": {"arms", "frames", "output", "contexts"}}


def imported(file):
    """The modules that a file imports; from a package that has no member of that name, the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            for alias in node.names:
                if (ROOT / (node.module or "").replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_runs_the_other_way(package):
    found = list((ROOT / package).rglob("*.py"))
    assert found
    for file in found:
        for name in imported(file):
            if name.split(".")[0] in OURS:
                inside = any(name == allowed or name.startswith(f"{allowed}.") for allowed in PACKAGES[package])
                assert inside or name == "sweep", f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ROOMS)
def test_the_table_of_rooms_is_whole_and_has_no_circle(package):
    folders = {file.parent.name for file in (ROOT / package).glob("*/*.py")}
    assert folders == set(ROOMS[package])
    above = set()
    for room, may_import in ROOMS[package].items():
        assert set(may_import.split()) <= above, f"{room} must stand below the rooms that it may import"
        above.add(room)


@pytest.mark.parametrize("package, room", [(package, room) for package, rooms in ROOMS.items() for room in rooms])
def test_a_room_imports_only_rooms_above_it(package, room):
    allowed = {room, *ROOMS[package][room].split(), *NEEDED_BY_ROOMS[package]}
    for file in (ROOT / package / room).rglob("*.py"):
        for name in imported(file):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1:
                assert parts[1] in allowed, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    "package, needed", [(package, name) for package in ROOMS for name in sorted(NEEDED_BY_ROOMS[package])]
)
def test_what_rooms_need_imports_no_command(package, needed):
    for name in imported(ROOT / package / f"{needed}.py"):
        parts = name.split(".")
        if parts[0] == package and len(parts) > 1:
            assert parts[1] in {*ROOMS[package], *NEEDED_BY_ROOMS[package]}, f"{package}/{needed}.py imports {name}"


def test_sae_core_needs_torch_and_numpy_and_little_else():
    files = set((ROOT / "sae_core").rglob("*.py")) - {ROOT / "sae_core/formats/saelens.py"}
    outside = {name.split(".")[0] for file in files for name in imported(file)} - OURS
    assert outside - set(sys.stdlib_module_names) == {"torch", "numpy", "scipy", "safetensors", "triton"}


def test_nothing_imports_the_class_that_needs_sae_lens():
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert "sae_core.formats.saelens" not in set(imported(file)), f"{file.relative_to(ROOT)} needs SAELens"


def test_the_run_store_is_standard_library_only():
    found = {name for file in (ROOT / "sweep/store").glob("*.py") for name in imported(file)}
    outside = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert outside and all(name.startswith("sweep.store") for name in outside)


@pytest.mark.parametrize(
    "module, unwanted",
    [
        ("analysis.__main__", "torch"),
        ("analysis.draw.shared", "torch"),
        ("analysis.read.load", "matplotlib"),
        ("sweep.store.records", "torch"),
        ("sweep.status", "torch"),
        ("hydra_plugins.sae_sweeper.grid", "torch"),
        ("sae_core.io", "hydra"),
    ],
)
def test_what_a_module_does_not_load(module, unwanted):
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
