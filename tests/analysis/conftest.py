from __future__ import annotations

import pytest

from analysis.read.records import Records
from sweep.store.records import write_record
from tests.analysis.synthetic import write_sweep


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The folder of a small study of every arm."""
    folder = tmp_path_factory.mktemp("study") / "runs"
    write_sweep(folder, layers=(1, 2), ds=(2, 8), ks=(8, 16), seeds=(0, 1, 2))
    return folder


@pytest.fixture(scope="session")
def records(study):
    """The records of the study."""
    return Records.read(study)


@pytest.fixture
def recorded(tmp_path):
    """A function that writes records into a folder and reads them from there."""

    def read(*made):
        for one in made:
            write_record(tmp_path / "runs", one)
        return Records.read(tmp_path / "runs")

    return read
