"""What `python -m sweep` says of an LM that cannot be used: one line, before anything is trained."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.sweep.world import World


@pytest.fixture
def compiled(model_folders, tmp_path):
    """A checkpoint as a compiled model is saved: each key with a prefix."""
    folder = shutil.copytree(model_folders["llama"], tmp_path / "compiled")
    state = load_file(folder / "model.safetensors")
    renamed = {f"_orig_mod.{key}": tensor for key, tensor in state.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("arguments", [("-m", "seed=0,1", "k=2,4"), ("plan=true",)])
def test_a_checkpoint_that_lacks_weights_ends_the_launch_once(arguments, compiled, text_file, tmp_path):
    world = World(tmp_path, compiled, text_file)
    code, out, err = world.sweep(*arguments)
    assert code == 1 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: the weights in") and "missing: lm_head.weight" in line and "torch.compile" in line
    assert world.records() == []


def test_a_users_model_asks_for_a_users_text(model_folders, tmp_path):
    world = World(tmp_path, model_folders["llama"], "")
    world.common = [word for word in world.common if not word.startswith("corpus=")]
    code, _, err = world.sweep()
    assert code == 1 and err.splitlines() == [
        "error: corpus.path is not set: give a file, a folder or a glob, such as corpus.path=book.txt"
    ]
