from __future__ import annotations

import time

import pytest

from tests.sweep.world import World

pytestmark = pytest.mark.ray

@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)

def test_x(world):
    t=time.time()
    print(world.sweep("-m", "d=2,3,4", "hydra/launcher=ray")); print(time.time()-t)
