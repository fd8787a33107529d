"""`import sae_core` offers the names that a loop of one's own needs and no others, and loads torch only when needed."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import sae_core
from sae_core import arms

OFFERED = {
    "SAE",
    "SAEFileError",
    "cosamp",
    "gomp",
    "infer_by",
    "keep_rounded",
    "load",
    "matching_pursuit",
    "matryoshka_loss",
    "niht",
    "omp",
    "pack",
    "reconstruction_loss",
    "save",
}
ARM_CLASSES = {
    name
    for name in arms.__all__
    if inspect.isclass(getattr(arms, name)) and issubclass(getattr(arms, name), arms.Arm) and name != "Arm"
}


def imported_for_type_checkers():
    """(module, name) of every import that type checkers see and the running program does not."""
    for node in ast.walk(ast.parse(inspect.getsource(sae_core))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sae_core."):
            yield from ((node.module, alias.name) for alias in node.names)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_front_door_offers_the_arms_and_what_a_loop_needs_and_nothing_else():
    assert set(sae_core.__all__) == OFFERED | ARM_CLASSES and len(ARM_CLASSES) == 24
    assert sae_core.__all__ == sorted(
        sae_core.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert set(sae_core.__all__) <= set(dir(sae_core))
    assert all(name in sae_core.__doc__ for name in OFFERED | {"Expander"})


def test_every_name_is_the_one_that_type_checkers_see():
    seen = dict((name, module) for module, name in imported_for_type_checkers())
    assert set(seen) == set(sae_core.__all__)
    for name, module in seen.items():
        assert getattr(sae_core, name) is getattr(import_module(module), name)


def test_any_other_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sae_core' has no attribute 'Expandr'"):
        _ = sae_core.Expandr
    assert not hasattr(sae_core, "Arm")


def test_importing_it_loads_neither_torch_nor_hydra_and_takes_less_than_a_second():
    ran = run_python(
        "import sys, time\n"
        "started = time.perf_counter()\n"
        "import sae_core\n"
        "print(time.perf_counter() - started)\n"
        "sys.exit(bool({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 1


def test_no_name_that_it_offers_needs_hydra():
    ran = run_python("from sae_core import *; import sys; print({'torch', 'hydra'} & set(sys.modules))")
    assert ran.stdout == "{'torch'}\n", ran.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "from sae_core import io; io.load",
        "import sae_core.theory; sae_core.theory.babel",
        "import sae_core.arms as arms; arms.Expander",
    ],
)
def test_submodules_are_imported_as_from_any_package(statement):
    ran = run_python(statement)
    assert ran.returncode == 0, ran.stderr


def test_an_sae_is_trained_saved_loaded_and_read_through_the_front_door_alone(tmp_path):
    """The loops that the README shows."""
    h = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    sae = sae_core.Expander(n_latents=64, degree=5, k=4).build(d_in=16, seed=0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = sae_core.reconstruction_loss(sae.residual(h).residual)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]

    sae_core.save(sae, tmp_path)
    loaded = sae_core.load(tmp_path)
    assert isinstance(loaded, sae_core.SAE) and torch.equal(loaded(h).reconstruction, sae(h).reconstruction)
    with pytest.raises(sae_core.SAEFileError):
        sae_core.load(tmp_path / "nowhere")

    codes, indices = loaded.encode(h)
    by_omp, picks = sae_core.infer_by(loaded, "omp").encode(h)
    assert codes.shape == indices.shape == by_omp.shape == picks.shape == (256, 4)
    for name in ("omp", "matching_pursuit", "niht", "cosamp"):
        assert getattr(sae_core, name)(loaded.dictionary, h, k=4).codes.shape == (256, 4)
    found = sae_core.gomp(loaded.dictionary, h, k=4, block=2)
    assert (found.residual_norm < h.norm(dim=1)).all()
