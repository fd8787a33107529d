"""Small random LMs on disk, each made when a test first asks for it."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm
from tests.sweep.lm.zoo import TOKENS, random_lm

CPU = torch.device("cpu")


def load(folder, **settings):
    """Find and load the LM in `folder`; return it and what is known of it."""
    config = ModelConfig(name="t", path=str(folder), window=16, **settings)
    info = find_model(config)
    return load_lm(config, info, CPU), info


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """A function from an architecture's name to the folder of its random model, which nobody may change."""

    @cache
    def folder(architecture):
        place = tmp_path_factory.mktemp(architecture)
        random_lm(architecture).save_pretrained(place)
        return place

    return folder


@pytest.fixture(scope="session")
def loaded(zoo):
    """A function from an architecture's name to its LM, and what is known of it."""
    return cache(lambda architecture: load(zoo(architecture)))


@pytest.fixture
def ids():
    """Three windows of token ids."""
    return torch.randint(2, TOKENS - 10, (3, 16), generator=torch.Generator().manual_seed(0))
