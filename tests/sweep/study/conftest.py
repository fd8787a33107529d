"""Fixtures of searches whose training is a formula."""

from __future__ import annotations

import pytest

from tests.sweep.study.searching import Bench


@pytest.fixture
def bench(tmp_path, model_folders, text_file):
    return Bench(tmp_path, model_folders["gpt_neox"], text_file)


@pytest.fixture
def storage(tmp_path):
    return f"{tmp_path}/study.journal"


@pytest.fixture(params=["journal", "sqlite"])
def each_storage(request, tmp_path):
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"{tmp_path}/study.journal"
