from __future__ import annotations

import pytest

from analysis.frames import dicts, plain
from tests.analysis.synthetic import record

PARTS = ["base_arm", "pursuit", "bits", "unrounded_arm"]


@pytest.mark.parametrize(
    "label, parts",
    [
        ("expander", ("expander", "", 32, "expander")),
        ("expander+mp_refit", ("expander", "mp_refit", 32, "expander+mp_refit")),
        ("dense_matched-8bit", ("dense_matched", "", 8, "dense_matched")),
        ("expander+mp_refit-4bit", ("expander", "mp_refit", 4, "expander+mp_refit")),
    ],
)
def test_a_run_has_the_parts_of_its_arm_as_columns(recorded, label, parts):
    found = recorded(record(label, 4, 8, 0, 0.7))
    for table in (found.everything, found.runs, found.readings):
        assert [tuple(row[name] for name in PARTS) for row in dicts(table)] == [parts]
        assert len(plain(table)) == (label == "expander")


def test_the_parts_of_an_arm_come_from_the_spec_and_not_from_the_label(recorded):
    made = record("my-8bit", 4, 8, 0, 0.7)
    made["spec"]["sae"] = {"arm": "mine", "encoder": "omp", "speed": 3}
    (row,) = dicts(recorded(made).everything)
    assert (row["base_arm"], row["pursuit"], row["bits"]) == ("mine", "omp", 32)
    assert row["arm"] == row["unrounded_arm"] == "my-8bit" and row["options"] == '{"sae.speed": 3}'
